import inspect
import itertools
from typing import Any

import pytest
import torch

from mechlist.errors import InputError
from mechlist.runner.positions import gather, padded_axes, position_axis, real_entries, resolve


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (0, [[0], [0]]),
        (-1, [[4], [2]]),
        ([1, -3], [[1, 2], [1, 0]]),
        (torch.tensor([2]), [[2], [2]]),
        (torch.tensor([[4, -5], [-1, 0]]), [[4, 0], [2, 0]]),
    ],
)
def test_positions_resolve_to_each_prompts_own(positions: Any, expected: list[list[int]]) -> None:
    resolved = resolve(positions, [5, 3])
    assert resolved is not None
    assert resolved.tolist() == expected


def test_none_means_every_position() -> None:
    activation = torch.rand(2, 3, 4)
    assert resolve(None, [5, 3]) is None
    assert gather(activation, None) is activation


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        (3, "Position 3 is outside prompt 1, which has 3 tokens."),
        ([0, -4], "Position -4 is outside prompt 1, which has 3 tokens."),
        (torch.tensor([[5], [0]]), "Position 5 is outside prompt 0, which has 5 tokens."),
        (torch.zeros(3, 1, dtype=torch.long), "positions must have one row a prompt (2), not shape [3, 1]."),
        (torch.zeros(2, 1, 1, dtype=torch.long), "positions must have one row a prompt (2), not shape [2, 1, 1]."),
    ],
)
def test_positions_that_do_not_fit_are_refused(positions: Any, text: str) -> None:
    with pytest.raises(InputError) as raised:
        resolve(positions, [5, 3])
    assert str(raised.value) == text


def test_ragged_positions_are_refused() -> None:
    ragged: Any = [[0, 1], [0]]
    with pytest.raises(InputError, match="positions must be whole numbers, as many for each prompt as for the others"):
        # Behind the type checks of the tests, as in use.
        inspect.unwrap(resolve)(ragged, [5, 3])


@pytest.mark.parametrize("axis", [1, 2])
def test_gather_takes_each_rows_own_entries(axis: int) -> None:
    activation, chosen = torch.rand(2, 5, 5, 3), torch.tensor([[4, 0, 0], [1, 2, 3]])
    out = gather(activation, chosen, axis)
    for row in range(2):
        for k in range(3):
            assert torch.equal(out[row].select(axis - 1, k), activation[row].select(axis - 1, int(chosen[row, k])))


def test_positions_run_along_the_queries_of_patterns() -> None:
    assert position_axis("blocks.0.attn.hook_pattern") == position_axis("blocks.0.attn.hook_attn_scores") == 2
    assert position_axis("blocks.0.attn.hook_z") == position_axis("blocks.0.hook_resid_pre") == 1


def test_what_ends_in_padding() -> None:
    assert padded_axes("blocks.0.attn.hook_z", 4, True) == [1]
    assert padded_axes("blocks.0.attn.hook_z", 4, False) == []
    assert padded_axes("blocks.0.attn.hook_pattern", 4, True) == [2, 3]
    assert padded_axes("blocks.0.attn.hook_pattern", 4, False) == [3]


@pytest.mark.parametrize("axes", [[], [1], [2], [1, 2]])
def test_real_entries_are_those_of_tokens(axes: list[int]) -> None:
    shape, lengths = (2, 3, 3), torch.tensor([3, 1])
    real = real_entries(shape, axes, lengths).expand(shape)
    for index in itertools.product(*map(range, shape)):
        assert real[index] == all(index[axis] < lengths[index[0]] for axis in axes)


def test_positions_are_whole_numbers() -> None:
    with pytest.raises(InputError, match="positions must be whole numbers"):
        resolve(torch.tensor([5.7, 6.2]), [9, 9])
