"""Every shipped experiment once, with tiny settings, against digests of its results that were recorded before.

Of numbers a digest holds how many are missing, their mean and their root mean square, to four digits; of counts and
labels a hash. Only point estimates are recorded: whatever hangs on draws of a bootstrap, of permutations or of random
circuits is left out, so that those may be drawn in another way. After a change of results that is meant, record again,
and say why in the commit:

    python -m tests.experiments.test_digest --record
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.cli.main import main
from mechlist.registry import index
from mechlist.results import load_dataset

FILE = Path(__file__).parent / "digest.json"
TOLERANCE = 2e-3
"""Of a mean or root mean square, as a share of the latter."""
ROUNDING = 1e-5
"""Numbers of this size are float rounding."""
DRAWN = re.compile(
    r".*(_low|_high|p_corrected|noise)|(layer|item)_change_share|trend_(z|p_value)|topics_p_value|null_rejections|random|"
    r"selected|joint_.*"
)
"""Variables that resamples, permutations or random circuits decide."""

TOPICS = ["--topics", "Fruits", "Ocean", "Rivers"]
PAIRS = ["--topics", "Fruits", "Animals"]
LISTS = ["--recorded", "LISTS"]
"""What the first case wrote."""
ONE_SAE = ["--lists", "1", "--saes", "list-tiny/layer_4"]
SMALL_COUNTER = ["--max-items", "4", "--counts", "1", "4", "--random-directions", "1", "--resamples", "20"]
SMALL_LENS = [
    "--fit-prompts",
    "3",
    "--fit-tokens",
    "16",
    "--skip",
    "2",
    "--dimensions",
    "171",
    "--held-out",
    "1",
    "--controls",
    "1",
]
SENTENCE = "Provide me with a list of rivers."
QUICK = ["--lists", "1", "--resamples", "20"]
CASES: dict[str, list[str]] = {
    "generate-lists": [*TOPICS, "--temperatures", "0.7", "--samples", "1", "--max-new-tokens", "120"],
    "list-statistics": [*LISTS, "--resamples", "20"],
    "token-view": LISTS,
    "entropy": [*LISTS, "--lists", "1"],
    "logit-lens": [*LISTS, "--lists", "1", "--tuned", "--tuned-steps", "3"],
    "direct-logit-attribution": [*LISTS, "--lists", "1"],
    "list-patch": [*LISTS, "--lists", "1", "--sites", "resid_pre", "v", "--role-items", "1"],
    "list-heads": [*LISTS, "--lists", "1", "--role-items", "1", "--verify-top", "4"],
    "list-hazard": [
        *(*LISTS, *QUICK, "--temperature", "0.7", "--samples", "1", "--max-new-tokens", "40"),
        *("--heads", "1.0", "4.5", "--controls", "1"),
    ],
    "list-temperature": [*LISTS, *QUICK],
    "written-lists": [*LISTS, *QUICK],
    "induction": ["--batch", "4", "--period", "12", "--top-heads", "2", "--random-sets", "1", "--mlp-sequences", "1"],
    "patch": [*PAIRS, "--roles", "--noise-repeats", "0"],
    "attribution-patch": [*PAIRS, "--site", "z", "--per", "head", "--verify-top", "4", "--noise-repeats", "0"],
    "path-patch": [*PAIRS, "--receivers", "logits", "--senders", "a4.h2", "a5.h1", "m3"],
    "circuit": ["--period", "12", "--examples", "4", "--random-circuits", "1", "--verify-top", "3"],
    "list-factors": ["--topics", "Fruits", "Rivers", "--max-items", "4", "--curve-items", "6", "--resamples", "20"],
    "list-counter": ["--topics", "Fruits", "Rivers", "Movies", *SMALL_COUNTER],
    "list-tree": ["--topic", "Fruits", "--max-nodes", "12", "--max-depth", "6"],
    "token-tree": ["--prompt", SENTENCE, "--max-nodes", "12", "--max-depth", "4", "--resample", "0"],
    "logprobs": ["--prompts", SENTENCE, "--max-new-tokens", "6"],
    "guided-generation": ["--prompts", SENTENCE, "--regex", "[A-Z][a-z]+", "--max-new-tokens", "6", "--samples", "1"],
    "guiding-tokens": ["--prompt", SENTENCE, "--draws", "2", "--random-orders", "1"],
    "decode-compare": ["--prompts", SENTENCE, "--kinds", "greedy", "--max-new-tokens", "6"],
    "embeddings": ["--prompt", SENTENCE],
    "top-predictions": ["--prompt", SENTENCE],
    "hidden-state": ["--prompt", SENTENCE],
    "components-needed": ["--prompt", SENTENCE, "A list of rivers."],
    "output-basis": ["--prompt", SENTENCE, "--random", "2"],
    "jacobian-lens": ["--prompt", SENTENCE, *SMALL_LENS],
    "weight-circuits": ["--circuit-tokens", "200", "--pairs", "20", "--samples", "2"],
    "sae-transfer": [*LISTS, *ONE_SAE],
    "sae-attribution": [*LISTS, *ONE_SAE, "--verify-top", "3", "--edges", "0"],
    "sae-layers": [*LISTS, "--lists", "1", "--saes", "list-tiny/layer_2", "list-tiny/layer_4"],
    "feature-traces": [*LISTS, *ONE_SAE, "--features-from", "ATTRIBUTION", "--strongest", "3"],
    "feature-overlap": ["--recorded", "ATTRIBUTED", "--permutations", "5"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the results lie, those of the first case already."""
    where = tmp_path_factory.mktemp("digest")
    run("generate-lists", where)
    return where


