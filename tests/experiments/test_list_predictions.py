"""What a model predicts along lists: against whole distributions, one position at a time."""

from typing import Any

import numpy as np
import pytest
import torch

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.list_set import ListSet, Provenance, list_set
from mechlist.datasets.lists.prompts import list_prompts
from mechlist.datasets.lists.read import read_lists
from mechlist.decode import Sampling
from mechlist.experiments.list_predictions import Predictions, drawing_rules, predict, read_logits
from mechlist.runner import Runner
from tests.experiments.lists_for_tests import write_recorded


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def lists(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> ListSet:
    folder = write_recorded(runner, tmp_path_factory.mktemp("recorded"))
    return read_lists([folder], keep_cut_off=True, tokenizer=runner.tokenizer).ordered()


@pytest.fixture(scope="module")
def predictions(runner: Runner, lists: ListSet) -> Predictions:
    return predict(runner, lists, rules=drawing_rules(lists), label="")


def test_predictions_are_those_of_whole_distributions(runner: Runner, lists: ListSet, predictions: Predictions):
    special, item = lists.special, lists.parsed[0].items[1]
    logits = runner.logits([lists.rows[0]])[0].double()
    place, last = item.line_break, item.content[-1]
    assert place is not None
    p = logits[place].softmax(0)
    ends = list(special.ends)
    assert predictions.end[0, place] == pytest.approx(float(p[ends].sum()), abs=1e-6)
    drawn = Sampling(temperature=0.7, top_p=0.8).probabilities(logits[place : place + 1])[0]
    assert predictions.drawn_end[0, place] == pytest.approx(float(drawn[ends].sum()), abs=1e-5)
    assert predictions.entropy[0, place] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
    assert predictions.end_first[0, place] == float(p.argmax() in ends)
    assert predictions.filler[0, last] == pytest.approx(float(logits[last].softmax(0)[special.blank]), abs=1e-6)
    assert predictions.end_logit[0, place] == pytest.approx(
        float(logits[place, special.end_of_turn] - logits[place, special.hyphen]), abs=1e-4
    )
    assert predictions.filler_logit[0, last] == pytest.approx(
        float(logits[last, special.blank] - logits[last, special.line_break]), abs=1e-4
    )
    assert lists.by_item(predictions.end_logit, "line_break")[0, 1] == predictions.end_logit[0, place]
    assert lists.by_item(predictions.filler, "item_last")[0, 1] == predictions.filler[0, last]
    assert lists.fillers[0].tolist() == [0, 1, 0]


def test_every_position_of_a_list_is_read_and_no_other(lists: ListSet, predictions: Predictions):
    position = np.arange(lists.tokens.shape[1])
    inside = (position >= np.array(lists.starts)[:, None]) & (position < lists.stops[:, None])
    for name, values in predictions._asdict().items():
        np.testing.assert_array_equal(np.isfinite(values), inside, err_msg=name)
    # The end of the turn is the last thing that is predicted; a list that was cut off is read to its last token.
    assert inside[0].sum() == len(lists.rows[0]) - 1 - lists.starts[0]
    assert inside[1].sum() == len(lists.rows[1]) - lists.starts[1]


def test_each_list_has_its_own_rule(runner: Runner, lists: ListSet, predictions: Predictions):
    rules = [None if i % 2 else Sampling(temperature=0.5 + 0.1 * i) for i in range(len(lists))]
    found = predict(runner, lists, rules=rules, label="")
    np.testing.assert_array_equal(found.end, predictions.end)
    for i, rule in enumerate(rules):
        row, start, stop = lists.rows[i], lists.starts[i], int(lists.stops[i])
        if rule is None:
            assert np.isnan(found.drawn_end[i]).all()
            continue
        logits = runner.logits([row])[0, start:stop]
        expected = rule.probabilities(logits)[:, list(lists.special.ends)].sum(dim=1)
        np.testing.assert_allclose(found.drawn_end[i, start:stop], expected, atol=1e-5)
    assert np.isnan(predict(runner, lists, label="").drawn_end).all()


@pytest.mark.parametrize(
    ("known", "rule"),
    [
        ({}, None),
        ({"top_p": 0.5}, None),
        ({"temperature": 0.7}, Sampling(temperature=0.7)),
        ({"temperature": 0.7, "top_p": 0.8}, Sampling(temperature=0.7, top_p=0.8)),
        ({"temperature": 0, "top_p": 0.8}, Sampling(greedy=True)),
    ],
)
def test_rules_of_drawing_are_what_is_known_of_a_list(runner: Runner, known: dict[str, Any], rule: Sampling | None):
    prompts = list_prompts(runner.tokenizer, ["Fruits"], ["short"])
    lists = list_set(prompts, [()], Provenance(origin="recorded", special=list_tokens(runner.tokenizer), **known))
    assert drawing_rules(lists) == [rule]


def test_logits_are_read_in_small_pieces(runner: Runner, lists: ListSet):
    where = torch.from_numpy(lists.positions("line_break"))

    def read(runner: Runner, **settings: Any) -> dict[str, torch.Tensor]:
        return read_logits(
            runner, lists.rows, where, lambda logits, of: {"first": logits[:, 0], "of": of + 0.0}, **settings
        )

    found = read(runner)
    assert found["first"].shape == where.shape
    assert torch.equal(found["first"].isnan(), where < 0)
    numbers = torch.arange(len(lists))[:, None].expand(where.shape)
    assert torch.equal(found["of"][where >= 0].long(), numbers[where >= 0])
    small = read(Runner(runner.model, memory="2MiB", progress=False), copies=64)
    torch.testing.assert_close(small["first"], found["first"], equal_nan=True, atol=1e-4, rtol=1e-4)
    whole = runner.logits([lists.rows[0]])[0]
    torch.testing.assert_close(found["first"][0], whole[where[0], 0], atol=1e-4, rtol=1e-4)
