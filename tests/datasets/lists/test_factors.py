"""Pairs of lists that differ in one factor, and the positions that correspond."""

import pytest
import torch

from mechlist.datasets.lists.factors import aligned, factor_pair
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.made import made_lists, well_known_lists
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.errors import InputError
from mechlist.runner import Runner


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def made(runner: Runner) -> ListSet:
    return well_known_lists(runner.tokenizer, ("Fruits", "Movies"), at_most=1, items=4).select("short")


def lines(runner: Runner, lists: ListSet) -> list[str]:
    starts = zip(lists.rows, lists.starts, strict=True)
    return [runner.tokenizer.decode(row[start:]) for row, start in starts]


def test_a_filler_is_all_that_differs(runner: Runner, made: ListSet):
    filled, plain = factor_pair(made, "filler", 4)
    for one, other in zip(lines(runner, filled), lines(runner, plain), strict=True):
        assert one.endswith(" \n")
        assert one[:-2] + "\n" == other
        assert one.count("\n") == 4
    # Whether the list had one does not matter.
    for mine, again in zip(factor_pair(made, "filler", 4), factor_pair(plain, "filler", 4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.rows, again.rows, strict=True))


def test_counts_share_their_last_lines(runner: Runner, made: ListSet):
    more, fewer = factor_pair(made, "count", 3)
    for one, other in zip(lines(runner, more), lines(runner, fewer), strict=True):
        assert (one.count("\n"), other.count("\n")) == (4, 1)
        assert one.endswith(other)
        assert " \n" not in one
    assert (more.n_items.tolist(), fewer.n_items.tolist()) == ([4, 4], [1, 1])
    with pytest.raises(InputError, match="fewer must be less than the items that a list has, not 4: no list has more"):
        factor_pair(made, "count", 4)


def test_lists_that_are_too_short_are_left_out(runner: Runner):
    prompts = [list_prompt(runner.tokenizer, "Fruits", "short")] * 2
    made = made_lists(runner.tokenizer, prompts, [("Apple", "Pear", "Cherry"), ("Apple",)], filler=True)
    more, _ = factor_pair(made, "count", 1)
    assert more.n_items.tolist() == [3]


def test_positions_correspond_by_role_from_the_last_item(runner: Runner, made: ListSet):
    for factor in ("filler", "count"):
        more, fewer = factor_pair(made, factor, 2)
        lengths = [len(row) for row in more.rows]
        found = aligned(more.roles, fewer.roles, lengths, max(lengths) + 2)
        for where, row, other in zip(found, more.rows, fewer.rows, strict=True):
            there = where >= 0
            # All tokens of the shorter list have one counterpart, in order, and it is the same token.
            assert where[there].tolist() == list(range(len(other)))
            assert torch.equal(row[there[: len(row)]], other)
            assert not there[len(row) :].any()
        back = aligned(fewer.roles, more.roles, [len(row) for row in fewer.rows], max(lengths))
        for where, forth, other in zip(back, found, fewer.rows, strict=True):
            assert where[: len(other)].tolist() == (forth >= 0).nonzero()[:, 0].tolist()
    cut = aligned(more.roles, fewer.roles, [5, 5], max(lengths))
    assert (cut[:, :5] >= 0).all()
    assert (cut[:, 5:] < 0).all()


def test_the_adjective_is_swapped(made: ListSet):
    short, long = factor_pair(made, "adjective", 4)
    assert (set(short.adjective), set(long.adjective)) == ({"short"}, {"long"})
    assert all(int((a != b).sum()) == 1 for a, b in zip(short.rows, long.rows, strict=True))
    again = factor_pair(long, "adjective", 4)
    assert torch.equal(again[0].tokens, short.tokens)
