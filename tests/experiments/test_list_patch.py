"""Patching of lists by role: against patching by position, the roles, the handover of layers, and the null."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist import LogitDifference, patch_grid
from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.list_set import Provenance, list_set
from mechlist.datasets.lists.made import made_completion
from mechlist.datasets.lists.prompts import adjective_tokens, list_prompt
from mechlist.engine.dry_run import plan_experiment
from mechlist.errors import InputError
from mechlist.experiments.effects import estimated_lists, rounding
from mechlist.experiments.list_pairs import list_pairs, named_roles
from mechlist.experiments.list_patch.experiment import ListPatch
from mechlist.experiments.list_patch.findings import handover_sentence
from mechlist.experiments.list_patch.handover import handover
from mechlist.experiments.list_patch.statistics import beyond_margin, shares, survivors, with_statistics
from mechlist.metrics.significance import effect_table as table
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner

TOPICS = ("Fruits", "Colors", "Sports", "Rivers", "Movies", "Books")
FEW: dict[str, Any] = {"topics": TOPICS, "items": 2, "sites": ("resid_pre", "v"), "role_items": 1}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return ListPatch(**FEW).run(runner)


def test_roles_are_positions_patched_alone(runner: Runner, results: xr.Dataset):
    data = ListPatch(**FEW).data(runner).select("short")
    row, other = data.rows[1], data.swapped().rows[1]
    last = int(data.roles[1].where("line_break", item_from_end=0)[0])
    special = data.special
    metric = LogitDifference(answer=special.end_of_turn, wrong=special.hyphen)
    for side, base, source in (("denoising", other, row), ("noising", row, other)):
        alone = patch_grid(
            runner,
            base=base[None, : last + 1],
            source=source[None, : last + 1],
            site="resid_pre",
            per="position",
            metric=metric,
        )
        found = results["patched_resid_pre"].sel(side=side).isel(list=1)
        places = {"adjective": data.prompts[1].adjective_index, "last item line break": last}
        for role, place in places.items():
            expected = alone["patched"].isel(prompt=0, position=place)
            np.testing.assert_allclose(found.sel(role=role), expected, atol=1e-4)
        np.testing.assert_allclose(results["base"].sel(side=side)[1], alone["base"][0], atol=1e-4)


def test_the_one_word_that_differs_is_everything_in_the_first_layer(results: xr.Dataset):
    first = shares(results, "resid_pre").sel(layer=0)
    np.testing.assert_allclose(first.sel(role="adjective"), 1, atol=1e-4)
    assert not first.drop_sel(role="adjective").values.any()
    # In the last layer the position that is measured is all that is left to change, but for what attention fetches.
    last = shares(results, "resid_pre").isel(layer=-1)
    assert (last.sel(role="last item line break") > 0.5).all()


def test_every_position_has_one_role(runner: Runner):
    data = ListPatch(topics=("Fruits", "Movies"), items=4).data(runner).select("short")
    lengths = [n - 3 for n in data.lengths.tolist()]
    for count_from in ("start", "end"):
        roles = named_roles(data.roles, lengths, count_from, 2)
        for i, length in enumerate(lengths):
            covered = sorted(p for where in roles.values() for p in where[i])
            assert covered == list(range(length))
        names = list(roles)
        pooled = "earlier items" if count_from == "end" else "later items"
        at = names.index(pooled)
        assert names[at + 1 if count_from == "end" else at - 1].startswith(
            "last - 1 item" if count_from == "end" else "item 2"
        )
    everything = named_roles(data.roles, lengths, "end", 9)
    assert "earlier items" not in everything
    with pytest.raises(InputError, match="role_items must be at least 1, not 0"):
        named_roles(data.roles, lengths, "end", 0)


def test_lists_without_the_position_are_left_out(runner: Runner):
    special = list_tokens(runner.tokenizer)
    prompt = list_prompt(runner.tokenizer, "Fruits", "short")
    whole = made_completion(runner.tokenizer, prompt, ("Apple", "Pear"), special, filler=False)
    cut = (*whole[:-2], special.end_of_turn)
    ids = adjective_tokens([prompt], runner.tokenizer)
    data = list_set([prompt, prompt], [whole, cut], Provenance(origin="made", special=special), adjective_tokens=ids)
    found = list_pairs(data, "short", "break")
    assert (found.left_out, len(found.short)) == (1, 1)
    assert int(found.short[0, found.lengths[0] - 1]) == special.line_break
    assert found.own == "last item line break"
    differ = (found.short != found.long).nonzero()
    assert differ.tolist() == [[0, prompt.adjective_index]]
    both = list_pairs(data, "short", "item")
    assert (both.left_out, both.own) == (0, "last item last token")
    assert both.direction.answer == (special.blank,)
    with pytest.raises(InputError, match="none of the 1 lists has its last break"):
        list_pairs(data.of([1]), "short", "break")
    with pytest.raises(InputError, match="adjective must be one that the lists have"):
        list_pairs(data, "long", "break")


def test_short_and_long_change_places_with_whose_lists_they_are(runner: Runner):
    data = ListPatch(topics=("Fruits",), items=2).data(runner)
    one, other = (list_pairs(data, adjective, "break") for adjective in ("short", "long"))
    # Written lists are the same after both.
    assert torch.equal(one.short, other.short)
    assert torch.equal(one.long, other.long)


def test_findings_say_what_is_known_of_the_model(results: xr.Dataset):
    experiment = ListPatch(**FEW)
    sentences = experiment.findings(results)
    assert sentences[0].startswith("A: end of turn - hyphen, at the last item line break: ")
    assert "over 6 lists of 6 topics" in sentences[0]
    # That the adjective before the first layer carries all is no finding.
    assert re.match(
        r"resid_pre after the first layer: with short put into long \(denoising\), layer [1-5] ", sentences[1]
    )
    assert "at the adjective moves it most, by " in sentences[1]
    assert re.search(
        r"; \d+ of \d+ cells move it beyond chance and rounding, \d+ of them by more than 2% of", sentences[2]
    )
    for sentence in sentences[3:5]:
        assert "the role with the largest effect is adjective in layers 0 to" in sentence
        assert "The adjective stops being the largest at layer" in sentence
        assert "the position's own (last item line break) is the largest in every layer from layer" in sentence
    assert sentences[5].startswith("Where what is put in is the same list")
    assert set(experiment.figures(results)) == {"resid_pre", "v"}
    table = experiment.tables(results)["cells"]
    assert table.iloc[0]["role"] == "adjective"
    assert table.iloc[0]["share"] == pytest.approx(1, abs=1e-3)
    assert set(table["site"]) == {"resid_pre", "v"}
    assert len(experiment.tables(results)["lists"]) == 6


def test_a_role_that_never_takes_over_is_said_so(results: xr.Dataset):
    # As if nothing but the adjective mattered.
    kept = xr.where(results["role"] == "adjective", results["patched_resid_pre"], results["base"])
    alone = results.assign(patched_resid_pre=kept.transpose(*results["patched_resid_pre"].dims))
    sentence = handover_sentence(with_statistics(alone.assign_attrs(results.attrs)), "noising")
    assert "The adjective is the largest in every layer [none, none]; the position's own" in sentence
    assert "(last item line break) is not the largest in the last layer [none, none]" in sentence


def test_statistics_are_saved_and_never_computed_while_drawing(
    results: xr.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Once for the runs, their difference and a site, each way; and once a draw of the null and site."""
    plain = results.drop_vars(
        [name for name in results if not str(name).startswith(("patched_", "base", "null_effect"))]
    )
    calls: list[int] = []
    monkeypatch.setattr(
        "mechlist.experiments.effects.effect_table", lambda *args, **kwargs: calls.append(1) or table(*args, **kwargs)
    )
    again = with_statistics(plain)
    assert len(calls) == 2 * (2 + 2) + 2
    xr.testing.assert_identical(again[sorted(map(str, again))], results[sorted(map(str, results))])
    save_dataset(results, tmp_path / "results.nc")
    monkeypatch.setattr("mechlist.experiments.effects.effect_table", None)
    monkeypatch.setattr("mechlist.experiments.list_patch.statistics.handover", None)
    loaded, experiment = load_dataset(tmp_path / "results.nc"), ListPatch(**FEW)
    assert experiment.findings(loaded) == experiment.findings(results)
    assert set(experiment.figures(loaded)) == {"resid_pre", "v"}
    assert set(experiment.tables(loaded)) == {"cells", "lists"}


