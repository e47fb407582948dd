"""Attribution patching of heads on lists: estimates, exact verification, and what is said of their agreement."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.effects import strongest_heads
from mechlist.experiments.list_heads.experiment import ListHeads
from mechlist.experiments.list_heads.statistics import checked_cells, rank_agreement
from mechlist.experiments.list_pairs import list_pairs
from mechlist.patching.attribution import estimate_cells
from mechlist.patching.grid import patch_cells
from mechlist.patching.path import path_patch
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner

FEW: dict[str, Any] = {"topics": ("Fruits", "Colors", "Movies"), "lists": 1, "items": 3, "role_items": 1}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return ListHeads(**FEW, verify_top=12).run(runner)


def test_the_strongest_heads_are_patched_exactly(runner: Runner, results: xr.Dataset):
    experiment = ListHeads(**FEW)
    pairs = list_pairs(experiment.data(runner), "short", "item", role_items=1)
    whole = patch_cells(runner, pairs.arguments("denoising", "z", "head_position"))
    exact = (whole["patched"] - whole["base"]).rename(prompt="list")
    there = results["exact"].notnull()
    chosen = there.any("list")
    assert int(chosen.sum()) == 12
    np.testing.assert_allclose(results["exact"].values[there], exact.values[there], atol=1e-4)
    # None of the others has a larger estimate.
    size = abs(results["effect"].mean("list"))
    assert float(size.where(chosen).min()) >= float(size.where(~chosen).max())
    # A role that a list lacks stays missing.
    np.testing.assert_array_equal(results["effect"].isnull(), exact.isnull())


def test_findings_figures_and_tables(results: xr.Dataset):
    experiment = ListHeads(**FEW, top=7)
    assert set(experiment.figures(results)) == {"heads", "roles", "agreement", "shares"}
    tables = experiment.tables(results)
    assert (len(tables["heads"]), len(tables["verified"])) == (7, 12)
    sentences = experiment.findings(results)
    assert sentences[0].startswith(
        "B: blank - line break, at the last item last token, short put into long (denoising): "
    )
    strongest = tables["verified"].sort_values("exact", key=np.abs).iloc[-1]
    name = f"L{strongest['layer']}H{strongest['head']} at {strongest['role']} {strongest['exact']:+.2f}"
    assert f"the heads that move it most are {name}" in sentences[4]
    found = rank_agreement(results)
    assert found.low <= found.rank <= found.high <= 1
    assert f"the rank correlation with exact patching is {found.rank:.2f} [" in sentences[5]


def test_the_strongest_heads_are_exact_where_that_is_known(results: xr.Dataset):
    mean = results["exact"].mean("list").fillna(results["effect"].mean("list"))
    size = abs(mean).max("role")
    found = strongest_heads(results, 3)
    assert [float(size.sel(layer=layer, head=head)) for layer, head in found] == sorted(size.values.ravel())[:-4:-1]
    # A head without any effect is none of the strongest, however many are wanted.
    assert len(strongest_heads(results.where(size == size.max()), 5)) == 1


def test_statistics_are_saved_and_never_computed_while_drawing(
    results: xr.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    save_dataset(results, tmp_path / "results.nc")
    monkeypatch.setattr("mechlist.experiments.effects.effect_table", None)
    for module in ("statistics", "shares"):
        monkeypatch.setattr(f"mechlist.experiments.list_heads.{module}.ratio_draws", None)
    loaded, experiment = load_dataset(tmp_path / "results.nc"), ListHeads(**FEW)
    assert experiment.findings(loaded) == experiment.findings(results)
    assert set(experiment.figures(loaded)) == {"heads", "roles", "agreement", "shares"}
    assert set(experiment.tables(loaded)) == {"heads", "verified", "shares"}


def test_rank_correlation_is_spearmans(results: xr.Dataset):
    from scipy.stats import spearmanr

    table = checked_cells(results)
    expected = spearmanr(table["estimate"], table["exact"])[0]
    assert rank_agreement(results).rank == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["gradient", "relp"])
def test_both_rules_are_held_against_exact_patching(runner: Runner, results: xr.Dataset, rule: Any):
    experiment = ListHeads(**FEW, verify_top=12, rule=rule)
    own = results if rule == "gradient" else experiment.run(runner)
    found, table = own["correlation"], checked_cells(own)
    assert found.attrs["chosen_by"] == rule
    assert found.notnull().all()
    assert float(found.sel(rule=rule, measure="spearman")) == pytest.approx(rank_agreement(own).rank, abs=1e-6)
    pearson = np.corrcoef(table["estimate"], table["exact"])[0, 1]
    assert float(found.sel(rule=rule, measure="pearson")) == pytest.approx(pearson, rel=1e-4)
    assert "Over the 12 heads and roles that were patched exactly, chosen by" in experiment.findings(own)[-1]
    with pytest.raises(InputError, match="steps must be 1 with rule relp"):
        ListHeads(**FEW, rule="relp", steps=2)


def test_nothing_verified_says_so(runner: Runner):
    experiment = ListHeads(topics=("Fruits",), items=2, verify_top=0, noising=True, at="break")
    results = experiment.run(runner)
    assert results["exact"].isnull().all()
    assert results.attrs["own"] == "last item line break"
    assert float(results["base"][0]) > float(results["source"][0]), "noising changes the short run"
    assert "No head was patched exactly" in experiment.findings(results)[1]
    assert set(experiment.figures(results)) == {"heads", "roles"}
    few = ListHeads(topics=("Fruits",), items=2, verify_top=2)
    assert "too few for a rank correlation" in few.findings(few.run(runner))[-1]


def test_steps_go_on_to_the_estimate(runner: Runner):
    settings: dict[str, Any] = {"topics": ("Fruits",), "items": 1, "role_items": 1}
    experiment = ListHeads(**settings, steps=2, verify_top=0)
    pairs = list_pairs(experiment.data(runner), "short", "item", role_items=1)
    expected = estimate_cells(runner, pairs.arguments("denoising", "z", "head_position"), steps=2)["effect"]
    np.testing.assert_allclose(experiment.run(runner)["effect"], expected, atol=1e-6)
    assert not np.allclose(
        ListHeads(**settings, verify_top=0).run(runner)["effect"], expected, atol=1e-4, equal_nan=True
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"top": 0}, "top must be at least 1"),
        ({"verify_top": -1}, "verify_top must be 0 or more"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        ListHeads(**changes)


def test_ways_are_path_patching_from_every_sender_to_the_strongest_heads(runner: Runner):
    """As a share of the mean gap; list-tiny's keys and values are shared by two heads."""
    experiment = ListHeads(**FEW, at="break", verify_top=12, random_sets=0, null_pairs=0, ways=1)
    results = experiment.run(runner)
    layer, head = (int(i) for i in np.unravel_index(_largest_share(results), (6, 8)))
    assert results["receiver"].values.tolist() == ["logits", *(f"L{layer}H{head}.{entry}" for entry in "qkv")]
    pairs = list_pairs(experiment.data(runner), "short", "break", role_items=1)
    one = pairs.arguments("denoising", "z", "head_position")
    alone = path_patch(
        runner,
        base=one.base,
        source=one.source,
        receivers=["logits", f"L{layer}H{head // 2}.v"],
        senders=["input"],
        frozen="heads",
        metric=one.metric,
        lengths=one.lengths,
    )
    gap = float((results["source"] - results["base"]).mean())
    effect = (alone["patched"] - alone["base"]).mean("prompt").isel(sender=0).values / gap
    own = results["way_share"].sel(sender="input", receiver=["logits", f"L{layer}H{head}.v"])
    np.testing.assert_allclose(own, effect, atol=1e-5)
    assert (results["way_share_low"] <= results["way_share_high"]).sum() == results["way_share"].notnull().sum()
    assert any(f"to L{layer}H{head} " in said for said in experiment.findings(results))
    assert set(experiment.figures(results)) >= {"ways", "shares"}
    assert experiment.tables(results)["ways"]["share"].abs().is_monotonic_decreasing
    with pytest.raises(InputError, match="ways"):
        ListHeads(**FEW, factor="count", ways=1)


def _largest_share(results: xr.Dataset) -> int:
    return int(np.abs(np.nan_to_num(results["share"].transpose("layer", "head").values)).argmax())
