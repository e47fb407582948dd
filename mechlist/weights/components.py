"""How many components of a final hidden state carry the answer, in any basis.

A state is written in a basis, its components are sorted by size, and the largest k are kept: for every k, what is the
answer's probability? The logits of all k come from one cumulative sum over the sorted components, block by block of
the vocabulary, and not from one unembedding a k.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.weights.blocked import Progress, column_blocks
from mechlist.weights.output import OutputWeights

TILE_ENTRIES = 2**18
"""Tokens times components at a time: they are gone through a dozen times and stay in a core's own cache."""
GRAM_BYTES = 2**26
LARGEST_GAP = 80.0
"""Logits above the answer's, beyond which exp would overflow in float32: such a probability is 0 for any purpose."""
_ROUNDING = 1e-5
"""Relative: a logit that is larger by less is not larger."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions that a hidden state is written in, and how."""

    name: str
    directions: Float[Tensor, "direction d_model"] | None
    """None for the hidden dimensions themselves."""
    read: Callable[[Float[Tensor, "prompt d_model"]], Float[Tensor, "prompt direction"]]
    """Coefficients of states."""
    complete: bool = True
    """Whether coefficients times directions give the state back; else what is missing, such as the error of a sparse
    autoencoder, is a remainder that is always kept."""
    number: int | None = None
    """Of directions, where `directions` holds only those that some state has a coefficient for; None for all of it."""

    def remainder(
        self, states: Float[Tensor, "prompt d_model"], coefficients: Float[Tensor, "prompt direction"]
    ) -> Float[Tensor, "prompt d_model"]:
        """What coefficients times directions leave out."""
        if self.complete or self.directions is None:
            return torch.zeros_like(states)
        return states - coefficients @ self.directions


class Curves(NamedTuple):
    """Of each prompt by how many components are kept, from 1 to all."""

    probability: Float[np.ndarray, "prompt kept"]
    probability_norm_restored: Float[np.ndarray, "prompt kept"]
    """With what is kept scaled to the norm of the whole state."""
    rank: Int[np.ndarray, "prompt kept"]
    """Tokens with a larger logit than the answer."""
    rank_norm_restored: Int[np.ndarray, "prompt kept"]


def neurons() -> Basis:
    """The hidden dimensions as they are."""
    return Basis("neurons", None, lambda states: states)


def random_rotation(width: int, generator: torch.Generator) -> Basis:
    """An orthonormal basis drawn uniformly (QR of a normal matrix): what any basis without meaning is like."""
    drawn = torch.randn(width, width, generator=generator)
    q, r = torch.linalg.qr(drawn)
    return orthonormal("random rotation", (q * r.diagonal().sign()).mT.contiguous())