def test_one_topic_has_no_interval_and_no_control(runner: Runner):
    experiment = ListPatch(topics=("Fruits",), items=2, sites=("resid_pre",))
    results = experiment.run(runner)
    sentences = experiment.findings(results)
    assert "[" not in "".join(sentences)
    assert sentences[-1].startswith("Where what is put in is the same list with its items in another order")
    alone = ListPatch(topics=("Fruits",), items=1, sites=("resid_pre",)).run(runner)
    assert ListPatch().findings(alone)[-1].startswith("There is no null of an irrelevant change")
    assert not survivors(results, "resid_pre").any()


def test_heads_of_keys_and_values_have_numbers_of_their_own(runner: Runner):
    experiment = ListPatch(
        topics=TOPICS[:2], items=1, sites=("z", "v", "attn_out"), per_head=True, null_pairs=0, at="item", role_items=1
    )
    results = experiment.run(runner)
    assert results["patched_z"].dims == ("side", "list", "layer", "head", "role")
    assert results["patched_v"].dims == ("side", "list", "layer", "kv_head", "role")
    assert results.sizes["kv_head"] == runner.shape.n_key_value_heads < results.sizes["head"]
    assert results["patched_attn_out"].dims == ("side", "list", "layer", "role")
    assert set(experiment.figures(results)) == {"z_heads", "z", "v_heads", "v", "attn_out"}
    assert "head" in experiment.tables(results)["cells"]
    # Heads of one layer act through one norm after attention: not their sum, but all together, is attn_out.
    strongest = [sentence.split(": ")[1] for sentence in experiment.findings(results)[1:4]]
    assert re.match(r"with short put into long \(denoising\), L\dH\d at the ", strongest[0])
    assert re.match(r"with short put into long \(denoising\), L\dH\d\.v at the ", strongest[1])
    assert re.match(r"with short put into long \(denoising\), layer \d at the ", strongest[2])
    drawn: Any = experiment.figures(results)["v"]
    assert "Values (v): decision B, blank - line break" in drawn.layout.title.text


