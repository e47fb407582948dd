"""The logit-lens experiment: against TransformerLens on single lists; its curves and change points by hand."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.errors import InputError
from mechlist.experiments.entropy.experiment import Entropy
from mechlist.experiments.logit_lens.curves import changes, contrasts, matched, series
from mechlist.experiments.logit_lens.experiment import LogitLens
from mechlist.models.sources.source import BUILTIN_ROOT
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from tests.models.tiny import save_huggingface

TOPICS = ("Fruits", "Colors", "Ocean")
FEW: dict[str, Any] = {"topics": TOPICS, "lists": 1, "items": 3}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def tuned(runner: Runner) -> xr.Dataset:
    return LogitLens(**FEW, tuned=True, tuned_steps=20).run(runner)


def test_against_transformer_lens_one_list_at_a_time(runner: Runner, tuned: xr.Dataset):
    data = LogitLens(**FEW).data(runner)
    swapped, special = data.swapped().rows, data.special
    sides = {"A": (special.end_of_turn, special.hyphen), "B": (special.blank, special.line_break)}
    for number in (0, 4):
        for run, row in (("as written", data.rows[number]), ("adjective swapped", swapped[number])):
            with torch.no_grad():
                _, cache = runner.model.run_with_cache(row[None])
                stack = cache.accumulated_resid(layer=6, incl_mid=False)
                logits = torch.stack([runner.model.ln_final(h) for h in stack])[:, 0] @ runner.model.W_U
            ids = row.tolist()
            breaks = [
                p for p, token in enumerate(ids) if token == special.line_break and p > data.prompts[number].hyphen
            ]
            for item, at in enumerate(breaks):
                last = at - 2 if ids[at - 1] == special.blank else at - 1
                for slot, position in enumerate((at, last)):
                    up, down = list(sides.values())[slot]
                    expected = logits[:, position, up] - logits[:, position, down]
                    found = tuned["difference"].sel(lens="plain", run=run).isel(list=number, direction=slot, item=item)
                    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert tuned["difference"].attrs["units"] == "logits before the softcap"
    assert tuned["difference"].isel(list=tuned["adjective"].values == "none", run=1).isnull().all()


def test_after_the_softcap_the_last_stage_is_the_model(runner: Runner):
    experiment = LogitLens(topics=TOPICS[:1], lists=1, items=2, softcap=True)
    results, data = experiment.run(runner), experiment.data(runner)
    a = data.directions[0]
    where = torch.from_numpy(data.positions(a.role))
    logits = runner.logits(data.rows, positions=where, columns=torch.tensor([*a.answer, *a.wrong]))
    found = results["difference"].isel(lens=0, run=0, direction=0, stage=-1)
    np.testing.assert_allclose(found, logits[..., 0] - logits[..., 1], atol=1e-4)
    assert found.attrs["units"] == "logits after the softcap"


def _difference(values: Any, n_items: list[int], topics: list[str]) -> xr.DataArray:
    """[run list item stage] of short lists."""
    coords = {"topic": ("list", topics), "adjective": ("list", ["short"] * len(topics)), "n_items": ("list", n_items)}
    dims = ("run", "list", "item", "stage")
    runs = {"run": ["as written", "adjective swapped"]}
    return xr.DataArray(np.array(values, dtype=float), dims=dims, coords={**coords, **runs})


def test_series_and_contrasts_by_hand():
    nan = np.nan
    written = [[[1, 2], [3, 4], [8, 9]], [[5, 7], [nan, nan], [nan, nan]]]
    swapped = [[[0, 0], [0, 0], [6, 1]], [[2, 2], [nan, nan], [nan, nan]]]
    difference = _difference([written, swapped], [3, 1], ["a", "b"])
    curves = series(difference).transpose("series", "list", "stage").values
    np.testing.assert_array_equal(curves, [[[8, 9], [5, 7]], [[6, 1], [2, 2]]])
    found = contrasts(difference).transpose("contrast", "list", "stage").values
    np.testing.assert_array_equal(found, [[[8, 9], [5, 7]], [[2, 8], [3, 5]]])


def test_number_and_filler_alone_part_no_last_item_from_the_others():
    generator = np.random.default_rng(0)
    numbers, item, stage = np.arange(48) % 3 + 2, np.arange(4), np.arange(3)
    last = item == numbers[:, None] - 1
    filler = np.where(item < numbers[:, None], generator.random((48, 4)) < np.where(last, 0.8, 0.2), np.nan)
    one = (0.6 * item + 3.3 * filler)[..., None] * stage
    difference = _difference([one, one], numbers.tolist(), [f"topic {i % 6}" for i in range(48)])
    results = difference.to_dataset(name="difference").assign(filler=(("list", "item"), filler))
    found = matched(results.assign_coords(stage=stage), generator)
    apart = found[["matched_mean", "matched_low", "matched_high"]].sel(kind="difference").to_array()
    np.testing.assert_allclose(apart, 0, atol=1e-12)
    # The same lists with something at last items that is neither: it is found, whatever the number.
    more = results.assign(difference=difference + last[..., None] * 2.0 * stage)
    again = matched(more.assign_coords(stage=stage), generator).sel(kind="difference", by_adjective="short")
    np.testing.assert_allclose(again["matched_mean"], np.broadcast_to(2.0 * stage, (2, 3)))


def test_change_points_along_layers_and_items_by_hand():
    # Both lists jump in the layer before the last, and from the second to the third item; list b ends there.
    final = [[0, 1, 9, 10], [0, 1, 9, np.nan]]
    written = np.array([[[[v * 0, v * 0 + 1, v] for v in one] for one in final]])
    results = _difference(np.concatenate([written, written]), [4, 3], ["a", "b"]).to_dataset(name="difference")
    found = changes(results, np.random.default_rng(0)).sel(by_adjective="short")
    assert float(found["layer_change_place"].sel(contrast="last item")) == 1
    assert float(found["layer_change_jump"].sel(contrast="last item")) == pytest.approx((9 + 8) / 2)
    assert (found["layer_change_jump"].sel(contrast="effect of the adjective") == 0).all()
    assert float(found["item_change_place"].sel(end="start")) == 2
    assert float(found["item_change_jump"].sel(end="start")) == 8
    # From the end the step is one item earlier in list a than in list b: on average 4.5 from 1 before the last.
    assert float(found["item_change_place"].sel(end="end")) in (1, 2)
    ends = [float(found[f"item_change_{n}"].sel(end="end")) for n in ("place_low", "place", "place_high")]
    assert ends == [1, float(found["item_change_place"].sel(end="end")), 2]


def test_figures_tables_and_findings(tuned: xr.Dataset):
    experiment = LogitLens(**FEW)
    figures: dict[str, Any] = experiment.figures(tuned)
    names = {
        "layers-A-short",
        "items-B-tuned",
        "items-A-from-start",
        "change-points-layers",
        "change-points-items",
        "lens-kl",
        "lens-bias",
    }
    assert names <= set(figures)
    drawn = {trace.name: trace for trace in figures["layers-A-none"].data}
    assert set(drawn) == {f"last item ({lens} lens)" for lens in ("plain", "tuned")}
    short = tuned["difference"].isel(list=tuned["adjective"].values == "short", direction=0, item=-1)
    expected = short.sel(lens="tuned", run="adjective swapped").mean("list")
    lines = {trace.name: trace for trace in figures["layers-A-short"].data}
    np.testing.assert_allclose(lines["last item, adjective swapped (tuned lens)"].y, expected, rtol=1e-5)
    last = tuned["difference"].isel(direction=0, item=-1).sel(lens="plain", run="as written")
    drawn = {trace.name: np.array(trace.z) for trace in figures["items-A-from-end"].data}
    expected = last.isel(list=tuned["adjective"].values == "long").mean("list")
    np.testing.assert_allclose(drawn["long lists, as written"][:, -1], expected, rtol=1e-5)
    drawn = {trace.name: np.array(trace.z) for trace in figures["items-A-from-start"].data}
    np.testing.assert_allclose(drawn["long lists, as written"][:, 2], expected, rtol=1e-5)
    tables = experiment.tables(tuned)
    assert set(tables) == {"curves", "matched", "change-points-layers", "change-points-items", "lens-fit"}
    said = experiment.findings(tuned)
    assert said[0].startswith("A: end of turn - hyphen, short lists: the model itself gives ")
    assert "through the tuned lens in layer" in said[0]
    assert said[-2].startswith("On 1 topic held out, after 3 layers the plain lens is ")


def test_the_tuned_lens_is_nearer_to_the_model_and_can_be_used_again(runner: Runner, tuned: xr.Dataset, tmp_path: Path):
    kl = tuned["kl_mean"]
    assert (kl.sel(lens="tuned").isel(stage=slice(0, -1)) < kl.sel(lens="plain").isel(stage=slice(0, -1))).all()
    assert (kl.isel(stage=-1) == 0).all()
    assert len(tuned.attrs["held_out"]) == 1
    assert set(tuned.attrs["held_out"]) | set(tuned.attrs["trained_on"]) == set(TOPICS)
    save_dataset(tuned, tmp_path / "results.nc")
    again = LogitLens(**FEW, translators=tmp_path / "results.nc").run(runner)
    xr.testing.assert_allclose(again["difference"], tuned["difference"])
    xr.testing.assert_allclose(again["kl_mean"], tuned["kl_mean"])
    assert "translator_weight" not in again
    assert again.attrs["held_out"] == tuned.attrs["held_out"]


def test_a_jacobian_lens_beside_the_others_and_again(runner: Runner, tmp_path: Path):
    asked = LogitLens(**FEW, lens="jacobian")
    results = asked.run(runner)
    assert results["lens"].values.tolist() == ["plain", "Jacobian"]
    kl = results["kl_mean"]
    assert kl.notnull().all()
    # Its last stage is the model's own; it is fitted on two of three topics.
    assert (kl.isel(stage=-1) == 0).all()
    assert len(results.attrs["held_out"]) == 1
    plain, own = (results["difference"].sel(lens=lens) for lens in ("plain", "Jacobian"))
    np.testing.assert_array_equal(own.isel(stage=-1), plain.isel(stage=-1))
    assert not np.allclose(own.isel(stage=3), plain.isel(stage=3), equal_nan=True)
    # One entry by hand: the stream times the matrix, read as the last one is.
    data = asked.data(runner)
    matrix = torch.from_numpy(results["jacobian"].sel(fitted_stage=3).values)
    row, at = data.rows[0], int(data.positions(data.directions[0].role)[0, 0])
    with torch.no_grad():
        _, cache = runner.model.run_with_cache(row[None])
        logits = runner.model.ln_final((matrix @ cache["resid_pre", 3][0, at])[None, None])[0, 0] @ runner.model.W_U
    up, down = ([int(n) for n in side] for side in (data.directions[0].answer, data.directions[0].wrong))
    expected = float(logits[up].mean() - logits[down].mean())
    found = own.isel(list=0, direction=0, item=0, stage=3).sel(run="as written")
    assert float(found) == pytest.approx(expected, abs=2e-3)
    said = asked.findings(results)
    assert "through the Jacobian lens in layer" in said[0]
    assert " from the model's own distribution and the Jacobian one " in said[-2]
    assert {"items-A-jacobian", "lens-kl"} <= set(asked.figures(results))
    save_dataset(results, tmp_path / "results.nc")
    again = LogitLens(**FEW, lens="jacobian", jacobian=tmp_path / "results.nc").run(runner)
    np.testing.assert_array_equal(again["difference"], results["difference"])
    assert "jacobian" not in again
    assert len(again.attrs["held_out"]) == 3


def test_pairs_from_the_command_line(tmp_path: Path):
    pairs = [
        {"clean": "a short list of Fruits", "corrupt": "a long list of Fruits", "answer": ".", "wrong": "-"},
        {"clean": "the short names", "corrupt": "the long names", "answer": ".", "wrong": ","},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    flags = ["--pairs", str(tmp_path / "pairs.jsonl"), "--device", "cpu", "--tuned", "--tuned-steps", "2"]
    assert main(["run", "logit-lens", *flags, "--out", str(tmp_path / "run")]) == 0
    results = load_dataset(tmp_path / "run" / "results.nc")
    runner = Runner.load("list-tiny", device="cpu", progress=False)
    for number, pair in enumerate(pairs):
        ids = [runner.to_tokens(pair[name], prepend_bos=False)[0] for name in ("answer", "wrong")]
        for run in ("clean", "corrupt"):
            capped = runner.logits([torch.tensor(runner.to_tokens(pair[run]))], positions=[-1])[0, 0, ids].double()
            raw = 30 * torch.atanh(capped / 30)
            found = results["difference"].sel(lens="plain", run=run).isel(list=number, direction=0, item=0, stage=-1)
            assert float(found) == pytest.approx(float(raw[0] - raw[1]), abs=1e-3)
    assert results["layer_change_place"].sel(contrast="clean - corrupt").notnull().all()
    assert "item_change_place" not in results
    assert (tmp_path / "run" / "figures" / "layers-own-pairs.html").is_file()
    report = re.sub(r"<style>.*?</style>", "", (tmp_path / "run" / "report.html").read_text(), flags=re.DOTALL)
    report = re.sub(r'<p class="about">.*?</p>', "", report, flags=re.DOTALL)
    told = re.sub(r"<script>.*?</script>", "", report, flags=re.DOTALL).replace("layers-own-pairs", "")
    shown = told[: told.index("Configuration")].replace("list-tiny", "").replace("list of Fruits", "")
    assert re.findall(r"\b(?:lists?|items?|topics?|adjectives?)\b", shown) == []
    assert "by_adjective" not in shown
    assert "over pairs" in shown


def test_a_direction_of_ones_own_and_lists_of_one_item(runner: Runner):
    experiment = LogitLens(topics=("Fruits",), lists=1, items=1, answer=("\n",), wrong=("-", " "), role="item_last")
    results = experiment.run(runner)
    assert results["direction"].values.tolist() == [r"'\n' - '-'/' '"]
    assert results["matched_mean"].isnull().all()
    assert "layers-own-short" in experiment.figures(results)
    said = experiment.findings(results)
    assert said[0].count("at the last item") == 2
    assert said[1].endswith(
        "not known, as no list goes on from an item of the number and filler that a last item of another list has."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answer": ("-",)}, "answer and wrong must be given together, or neither"),
        ({"pairs": Path("x"), "topics": ("Fruits",)}, "pairs come with their own prompts and answers"),
        ({"jacobian": Path("x.nc")}, "jacobian is the file of a Jacobian lens: give --lens jacobian as well"),
        ({"tuned_steps": 0}, "tuned_steps must be at least 1, not 0"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        LogitLens(**changes)


def test_what_the_lists_or_the_model_lack_is_refused(runner: Runner, tmp_path: Path, tiny_runner: Runner):
    one: dict[str, Any] = {"topics": ("Fruits",), "lists": 1, "items": 2}
    with pytest.raises(InputError, match="two topics at least, or two pairs: one of them is held out"):
        LogitLens(**one, tuned=True).run(runner)
    with pytest.raises(InputError, match=r"role must be one of hyphen, .*, not 'topic'"):
        LogitLens(**one, answer=("-",), wrong=(" ",), role="topic").run(runner)
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="must be of a logit-lens run with --tuned, and holds no translators"):
        LogitLens(**one, translators=tmp_path / "other.nc").run(runner)
    with pytest.raises(InputError, match="has no chat template"):
        LogitLens(**one).run(tiny_runner)


def test_a_model_behind_a_bridge(tmp_path: Path):
    directory = save_huggingface(
        tmp_path / "stablelm",
        "StableLmConfig",
        vocab_size=4096,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUILTIN_ROOT / "list-tiny" / file, directory / file)
    bridged = Runner.load(str(directory), device="cpu", progress=False)
    assert type(bridged.model).__name__ == "TransformerBridge"
    experiment = LogitLens(**FEW, tuned=True, tuned_steps=2)
    results = experiment.run(bridged)
    assert results["difference"].isel(run=0).notnull().all()
    assert experiment.figures(results)
    assert Entropy(**FEW).run(bridged)["entropy"].isel(run=0).notnull().all()
