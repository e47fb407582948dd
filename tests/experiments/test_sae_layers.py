"""Layers for SAEs: scores, effects of features taken off, what picks cover, and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.sae_layers.experiment import SaeLayers
from mechlist.experiments.sae_layers.report import covered_by
from mechlist.experiments.sae_layers.scores import HEURISTICS
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from tests.sae.saes_for_tests import write_lens

pytest.importorskip("sae_lens")
FEW: dict[str, Any] = {"topics": ("Fruits", "Movies"), "lists": 1, "items": 3, "role_items": 1, "top": 10}
BUILT_IN: dict[str, Any] = {"saes": ("list-tiny/layer_1", "list-tiny/layer_4")}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return SaeLayers(**FEW, **BUILT_IN).run(runner)


def test_scores_and_effects(results: xr.Dataset):
    assert results["heuristic"].values.tolist() == list(HEURISTICS)
    assert results["layer"].values.tolist() == [1, 4]
    assert (results["score"] >= 0).all()
    # What speaks for the end is taken off: the difference falls.
    assert (results["change"].mean("list") > 0).all()
    assert results["sae_bytes"].values.tolist() == [2 * 4 * 256 * 2048] * 2


def test_picks_cover_what_their_layers_have(results: xr.Dataset):
    share = covered_by(results)["share"]
    effect = results["change"].mean("list").values
    assert float(share.sel(heuristic="the effects themselves")[0]) == pytest.approx(effect.max() / effect.sum())
    np.testing.assert_allclose(share[:, -1], 1.0)
    first = results["score"].sel(heuristic=HEURISTICS[0]).values.argmax()
    assert float(share[0, 0]) == pytest.approx(effect[first] / effect.sum())


def test_figures_tables_and_sentences(results: xr.Dataset, tmp_path: Path):
    save_dataset(results, tmp_path / "results.nc")
    read, experiment = load_dataset(tmp_path / "results.nc"), SaeLayers()
    assert set(experiment.figures(read)) == {"scores", "covered"}
    picks = experiment.tables(read)["picks"]
    assert len(picks) == 8
    assert picks["layers"].tolist()[1] == "1, 4"
    said = experiment.findings(read)
    assert said[0] == "The SAEs pass the check on these lists."
    assert any(one.startswith("By patching, discounted the layers come in the order") for one in said)


def test_bad_input(runner: Runner, tmp_path: Path):
    with pytest.raises(InputError, match="saes must be two at least, each after a layer of its own, not after"):
        SaeLayers(**FEW, saes=("list-tiny/layer_1",)).run(runner)
    own = write_lens(tmp_path / "att", 256, 64, "blocks.1.attn.hook_z", kind="topk", k=4)
    with pytest.raises(InputError, match=r"saes must be of the residual stream after layers \(hook_resid_post\)"):
        SaeLayers(**FEW, saes=(str(own), "list-tiny/layer_1")).run(runner)
    with pytest.raises(InputError, match=r"last_weight must be from 0 to 1, not 2"):
        SaeLayers(last_weight=2)