def test_the_plan_counts_all_sweeps(runner: Runner):
    settings: dict[str, Any] = {"topics": ("Fruits",), "items": 2, "role_items": 1}
    both = plan_experiment(ListPatch(**settings, sites=("attn_out", "v")), runner).plan
    single = [plan_experiment(ListPatch(**settings, sites=(site,)), runner).plan for site in ("attn_out", "v")]
    assert both.cells == sum(one.cells for one in single)
    assert both.runs == sum(one.runs for one in single)
    # What the first sweep found is still there during the second.
    peak = max(one.peak_bytes for one in single)
    assert peak <= both.peak_bytes == pytest.approx(peak, rel=1e-3)


def test_handover_of_effects_that_are_known():
    # Roles 0 and 2 of three; role 2 takes over in layer 2 in most lists, and in layer 1 in the others.
    early, late = np.zeros((5, 3)), np.zeros((5, 3))
    early[:, 0], late[:, 0] = [4, 1, 1, 1, 1], [4, 4, 1, 1, 1]
    early[:, 2], late[:, 2] = [0, -3, -3, -3, -3], [0, 0, -3, -3, -3]
    effects = np.stack([late] * 7 + [early])
    generator = np.random.default_rng(0)
    found = handover(effects, 2, np.arange(8), generator=generator)
    assert found.largest.tolist() == [0, 0, 2, 2, 2]
    assert (found.leaves, found.arrives) == (2, 2)
    assert found.leaves_low <= 2 <= found.leaves_high
    assert found.known
    alike = handover(np.stack([late] * 8), 2, np.arange(8), generator=generator)
    assert (alike.arrives_low, alike.arrives_high) == (2, 2)
    never = handover(np.stack([late] * 8), 1, np.arange(8), generator=generator)
    assert never.arrives == 5, "role 1 is never the largest"
    alone = handover(late[None], 2, np.array(["a"]), generator=generator)
    assert not alone.known
    missing = effects.copy()
    missing[:, :, 1] = np.nan
    assert handover(missing, 2, np.arange(8), generator=generator).largest.tolist() == [0, 0, 2, 2, 2]
    with pytest.raises(InputError, match="must hold a value of some role in every layer"):
        handover(np.full((2, 2, 2), np.nan), 0, np.arange(2), generator=generator)


def test_a_handover_that_varies_over_topics_has_an_interval():
    early, late = np.zeros((4, 2)), np.zeros((4, 2))
    early[:, 0], late[:, 0] = [2, 1, 1, 1], [2, 2, 2, 1]
    early[:, 1], late[:, 1] = [0, 2, 2, 2], [0, 0, 0, 2]
    effects = np.stack([early] * 4 + [late] * 4)
    found = handover(effects, 1, np.arange(8), generator=np.random.default_rng(0))
    assert (found.leaves_low, found.leaves_high) == (1, 3)


