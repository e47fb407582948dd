"""Heads and roles that carry a factor other than the adjective: pins on list-tiny, exact shares, cross-fitting."""

import re
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.effects import estimated_lists, rounding
from mechlist.experiments.list_heads.experiment import ListHeads
from mechlist.experiments.list_heads.report import head_shares
from mechlist.experiments.list_heads.shares import differing, verified_until
from mechlist.experiments.list_pairs import list_pairs
from mechlist.experiments.list_patch.experiment import ListPatch
from mechlist.experiments.list_patch.statistics import shares
from mechlist.patching.arguments import prepare
from mechlist.runner import Runner
from mechlist.types import Head

TOPICS = ("Fruits", "Colors", "Movies", "Rivers")
FEW: dict[str, Any] = {"topics": TOPICS, "lists": 1, "items": 5, "role_items": 1, "verify_top": 4, "strongest": 3}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def filler(runner: Runner) -> xr.Dataset:
    return ListHeads(**FEW, factor="filler", random_sets=6).run(runner)


def hooked(runner: Runner, base: torch.Tensor, source: torch.Tensor, heads: list[Head]) -> torch.Tensor:
    """Logits behind the base's last token with heads' outputs there taken from the source's last token."""
    with torch.no_grad():
        _, kept = runner.model.run_with_cache(source[None])

    def change(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        out = activation.clone()
        for layer, head in heads:
            if hook.name == f"blocks.{layer}.attn.hook_z":
                out[:, -1, head] = kept[hook.name][:, -1, head]
        return out

    names = sorted({f"blocks.{layer}.attn.hook_z" for layer, _ in heads})
    with torch.no_grad():
        return runner.model.run_with_hooks(base[None], fwd_hooks=[(name, change) for name in names])[0, -1]


def test_one_head_reads_the_filler_and_hardly_the_adjective(runner: Runner, filler: xr.Dataset):
    size = abs(filler["share"])
    assert float(filler["share"][4, 2]) == float(size.max()) > 0.7
    assert (filler["share_low"][4, 2] > 0.6) & (filler["share_high"][4, 2] < 0.95)
    assert float(filler["selected"][4, 2]) == 1
    assert filler.attrs["direction"].startswith("A: ")
    assert filler.attrs["own"] == "last item line break"
    word = ListHeads(**{**FEW, "strongest": 0}, at="break").run(runner)
    assert abs(float(word["share"][4, 2])) < 0.1
    assert "joint_share" not in word


def test_shares_are_exact_and_sets_are_changed_together(runner: Runner, filler: xr.Dataset):
    experiment = ListHeads(**FEW, factor="filler")
    pairs = list_pairs(experiment.data(runner), "short", "break", factor="filler", role_items=1)
    special = experiment.data(runner).special
    single: list[float] = []
    for i in range(len(TOPICS)):
        runs = [run.tokens[i, : int(run.lengths[i])] for run in pairs.runs]
        for heads, expected in (
            ([(4, 2)], None),
            (_chosen(filler, i), float(filler["joint_effect"][i])),
        ):
            changed = hooked(runner, runs[1], runs[0], heads)
            effect = float(changed[special.end_of_turn] - changed[special.hyphen]) - float(filler["base"][i])
            if expected is None:
                single.append(effect)
            else:
                assert effect == pytest.approx(expected, abs=1e-4)
    gap = float((filler["source"] - filler["base"]).mean())
    assert float(filler["share"][4, 2]) == pytest.approx(np.mean(single) / gap, abs=1e-4)
    # Heads are chosen on topics other than those on which they are changed together.
    assert filler["joint_chosen"].sum(["layer", "head"]).values.tolist() == [3, 3]
    assert float(filler["joint_share"]) == pytest.approx(float(filler["joint_effect"].mean()) / gap)
    assert float(filler["joint_p"]) == pytest.approx(1 / 7)
    assert (abs(filler["joint_random_share"]) < abs(filler["joint_share"])).all()


def _chosen(results: xr.Dataset, number: int) -> list[Head]:
    """The heads that were changed together in a list: those of the half whose sum of single effects it has."""
    for half in range(2):
        picked = results["joint_chosen"].values[half]
        own = results["exact"].sel(role=results.attrs["own"]).values[number]
        found = [(int(a), int(b)) for a, b in np.argwhere(picked)]
        known = [own[head] for head in found]
        if np.isfinite(known).all() and np.isclose(sum(known), float(results["joint_sum"][number]), atol=1e-5):
            return found
    return [(int(a), int(b)) for a, b in np.argwhere(results["joint_chosen"].values[0])]


def test_an_irrelevant_change_moves_little_at_any_head(filler: xr.Dataset):
    null = abs(filler["null_share"])
    assert null.dims == ("null_draw", "layer", "head")
    assert 0 < float(null.max()) < 0.1 < float(filler["share"][4, 2])
    # The next to be changed: effects of rounding size survive no test.
    ulp = filler["source"] * 0 + 2e-6 * (1 + 0.1 * np.arange(len(TOPICS)))
    assert not estimated_lists(ulp, rounding(filler["base"]))["survives"].any()


def test_what_is_said_of_shares(filler: xr.Dataset):
    experiment = ListHeads(**FEW, factor="filler")
    sentences = experiment.findings(filler)
    assert "a filler put into no filler (denoising)" in sentences[0]
    value, low, high = (float(filler[name][4, 2]) for name in ("share", "share_low", "share_high"))
    assert f"L4H2 carries {value:.0%} [{low:.0%}, {high:.0%}]" in sentences[1]
    assert "all 48 heads were patched exactly" in sentences[1]
    assert re.match(
        r"Where what is put in is the same list with its items in another order.*no head moves it by more than "
        r"\d+\.\d% of that difference \(5 draws, level 0\.83\); \d+ of the 48 heads go beyond",
        sentences[2],
    )
    assert sentences[3].startswith("The 3 strongest heads of one half of the topics, changed together on the other")
    assert "Against 6 sets of as many other heads of the same layers they are number 1 of 7 (p = 0.14)" in sentences[3]
    assert {"shares", "heads", "roles"} <= set(experiment.figures(filler))
    table = head_shares(filler)
    assert table.loc[0, ["layer", "head"]].tolist() == [4, 2]
    assert len(table) == 48
    # Only heads whose interval lies beyond the margin are named.
    loud = filler.assign(null_share=filler["null_share"] + 2.0)
    assert "lies beyond 2% and that is more than an irrelevant change does" in experiment.findings(loud)[1]
    assert "no head moves it by more than 2" in experiment.findings(loud)[2]
    alone = filler.assign(share_low=xr.full_like(filler["share"], -1), share_high=xr.full_like(filler["share"], 1))
    assert "no head carries a share whose interval lies beyond 2%" in experiment.findings(alone)[1]
    nothing = experiment.findings(filler.drop_vars("share"))
    assert nothing[1].startswith("The runs with a filler and no filler measure the same at the last item line break")
    worse = filler.assign(joint_random_share=filler["joint_random_share"] + 2)
    assert "they are number 7 of 7" in experiment.findings(worse)[3]


def test_heads_are_patched_until_the_strongest_are_known(runner: Runner):
    pairs = list_pairs(ListHeads(**FEW).data(runner), "short", "break", factor="filler", role_items=1)
    task = prepare(runner, pairs.arguments("denoising", "z", "head_position").select([0, 1]))
    every = task.values()
    effects = (every.patched - every.base[:, None]).double().numpy()
    effects[np.isnan(effects)] = 0
    # Of a good estimate few have to be patched.
    good = verified_until(task, effects, 1, 4, every=False)
    patched = np.asarray(np.isfinite(good.effects).all(axis=0))
    assert patched.sum() < effects.shape[1] / 4
    strongest = int(np.abs(effects.mean(axis=0)).argmax())
    assert patched[strongest]
    assert np.abs(effects.mean(axis=0))[strongest] > good.reach >= np.abs(effects.mean(axis=0))[~patched].max()
    # What is seen of estimates that are too small counts for those that were not patched.
    half = verified_until(task, 0.5 * effects, 1, 4, every=False)
    assert half.reach == pytest.approx(good.reach, rel=1e-3)
    whole = verified_until(task, effects, 1, 4, every=True)
    assert whole.reach == 0


def test_roles_carry_the_filler(runner: Runner):
    """Before the first layer no aligned token differs; in the end the line break holds nearly all of it."""
    experiment = ListPatch(
        topics=TOPICS[:2], lists=1, items=3, sites=("resid_pre", "v"), role_items=1, null_pairs=0, factor="filler"
    )
    results = experiment.run(runner)
    share = shares(results, "resid_pre")
    assert not share.sel(layer=0).fillna(0).values.any()
    assert (share.isel(layer=-1).sel(role="last item line break") > 0.5).all()
    assert share.sel(side="denoising", role="last item filler").isnull().all(), "there is none to change"
    sentences = experiment.findings(results)
    assert "with a filler and" in sentences[0]
    assert "with no filler, over 2 lists of 2 topics" in sentences[0]
    assert sentences[1].startswith("resid_pre: with a filler put into no filler (denoising), layer ")
    drawn: Any = experiment.figures(results)["v"]
    assert "between a filler and no filler" in str(drawn.to_dict())
    assert {"a filler", "no filler"} <= set(experiment.tables(results)["lists"])


def test_counts_differ_in_lines_alone(runner: Runner):
    results = ListHeads(**{**FEW, "strongest": 0}, factor="count", fewer=3, noising=True).run(runner)
    # More lines are nearer to the end: these are changed, and what is put in has fewer.
    assert (results["base"] > results["source"]).all()
    assert results["n_items"].values.tolist() == [5] * 4
    assert float(results["share"].sum()) > 0.5


def test_runs_that_do_not_differ_have_no_shares(runner: Runner):
    assert not differing(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert differing(np.array([1.0, 2.0]), np.array([1.5, 2.5]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factor": "filler", "at": "item"}, "at must be break with factor filler, not item"),
        ({"fewer": 2}, "fewer does nothing with factor adjective: leave it out"),
        ({"factor": "count", "fewer": 0}, "fewer must be at least 1, not 0"),
    ],
)
def test_factors_that_make_no_sense_are_refused(changes: dict[str, Any], words: str):
    for kind in (ListHeads, ListPatch):
        with pytest.raises(InputError, match=words):
            kind(**changes)
    with pytest.raises(InputError, match="random_sets does nothing with strongest 0"):
        ListHeads(strongest=0, random_sets=3)
