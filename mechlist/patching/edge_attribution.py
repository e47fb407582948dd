"""`edge_scores`: what patching each edge alone would do, to first order (EAP and EAP-IG)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Metric
from mechlist.models.language_model import LanguageModel
from mechlist.models.layers.layers import Layers
from mechlist.patching.circuits.passes import Receivers, WithoutGradient
from mechlist.patching.edges import EdgeTask, edge_task
from mechlist.patching.gradients.cost import gradient_bytes, weight_copies
from mechlist.patching.gradients.gradient import Rule, differentiable, metric_gradient, require_gradients
from mechlist.patching.replacements import Mean
from mechlist.patching.sweep.cost import Sizes
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts
from mechlist.runner.progress import part_done

PIECE_BYTES = 64 * 2**20
"""What senders write, and what receivers' gradients are, at a few positions of a prompt."""


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """Of every prompt and edge, in units of the metric."""

    scores: Float[Tensor, "prompt sender receiver"]
    """Estimate of (metric with the edge patched) - (metric of the base run); 0 for what is no edge."""
    base: Float[Tensor, " prompt"]
    """Metric of the base runs."""


def edge_scores(
    runner: Runner,
    *,
    base: Prompts,
    source: Prompts | Mean,
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    steps: int = 1,
    rule: Rule = "gradient",
    ungrouped: bool = False,
) -> EdgeScores:
    """Score every edge: (what it would carry - what it carries) . (gradient of the metric at its receiver's input).

    With one step the gradient is the base run's: edge attribution patching (Syed et al. 2023, arXiv 2310.10348), which
    is the gradient of a mask on the edge. With more, the gradient is averaged over runs whose embeddings lie on the way
    from the source's (left out) to the base's (included), at k / steps: EAP-IG (Hanna et al. 2024, arXiv 2403.17806).
    With the rule `relp` the gradient is replaced by relevance (`mechlist.models.layers.relevance`), of one step alone.

    A score estimates what `run_edges` measures with that edge alone patched, whose sign it shares: negative where the
    edge holds the metric up. It takes `steps` forward and backward passes, and one forward pass of the source. Memory
    is bounded by a batch of prompts; what senders write and receivers' gradients meet a few positions at a time.

    Args:
        runner: with the model.
        base: prompts that are run, as for `patch_grid`.
        source: prompts of whose runs patched edges would carry what was written, position for position; or `Mean(...)`.
        metric: what is measured; it must change smoothly with the logits.
        lengths: real tokens of prompts that are padded on the right.
        steps: runs whose gradients are averaged.
        rule: what runs back.
        ungrouped: as for `run_edges`.

    Raises:
        InputError: as `run_edges`; a metric without a gradient; fewer than 1 step; weights that are quantised; several
            steps, or layers that no relevance runs back through, with the rule `relp`.
    """
    require_gradients(runner.language_model)
    task = edge_task(runner, base=base, source=source, metric=metric, lengths=lengths, ungrouped=ungrouped)
    return score_edges(task, steps, rule)


def score_edges(task: EdgeTask, steps: int, rule: Rule = "gradient") -> EdgeScores:
    """`edge_scores` of a task."""
    if steps < 1:
        raise InputError(f"steps must be 1 or more, not {steps}.")
    if rule == "relp" and steps > 1:
        raise InputError(f"rule relp takes the relevance of the base run alone: steps must be 1, not {steps}.")
    with torch.inference_mode(mode=False):
        work = _Scoring(task, steps, task.runs.layers.relevance() if rule == "relp" else task.runs.layers)
        name = task.digest(f"edge scores {steps} {rule} {work.plan}")
        found = task.runner.execute(work, work.plan, name, "Scoring edges")
    return EdgeScores(found["scores"], found["base"])


class _Scoring:
    """Scores of all edges, for batches of prompts."""

    def __init__(self, task: EdgeTask, steps: int, back: Layers) -> None:
        self._task, self._steps = task, steps
        self._back = back
        """Layers through which gradients, or relevance, run back."""
        shape, length = task.runner.shape, task.base.shape[1]
        sizes = Sizes(shape, task.model.dtype.itemsize)
        compact = sizes.element * length * shape.n_layers * (sizes.heads + shape.d_model)
        each = gradient_bytes(sizes, "z", length) + 2 * compact
        room = task.runner.shares.edges - weight_copies(sizes)
        self.plan = task.batches(each, max(1, room // each))

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self._task.model

    @property
    def prompts(self) -> Sequence[Tensor]:
        """Tokens of each prompt."""
        return self._task.prompts

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """Scores of the edges in the prompts `members`, and their metric."""
        task, layers = self._task, self._task.runs.layers
        with torch.no_grad():
            base = WithoutGradient(layers, layers.embed(task.base[members].to(self.model.device)))
            if isinstance(task.source, Tensor):
                source = WithoutGradient(layers, layers.embed(task.source[members].to(self.model.device)))
                away = source.embedded
            else:
                (source,) = task.carried(members)
                away = source[:1]
            plain = self._at_read(layers.final(base.final.flatten(0, 1)).view(base.final.shape), members)
            metric = task.metric(plain, members, plain)
        scores = torch.zeros(len(members), *task.nodes.reads.shape, dtype=torch.float64)
        with differentiable(self.model.module):
            for step in range(1, self._steps + 1):
                start = base.embedded + (1 - step / self._steps) * (away - base.embedded)
                self._add(scores, members, plain, Receivers(self._back, start), base, source)
                part_done(step / self._steps)
        return {"scores": (scores / self._steps * task.nodes.reads).float(), "base": metric}

    def _add(
        self,
        scores: Float[Tensor, "prompt sender receiver"],
        members: list[int],
        plain: Float[Tensor, "prompt n d_model"],
        run: Receivers,
        base: WithoutGradient,
        source: WithoutGradient | Tensor,
    ) -> None:
        """Add the change of what senders write times the gradients of one run, a few positions at a time."""
        task = self._task
        measure = task.measure.block(slice(members[0], members[-1] + 1))
        final = self._back.final(run.final.flatten(0, 1)).view(run.final.shape)
        read = self._at_read(final, members)
        budget, d_vocab = task.runner.shares.metric_logits, task.runner.shape.d_vocab_out
        run.backward(read, metric_gradient(measure, read, plain, self.model.unembed, d_vocab, budget))
        nodes = task.nodes
        size = max(1, PIECE_BYTES // (4 * len(nodes.senders) * task.runner.shape.d_model))
        for prompt, length in enumerate(task.lengths[members].tolist()):
            for begin in range(0, length, size):
                piece = slice(begin, min(begin + size, length))
                put = source.written(prompt, piece) if isinstance(source, WithoutGradient) else source[:, piece]
                change = (put - base.written(prompt, piece)).flatten(1).float()
                for place, written, gradient in run.gradients(nodes, prompt, piece):
                    scores[prompt, :written, place] += (change[:written] @ gradient.flatten(1).float().T).cpu().double()

    def _at_read(self, final: Float[Tensor, "prompt position d_model"], members: list[int]) -> Tensor:
        read = self._task.measure.read[members].to(final.device)
        return final[torch.arange(len(final), device=final.device)[:, None], read]
