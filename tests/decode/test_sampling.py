"""Choosing the next token: against hand-worked cases and the frequencies of many draws."""

import math
from itertools import accumulate
from typing import Any

import pytest
import torch

from mechlist.decode import Sampling
from mechlist.errors import InputError

PROBABILITIES = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
LOGITS = PROBABILITIES.log()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.3}, [0, 1, 0, 0]),
        ({"top_p": 0.4}, [0, 1, 0, 0]),
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 0.5}, [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),
    ],
)
def test_what_a_token_is_drawn_from(rules: dict[str, Any], expected: list[float]):
    found = Sampling(**rules).probabilities(LOGITS.double())
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))


def test_the_nucleus_is_cut_after_the_temperature():
    # At temperature 2 the square roots count: .4 has .332 of them, so that one token is not enough for .35.
    kept = Sampling(temperature=2.0, top_p=0.35).probabilities(LOGITS.double()) > 0
    assert kept.tolist() == [[False, True, False, True]]


def test_draws_come_in_their_proportions():
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = Sampling(top_p=0.8).choose(LOGITS.expand(20000, 4), uniform)
    share = torch.bincount(drawn, minlength=4) / 20000
    assert share[0] == 0
    torch.testing.assert_close(share, torch.tensor([0, 4 / 9, 2 / 9, 3 / 9]), atol=0.015, rtol=0)


def test_one_number_decides_in_the_order_of_probability():
    logits = LOGITS.expand(5, 4)
    uniform = torch.tensor([0.0, 0.39, 0.41, 0.69, 0.71], dtype=torch.float64)
    assert Sampling().choose(logits, uniform).tolist() == [1, 1, 3, 3, 2]


def test_a_number_next_to_one_takes_the_last_token_allowed():
    almost_one = torch.tensor([math.nextafter(1, 0)], dtype=torch.float64)
    assert Sampling(top_p=0.5).choose(LOGITS, almost_one).tolist() == [3]


def test_greedy_takes_the_first_of_equals():
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])
    assert Sampling(greedy=True).choose(logits, torch.zeros(2, dtype=torch.float64)).tolist() == [1, 0]


def test_a_row_is_drawn_as_if_alone():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = Sampling(top_p=0.9).choose(logits, uniform)
    alone = [Sampling(top_p=0.9).choose(logits[i : i + 1], uniform[i : i + 1]).item() for i in range(6)]
    assert together.tolist() == alone


RULES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 3.0},
    {"top_k": 5},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 2000, "top_p": 0.99},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.9999, "temperature": 2.0},
    {"min_p": 0.05},
    {"min_p": 1e-6, "top_p": 0.999},
]


def large_vocabulary() -> torch.Tensor:
    """Peaked and flat rows of 6,000 tokens, some with many equal values, some with tokens that a rule took away."""
    generator = torch.Generator().manual_seed(3)
    plain = torch.randn(20, 6000, generator=generator) * torch.linspace(0.1, 6, 20)[:, None]
    equal = (2 * plain).round() / 2
    masked = plain.masked_fill(torch.rand(20, 6000, generator=generator) < 0.999, -torch.inf)
    masked[:, 0] = 0.0
    return torch.cat([plain, equal, masked])


@pytest.mark.parametrize("rules", RULES)
def test_of_a_large_vocabulary_the_first_tokens_are_enough(rules: dict[str, Any]):
    rule, logits = Sampling(**rules), large_vocabulary()
    uniform = torch.rand(len(logits), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    uniform[::7], uniform[3::7] = 0.0, math.nextafter(1, 0)
    expected = []
    for row, number in zip(logits.double() / rule.temperature, uniform.tolist(), strict=True):
        # Plainly: sorted in Python, token by token.
        order = sorted(range(len(row)), key=(-row).tolist().__getitem__)[: rule.top_k]
        p = row[order].softmax(0).tolist()
        before = accumulate(p, initial=0.0)
        kept = [one for one, b in zip(p, before, strict=False) if b < rule.top_p and one >= rule.min_p * p[0]]
        kept = [one for one in kept if one > 0]
        passed = (place for place, total in enumerate(accumulate(kept)) if total > number * sum(kept))
        expected.append(order[next(passed, len(kept) - 1)])
    found = rule.choose(logits, uniform)
    # Next to 1 it is rounding that decides between the last tokens.
    clear = torch.ones(len(logits), dtype=torch.bool)
    clear[3::7] = False
    assert found[clear].tolist() == torch.tensor(expected)[clear].tolist()
    tokens = torch.tensor([0, 17, 4000])
    torch.testing.assert_close(
        rule.probability_of(logits, tokens), rule.probabilities(logits)[:, tokens].sum(1), atol=1e-12, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"temperature": float("inf")}, "temperature must be above 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"top_p": float("nan")}, "top_p must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_rules_out_of_range_are_refused(rules: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Sampling(**rules)


@pytest.mark.parametrize(
    "rules",
    [{}, {"top_k": 3}, {"top_p": 0.6}, {"top_p": 0.8, "temperature": 0.5}, {"temperature": 1.7}, {"greedy": True}],
)
def test_the_probability_of_some_tokens_is_that_of_all(rules: dict[str, Any]):
    logits = 2 * torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    logits[0] = 0.0  # equal tokens: the lowest ids are in the nucleus
    tokens = torch.tensor([4, 17])
    sampling = Sampling(**rules)
    if sampling.greedy:
        expected = torch.isin(logits.argmax(dim=1), tokens).double()
    else:
        expected = sampling.probabilities(logits)[:, tokens].sum(dim=1)
    found = sampling.probability_of(logits, tokens)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert (found > 0).any()
    assert (found[1:] == 0).any() == (rules not in ({}, {"temperature": 1.7}))


def test_min_p_leaves_what_is_near_the_most_probable() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    found = Sampling(min_p=0.29).probabilities(logits)[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.3, 0.15, 0.0], dtype=torch.float64) / 0.95)
    # The temperature comes first: at 2, the last has .32 of the first.
    assert (Sampling(min_p=0.31, temperature=2.0).probabilities(logits)[0] > 0).all()
    assert Sampling(min_p=1.0).probability_of(logits, torch.tensor([1])).item() == 0.0
    with pytest.raises(InputError, match="min_p must be from 0 to 1, not 2"):
        Sampling(min_p=2)


def test_random_numbers_are_known_by_the_name_of_the_rules() -> None:
    assert Sampling().name == "Sampling(greedy=False, temperature=1.0, top_k=None, top_p=1.0)"
    assert Sampling(min_p=0.1).name != Sampling(min_p=0.2).name


def test_greedy_chooses_from_one_token() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    assert Sampling(greedy=True, temperature=3.0).probabilities(logits).tolist() == [[0, 1, 0]]


def test_the_same_rules_have_one_name():
    assert Sampling(temperature=1, top_p=1).name == Sampling(temperature=1.0, top_p=1.0).name == str(Sampling())
    assert Sampling(top_p=0.5).name != Sampling().name
