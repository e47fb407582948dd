"""The bases in which a hidden state is written: the one place where another is added."""

import importlib.util
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.lens.jacobian import load_lens
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts
from mechlist.sae.load import builtin_saes, hooks_of, opened_sae, places
from mechlist.weights.blocked import Progress
from mechlist.weights.components import Basis, neurons, random_rotation, scaled, singular_vectors
from mechlist.weights.output import OutputWeights

NEURONS, ROTATION, FEATURES = "neurons", "random rotation", "SAE features, "
_CLOSE = 1e-2
"""Relative: by how much the final norm may miss a stream divided by one number and multiplied by its gain."""


def bases(
    runner: Runner, output: OutputWeights, lens: Path | None, lens_stage: int | None, progress: Progress | None = None
) -> list[Basis]:
    """The hidden dimensions, a random rotation, the singular vectors of W_U, and a lens's directions if there is one.

    Raises:
        InputError: a stage that the lens lacks, or a lens of another model.
    """
    width = len(output.weight)
    found = [neurons(), random_rotation(width, runner.generator(ROTATION)), singular_vectors(output.weight, progress)]
    return found if lens is None else [*found, lens_basis(runner, output, lens, lens_stage)]


def lens_basis(runner: Runner, output: OutputWeights, file: Path, stage: int | None) -> Basis:
    """Left singular vectors of the Jacobian of a stage: what that stage can move in the final stream, strongest first.

    They are orthonormal in the residual stream, so that the final norm's gain is taken out before and put back after.
    """
    lens = load_lens(file, runner)
    chosen = lens.stages[len(lens.stages) // 2] if stage is None else stage
    if chosen not in lens.stages:
        raise InputError(f"lens_stage must be one of the lens's stages {list(lens.stages)}, not {chosen}.")
    left = torch.linalg.svd(lens.of(chosen)).U.mT.contiguous()
    if output.shift.any():
        raise InputError("lens cannot give a basis behind a final norm that adds a bias: there is no such direction.")
    return scaled(f"J-lens directions, stage {chosen}", left, output.gain)


def sae_name(runner: Runner, given: str) -> str:
    """The SAE whose features are a basis: the given one, or the last of the model's built-in ones; "" for none."""
    if given or importlib.util.find_spec("sae_lens") is None:
        return given
    return next(reversed(builtin_saes(str(runner.language_model.info["name"]))), "")


def sae_basis(
    runner: Runner, output: OutputWeights, prompts: Prompts, states: Float[Tensor, "prompt d_model"], name: str
) -> Basis:
    """Features of an SAE of the residual stream after the last layer, as they stand behind the final norm.

    The norm divides each prompt's stream by one number and multiplies it by its gain, and so it does with every
    feature's share of the stream. What the SAE leaves out, its error and its bias, is kept whatever is left out.

    Args:
        runner: with raw weights.
        output: of its model.
        prompts: read at their last token.
        states: their final hidden states, which the basis is for.
        name: of the SAE.

    Raises:
        InputError: as `places`; an SAE of another place, without an active feature, or behind a norm of another kind.
    """
    found = places([name])
    if len(found) > 1:
        raise InputError(f"sae must name one SAE; {name} holds {len(found)}.")
    hook = f"blocks.{runner.shape.n_layers - 1}.hook_resid_post"
    (own,) = hooks_of(runner, found)
    if own != hook:
        raise InputError(f"sae must be one of the residual stream after the last layer, {hook}; {name} is of {own}.")
    x = runner.capture(prompts, hook, positions=-1)[hook][:, 0].float().cpu()
    stream, centred, scale = _behind_norm(output, x, states.cpu().float())
    with opened_sae(runner, found[0]) as sae:
        features = sae.encode(stream.to(sae.decoder.device)).float().cpu()
        active = features.any(0)
        if not active.any():
            raise InputError(f"{name} has no active feature at the last token of any prompt.")
        directions, number = sae.decoder[active.to(sae.decoder.device)].float().cpu(), sae.d_sae
    if centred:
        directions = directions - directions.mean(1, keepdim=True)
    coefficients = features[:, active] / scale[:, None]
    return Basis(
        FEATURES + name,
        directions * output.gain.float().cpu(),
        lambda _: coefficients,
        complete=False,
        number=number,
    )


def _behind_norm(
    output: OutputWeights, x: Float[Tensor, "prompt d_model"], states: Float[Tensor, "prompt d_model"]
) -> tuple[Float[Tensor, "prompt d_model"], bool, Float[Tensor, " prompt"]]:
    """The stream, whether the final norm takes out its mean, and the number that it divides each prompt's by."""
    gain, shifted = output.gain.float().cpu(), states - output.shift.float().cpu()
    for centred in (False, True):
        before = (x - x.mean(1, keepdim=True) if centred else x) * gain
        scale = before.square().sum(1) / (before * shifted).sum(1)
        if ((before / scale[:, None] - shifted).norm(dim=1) <= _CLOSE * shifted.norm(dim=1)).all():
            return x, centred, scale
    raise InputError("sae cannot give a basis here: the final norm does more than to divide the stream by one number.")
