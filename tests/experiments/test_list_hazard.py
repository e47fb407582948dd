"""list-hazard: stages and curves worked by hand, against Kaplan-Meier and the truth, and heads that are changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.process import PROCESSES
from mechlist.datasets.lists.prompts import list_prompts
from mechlist.datasets.lists.read import read_lists
from mechlist.decode import Sampling
from mechlist.errors import InputError
from mechlist.experiments.generate_lists.experiment import GenerateLists
from mechlist.experiments.list_curves import (
    curve,
    hazards,
    mean_change,
    sampled_curve,
    sampling_noise,
    total_variation,
)
from mechlist.experiments.list_endings import Endings, endings, true_endings
from mechlist.experiments.list_hazard.experiment import ListHazard
from mechlist.experiments.list_hazard.heads import class_means, head_sets, heads_from, predict_changed
from mechlist.experiments.list_hazard.process import drawn_hazard, process_hazards
from mechlist.experiments.list_predictions import predict
from mechlist.metrics.survival import survival_curve
from mechlist.results import save_dataset
from mechlist.runner import Runner, replace
from mechlist.types import parse_heads
from tests.experiments.lists_for_tests import write_recorded

SMALL: dict[str, Any] = {"topics": ("Fruits", "Ocean"), "samples": 1, "max_new_tokens": 24, "resamples": 20}

CHANGED = ListHazard(**SMALL, heads=("4.0",), controls=2)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def lists(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> ListSet:
    folder = write_recorded(runner, tmp_path_factory.mktemp("recorded"))
    return read_lists([folder], keep_cut_off=True, tokenizer=runner.tokenizer).ordered()


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


# endings


def test_endings_share_out_every_position_of_a_list(lists: ListSet):
    # -Apple\n-Banana\n- : probabilities by position, the hyphen behind the second break included.
    tokens = lists.rows[1].tolist()
    end = np.zeros(lists.tokens.shape)
    breaks = [i for i, token in enumerate(tokens) if token == lists.special.line_break and i > lists.starts[1]]
    end[1, breaks[0]] = 0.25
    end[1, breaks[1]], end[1, breaks[1] + 1] = 0.5, 0.1
    end[1, breaks[1] - 1] = 0.3
    # What stands in the prompt is no ending.
    end[1, : lists.starts[1]] = 0.9
    found = endings(end, lists)
    np.testing.assert_allclose(found.inside[1], [0, 0.3, np.nan])
    np.testing.assert_allclose(found.at_break[1], [0.25, 1 - 0.5 * 0.9, np.nan])
    # A line that was cut off in the middle tells nothing.
    assert np.isnan(found.inside[3]).all()
    np.testing.assert_array_equal(found.of(np.array([1])).inside, found.inside[1:2])


def test_the_truth_is_that_of_the_process(lists: ListSet):
    found = true_endings(lists, {"Fruits": 10, "Ocean": 1})
    process = PROCESSES["short"]
    expected = [process.hazard_given(10, filler=filler)[k] for k, filler in enumerate((False, True, False))]
    np.testing.assert_allclose(found.at_break[0], expected)
    assert found.at_break[2, 0] == found.at_break[2, 1] == 1
    assert np.isnan(true_endings(lists, {}).at_break).all()


# curves


def test_a_hazard_by_hand():
    found = hazards(
        Endings(np.array([[0.0, 0.5], [0.0, np.nan]]), np.array([[0.2, 1.0], [0.6, np.nan]])),
        np.array(["a", "b"]),
        resamples=50,
        generator=generator(),
    )
    np.testing.assert_allclose(found.point, [0.4, 1.0])
    made = curve(found)
    np.testing.assert_allclose(made.survival, [0.6, 0.0])
    np.testing.assert_allclose(made.length, [0.4, 0.6])
    assert (made.median, made.mean, made.lists.tolist()) == (2, pytest.approx(1.6), [2, 1])
    assert (made.hazard_ends.low[0], made.hazard_ends.high[0]) == (pytest.approx(0.2), pytest.approx(0.6))
    assert np.isnan(curve(found._replace(drawn=found.drawn._replace(clusters=1))).hazard_ends.low).all()
    half = found._replace(drawn=found.drawn.map(lambda rows: rows / 2))
    change = mean_change(half, found)
    assert change[0] == pytest.approx(0.2)
    assert (change[1], change[2]) == (pytest.approx(0.1), pytest.approx(0.3))


def test_endings_of_many_draws_have_the_hazard_that_is_read():
    # Lists end inside an item or at its break; what is read of each stops where it ended.
    rng = generator()
    inside, at_break = np.full((4000, 3), np.nan), np.full((4000, 3), np.nan)
    time, ended = np.zeros(4000, dtype=int), np.ones(4000, dtype=bool)
    for i in range(4000):
        for k in range(3):
            inside[i, k], at_break[i, k] = rng.choice([0.1, 0.5]), rng.choice([0.2, 0.6])
            time[i] = k + 1
            if rng.random() < inside[i, k]:
                at_break[i, k] = np.nan
                break
            if rng.random() < at_break[i, k]:
                break
            ended[i] = k < 2
    read_of = hazards(Endings(inside, at_break), np.arange(4000), resamples=10, generator=generator())
    np.testing.assert_allclose(read_of.point, survival_curve(time, ended, 4).hazard[1:], atol=0.04)


def test_sampled_curves_are_kaplan_meier():
    time, ended = np.array([1, 2, 2, 3, 0]), np.array([True, True, False, True, True])
    made = sampled_curve(time, ended, np.array(list("aabbc")), 3, resamples=20, generator=generator())
    np.testing.assert_allclose(made.hazard, [1 / 4, 1 / 3, 1])
    np.testing.assert_allclose(made.survival, [3 / 4, 1 / 2, 0])


def test_total_variation_by_hand():
    assert total_variation(np.array([0.5, 1.0]), np.array([0.5, 1.0])) == 0
    assert total_variation(np.array([0.5, 1.0]), np.array([0.25, 1.0])) == pytest.approx(0.25)
    # Beyond item 1 the second tells nothing: .5 against .75 that go on.
    assert total_variation(np.array([0.5, 1.0]), np.array([0.25, np.nan])) == pytest.approx(0.25)
    assert np.isnan(total_variation(np.array([np.nan]), np.array([0.5])))


def test_noise_shrinks_with_the_lists():
    hazard = np.array([0.2, 0.5, 1.0])
    few, many = (
        sampling_noise(hazard, np.array([n, n // 2, n // 4]), resamples=500, generator=generator()) for n in (20, 2000)
    )
    assert 0 < many < few / 5
    # At one item only, the total variation is |share - .2|.
    one = sampling_noise(np.array([0.2]), np.array([100]), resamples=4000, generator=generator())
    assert one == pytest.approx(1.96 * 0.04, abs=0.006)


# heads


def test_names_of_heads():
    assert parse_heads(("3.1", "L4H2"), "heads") == ((3, 1), (4, 2))
    for wrong in ("3", "3,1", "a.b", "-1.2", "3.1.2"):
        with pytest.raises(InputError, match="heads must be such as L4H11, not"):
            parse_heads((wrong,), "heads")
    with pytest.raises(InputError, match="each head once"):
        parse_heads(("3.1", "L3H1"), "heads")


def test_controls_are_other_heads_of_the_same_layers(runner: Runner):
    sets = head_sets(runner, ((3, 1), (4, 2)), 3)
    assert list(sets) == ["clean", "heads", "control 1", "control 2", "control 3"]
    chosen = [head for heads in sets.values() for head in heads]
    assert len(set(chosen)) == 8
    assert all([layer for layer, _ in heads] == [3, 4] for heads in list(sets.values())[1:])
    with pytest.raises(InputError, match="controls must be 0 here"):
        head_sets(runner, [(layer, head) for layer in range(6) for head in range(8)], 1)


def test_means_are_by_class_and_the_same_for_every_adjective(runner: Runner, lists: ListSet):
    few = lists.of([0, 1, 4])
    means = class_means(runner, few, [(2, 1)])
    hook = "blocks.2.attn.hook_z"
    of_adjective = []
    for adjective in ("short", "long"):
        values = []
        for row, start, word in zip(few.rows, few.starts, few.adjective, strict=True):
            z = runner.capture([row], hook)[hook][0, :, 1]
            places = [i for i, token in enumerate(row.tolist()) if token == few.special.line_break and i > start]
            values += [z[i] for i in places] if word == adjective else []
        of_adjective.append(torch.stack(values).mean(0))
    number = int(means.class_of_token[few.special.line_break])
    torch.testing.assert_close(means.values[2, 1][1, number], torch.stack(of_adjective).mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["zero", "swap"])
def test_lists_are_read_with_heads_changed(runner: Runner, lists: ListSet, mode: Any):
    heads = ((3, 1), (5, 2))
    found = predict_changed(runner, lists, heads, mode, None, "")
    one, hooks = lists.of([0]), [f"blocks.{layer}.attn.hook_z" for layer, _ in heads]
    (prompt,) = list_prompts(runner.tokenizer, [one.topic[0]], ["long"])
    other = prompt.with_completion(one.rows[0][one.starts[0] + 1 :].tolist())
    changes = []
    for hook, (_, head) in zip(hooks, heads, strict=True):
        value = 0.0 if mode == "zero" else runner.capture([other], hook)[hook][:, :, [head]]
        changes.append(replace(hook, value, heads=[head]))
    with runner.intervene(*changes):
        expected = predict(runner, one, label="").end_logit[0]
    width = len(expected)
    np.testing.assert_allclose(found.end_logit[0, :width], expected, atol=2e-3)
    plain = predict(runner, one, label="").end_logit[0]
    assert np.nanmax(np.abs(plain - expected)) > 0.01


# the experiment


@pytest.mark.parametrize("intervention", ["zero", "mean", "swap"])
def test_the_whole_experiment(runner: Runner, intervention: Any):
    asked = ListHazard(**SMALL, heads=("4.0",), intervention=intervention, controls=1)
    results = asked.run(runner)
    adjectives = ["short", "long"] if intervention == "swap" else ["short", "long", "none"]
    assert results["by_adjective"].values.tolist() == adjectives
    assert results.sizes["written"] == 2 * len(adjectives)
    clean = results["written_items"].sel(set="clean").values
    assert clean.tolist() == results["n_items"].values[: len(clean)].tolist()
    assert (results["items_change"].sel(set="clean") == 0).all()
    change = (results["written_items"].sel(set="heads") - results["written_items"].sel(set="clean")).values
    assert float(results["items_change"].sel(set="heads", of_lists="all")) == pytest.approx(change.mean())
    sentences = asked.findings(results)
    assert any("written again with the same random numbers" in sentence for sentence in sentences)
    assert set(asked.tables(results)) == {"conditions", "hazard", "lists", "heads"}
    assert {"hazard-short", "survival-short", "items-with-heads"} < set(asked.figures(results))


def test_a_swap_leaves_lists_with_other_adjectives_out(runner: Runner):
    asked = ListHazard(**SMALL, heads=("4.0",), intervention="swap", controls=0, adjectives=("none", "other", "short"))
    results = asked.run(runner)
    assert results["condition_adjective"].values.tolist() == ["short", "other", "none"]
    assert results["by_adjective"].values.tolist() == ["short"]
    assert asked.findings(results)
    assert {"hazard-other", "hazard-with-heads-short"} <= set(asked.figures(results))


def test_the_built_in_model_follows_its_process(runner: Runner):
    results = ListHazard(topics=("Fruits", "Animals", "Countries"), adjectives=("short",), samples=4, resamples=20).run(
        runner
    )
    # Of twelve lists, against the process in closed form.
    assert float(results["variation_from_truth"][0]) < 0.25
    assert abs(float(results["signed_error_at_break"][0])) < 0.02
    assert float(results["error_at_break"][0]) < 0.03
    np.testing.assert_allclose(results["drawn_end_at_break"], results["end_at_break"], atol=1e-6)
    assert bool(results["ended"].all())
    variation, noise = (float(results[name][0]) for name in ("variation_from_sampled", "sampling_noise"))
    assert 0 < variation < 2 * noise


def test_recorded_lists(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists", temperature=None)
    results = ListHazard(recorded=(folder,), resamples=20).run(runner)
    assert results.attrs["unknown_rules"] == 8
    assert np.isnan(results["hazard"].sel(rule="as drawn")).all()
    assert results["n_lists_ended"].values.tolist() == [2, 2]
    sentences = ListHazard().findings(results)
    assert sentences[0] == (
        "list-tiny read 8 lists of 2 topics (4 ended, the others were cut off and count until then); of 8 it is not "
        "known at which temperature they were drawn."
    )
    assert "hazard-long" in ListHazard().figures(results)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"lists": 0}, "lists must be at least 1, not 0"),
        ({"controls": -1}, "controls must be at least 0, not -1"),
        ({"own_samples": -1}, "own_samples must be at least 0, not -1"),
        ({"strongest": 3}, "strongest does nothing without heads_from: leave it out"),
        ({"intervention": "swap"}, "intervention does nothing without heads"),
        ({"controls": 0}, "controls does nothing without heads"),
        ({"heads": ("x",)}, "heads must be such as L4H11, not 'x'"),
        ({"strongest": 0}, "strongest must be at least 1"),
        ({"heads": ("1.0",), "heads_from": (Path("x"),)}, "exclude each other"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 2.0}, "top_p must be above 0 and at most 1"),
        ({"adjectives": ()}, "adjectives must hold one value at least"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        ListHazard(**changes)


def test_heads_that_the_model_lacks_are_refused_at_once(runner: Runner):
    with pytest.raises(InputError, match="heads must be from L0H0 to L5H7, not 'L9H0'"):
        ListHazard(**SMALL, heads=("9.0",)).run(runner)
    with pytest.raises(InputError, match="intervention swap needs lists with an adjective, short or long"):
        ListHazard(**SMALL, adjectives=("none",), heads=("3.0",), intervention="swap").run(runner)


def test_heads_come_from_a_list_heads_run(runner: Runner, tmp_path: Path):
    with pytest.raises(InputError, match="does not exist: heads_from must be the folder"):
        ListHazard(**SMALL, heads_from=(tmp_path,)).run(runner)
    effect = np.zeros((2, 6, 8, 3))
    effect[:, 4, 2, 1], effect[:, 5, 1, 0], effect[:, 1, 7, 2] = -3.0, 2.0, 9.0
    exact = np.full(effect.shape, np.nan)
    exact[:, 1, 7, 2] = 0.5
    dims = ("list", "layer", "head", "role")
    coords = {"layer": range(6), "head": range(8), "role": ["a", "b", "c"]}
    found = xr.Dataset({"effect": (dims, effect), "exact": (dims, exact)}, coords=coords)
    save_dataset(found.assign_attrs(experiment="entropy"), tmp_path / "results.nc")
    with pytest.raises(InputError, match="must be results of list-heads, not of entropy"):
        ListHazard(**SMALL, heads_from=(tmp_path,)).run(runner)
    save_dataset(found.assign_attrs(experiment="list-heads"), tmp_path / "results.nc")
    results = ListHazard(**SMALL, heads_from=(tmp_path,), controls=0).run(runner)
    assert results.attrs["sets"]["heads"] == ["L4H2", "L5H1"]
    # Those of several runs, such as one a factor, are changed together, each once.
    (tmp_path / "filler").mkdir()
    save_dataset(found.roll(layer=1).assign_attrs(experiment="list-heads"), tmp_path / "filler" / "results.nc")
    assert heads_from((tmp_path, tmp_path / "filler"), 1) == ((4, 2), (5, 2))
    assert heads_from((tmp_path, tmp_path), 2) == ((4, 2), (5, 1))


def test_read_and_written_agree_where_nothing_is_changed(runner: Runner):
    """Under the rule that lists were drawn with, along these lists: items are expected as they are counted."""
    asked = ListHazard(
        topics=("Fruits", "Animals", "Countries", "Rivers"), adjectives=("short",), samples=4, temperature=0.7,
        top_p=0.8, max_new_tokens=120, resamples=20, heads=("4.2",), controls=0,
    )  # fmt: skip
    results = asked.run(runner)
    assert bool(results["written_ended"].all())
    read = results[["mean_items_read", "changed_mean_items"]].sel(by_adjective="short")
    assert float(read["changed_mean_items"].sel(set="clean")) == 0
    for name, close in (("clean", 0.5), ("heads", 0.7)):
        counted = float(results["written_items"].sel(set=name).mean())
        assert float(read["mean_items_read"].sel(set=name)) == pytest.approx(counted, abs=close)
    # At T = 1 along the lists of the model as it is, another number was read.
    change = float(results["items_change"].sel(set="heads", of_lists="short"))
    assert float(read["changed_mean_items"].sel(set="heads")) == pytest.approx(change, abs=0.7)
    sentence = next(sentence for sentence in asked.findings(results) if "read with the same change" in sentence)
    assert "by the rule that they were drawn with" in sentence


@pytest.fixture(scope="module")
def changed(runner: Runner) -> xr.Dataset:
    """Lists with a head changed, and two controls."""
    return CHANGED.run(runner)


def test_one_inflated_control_changes_the_verdict(changed: xr.Dataset):
    asked, results = CHANGED, changed.copy(deep=True)
    results["items_change"].loc[{"set": "heads"}] = -1.0
    results["items_change"].loc[{"set": "control 1"}] = 0.5
    for change, said in ((-0.5, "p = 0.33, and 2 controls cannot give less than 0.33"), (9.0, "p = 0.67")):
        results["items_change"].loc[{"set": "control 2"}] = change
        written = [sentence for sentence in asked.findings(results) if "written again" in sentence]
        assert len(written) == 4
        for sentence in written:
            assert f"controls +0.50, {change:+.2f}: by rank among them {said}" in sentence
            assert "beyond the controls" not in sentence


def test_changes_in_opposite_directions_are_not_pooled(changed: xr.Dataset):
    asked, results = CHANGED, changed.copy(deep=True)
    results["items_gap"].loc[{"set": "clean"}], results["items_gap"].loc[{"set": "heads"}] = 25.0, 19.5
    for end, value in (("", -5.5), ("_low", -7.0), ("_high", -4.0)):
        results[f"items_gap_change{end}"].loc[{"set": "heads"}] = value
    for word, change in (("short", 2.0), ("long", -3.5)):
        results["items_change"].loc[{"set": "heads", "of_lists": word}] = change
    text = " ".join(asked.findings(results))
    assert "The two change in opposite directions, and are not pooled: long lists have 25.0 items more" in text
    assert "than short lists as it is, and 19.5 with L4H0 changed: -5.5 [-7.0, -4.0] (controls " in text
    assert "All lists, written again" not in text
    drawn: Any = asked.figures(results)["items-with-heads"]
    assert not any("all lists" in str(trace.y) for trace in drawn.data)


def test_the_gap_between_long_and_short_lists_is_that_of_the_lists(changed: xr.Dataset):
    results = changed
    words = results["written_adjective"].values
    for name in ("clean", "heads"):
        items = results["written_items"].sel(set=name).values
        gap = items[words == "long"].mean() - items[words == "short"].mean()
        assert float(results["items_gap"].sel(set=name)) == pytest.approx(gap)
    change = results["items_gap"] - results["items_gap"].sel(set="clean")
    np.testing.assert_allclose(results["items_gap_change"], change)


def test_the_process_in_closed_form_is_that_of_its_draws():
    process, rule = PROCESSES["long"], Sampling(temperature=0.7, top_p=0.8)
    np.testing.assert_allclose(drawn_hazard(process, 46, None), process.hazard(46))
    np.testing.assert_allclose(drawn_hazard(process, 46, Sampling()), process.hazard(46))
    plain, drawn = (curve(process_hazards(process, {"a": 46}, ["a"], items=60, rule=of)) for of in (None, rule))
    assert (plain.median, drawn.median) == (27, 33), "the rule of drawing alone makes long lists longer"
    rng = generator()
    np.testing.assert_allclose(plain.mean, np.mean([process.draw(46, rng)[0] for _ in range(4000)]), atol=0.5)
    assert np.isnan(plain.hazard_ends.low).all()
    assert np.isnan(plain.hazard[46:]).all()
    # Of two topics as one: each as often as it stands there.
    both = process_hazards(process, {"a": 46, "b": 5}, ["a", "b", "b"], items=46).point
    assert both[4] == pytest.approx(1 - (1 - process.hazard(46)[4]) / 3)
    assert np.isnan(process_hazards(process, {}, ["a"], items=4).point).all()
    assert np.isnan(process_hazards(None, {"a": 4}, ["a"], items=4).point).all()


def test_the_rule_of_drawing_is_told_apart(runner: Runner, tmp_path: Path):
    """Lists drawn at T = .7 from a nucleus of .8, against the model at T = 1 and the process in both ways."""
    written = GenerateLists(topics=("Fruits", "Animals"), temperatures=(0.7,), samples=2, top_p=0.8, max_new_tokens=250)
    for name, text in written.files(written.run(runner)).items():
        if name.startswith("lists/"):
            (tmp_path / Path(name).name).write_text(text)
    asked = ListHazard(recorded=(tmp_path,), own_samples=2, max_new_tokens=250, resamples=20)
    results = asked.run(runner)
    assert results.attrs["own_written"]
    long = results.isel(condition=results["condition_adjective"].values.tolist().index("long"))
    assert float(long["rule_effect_items_truth"]) == 6
    assert float(long["rule_effect_items"]) > 3
    assert abs(float(long["signed_error_at_break"])) <= float(long["error_at_break"]) < 0.05
    # Each break is in one bin, and the mean over all is that of the bins.
    weights = long["error_breaks"].values
    assert np.nansum(long["signed_error"] * weights) / weights.sum() == pytest.approx(
        float(long["signed_error_at_break"])
    )
    sentences = [sentence for sentence in asked.findings(results) if sentence.startswith("Long lists at T = 0.7")]
    assert (
        "the rule of drawing alone, against T = 1 without nucleus, takes the model's lists from a median of"
        in sentences[1]
    )
    assert "those of the process in closed form from a median of 27 items to a median of 33 items" in sentences[1]
    figures: dict[str, Any] = asked.figures(results)
    names = [trace.name for trace in figures["hazard-long"].data]
    assert [name.split(" (")[0] for name in names] == [
        *("the model itself", "as the lists were drawn", "the lists themselves", "known truth", "known truth as drawn"),
    ]
    assert figures["reliability"].layout.title.text.startswith("Reliability: ")
    # Without lists of its own, nothing is said of the rule.
    given = ListHazard(recorded=(tmp_path,), own_samples=0, resamples=20)
    assert not any("rule of drawing alone" in sentence for sentence in given.findings(given.run(runner)))
