"""Fitting a Jacobian lens on prompts of one's own, exactly or faster with a known error.

Exactly, a prompt takes one backward pass for each dimension of the final stream. The fast estimator takes, for each
prompt, only some of the dimensions: each of these rows is exact for its prompt, and every dimension gets its turn in
equally many prompts. It is unbiased, costs the share of the dimensions that is taken, and its error is that of a mean
over fewer prompts, row by row, which the rows themselves tell. Random probes of all dimensions at once would cost as
much a probe, and add the noise of the probes to that of the prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.lens.jacobian import JacobianLens, stream_signature
from mechlist.lens.logit_lens import stage_hooks
from mechlist.models.language_model import LanguageModel
from mechlist.runner import Runner
from mechlist.runner.progress import part_done

SKIPPED = 16
"""First positions of a prompt that are left out, where streams are unlike all others; the last is left out too."""
TURNS = 10
"""Prompts in which each dimension has its turn, by default."""
CPU_TOKENS, GPU_TOKENS = 512, 16384
"""Tokens of one backward pass, beyond which more dimensions at a time are no faster."""
KEPT = 3
"""Times the memory of a layer's forward pass that its graph keeps for the way back."""


def fit_jacobian_lens(
    runner: Runner,
    rows: Sequence[Tensor],
    *,
    generator: torch.Generator,
    dimensions: int | None = None,
    skip: int = SKIPPED,
    source: str = "own prompts",
) -> JacobianLens:
    """The mean Jacobian of every stage but the last, with its standard error.

    Args:
        runner: the model, in whatever basis its weights are; the lens is for this one.
        rows: prompts; each counts alike.
        generator: of the turns of the dimensions.
        dimensions: of the final stream that each prompt's rows are taken for; all for 0, which is exact; without, so
            many that each has `TURNS` turns.
        skip: first positions that are left out.
        source: what the prompts are.

    Raises:
        InputError: a prompt that is too short, dimensions out of range, or fewer than two turns for some of them.
    """
    width = runner.shape.d_model
    taken = _taken(dimensions, width, len(rows))
    short = [i for i, row in enumerate(rows) if len(row) < skip + 2]
    if short or not rows:
        raise InputError(
            f"Prompts of a fit must have {skip + 2} tokens at least, the first {skip} and the last being left out; "
            + (f"prompt {short[0]} has {len(rows[short[0]])}." if rows else "there is no prompt.")
        )
    turns = _turns(len(rows), taken, width, generator)
    hooks = stage_hooks(runner)
    found = _Totals.nothing(len(hooks) - 1, width)
    row_bytes = 4 * (len(hooks) - 1) * taken * width
    for group in _groups(len(rows), max(1, runner.shares.kept // row_bytes)):
        work = _Jacobians(
            runner.language_model,
            [rows[i] for i in group],
            tuple(hooks),
            turns[group],
            skip,
            [_at_once(runner, len(rows[i]), taken) for i in group],
        )
        asked = f"{skip} {turns[group].tolist()}"
        # One prompt a batch: what is done is saved after each.
        found.add(
            runner.execute(work, [[i] for i in range(len(group))], asked, "Fitting the lens")["rows"], turns[group]
        )
    return JacobianLens(
        found.mean(),
        tuple(range(len(hooks) - 1)),
        runner.shape.n_layers,
        len(rows),
        source,
        stream_signature(runner),
        found.relative_error(),
    )


@dataclass(frozen=True)
class _Jacobians:
    """Rows of the Jacobians of a few prompts."""

    model: LanguageModel
    prompts: Sequence[Tensor]
    hooks: tuple[str, ...]
    """Of all stages, the last one being what is differentiated."""
    turns: Int[Tensor, "prompt row"]
    skip: int
    at_once: Sequence[int]
    """Rows of each prompt that go backwards together."""

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """Mean over positions of each row [prompt, stage, row, d_model], for the prompts `members`."""
        return {"rows": torch.stack([self._of(i) for i in members])}

    def _of(self, prompt: int) -> Float[Tensor, "stage row d_model"]:
        tokens, wanted, step = self.prompts[prompt], self.turns[prompt], self.at_once[prompt]
        valid = slice(self.skip, len(tokens) - 1)
        with torch.enable_grad(), _frozen(self.model.module):
            *sources, target = self._streams(tokens.expand(step, -1).to(self.model.device))
            parts = []
            for rows in wanted.split(step):
                seeds = torch.zeros_like(target)
                # At every position at once: a source's gradient is then the sum over all later targets.
                seeds[torch.arange(len(rows)), valid, rows.to(target.device)] = 1
                last = len(parts) * step + len(rows) == len(wanted)
                gradients = torch.autograd.grad(target, sources, seeds, retain_graph=not last)
                parts.append(torch.stack([g[: len(rows), valid].float().mean(1).cpu() for g in gradients]))
                part_done(min(1.0, len(parts) * step / len(wanted)))
        return torch.cat(parts, dim=1)

    def _streams(self, tokens: Int[Tensor, "row position"]) -> list[Float[Tensor, "row position d_model"]]:
        """Residual streams of all stages, in the graph from the first one on."""
        seen: dict[str, Tensor] = {}

        def keep(name: str, activation: Tensor, hook: Any) -> None:  # noqa: ARG001 (TransformerLens passes it by name)
            if not seen:
                activation.requires_grad_(True)
            seen[name] = activation

        self.model.residual(tokens, [(name, partial(keep, name)) for name in self.hooks])
        return [seen[name] for name in self.hooks]


@dataclass(frozen=True, eq=False)
class _Totals:
    """Sums over prompts, which memory can hold where it could not hold the prompts."""

    total: Float[Tensor, "stage d_model d_model"]
    squares: Float[Tensor, "stage d_model"]
    """Of the norms of rows."""
    count: Int[Tensor, " d_model"]
    """Turns of each dimension."""

    @staticmethod
    def nothing(stages: int, width: int) -> "_Totals":
        """Of no prompt."""
        squares = torch.zeros(stages, width, dtype=torch.float64)
        return _Totals(torch.zeros(stages, width, width), squares, torch.zeros(width, dtype=torch.long))

    def add(self, rows: Float[Tensor, "prompt stage row d_model"], turns: Int[Tensor, "prompt row"]) -> None:
        """Take in the rows of some prompts."""
        for of_prompt, taken in zip(rows, turns, strict=True):
            self.total[:, taken] += of_prompt
            self.squares[:, taken] += of_prompt.double().square().sum(-1)
            self.count[taken] += 1

    def mean(self) -> Float[Tensor, "stage d_model d_model"]:
        """The estimate."""
        return self.total / self.count[:, None]

    def relative_error(self) -> Float[Tensor, " stage"]:
        """Standard error of the estimate over its own Frobenius norm; NaN where a dimension had one turn only."""
        mean = self.mean().double().square().sum(-1)
        spread = (self.squares - self.count * mean) / (self.count * (self.count - 1))
        return (spread.clamp(min=0).sum(-1) / mean.sum(-1)).sqrt().float()


def _taken(dimensions: int | None, width: int, prompts: int) -> int:
    """Dimensions that each prompt's rows are taken for."""
    if dimensions is None:
        return min(width, -(-TURNS * width // max(1, prompts)))
    if not 0 <= dimensions <= width:
        raise InputError(f"dimensions must be from 1 to {width}, the model's width, or 0 for all, not {dimensions}.")
    taken = dimensions or width
    if taken < width and prompts * taken < 2 * width:
        least = -(-2 * width // max(1, prompts))
        raise InputError(
            f"dimensions must give each of {width} dimensions two turns, so that the error is known: with {prompts} "
            f"prompts at least {min(least, width)}, not {dimensions}."
        )
    return taken


def _turns(prompts: int, taken: int, width: int, generator: torch.Generator) -> Int[Tensor, "prompt row"]:
    """Which dimensions each prompt takes: those that had the fewest turns so far, drawn where several are even."""
    if taken == width:
        return torch.arange(width).expand(prompts, -1)
    had, turns = torch.zeros(width), []
    for _ in range(prompts):
        turns.append((had + torch.rand(width, generator=generator)).argsort()[:taken].sort().values)
        had[turns[-1]] += 1
    return torch.stack(turns)


def _groups(prompts: int, size: int) -> Iterator[list[int]]:
    for start in range(0, prompts, size):
        yield list(range(start, min(start + size, prompts)))


def _at_once(runner: Runner, length: int, taken: int) -> int:
    """Rows of a prompt that go backwards together: their graphs are a batch's share of the memory at most."""
    graph = KEPT * runner.shape.n_layers * runner.forward_bytes(length)
    tokens = CPU_TOKENS if runner.language_model.device.type == "cpu" else GPU_TOKENS
    return max(1, min(taken, tokens // length, runner.shares.batch // graph))


@contextmanager
def _frozen(module: torch.nn.Module) -> Iterator[None]:
    """Keep gradients of weights out of the graph, which would otherwise reach back to the embedding."""
    before = [(weight, weight.requires_grad) for weight in module.parameters()]
    try:
        for weight, _ in before:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)