def singular_vectors(weight: Float[Tensor, "d_model vocab"], progress: Progress | None = None) -> Basis:
    """The left singular vectors of W_U, from its d_model x d_model products; memory beyond them is `GRAM_BYTES`."""
    products = torch.zeros(len(weight), len(weight), dtype=torch.float64)
    for columns in column_blocks(weight, max(1, GRAM_BYTES // (4 * len(weight)))):
        block = weight[:, columns].float()
        products += (block @ block.mT).cpu()
        if progress is not None:
            progress(block.numel())
    vectors = torch.linalg.eigh(products).eigenvectors.flip(1)
    return orthonormal("singular vectors of W_U", vectors.mT.float().contiguous())


def orthonormal(name: str, directions: Float[Tensor, "d_model d_model"]) -> Basis:
    """A basis of orthonormal rows."""
    return Basis(name, directions, lambda states: states.to(directions) @ directions.mT)


def scaled(name: str, directions: Float[Tensor, "d_model d_model"], gain: Float[Tensor, " d_model"]) -> Basis:
    """An orthonormal basis of states before a gain, for states behind it: directions times gain.

    Raises:
        InputError: a gain of 0, behind which nothing can be read.
    """
    if not (gain != 0).all():
        raise InputError(f"{name} must be read before the final norm's gain, and some of it is 0.")
    return Basis(name, directions * gain, lambda states: (states / gain).to(directions) @ directions.mT)


@torch.no_grad()
def cumulative_curves(
    output: OutputWeights,
    basis: Basis,
    states: Float[Tensor, "prompt d_model"],
    answers: Int[Tensor, " prompt"],
    *,
    progress: Progress | None = None,
) -> Curves:
    """Probability and rank of each prompt's answer, with the largest 1, 2, ... components kept.

    Size is the coefficient's times the direction's norm; of equal ones the first comes first. Everything is in float32
    but for sums over the vocabulary. Memory beyond weights and basis: a dozen tiles of `TILE_ENTRIES`.

    Args:
        output: of the model.
        basis: in which the states are written.
        states: final hidden states.
        answers: token of each.
        progress: called with tokens times prompts that are done.

    Raises:
        InputError: states that are not finite, or an answer outside the vocabulary.
    """
    _check(output, states, answers)
    # There is no float64 on MPS.
    there = output.weight.device if output.weight.device.type != "mps" else torch.device("cpu")
    states, answers = states.float().cpu(), answers.cpu()
    found = _Sorted.of(basis, states)
    sums = _Sums.start(output, basis, found, answers, there)
    found = _Sorted(*(tensor.to(there) for tensor in found))
    directions = None if basis.directions is None else basis.directions.float().to(there)
    width = max(1, TILE_ENTRIES // found.order.shape[1])
    buffers = [torch.empty(width, found.order.shape[1], device=there) for _ in range(3)]
    for columns in column_blocks(output.weight, width):
        block = output.weight[:, columns].to(there).float()
        tokens = block.shape[1]
        projected, summed, work = (buffer[:tokens] for buffer in buffers)
        if directions is None:
            projected.copy_(block.mT)
        else:
            torch.mm(block.mT, directions.mT, out=projected)
        kept_back = found.remainder @ block
        for prompt in range(len(states)):
            torch.index_select(projected, 1, found.order[prompt], out=work)
            torch.cumsum(work.mul_(found.coefficients[prompt]), 1, out=summed)
            sums.add(prompt, summed.add_(kept_back[prompt, :, None]), work, columns)
        if progress is not None:
            progress(tokens * len(states))
    return sums.curves()


def crossings(
    probability: Float[np.ndarray, "prompt kept"], share: float | int = 0.9
) -> tuple[Int[np.ndarray, " prompt"], Int[np.ndarray, " prompt"]]:
    """Components at the first and at the last crossing of a share of the whole state's probability.

    First: the fewest that reach it. Last: the fewest from which on it is never lost again. The curve is not monotone,
    so that the two differ.

    Raises:
        InputError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"share must be above 0 and at most 1, not {share}.")
    enough = probability >= share * probability[:, -1:]
    first = enough.argmax(axis=1) + 1
    # From the end backwards: the first that is not enough, and one more.
    last = np.where(enough.all(axis=1), 1, enough.shape[1] - (~enough[:, ::-1]).argmax(axis=1) + 1)
    return first, last


class _Sorted(NamedTuple):
    """Coefficients of each prompt by falling size of the component."""

    order: Int[Tensor, "prompt kept"]
    coefficients: Float[Tensor, "prompt kept"]
    remainder: Float[Tensor, "prompt d_model"]
    restoring: Float[Tensor, "prompt kept"]
    """Norm of the state over the norm of what is kept."""

    @staticmethod
    def of(basis: Basis, states: Float[Tensor, "prompt d_model"]) -> "_Sorted":
        given = basis.read(states).float()
        remainder = basis.remainder(states, given)
        lengths = 1.0 if basis.directions is None else basis.directions.float().norm(dim=1)
        order = (given.abs() * lengths).argsort(dim=1, descending=True, stable=True)
        sorted_ = given.gather(1, order)
        norms = _kept_norms(basis, order, sorted_, remainder)
        whole = states.double().norm(dim=1, keepdim=True)
        restoring = torch.where(norms > 0, whole / norms, 1.0).float()
        return _Sorted(order, sorted_, remainder, restoring)


def _kept_norms(
    basis: Basis,
    order: Int[Tensor, "prompt kept"],
    coefficients: Float[Tensor, "prompt kept"],
    remainder: Float[Tensor, "prompt d_model"],
) -> Float[Tensor, "prompt kept"]:
    """Norm of the remainder and the first k components together, for every k."""
    if basis.directions is None:
        return coefficients.double().square().cumsum(1).sqrt()
    norms = torch.empty(order.shape, dtype=torch.float64)
    for prompt, so_far in enumerate(remainder.double()):
        for start in range(0, order.shape[1], 256):
            piece = slice(start, start + 256)
            parts = coefficients[prompt, piece, None] * basis.directions[order[prompt, piece]]
            partial = parts.double().cumsum(0) + so_far
            norms[prompt, piece], so_far = partial.norm(dim=1), partial[-1]
    return norms


@dataclass(frozen=True, eq=False)
class _Sums:
    """What is added up over the vocabulary: exp of every logit less the answer's, and how many are larger."""

    output: OutputWeights
    answers: Int[Tensor, " prompt"]
    restoring: Float[Tensor, "prompt kept"]
    bar: Float[Tensor, "way prompt kept"]
    """The answer's logit, plain and with the norm restored."""
    total: Float[Tensor, "way prompt kept"]
    above: Int[Tensor, "way prompt kept"]

    @staticmethod
    def start(
        output: OutputWeights, basis: Basis, found: _Sorted, answers: Int[Tensor, " prompt"], device: torch.device
    ) -> "_Sums":
        """Nothing added yet."""
        columns = output.weight[:, answers.to(output.weight.device)].cpu().double()
        reads = columns if basis.directions is None else basis.directions.to(columns) @ columns
        products = (found.coefficients.double() * reads.mT.gather(1, found.order)).cumsum(1)
        products += (found.remainder.double() * columns.mT).sum(1, keepdim=True)
        both = torch.stack([products, products * found.restoring])
        bar = output.finish(both.transpose(1, 2).to(device), answers.to(device)).transpose(1, 2)
        # The answer itself counts 1, however its column is rounded.
        above = torch.zeros(bar.shape, dtype=torch.long, device=device)
        return _Sums(output, answers, found.restoring.to(device), bar, torch.ones_like(bar), above)

    def add(self, prompt: int, products: Tensor, work: Tensor, columns: slice) -> None:
        """Take in the products of a block of tokens [token, kept]; both buffers are used up."""
        own = int(self.answers[prompt]) - columns.start
        for way in (0, 1):
            if way:
                products = products.mul_(self.restoring[prompt])
            bar = self.bar[way, prompt].float()
            gap = torch.sub(self.output.finish(products.mT, columns).mT, bar, out=work)
            if 0 <= own < len(gap):
                gap[own] = -torch.inf
            self.above[way, prompt] += (gap > _ROUNDING * (1 + bar.abs())).sum(0)
            self.total[way, prompt] += gap.clamp_(max=LARGEST_GAP).exp_().sum(0, dtype=torch.float64)

    def curves(self) -> Curves:
        """From the sums over all tokens."""
        probability, rank = (1 / self.total).cpu().numpy(), self.above.cpu().numpy()
        return Curves(probability[0], probability[1], rank[0], rank[1])


def _check(output: OutputWeights, states: Tensor, answers: Tensor) -> None:
    bad = (~states.isfinite().all(1)).nonzero()
    if len(bad):
        raise InputError(f"states must be finite; that of prompt {int(bad[0])} holds NaN or infinity.")
    vocab = output.weight.shape[1]
    outside = ((answers < 0) | (answers >= vocab)).nonzero()
    if len(outside):
        raise InputError(f"answers must be token ids from 0 to {vocab - 1}, not {int(answers[int(outside[0])])}.")
