"""Settings of a run, apart from the experiment's own parameters: flags of `mechlist run` and keys of its YAML files."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from mechlist.types import DType, Processing


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run is done with; together with the parameters it fixes every number of the result."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    model: str | None = None
    """Model: a Hugging Face name, a directory, or a built-in model; by default the experiment's own."""
    device: str = "auto"
    """auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:N or mps."""
    dtype: DType = "float32"
    """Type of weights and activations."""
    memory: str = "4GiB"
    """Memory for activations and results of a batch, beyond the weights."""
    seed: int = 0
    """Every random choice follows from it."""
    engine: Literal["local", "ray"] = "local"
    """Where the work runs."""
    bos: bool | None = None
    """Begin prompts with the tokenizer's BOS token; by default where it has one."""
    context: int | None = None
    """Tokens that a prompt may have; by default what the model's configuration says."""
    fold_ln: bool = Processing.fold_ln
    """Fold layer norms into the following weights (Hugging Face models)."""
    center_writing_weights: bool = Processing.center_writing_weights
    """Centre the weights that write to the residual stream (Hugging Face models with layer norm)."""
    center_unembed: bool = Processing.center_unembed
    """Centre the unembedding over the vocabulary (Hugging Face models without logit softcap)."""
    fold_value_biases: bool = Processing.fold_value_biases
    """Move value biases into attention's output bias (Hugging Face models)."""

    @property
    def processing(self) -> Processing:
        """The four choices on weight processing."""
        return Processing(**{f.name: getattr(self, f.name) for f in fields(Processing)})


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the run goes."""

    out: Path | None = None
    """Directory of the run; without it, runs/NAME-<time>."""
    resume: bool = False
    """Go on with the run in this directory; without --out, with the newest unfinished run of this configuration."""
    overwrite: bool = False
    """Replace the run in this directory."""
    open: bool = False
    """Open the report in the browser when the run is done."""


RESERVED = frozenset({f.name for f in (*fields(Settings), *fields(Output))} | {"help", "debug", "parameters"})
"""Names that no parameter of an experiment may take."""
