"""Translators of the tuned lens: one affine map a stage, from a residual stream to what the final norm expects."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mechlist.errors import InputError
from mechlist.results import atomic
from mechlist.runner import Runner


@dataclass(frozen=True, eq=False)
class Translators:
    """Maps h to h + h weight + bias at every stage but the last, which is the model's own and stays as it is.

    They are of use as `translate` of `mechlist.lens.logit_lens`.
    """

    weight: Float[Tensor, "stage d_model d_model"]
    """Beyond the identity; float32 on the CPU."""
    bias: Float[Tensor, "stage d_model"]
    fingerprint: str
    """Of the model that they belong to."""
    trained_on: tuple[str, ...] = ()
    """Labels of the prompts that they were trained on, such as topics."""

    def __call__(self, stage: int, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The stage as the final norm is to read it; in float32 within."""
        if stage >= len(self.weight):
            return residual
        weight, bias = (tensor[stage].to(residual.device) for tensor in (self.weight, self.bias))
        wide = residual.float()
        return (wide + wide @ weight + bias).to(residual.dtype)

    def check(self, runner: Runner) -> None:
        """See whether they belong to the runner's model.

        Raises:
            InputError: they were trained for another one.
        """
        shape = (runner.shape.n_layers, runner.shape.d_model, runner.shape.d_model)
        if tuple(self.weight.shape) != shape or self.fingerprint != runner.identity():
            raise InputError(
                "translators must have been trained for this model, its weights and their processing; these were "
                f"trained for another one of {self.weight.shape[0]} layers and width {self.weight.shape[1]}."
            )

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        metadata = {"fingerprint": self.fingerprint, "trained_on": json.dumps(self.trained_on)}
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        with atomic(file) as part:
            save_file(tensors, part, metadata=metadata)

    @staticmethod
    def load(file: Path) -> "Translators":
        """Read what `save` wrote.

        Raises:
            InputError: a file that is missing or holds no translators.
        """
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                weight, bias = (opened.get_tensor(name) for name in ("weight", "bias"))
            return Translators(weight, bias, metadata["fingerprint"], tuple(json.loads(metadata["trained_on"])))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{file} must be a safetensors file of translators: {error}.") from error


def identity(runner: Runner) -> Translators:
    """Translators that change nothing."""
    layers, width = runner.shape.n_layers, runner.shape.d_model
    return Translators(torch.zeros(layers, width, width), torch.zeros(layers, width), runner.identity())