@pytest.mark.parametrize("experiment", CASES)
def test_results_are_those_recorded(experiment: str, folder: Path):
    recorded = json.loads(FILE.read_text())[experiment]
    assert differences(recorded, digest(run(experiment, folder))) == []


def test_every_case_is_an_experiment_with_its_digest():
    shipped = {entry.name for entry in index() if entry.origin.startswith("mechlist.experiments.")}
    assert CASES.keys() <= shipped
    assert CASES.keys() == json.loads(FILE.read_text()).keys()


def test_a_digest_tells_what_changed():
    before = xr.Dataset({"x": ("i", [1.0, np.nan, 3.0]), "n": ("i", [1, 2, 3]), "label": ("i", ["a", "b", "c"])})
    kept = digest(before)
    assert kept["x"] == {"shape": [3], "missing": 0.3333, "mean": 2.0, "rms": 2.236}
    assert differences(kept, digest(before.assign(x=before["x"] * (1 + 1e-4)))) == []
    for name, values in {"x": [1.0, np.nan, 3.1], "n": [1, 2, 4], "label": ["a", "b", "d"]}.items():
        (said,) = differences(kept, digest(before.assign({name: ("i", values)})))
        assert said.startswith(f"{name}: ")
    assert differences(kept, digest(before.assign(x=("i", [1.0, 2.0, 3.0]))))[0].startswith("x: missing")
    assert differences(kept, digest(before.drop_vars("n").assign(new=1.0))) == ["n is gone", "new is new"]


def test_digests_hold_neither_draws_nor_rounding():
    drawn = ["effect_low", "p_corrected", "noise", "layer_change_share", "trend_p_value", "random"]
    held = ["noise_endings", "random_score", "item_tokens_share", "lower"]
    assert digest(xr.Dataset(dict.fromkeys([*drawn, *held], 1.0))).keys() == set(held)
    assert differences(digest(xr.Dataset({"error": 1e-7})), digest(xr.Dataset({"error": -4e-7}))) == []


def run(experiment: str, folder: Path) -> xr.Dataset:
    """The results of a case; those that are there already are not made again."""
    out = folder / experiment
    if not (out / "results.nc").is_file():
        lists = str(folder / "generate-lists" / "exports" / "lists")
        attribution = folder / "sae-attribution"
        attributed = str(attribution / "exports" / "features.json")
        files = {"LISTS": lists, "ATTRIBUTION": str(attribution), "ATTRIBUTED": attributed}
        arguments = [files.get(argument, argument) for argument in CASES[experiment]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MECHLIST_CACHE", "off")
            assert main(["run", experiment, *arguments, "--device", "cpu", "--out", str(out)]) == 0
    return load_dataset(out / "results.nc")


def digest(results: xr.Dataset) -> dict[str, dict[str, Any]]:
    """By variable and coordinate, in the order of their names."""
    kept = sorted(str(name) for name in results.variables if not DRAWN.fullmatch(str(name)))
    return {name: _digest(results[name].values) for name in kept}


def _digest(values: np.ndarray) -> dict[str, Any]:
    said: dict[str, Any] = {"shape": list(values.shape)}
    if values.dtype.kind != "f":
        text = json.dumps(values.astype(np.int64 if values.dtype.kind in "iub" else str).tolist())
        return said | {"hash": hashlib.sha256(text.encode()).hexdigest()[:12]}
    told = values[np.isfinite(values)].astype(np.float64)
    said["missing"] = round(1 - told.size / values.size, 4) if values.size else 0.0
    mean, square = (float(x.mean()) if told.size else 0.0 for x in (told, told**2))
    return said | {"mean": float(f"{mean:.4g}"), "rms": float(f"{square**0.5:.4g}")}


def differences(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """What is not as it was, a sentence each."""
    said = [f"{name} is gone" for name in before.keys() - now.keys()]
    said += [f"{name} is new" for name in now.keys() - before.keys()]
    for name in before.keys() & now.keys():
        room = TOLERANCE * before[name].get("rms", 0.0) + ROUNDING
        for what, was in before[name].items():
            found = now[name].get(what)
            near = what in ("mean", "rms") and found is not None and abs(found - was) <= room
            if found != was and not near:
                said.append(f"{name}: {what} was {was}, now it is {found}")
                break
    return sorted(said)


def record() -> None:
    """Write digest.json again."""
    with tempfile.TemporaryDirectory() as folder:
        found = {experiment: digest(run(experiment, Path(folder))) for experiment in CASES}
    lines = [
        f'"{experiment}": {{\n' + ",\n".join(f'  "{n}": {json.dumps(d)}' for n, d in of.items()) + "\n}"
        for experiment, of in found.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit(__doc__)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    record()
