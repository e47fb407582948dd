"""The bases in which a hidden state is written: the one place where another is added.

A sparse autoencoder's would be `Basis("SAE features", directions=W_dec, read=<its encoder>, complete=False)`: what it
does not reconstruct is then kept as a remainder, whatever is left out (see `mechlist.weights.components.Basis`).
"""

from pathlib import Path

import torch

from mechlist.errors import InputError
from mechlist.lens.jacobian import load_lens
from mechlist.runner import Runner
from mechlist.weights.blocked import Progress
from mechlist.weights.components import Basis, neurons, random_rotation, scaled, singular_vectors
from mechlist.weights.output import OutputWeights

NEURONS, ROTATION = "neurons", "random rotation"


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
