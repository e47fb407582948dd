"""Sparse refits: the minimum that theory gives, whatever the blocks; and its parts against torch."""

import pytest
import torch
from torch import Tensor

from mechlist.errors import InputError
from mechlist.weights import sparse
from mechlist.weights.sparse import constant_only, fidelity, largest_penalty, pruned, sparse_refit

Data = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def data() -> Data:
    """States with a constant, the distribution that sparse weights give them, and these weights."""
    generator = torch.Generator().manual_seed(0)
    states = torch.cat([torch.randn(400, 6, generator=generator), torch.ones(400, 1)], dim=1)
    weights = torch.randn(7, 11, generator=generator) * (torch.rand(7, 11, generator=generator) < 0.3) * 2
    return states, (states @ weights).softmax(-1), weights


def start(data: Data) -> Tensor:
    target = data[1]
    return torch.cat([torch.zeros(6, target.shape[1]), constant_only(target)[None]])


def penalties(size: float) -> Tensor:
    """None for the constant."""
    return torch.tensor([size] * 6 + [0.0])


def slope(data: Data, weights: Tensor) -> Tensor:
    states, target, _ = data
    return states.mT @ ((states @ weights).softmax(-1) - target) / len(states)


@pytest.mark.parametrize("block_bytes", [1, 20_000, 2**26])
def test_the_minimum_has_the_slopes_that_it_must_have(data: Data, block_bytes: int, monkeypatch: pytest.MonkeyPatch):
    """Where a weight is not 0 its slope is the penalty with the other sign; where it is 0, no larger than that."""
    monkeypatch.setattr(sparse, "BLOCK_BYTES", block_bytes)
    size = 0.02
    steps = 60 if block_bytes == 1 else 600
    found = sparse_refit(data[0], data[1], start(data), penalties(size), steps=steps)
    slopes, tolerance = slope(data, found), 2e-3 if block_bytes == 1 else 1e-4
    penalised, there = slopes[:-1], found[:-1] != 0
    assert 0.1 < there.float().mean() < 0.9
    torch.testing.assert_close(penalised[there], -size * found[:-1][there].sign(), atol=tolerance, rtol=0)
    assert penalised[~there].abs().max() <= size + tolerance
    assert slopes[-1].abs().max() < tolerance


def test_without_a_penalty_the_distribution_is_found_again(data: Data):
    found = sparse_refit(data[0], data[1], start(data), penalties(0.0), steps=800)
    judged = fidelity(data[0], data[1], found)
    assert judged.kl.mean() < 1e-4
    assert judged.agrees.mean() > 0.99


def test_beyond_the_largest_penalty_only_the_constant_is_left(data: Data):
    top = largest_penalty(data[0][:, :-1], data[1])
    nothing = sparse_refit(data[0], data[1], start(data), penalties(1.001 * top), steps=20)
    assert (nothing[:-1] == 0).all()
    torch.testing.assert_close(nothing[-1].softmax(0), data[1].mean(0), atol=1e-4, rtol=1e-3)
    little = sparse_refit(data[0], data[1], start(data), penalties(0.9 * top), steps=50)
    assert 1 <= int((little[:-1] != 0).sum()) <= 4


def test_more_steps_are_never_worse(data: Data):
    states, target, _ = data

    def minimised(weights: Tensor) -> float:
        kl = fidelity(states, target, weights).kl.mean()
        return float(kl + (penalties(0.01)[:, None] * weights.abs()).sum())

    found = [minimised(sparse_refit(states, target, start(data), penalties(0.01), steps=n)) for n in (1, 5, 20, 100)]
    assert found == sorted(found, reverse=True)


def test_fidelity_is_that_of_whole_distributions(data: Data, monkeypatch: pytest.MonkeyPatch):
    states, target, weights = data
    other = weights + 0.3 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    log_probs = (states @ other).log_softmax(-1)
    kl = (target * (target.log() - log_probs)).sum(1)
    agrees = (log_probs.argmax(1) == target.argmax(1)).float()
    for block_bytes in (1, 2**26):
        monkeypatch.setattr(sparse, "BLOCK_BYTES", block_bytes)
        found = fidelity(states, target, other)
        torch.testing.assert_close(found.kl, kl, atol=1e-5, rtol=1e-4)
        assert torch.equal(found.agrees, agrees)


def test_pruning_takes_the_smallest(data: Data):
    weights = torch.tensor([[3.0, -0.1, 0.2], [-4.0, 0.05, 1.0]])
    assert pruned(weights, 0).tolist() == weights.tolist()
    torch.testing.assert_close(pruned(weights, 3), torch.tensor([[3.0, 0.0, 0.0], [-4.0, 0.0, 1.0]]))


def test_progress_and_bad_input(data: Data):
    done: list[int] = []
    sparse_refit(data[0], data[1], start(data), penalties(0.1), steps=3, progress=done.append)
    assert done == [1, 1, 1]
    with pytest.raises(InputError, match="penalty must be at least 0 and steps at least 1, not -1 and 3"):
        sparse_refit(data[0], data[1], start(data), penalties(-1.0), steps=3)
    with pytest.raises(InputError, match="not 0 and 0"):
        sparse_refit(data[0], data[1], start(data), penalties(0.0), steps=0)
