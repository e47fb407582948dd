"""One batch through the model: captures, interventions, and smaller batches when memory runs out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mechlist.errors import InputError, MechlistError
from mechlist.models.exhaustion import is_out_of_memory
from mechlist.models.language_model import Hook, LanguageModel
from mechlist.runner.assembly import stack
from mechlist.runner.batch import Batch
from mechlist.runner.batching import pad_right
from mechlist.runner.interventions import Intervention, Rows
from mechlist.runner.positions import gather, position_axis
from mechlist.runner.store.recall import FINAL, Recall
from mechlist.runner.transfer import to_device

Function = Callable[[Batch], dict[str, Tensor]]


@runtime_checkable
class Work(Protocol):
    """What is done to prompts, batch by batch."""

    @property
    def model(self) -> LanguageModel:
        """The model that it is done with."""
        ...

    @property
    def prompts(self) -> Sequence[Tensor]:
        """Token ids of each prompt."""
        ...

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """Results for the prompts `members`, in that order: named tensors whose first axis is the prompt."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What work takes by its own count; see the fields of `mechlist.types.Plan`."""

    flops: int = 0
    """Beside those of the calls that it makes."""
    peak_bytes: int = 0
    cells: int = 0
    runs: int = 0
    loop_flops: int = 0


@runtime_checkable
class Counted(Work, Protocol):
    """Work that knows what it takes, for plans."""

    @property
    def kind(self) -> str:
        """Works of one kind take as long for each prompt, and have results of one form."""
        ...

    @property
    def path(self) -> str:
        """How it is computed."""
        ...

    def cost(self, members: list[int]) -> Cost:
        """Of the prompts `members`, in one batch; nothing is computed for it."""
        ...


def by_halves(work: Work, members: list[int]) -> dict[str, Tensor]:
    """The work on `members`; if memory runs out, by halves.

    Raises:
        MechlistError: memory ran out with a single prompt.
    """
    try:
        return work.compute(members)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except block, so that the failed pass's tensors are no longer held by its traceback.
    if work.model.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(members) == 1:
        raise MechlistError(
            f"Memory ran out on a single prompt of {len(work.prompts[members[0]])} tokens; "
            "use shorter prompts, fewer captured hooks, --dtype bfloat16 or a machine with more memory."
        )
    half = len(members) // 2
    return stack([by_halves(work, members[:half]), by_halves(work, members[half:])])


@dataclass(frozen=True)
class Pass:
    """What is done to every batch of one call."""

    model: LanguageModel
    prompts: Sequence[Tensor]
    hooks: Sequence[str]
    positions: Tensor | None
    """Int[Tensor, "prompt n"], or None for all."""
    interventions: Sequence[Intervention]
    function: Function
    chunk_bytes: int
    recall: Recall | None = None
    """Where activations are looked for and kept; interventions change them, so only a plain pass uses it."""

    @torch.no_grad()
    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """Results for the prompts `members`, in that order."""
        device = self.model.device
        lengths = torch.tensor([len(self.prompts[i]) for i in members])
        rows = Rows(torch.tensor(members), to_device(lengths, device))
        tokens = to_device(pad_right([self.prompts[i] for i in members]), device)
        positions = None if self.positions is None else to_device(self.positions[members], device)
        captured, normalized = self._activations(members, rows, tokens, positions)
        out = self.function(Batch(rows, tokens, captured, normalized, positions, self.model, self.chunk_bytes))
        _check_rows(out, len(members))
        return out

    def _activations(
        self, members: list[int], rows: Rows, tokens: Tensor, positions: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Captured activations and the final residual stream, from the store or from a forward pass."""
        recall = None if self.interventions else self.recall
        if recall is None:
            return self._compute(rows, tokens, positions)
        prompts = [self.prompts[i] for i in members]
        kept = None if self.positions is None else self.positions[members]
        found = recall.get(prompts, self.hooks, kept)
        if found is None:
            captured, normalized = self._compute(rows, tokens, positions)
            recall.put(prompts, captured | {FINAL: normalized}, kept)
            return captured, normalized
        return {name: found[name] for name in self.hooks}, found[FINAL]

    def _compute(self, rows: Rows, tokens: Tensor, positions: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        captured: dict[str, Tensor] = {}
        fired = set[str]()
        installed: list[Hook] = [(i.hook, partial(_change, i, rows, fired)) for i in self.interventions]
        installed += [(name, partial(_keep, captured, name, positions)) for name in self.hooks]
        normalized = self._residual(tokens, installed)
        self._check_fired(captured.keys() | fired)
        return captured, normalized

    def _residual(self, tokens: Tensor, hooks: list[Hook]) -> Tensor:
        try:
            return self.model.residual(tokens, hooks)
        except ValueError as error:
            # TransformerBridge's words for a hook whose setting, such as use_attn_result, is off.
            if str(error).startswith("Cannot add hook"):
                raise InputError(f"{str(error).rstrip('.')}.") from error
            raise

    def _check_fired(self, fired: set[str]) -> None:
        for hook in (*self.hooks, *(i.hook for i in self.interventions)):
            if hook not in fired:
                raise InputError(
                    f"The hook {hook} exists but never fires with this model and its settings "
                    "(hook_result needs set_use_attn_result(True), for instance)."
                )


def _change(intervention: Intervention, rows: Rows, fired: set[str], activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    fired.add(intervention.hook)
    return intervention.change(activation, rows)


def _keep(captured: dict[str, Tensor], name: str, positions: Tensor | None, activation: Tensor, hook: Any) -> None:  # noqa: ARG001
    captured[name] = gather(activation, positions, position_axis(name)).detach()


def _check_rows(results: dict[str, Tensor], rows: int) -> None:
    for name, value in results.items():
        if value.shape[:1] != (rows,):
            raise InputError(
                f"The function's result {name!r} must have one row a prompt ({rows}), not shape {list(value.shape)}."
            )
