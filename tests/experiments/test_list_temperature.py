"""list-temperature: the end's probability by rule, and endings that are noise, counted by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.datasets.lists.read import read_lists
from mechlist.decode import Sampling
from mechlist.errors import InputError
from mechlist.experiments.list_temperature.endings import by_item, endings, expected_endings, line_breaks
from mechlist.experiments.list_temperature.experiment import ListTemperature
from mechlist.metrics.by_topic import FEWEST
from mechlist.runner import Runner
from tests.experiments.lists_for_tests import write_recorded


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def level(**changes: Any) -> xr.Dataset:
    """Three short lists: the first ended where the end came first, the second where it did not, the third was cut."""
    nan = np.nan
    variables: dict[str, Any] = {
        "end_logit": (("list", "item"), [[-1.0, 2.0], [-1.0, nan], [1.0, -3.0]]),
        "end_first_at_break": (("list", "item"), [[1.0, 1.0], [0.0, nan], [1.0, 1.0]]),
        "end_at_break": (("list", "item", "grid"), [[[0.2], [0.5]], [[0.4], [nan]], [[0.6], [0.1]]]),
        "ended": ("list", [True, True, False]),
        "end_first": ("list", [1.0, 0.0, nan]),
        "n_items": ("list", [2, 1, 2]),
        "time": ("list", [2, 1, 1]),
    }
    coords = {
        "topic": ("list", ["a", "b", "b"]),
        "adjective": ("list", ["short"] * 3),
        "temperature": ("list", [0.7] * 3),
        "item": [1, 2],
        "grid": [1.0],
    }
    return xr.Dataset(variables | changes, coords=coords)


def test_endings_by_hand(runner: Runner):
    found = endings(runner, level(), 50)
    assert (int(found["n_ended"][0]), int(found["n_noise"][0])) == (2, 1)
    assert float(found["noise_endings"][0]) == 0.5
    # The end came first at both breaks of the first list, which ended at the second, and at break 1 of the third, which
    # went on; whether it would have gone on behind its last break is not known.
    assert float(found["noise_continuations"][0]) == pytest.approx(2 / 3)
    assert (float(found["noise_endings_low"][0]), float(found["noise_endings_high"][0])) == (0, 1)


def test_expected_endings_by_hand(runner: Runner):
    found = expected_endings(runner, level(), 50)
    noise = 0.4  # the end comes first at every break but that of the second list
    every = (0.2 + 0.8 * 0.5) + 0.4 + (0.6 + 0.4 * 0.1)
    assert float(found["expected_noise_endings"][0, 0]) == pytest.approx(noise / every)


def test_means_by_item_by_hand(runner: Runner):
    found = by_item(runner, level(), 50)
    np.testing.assert_allclose(found["mean_end_logit"][0], [-1 / 3, -1 / 2])
    np.testing.assert_allclose(found["mean_end_at_break"][0, :, 0], [0.4, 0.3])
    assert found["lists_at"].values.tolist() == [[3, 2]]


def test_line_breaks_are_read_by_every_rule(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    lists = read_lists([folder], keep_cut_off=True, tokenizer=runner.tokenizer).ordered()
    rules = [Sampling(temperature=0.5, top_p=0.8), Sampling(temperature=1.3)]
    found = line_breaks(runner, lists, rules)
    place = lists.parsed[0].items[2].line_break
    assert place is not None
    logits = runner.logits([lists.rows[0]], positions=place)[0]
    for i, rule in enumerate(rules):
        expected = rule.probabilities(logits)[0, list(lists.special.ends)].sum()
        assert float(found["end_at_break"][0, 2, i]) == pytest.approx(float(expected), abs=1e-5)
    # A list that was cut off before its first line break has nothing to read.
    assert np.isnan(found["end_at_break"][3]).all()
    assert found["ended"].values.tolist() == [True, False] * 4
    first = runner.logits([lists.rows[0]], positions=len(lists.rows[0]) - 2)[0, 0].argmax()
    assert float(found["end_first"][0]) == float(int(first) == lists.special.end_of_turn)
    assert np.isnan(found["end_first"][1])


def test_other_adjectives_have_results_of_their_own(runner: Runner):
    asked = ListTemperature(
        topics=("Fruits", "Ocean"), adjectives=("none", "other"), samples=1, max_new_tokens=20, resamples=20
    )
    results = asked.run(runner)
    assert results["by_adjective"].values.tolist() == ["other", "none"]
    assert results["condition_adjective"].values.tolist() == ["other", "none"]
    assert "Other lists: on average the end overtakes" in asked.findings(results)[1]
    assert "scaled-logit-other" in asked.figures(results)


def test_the_whole_experiment(runner: Runner):
    asked = ListTemperature(topics=("Fruits", "Ocean"), samples=1, max_new_tokens=30, resamples=20, grid=(1.3, 0.5))
    results = asked.run(runner)
    assert results["grid"].values.tolist() == [0.5, 1.3]
    assert (results["noise_endings"].dropna("condition") <= 1).all()
    sentences = asked.findings(results)
    assert sentences[0].startswith("list-tiny: 6 lists, of which")
    assert "sampling noise would make" in " ".join(sentences)
    assert {"end-logit", "scaled-logit-short", "end-by-temperature-none", "noise-endings"} < set(asked.figures(results))
    assert set(asked.tables(results)) == {"items", "endings"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": ()}, "grid must hold one temperature at least"),
        ({"grid": (0.5, 0.5)}, "each once"),
        ({"grid": (0.0,)}, "temperature must be above 0"),
        ({"nucleus": 0.0}, "top_p must be above 0"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        ListTemperature(**changes)


def test_a_cap_that_hides_the_endings_gives_not_known(runner: Runner):
    asked = ListTemperature(topics=("Fruits", "Ocean"), samples=1, max_new_tokens=30, resamples=20, grid=(1.3, 0.5))
    results = asked.run(runner)
    capped = results.copy(deep=True)
    capped["ended"][:] = False
    capped["n_ended"][:] = 0
    sentences = asked.findings(capped)
    assert len(sentences) == 1 + capped.sizes["by_adjective"] + capped.sizes["condition"]
    for sentence in sentences[1:]:
        assert sentence.endswith("not known.")
        assert "%" not in sentence
    every = results.copy(deep=True)
    every["ended"][:] = True
    every["n_ended"][:] = 2
    assert not any("not known" in sentence for sentence in asked.findings(every))


def test_nothing_is_said_of_shares_of_an_ending_or_two(runner: Runner):
    asked = ListTemperature(topics=("Fruits", "Ocean"), samples=1, max_new_tokens=30, resamples=20, grid=(1.3, 0.5))
    results = asked.run(runner)
    results["ended"][:] = True
    for count, said in ((1, False), (FEWEST, True)):
        results["n_ended"][:] = count
        assert any(f" of {count} endings" in sentence for sentence in asked.findings(results)) == said


def test_what_is_said_of_crossings_is_what_is_seen(runner: Runner):
    asked = ListTemperature(topics=("Fruits", "Ocean"), samples=1, max_new_tokens=30, resamples=20)
    results = asked.run(runner)
    for sign, said in (
        (-1, "does not overtake the hyphen within the items seen"),
        (1, "overtakes the hyphen after 1 item"),
    ):
        one = results.copy(deep=True)
        one["mean_end_logit"] = sign * (abs(one["mean_end_logit"]) + 1)
        assert said in asked.findings(one)[1]
        caption = str(asked.figures(one)["scaled-logit-short"].to_dict())
        assert "No curve crosses zero within the items seen" in caption
    both = results.copy(deep=True)
    both["mean_end_logit"][:] = np.where(np.arange(both.sizes["item"]) > 0, 1.0, -1.0)
    both["lists_at"][:] = 9
    assert "All curves cross zero after the same item" in str(asked.figures(both)["scaled-logit-short"].to_dict())