def test_an_irrelevant_change_is_a_null_that_can_fail(runner: Runner, results: xr.Dataset):
    """The items in another order: cells are beyond it, and none of the null itself; a larger null leaves fewer."""
    pairs = list_pairs(ListPatch(**FEW).data(runner), "short", "break", role_items=1)
    arguments = pairs.arguments("denoising", "v", "position")
    other = pairs.irrelevant(arguments, "denoising", np.random.default_rng(0))
    base = pairs.runs[1]
    source = other.source
    assert isinstance(source, torch.Tensor)
    assert source.shape == base.tokens.shape
    for row in range(len(source)):
        n = int(base.lengths[row])
        assert not torch.equal(source[row, :n], base.tokens[row, :n])
        assert sorted(source[row, :n].tolist()) == sorted(base.tokens[row, :n].tolist())
        # The prompt, its adjective and the last line break are where they were.
        start = pairs.lists[1].starts[row]
        assert torch.equal(source[row, : start + 1], base.tokens[row, : start + 1])
        assert int(source[row, n - 1]) == int(base.tokens[row, n - 1])
    null = results["null_effect_resid_pre"]
    assert null.dims == ("draw", "null_list", "layer", "role")
    # Nothing of the adjective is exchanged.
    assert not null.sel(role="adjective").values.any()
    known = results["null_threshold_resid_pre"]
    assert float(known) == pytest.approx(float(abs(null.mean("null_list")).max()), rel=1e-6)
    assert known.attrs["level"] == 0.5
    beyond = results["beyond_null_resid_pre"]
    np.testing.assert_array_equal(beyond, abs(results["mean_effect_resid_pre"]) > float(known))
    assert beyond.sel(role="adjective", layer=0).all()
    plain = results.drop_vars([n for n in results if not str(n).startswith(("patched_", "base", "null_effect"))])
    loud = with_statistics(plain.assign(null_effect_resid_pre=null + 100.0))
    assert not survivors(loud, "resid_pre").any()
    assert survivors(loud, "v").sum() == survivors(results, "v").sum()
    sentence = ListPatch(**FEW).findings(results)[-1]
    assert sentence.startswith("Where what is put in is the same list with its items in another order")
    assert "(1 draw over 6 lists, level 0.5), the largest mean effect anywhere and the cells that survive" in sentence
    assert f"resid_pre {float(known):.2g} logits and " in sentence


def test_what_matters_is_beyond_a_margin():
    ends = {"low": ("cell", [0.5, 0.1, -0.3, np.nan]), "high": ("cell", [0.6, 0.9, -0.25, np.nan])}
    assert beyond_margin(xr.Dataset(ends), 10.0).values.tolist() == [True, False, True, False]
    assert beyond_margin(xr.Dataset(ends), -20.0).values.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role_items": 0}, "role_items must be at least 1"),
        ({"top": 0}, "top must be at least 1"),
        ({"null_pairs": -1}, "null_pairs must be 0 or more"),
        ({"sites": ()}, "sites must be one site at least, each once, not none"),
        ({"sites": ("v", "v")}, "each once, not v, v"),
        (
            {"sites": ("resid_pre", "attn_out"), "per_head": True},
            "per_head does nothing with sites resid_pre, attn_out, which have no heads: leave it out",
        ),
        ({"temperature": 0.5}, "temperature chooses among recorded lists"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        ListPatch(**changes)


def test_noising_is_not_denoising_turned_round(results: xr.Dataset):
    base = results["base"]
    gap = base.sel(side="noising") - base.sel(side="denoising")
    assert (gap > 0).all(), "short lists end rather than long ones"
    one, other = (shares(results, "v").sel(side=side) for side in ("denoising", "noising"))
    assert not np.allclose(one, other, atol=0.01)


def test_rounding_is_no_effect():
    """A unit in the last place, the same way in every list, survives flips of signs; so does what is no rounding."""
    lists, base = 12, np.float32(11.3)
    topics = [f"topic {i}" for i in range(lists)]
    measured = xr.DataArray(np.full((2, lists), base), dims=("side", "list"), coords={"topic": ("list", topics)})
    ulp = float(np.spacing(base))
    sizes = np.array([ulp, 20 * ulp, 0.01])
    effects_of = xr.DataArray(
        sizes * (1 + 0.1 * np.arange(lists))[:, None], dims=("list", "cell"), coords={"topic": ("list", topics)}
    )
    assert estimated_lists(effects_of)["survives"].values.tolist() == [True, True, True]
    assert estimated_lists(effects_of, rounding(measured))["survives"].values.tolist() == [False, False, True]
    # In half precision, a unit in the last place of what is measured is large.
    coarse = rounding(measured, resolution=2.0**-8)
    assert coarse == pytest.approx(11.3 / 256, rel=1e-4)
    assert not estimated_lists(effects_of, coarse)["survives"].any()
