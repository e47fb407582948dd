"""Attribution to features on lists: tables, exact ablation of the largest, the file for feature-overlap, bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.sae_attribution.experiment import SaeAttribution
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from mechlist.sae.attributed import read_attributed
from mechlist.sae.load import places
from tests.sae.saes_for_tests import write_two

pytest.importorskip("sae_lens")
FEW: dict[str, Any] = {"topics": ("Fruits", "Movies"), "lists": 1, "items": 3, "role_items": 1}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random SAEs."""
    return write_two(tmp_path_factory.mktemp("saes"), k=8)


@pytest.fixture(scope="module")
def results(runner: Runner, folder: Path) -> xr.Dataset:
    return SaeAttribution(**FEW, saes=(str(folder),), top=6, verify_top=4).run(runner)


def test_the_largest_of_each_sae_are_ablated_exactly(results: xr.Dataset):
    table = SaeAttribution().tables(results)["features"]
    assert {"sae", "feature", "position", "role", "attribution", "exact", "list", "hook"} <= set(table.columns)
    assert len(table) == 2 * 2 * 6
    for sae in results["sae"].values:
        own = table.loc[table["sae"] == sae]
        there = np.isfinite(own["exact"].to_numpy())
        assert there.sum() == 4
        size = own["attribution"].abs().to_numpy()
        assert size[there].min() >= size[~there].max()
        # Same sign and order of size as what attribution predicts.
        np.testing.assert_allclose(own["exact"][there], own["attribution"][there], atol=0.15, rtol=0.5)


def test_parts_add_up_to_the_whole(results: xr.Dataset):
    parts = sum(results[f"{name}_attribution"] for name in ("features", "bias", "error"))
    np.testing.assert_allclose(parts, results["total_attribution"], rtol=1e-5, atol=1e-5)


def test_special_tokens_are_left_out_unless_kept(runner: Runner, folder: Path, results: xr.Dataset):
    assert int(results["position"].min()) > 0
    kept = SaeAttribution(**FEW, saes=(str(folder / "layer_2"),), top=6, keep_special=True).run(runner)
    assert int(kept["n_active"][0, 0]) > int(results["n_active"][0, 0])
    assert "BOS and other special tokens are counted." in SaeAttribution().findings(kept)[1]


def test_figures_files_and_sentences(results: xr.Dataset, tmp_path: Path):
    experiment = SaeAttribution()
    save_dataset(results, tmp_path / "results.nc")
    read = load_dataset(tmp_path / "results.nc")
    assert set(experiment.figures(read)) == {"parts", "roles", "agreement"}
    (tmp_path / "features.json").write_text(experiment.files(read)["features.json"])
    saved = read_attributed(tmp_path / "features.json")
    assert list(saved.topics) == ["Fruits", "Movies"]
    assert [len(lists[0]) for lists in saved.topics.values()] == [12, 12]
    said = experiment.findings(read)
    assert said[0].startswith("WARNING: layer_2 and layer_4 fail the check here")
    assert said[1].startswith("The logit difference of decision B, blank - line break at the last item last token of ")
    assert "8 features were set to 0 exactly, the SAE's error kept: rank correlation with attribution" in said[-1]
    (claim,) = experiment.claims(read)
    first = experiment.tables(read)["over-lists"].iloc[0]
    assert f"Feature {first['feature']} of layer_4 gets the most of the logit difference" in claim.text
    assert f"{first['attribution']:+.2f} logits on average, in {first['n_lists']} of 2 lists." in claim.text
    assert claim.figure in experiment.figures(read)


def test_minus_log_prob_contrast_and_summed(runner: Runner, folder: Path):
    one: dict[str, Any] = {**FEW, "saes": (str(folder / "layer_4"),), "top": 3}
    logs = SaeAttribution(**one, of="minus-log-prob").run(runner)
    assert bool((logs["base"] > 0).all())
    grown = SaeAttribution(**one, integrated_gradients=2).run(runner)
    assert "By integrated gradients of 2 steps the parts of each SAE" in SaeAttribution().findings(grown)[2]
    contrast = SaeAttribution(**one, contrast=True, summed=True).run(runner)
    assert bool((contrast["position"] == -1).all())
    assert SaeAttribution().files(contrast) == {}
    assert "roles" not in SaeAttribution().figures(contrast)
    assert ", this adjective minus the other is" in SaeAttribution().findings(contrast)[1]


def test_edges_between_features_are_checked_by_ablation(runner: Runner):
    saes = ("list-tiny/layer_4", "list-tiny/layer_5")
    found = SaeAttribution(**FEW, saes=saes, top=6, at="break", edges=2).run(runner)
    table = SaeAttribution().tables(found)["edges"]
    assert len(table) == 2 * 5
    assert set(table["later"]) == {"layer_5"}
    strong = table.loc[table["attribution"].abs() > 0.3]
    np.testing.assert_allclose(strong["exact"], strong["attribution"], rtol=0.5, atol=0.2)
    assert any("From SAE to SAE, in units of" in one for one in SaeAttribution().findings(found))
    with pytest.raises(InputError, match=r"saes must be of later and later layers, not of \[5, 4\]"):
        SaeAttribution(**FEW, saes=saes[::-1], top=6, edges=2).run(runner)


def test_bad_input(runner: Runner, folder: Path):
    with pytest.raises(InputError, match=r"No built-in SAEs are shipped for gpt2: give some with --saes"):
        places((), "gpt2")
    with pytest.raises(InputError, match="integrated_gradients must be 0 or more, not -1"):
        SaeAttribution(integrated_gradients=-1)
    with pytest.raises(
        InputError, match=r"top must be at most the \d+ features at positions of .* in list 0 \(Fruits\)"
    ):
        SaeAttribution(**FEW, saes=(str(folder),), top=10**6).run(runner)
    with pytest.raises(InputError, match="verify_top does nothing with contrast"):
        SaeAttribution(contrast=True, verify_top=3)
    with pytest.raises(InputError, match="top must be at least 1, not 0"):
        SaeAttribution(top=0)
