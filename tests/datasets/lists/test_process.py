"""The process behind list-tiny's lists: closed forms against many draws, and against each other."""

import numpy as np
import pytest

from mechlist.datasets.lists.process import FAME, PROCESSES, draw_items, length_of

DRAWS = 40_000
CAPACITIES = [5, 46]


def drawn(adjective: str, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths, and fillers with NaN beyond a list's end."""
    generator = np.random.default_rng(0)
    lengths, fillers = np.zeros(DRAWS, dtype=int), np.full((DRAWS, capacity), np.nan)
    for i in range(DRAWS):
        lengths[i], carried = PROCESSES[adjective].draw(capacity, generator)
        fillers[i, : lengths[i]] = carried
    return lengths, fillers


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("adjective", list(PROCESSES))
def test_closed_forms_are_what_is_drawn(adjective: str, capacity: int):
    process = PROCESSES[adjective]
    lengths, fillers = drawn(adjective, capacity)
    share = np.bincount(lengths, minlength=capacity + 1)[1:] / DRAWS
    np.testing.assert_allclose(share, process.length(capacity), atol=0.01)
    for k in range(capacity):
        reached = lengths > k
        if reached.sum() < 2000:
            continue
        carried = fillers[reached, k] == 1
        assert carried.mean() == pytest.approx(process.filler(capacity)[k], abs=0.04)
        for filler in (False, True):
            those = lengths[reached][carried == filler]
            if len(those) >= 1000:
                expected = process.hazard_given(capacity, filler=filler)[k]
                assert (those == k + 1).mean() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("adjective", list(PROCESSES))
def test_the_filler_says_nothing_on_average(adjective: str, capacity: int):
    # The law of total probability ties the three closed forms together.
    process = PROCESSES[adjective]
    filler = process.filler(capacity)
    mixed = filler * process.hazard_given(capacity, filler=True)
    mixed += (1 - filler) * process.hazard_given(capacity, filler=False)
    np.testing.assert_allclose(mixed, process.hazard(capacity), atol=1e-12)


def test_lengths_are_as_described():
    k = np.arange(1, 47)
    means = {a: float((k * p.length(46)).sum()) for a, p in PROCESSES.items()}
    assert means["short"] == pytest.approx(8, abs=0.5)
    assert means[""] == pytest.approx(16, abs=1)
    assert means["long"] == pytest.approx(26, abs=1)
    short = PROCESSES["short"].filler(46)[:12]
    assert (np.diff(short) > 0).all()
    assert PROCESSES["long"].filler(46)[:30].max() < 0.1


def test_a_list_ends_where_its_topic_does():
    for process in PROCESSES.values():
        assert process.hazard(5)[-1] == 1
        assert process.length(5).sum() == pytest.approx(1)
    assert PROCESSES["long"].length(5)[-1] > 0.99


def test_lengths_follow_from_the_hazard():
    np.testing.assert_allclose(length_of(np.array([0.5, 0.5, 1.0])), [0.5, 0.25, 0.25])
    assert length_of(np.array([0.5, 0.5])).sum() == pytest.approx(0.75)


def test_items_come_without_repetition_and_by_fame():
    generator = np.random.default_rng(0)
    pairs = np.array([draw_items(6, 2, generator) for _ in range(20_000)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    weights = 1 / (np.arange(6) + FAME)
    first = np.bincount(pairs[:, 0], minlength=6) / len(pairs)
    np.testing.assert_allclose(first, weights / weights.sum(), atol=0.012)
    # After item 0 the others keep their proportions.
    second = np.bincount(pairs[pairs[:, 0] == 0, 1], minlength=6)
    np.testing.assert_allclose(second / second.sum(), np.r_[0, weights[1:]] / weights[1:].sum(), atol=0.025)
    assert sorted(draw_items(6, 6, generator)) == list(range(6))
