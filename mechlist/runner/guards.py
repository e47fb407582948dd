"""Guards: what must hold before any number of a model is believed. Cheap ones run at every load."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mechlist.errors import GuardError
from mechlist.models.language_model import LanguageModel
from mechlist.models.load import load_hf
from mechlist.models.parity import parity
from mechlist.runner.interventions import Intervention, replace
from mechlist.types import Guard, ModelShape

RELATIVE_ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Differences allowed to rounding, as a share of the largest logit."""


@runtime_checkable
class Guarded(Protocol):
    """What guards need of a Runner."""

    guards: list[Guard]

    @property
    def language_model(self) -> LanguageModel:
        """See Runner."""
        ...

    @property
    def shape(self) -> ModelShape:
        """See Runner."""
        ...

    def generator(self, purpose: str) -> torch.Generator:
        """See Runner."""
        ...

    def hooks(self, *patterns: str) -> list[str]:
        """See Runner."""
        ...

    def intervene(self, *interventions: Intervention) -> AbstractContextManager[None]:
        """See Runner."""
        ...

    def capture(self, prompts: Any, *hooks: str) -> dict[str, Tensor]:
        """See Runner."""
        ...

    def logits(self, prompts: Any) -> Tensor:
        """See Runner."""
        ...


def cheap_guards(runner: Guarded) -> list[Guard]:
    """Guards that take a few forward passes over a few short random sequences."""
    return [guard(runner) for guard in CHEAP]


def all_guards(runner: Guarded) -> list[Guard]:
    """The cheap guards, and Hugging Face's logits on a sequence longer than any window, where there is a reference."""
    info = runner.language_model.info
    guards = cheap_guards(runner)
    if "directory" in info:
        window = runner.language_model.window or 0
        reference = load_hf(Path(info["directory"]), runner.language_model.dtype)
        guards.append(parity(runner.language_model, reference, length=max(64, window + 16)))
    return guards


def require_cheap_guards(runner: Guarded) -> None:
    """Run the cheap guards.

    Raises:
        GuardError: naming the first that failed.
    """
    runner.guards = cheap_guards(runner)
    for guard in runner.guards:
        if not guard.passed:
            raise GuardError(
                f"The model fails the guard {guard.name!r}: {guard.detail} "
                f"(measured {guard.measured:.3g}, allowed {guard.tolerance:.3g})."
            )


def finite_logits(runner: Guarded) -> Guard:
    """No NaN and no infinity in the logits."""
    logits = runner.logits(_sequences(runner, [8]))
    bad = float((~logits.isfinite()).sum())
    return Guard("finite logits", bad == 0, bad, 0.0, "logits that are NaN or infinite on random tokens")


def batch_invariance(runner: Guarded) -> Guard:
    """Neither batch nor padding changes a row beyond float rounding."""
    prompts = _sequences(runner, [12, 3, 7, 1])
    together = runner.logits(prompts)
    alone = [runner.logits([p])[0] for p in prompts]
    # torch's max, unlike Python's, never drops a NaN.
    largest = torch.stack([(together[i, : len(p)] - alone[i]).abs().max() for i, p in enumerate(prompts)]).max().item()
    tolerance = _rounding(runner, alone)
    return Guard(
        "batch and padding",
        largest <= tolerance,
        largest,
        tolerance,
        "largest difference of a logit between a padded batch and the prompt alone",
    )


def self_patch(runner: Guarded) -> Guard:
    """Replacing every activation by its own value changes nothing, exactly."""
    prompts = _sequences(runner, [8, 8])
    hooks = runner.hooks("blocks.*.hook_resid_pre")
    own = runner.capture(prompts, *hooks)
    with runner.intervene(*(replace(h, own[h]) for h in hooks)):
        patched = runner.logits(prompts)
    largest = (patched - runner.logits(prompts)).abs().max().item()
    return Guard(
        "patching with itself",
        largest == 0.0,
        largest,
        0.0,
        "largest change of a logit when the residual stream is patched with itself",
    )


def full_patch(runner: Guarded) -> Guard:
    """Patching the whole first residual stream turns a run into its source."""
    first, second = _sequences(runner, [8, 8])
    hook = runner.hooks("blocks.0.hook_resid_pre")[0]
    source = runner.logits([second])
    with runner.intervene(replace(hook, runner.capture([second], hook)[hook])):
        patched = runner.logits([first])
    largest = (patched - source).abs().max().item()
    tolerance = _rounding(runner, [source])
    return Guard(
        "full patch",
        largest <= tolerance,
        largest,
        tolerance,
        "largest difference of a logit from the source run when all of layer 0's input is patched",
    )


CHEAP: tuple[Callable[[Guarded], Guard], ...] = (finite_logits, batch_invariance, self_patch, full_patch)


def _sequences(runner: Guarded, lengths: list[int]) -> list[Tensor]:
    generator = runner.generator("guards")
    limit, vocabulary = runner.shape.n_ctx, runner.shape.d_vocab
    return [torch.randint(0, vocabulary, (min(n, limit),), generator=generator) for n in lengths]


def _rounding(runner: Guarded, logits: list[Tensor]) -> float:
    largest = max(x.abs().max().item() for x in logits)
    return RELATIVE_ROUNDING[runner.language_model.dtype] * max(1.0, largest)
