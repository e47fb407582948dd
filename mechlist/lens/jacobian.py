"""The Jacobian lens: what a residual stream makes the model go on to say (Gurnee et al. 2026).

J of a stage is the derivative of the final residual stream by the stream of that stage, summed over all later
positions of a prompt and averaged over positions and prompts. The lens reads W_U norm(J h); the logit lens is J = 1.
Stage s is the residual stream after s layers, as in `mechlist.lens.logit_lens`; published lenses number the blocks
whose output they read, so that their layer l is stage l + 1.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.lens.logit_lens import stage_hooks
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.runner.raw import has_raw_stream

RAW_BASIS = "raw_huggingface"
SIGNATURE_TOKENS = 8
_KEYS = "a published lens has J, n_prompts and d_model, a checkpoint of a fit jacobian_sum and n_done"


@dataclass(frozen=True, eq=False)
class JacobianLens:
    """Maps a stage's residual stream to the final one, as `translate` of `mechlist.lens.logit_lens` does.

    The last stage is the model's own and stays as it is; a stage that the lens lacks becomes NaN.
    """

    matrix: Float[Tensor, "stage d_model d_model"]
    """Of each of `stages`: rows are of the final stream, columns of the stage's; float32 on the CPU."""
    stages: tuple[int, ...]
    n_layers: int
    """Of the model; the number of its last stage."""
    prompts: int
    """That it was averaged over."""
    source: str
    """Where it is from: a file, or what it was fitted on."""
    signature: Float[Tensor, "all_stages d_model"] | None = None
    """`stream_signature` of the model that it was fitted on; None for a published one, in the basis of Hugging Face."""
    error: Float[Tensor, " stage"] | None = None
    """Standard error of each matrix, in Frobenius norms of it; None where it is not known."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What its file says of it."""

    def __call__(self, stage: int, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The final stream that a stage makes for, as the final norm is to read it; in float32 within."""
        if stage == self.n_layers:
            return residual
        if stage not in self.stages:
            return torch.full_like(residual, torch.nan)
        return (residual.float() @ self.of(stage).to(residual.device).mT).to(residual.dtype)

    def of(self, stage: int) -> Float[Tensor, "d_model d_model"]:
        """The matrix of a stage.

        Raises:
            InputError: a stage that the lens lacks.
        """
        if stage not in self.stages:
            raise InputError(f"The lens has matrices for the stages {_listed(self.stages)}, not for {stage}.")
        return self.matrix[self.stages.index(stage)]

    def check(self, runner: Runner) -> None:
        """See whether it belongs to the runner's model, and to the basis in which its residual stream is.

        Raises:
            InputError: a lens of another size, of another model, or of raw weights for a model with centred ones.
        """
        shape = runner.shape
        if self.n_layers != shape.n_layers or self.matrix.shape[1] != shape.d_model:
            raise InputError(
                f"The lens must be of this model, with {shape.n_layers} layers and width {shape.d_model}; "
                f"{self.source} is of one with {self.n_layers} layers and width {self.matrix.shape[1]}."
            )
        if self.signature is not None:
            own = stream_signature(runner)
            allowed = max(1e-3, 32 * torch.finfo(runner.language_model.dtype).eps)
            if not (own - self.signature).norm() <= allowed * self.signature.norm():
                raise InputError(
                    f"The lens must have been fitted on this model, and in its basis; {self.source} gives other "
                    "residual streams. Centring of writing weights changes the basis: load both with or without it."
                )
            return
        basis = self.metadata.get("processing", {}).get("weight_basis", RAW_BASIS)
        if basis != RAW_BASIS:
            raise InputError(f"The lens must be in the basis of raw Hugging Face activations, not in {basis!r}.")
        if not has_raw_stream(runner):
            raise InputError(
                "A published lens is fitted on raw Hugging Face activations, and this model's residual stream is "
                "centred: load it with --no-center-writing-weights."
            )

    def dataset(self) -> xr.Dataset:
        """As variables of a results file, from which `load_lens` reads it again."""
        out = xr.Dataset({"jacobian": (("fitted_stage", "d_out", "d_in"), self.matrix.numpy())})
        out = out.assign_coords(fitted_stage=list(self.stages))
        if self.error is not None:
            out["jacobian_error"] = ("fitted_stage", self.error.numpy(), {"units": "Frobenius norms of the matrix"})
        if self.signature is not None:
            out["jacobian_signature"] = (("signature_stage", "d_in"), self.signature.numpy())
        return out.assign_attrs(lens_prompts=self.prompts, lens_source=self.source, lens_layers=self.n_layers)


def stream_signature(runner: Runner) -> Float[Tensor, "stage d_model"]:
    """Residual streams of all stages after a few fixed tokens: what tells one model, and one basis, from another.

    Unlike a hash of the weights it is the same whether the norms are folded or not.
    """
    tokens = torch.linspace(0, runner.shape.d_vocab - 1, min(SIGNATURE_TOKENS, runner.shape.n_ctx)).long()
    hooks = stage_hooks(runner)
    found = runner.capture([tokens], *hooks, positions=-1)
    return torch.stack([found[hook][0, 0].float() for hook in hooks])


def load_lens(file: Path, runner: Runner) -> JacobianLens:
    """A published lens (`.pt`, read without running any code of it), or that of an earlier run's results.nc.

    Raises:
        InputError: a file that is no lens, or as `JacobianLens.check`.
    """
    found = _from_results(file) if file.suffix == ".nc" else _from_pickle(file, runner.shape.n_layers)
    found.check(runner)
    return found


def published_lens(name: str, runner: Runner) -> JacobianLens:
    """The lens that `neuronpedia/jacobian-lens` has for a model of this name on the hub.

    Raises:
        ModelError: there is none, or it cannot be downloaded.
        InputError: as `JacobianLens.check`.
    """
    from mechlist.models.published_lenses import download_lens

    return load_lens(download_lens(name), runner)


def _from_pickle(file: Path, n_layers: int) -> JacobianLens:
    try:
        # Only tensors, numbers and text are let through: a pickle could otherwise run anything.
        payload = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {file}.") from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{file} cannot be read as a Jacobian lens without running code of it: {reason}") from error
    if not isinstance(payload, dict) or not ({"J", "n_prompts"} <= payload.keys() or "jacobian_sum" in payload):
        raise InputError(f"{file} is no Jacobian lens: {_KEYS}.")
    count = int(payload.get("n_done", payload.get("n_prompts", 0)))
    if "J" not in payload and count < 1:
        raise InputError(f"{file} is the checkpoint of a fit that has no prompt yet.")
    matrices = payload["J"] if "J" in payload else {n: total / count for n, total in payload["jacobian_sum"].items()}
    layers = sorted(int(layer) for layer in matrices)
    if not layers:
        raise InputError(f"{file} is no Jacobian lens: it has no matrix.")
    stacked = torch.stack([matrices[layer].float() for layer in layers])
    if stacked.ndim != 3 or stacked.shape[1] != stacked.shape[2] or not stacked.isfinite().all():
        raise InputError(f"{file} must hold square matrices of finite numbers, not the shape {tuple(stacked.shape)}.")
    metadata = dict(payload.get("metadata") or {})
    target = int(payload.get("target_layer", metadata.get("target_layer", n_layers - 1)))
    if target != n_layers - 1 or layers[-1] >= target:
        raise InputError(
            f"{file} must map layers before {n_layers - 1}, this model's last, to it; it maps layers {layers[0]} to "
            f"{layers[-1]} to layer {target}."
        )
    stages = tuple(layer + 1 for layer in layers)
    return JacobianLens(stacked, stages, n_layers, count, str(file.name), metadata=metadata)


def _from_results(file: Path) -> JacobianLens:
    results = load_dataset(file)
    if "jacobian" not in results:
        raise InputError(f"{file} must be of a jacobian-lens run, and holds no lens.")
    attrs = results.attrs
    error, signature = (
        torch.from_numpy(results[name].values) if name in results else None
        for name in ("jacobian_error", "jacobian_signature")
    )
    return JacobianLens(
        torch.from_numpy(np.ascontiguousarray(results["jacobian"].values)),
        tuple(results["fitted_stage"].values.tolist()),
        int(attrs["lens_layers"]),
        int(attrs["lens_prompts"]),
        str(attrs["lens_source"]),
        signature,
        error,
    )


def _listed(stages: tuple[int, ...]) -> str:
    return f"{stages[0]} to {stages[-1]}" if len(stages) == stages[-1] - stages[0] + 1 else str(list(stages))
