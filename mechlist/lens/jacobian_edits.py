"""Steering, ablation and swaps along the directions of a Jacobian lens, as interventions of the Runner.

The direction of a token at a stage is what raises its logit in the lens's own reading: J^T of the token's column of
W_U with the final norm's gain. (TransformerLens leaves the gain out; where it is folded into W_U it cannot.)

Directions are given for each prompt; a single one is for all. `last` changes the last real token of a prompt only.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.lens.jacobian import JacobianLens
from mechlist.runner.interventions import Intervention, Rows

_PARALLEL = 1 - 1e-6
"""Cosine from which on two directions cannot be told apart."""

Change = Callable[[Float[Tensor, "row n d_model"], Tensor], Tensor]
"""Maps streams, and the number in the tensors of directions of each row, to changed streams."""


def lens_directions(
    lens: JacobianLens, stage: int, columns: Float[Tensor, "d_model token"], gain: Float[Tensor, " d_model"]
) -> Float[Tensor, "token d_model"]:
    """Directions of tokens at a stage, not of unit length.

    Args:
        lens: the lens.
        stage: residual stream after so many layers.
        columns: of W_U, one a token.
        gain: of the final norm; 1 where it is folded into W_U.

    Raises:
        InputError: a stage that the lens lacks, or a direction that is zero or not finite.
    """
    final = (gain[:, None] * columns.float()).mT
    found = final if stage == lens.n_layers else final @ lens.of(stage)
    _check(found, f"The lens has no direction for one of the tokens at stage {stage}")
    return found


def steer(
    hook: str,
    directions: Float[Tensor, "prompt d_model"],
    strength: Float[Tensor, " prompt"],
    *,
    last: bool = False,
) -> Intervention:
    """Add `strength` times the unit vector of a direction; a share of the stream's norm compares between stages.

    Raises:
        InputError: a direction that is zero or not finite.
    """
    _check(directions, "directions")
    step = strength[:, None] * directions / directions.norm(dim=1, keepdim=True)
    return _changing(hook, len(step), lambda stream, own: stream + step.to(stream)[own][:, None], last)


def ablate(hook: str, directions: Float[Tensor, "prompt token d_model"], *, last: bool = False) -> Intervention:
    """Project the stream onto what is orthogonal to all directions of a prompt.

    Raises:
        InputError: a direction that is zero or not finite.
    """
    _check(directions, "directions")
    bases = torch.linalg.qr(directions.mT).Q

    def change(stream: Tensor, own: Tensor) -> Tensor:
        basis = bases.to(stream)[own]
        return stream - (stream @ basis) @ basis.mT

    return _changing(hook, len(bases), change, last)


def swap(
    hook: str,
    pairs: Float[Tensor, "prompt 2 d_model"],
    *,
    strength: float | int = 1.0,
    last: bool = False,
) -> Intervention:
    """Exchange the stream's coordinates along two directions, and leave what is orthogonal to both.

    Coordinates are by the pseudoinverse; strength 1 exchanges them, 2 is the paper's double strength.

    Raises:
        InputError: a direction that is zero or not finite, or two that are parallel: there is nothing to exchange.
    """
    _check(pairs, "pairs")
    if (torch.cosine_similarity(pairs[:, 0], pairs[:, 1], dim=-1).abs() >= _PARALLEL).any():
        raise InputError("swap takes two directions that are not parallel; these are.")
    inverses = torch.linalg.pinv(pairs.double()).float()

    def change(stream: Tensor, own: Tensor) -> Tensor:
        coordinates = stream @ inverses.to(stream)[own]
        return stream + strength * (coordinates.flip(-1) - coordinates) @ pairs.to(stream)[own]

    return _changing(hook, len(pairs), change, last)


def random_like(
    directions: Float[Tensor, "prompt token d_model"], generator: torch.Generator
) -> Float[Tensor, "prompt token d_model"]:
    """Directions without meaning, with the same norms and the same angles between them: a control for an edit."""
    prompts, tokens, width = directions.shape
    frames = torch.linalg.qr(torch.randn(prompts, width, tokens, generator=generator)).Q
    # The triangle of QR holds all inner products.
    return (frames @ torch.linalg.qr(directions.mT).R).mT


def _changing(hook: str, given: int, change: Change, last: bool) -> Intervention:
    """`given` is for how many prompts there are directions."""

    def at(activation: Tensor, rows: Rows) -> Tensor:
        own = (rows.index if given > 1 else torch.zeros_like(rows.index)).to(activation.device)
        if not last:
            return change(activation, own)
        ends = (rows.lengths - 1).to(activation.device)
        index = torch.arange(len(ends), device=activation.device)
        out = activation.clone()
        out[index, ends] = change(activation[index, ends][:, None], own)[:, 0]
        return out

    return Intervention(hook, at)


def _check(directions: Float[Tensor, "*batch d_model"], name: str) -> None:
    norms = directions.norm(dim=-1)
    if not (norms.isfinite() & (norms > 0)).all():
        raise InputError(f"{name}: a direction must be finite and not zero.")
