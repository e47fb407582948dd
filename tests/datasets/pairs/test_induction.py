"""Pairs that differ in what induction reads."""

import pytest
import torch

from mechlist.datasets.pairs.induction import induction_pairs
from mechlist.errors import InputError


@pytest.mark.parametrize("period", [5, 6, 7, 8, 20])
@pytest.mark.parametrize("bos", [None, 0])
def test_two_tokens_of_the_first_block_change_places(period: int, bos: int | None):
    pairs = induction_pairs(25, period, 60, bos, torch.Generator().manual_seed(0))
    start = 0 if bos is None else 1
    for clean, corrupt, answer, wrong in zip(*vars(pairs).values(), strict=True):
        first, again = clean[start : start + period], clean[start + period :]
        assert bos is None or clean[0] == corrupt[0] == bos
        assert len(first.unique()) == period
        assert bos is None or bos not in first
        assert torch.equal(again, first[: len(again)])
        j = len(again) - 1
        assert answer == first[j + 1]
        changed = corrupt[start : start + period]
        assert torch.equal(clean[start + period :], corrupt[start + period :])
        m = int((changed == first[j]).nonzero())
        assert changed[j] == first[m]
        assert int((changed != first).sum()) == 2
        # The one the corrupt prompt points to comes later, is not shown again, and stays where it was.
        assert m > j + 1
        assert wrong == first[m + 1] == changed[m + 1]
        assert changed[j + 1] == answer
        assert wrong not in again


def test_blocks_that_are_too_short_or_long_are_refused():
    for period in (4, 60):
        with pytest.raises(InputError, match=r"period must be between 5 and 59 tokens"):
            induction_pairs(3, period, 60, 0, torch.Generator())


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize("n_ctx", [8, 11, 30, 31, 32, 64])
def test_the_longest_block_is_the_longest_that_the_context_holds(bos: int | None, n_ctx: int):
    def width(period: int) -> int:
        return induction_pairs(1, period, 200, bos, torch.Generator().manual_seed(0)).clean.shape[1]

    longest = max(period for period in range(5, n_ctx) if width(period) <= n_ctx)
    made = induction_pairs(1, longest, 200, bos, torch.Generator().manual_seed(0), n_ctx=n_ctx)
    assert made.clean.shape[1] <= n_ctx
    words = f"period must be between 5 and {longest} tokens, not {longest + 1}: the model's context holds {n_ctx}"
    with pytest.raises(InputError, match=words):
        induction_pairs(1, longest + 1, 200, bos, torch.Generator(), n_ctx=n_ctx)
    # Where there are fewer tokens than that, they are the bound.
    with pytest.raises(InputError, match=r"period must be between 5 and \d tokens, not 99\."):
        induction_pairs(1, 99, 6, bos, torch.Generator(), n_ctx=64)
