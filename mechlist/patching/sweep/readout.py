"""What is measured of traced runs, and of rows that change them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.metrics.measure import Measure
from mechlist.patching.sweep.sweep import Trace
from mechlist.runner import Runner


@dataclass(frozen=True)
class Readout:
    """The metric of one block of prompts."""

    runner: Runner
    measure: Measure
    """Of these prompts."""
    made: Trace
    source_read: Int[Tensor, "prompt n"]
    """Where in the source runs what is read stands."""

    @cached_property
    def base(self) -> Float[Tensor, " prompt"]:
        """Of the base runs."""
        return self.measure.average(self._base_values, torch.arange(len(self.measure.read)))

    @cached_property
    def source(self) -> Float[Tensor, " prompt"] | None:
        """Of the source runs."""
        if self.made.source_final is None:
            return None
        values = self._values(_at_read(self.made.source_final, self.source_read))
        return self.measure.average(values, torch.arange(len(self.measure.read)))

    def changed(
        self, finals: Float[Tensor, "token d_model"], where: Int[Tensor, "row n"], prompt: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """Of rows; before their first change, where `where` is -1, what is measured is the base run's."""
        values = self._at(finals, where, prompt)
        return self.measure.average(torch.where(where >= 0, values, self._base_values[prompt]), prompt)

    @cached_property
    def _base_finals(self) -> Float[Tensor, "prompt n d_model"]:
        return _at_read(self.made.final, self.measure.read)

    @cached_property
    def _base_values(self) -> Float[Tensor, "prompt n"]:
        """What is measured at each position of the base runs."""
        return self._values(self._base_finals)

    def _values(self, finals: Float[Tensor, "prompt n d_model"]) -> Float[Tensor, "prompt n"]:
        """What is measured at each position of whole runs."""
        where = torch.arange(finals[..., 0].numel()).view(finals.shape[:2])
        return self._at(finals.flatten(0, 1), where, torch.arange(len(finals)))

    def _at(
        self, finals: Float[Tensor, "token d_model"], where: Int[Tensor, "row n"], prompt: Int[Tensor, " row"]
    ) -> Float[Tensor, "row n"]:
        runner = self.runner
        unembed, d_vocab = runner.language_model.unembed, runner.shape.d_vocab_out
        return self.measure.values(
            finals, where, prompt, self._base_finals, unembed, d_vocab, runner.shares.metric_logits
        )


def _at_read(
    final: Float[Tensor, "prompt position d_model"], read: Int[Tensor, "prompt n"]
) -> Float[Tensor, "prompt n d_model"]:
    return final[torch.arange(len(final), device=final.device)[:, None], read.to(final.device)]
