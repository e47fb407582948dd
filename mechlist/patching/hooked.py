"""Patching by whole forward passes with hooks, batched: for models whose layers cannot be run one by one."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.metrics.answers import Measure
from mechlist.patching.sweep import Parts
from mechlist.runner import Intervention, Rows, Runner
from mechlist.runner.batch import Batch
from mechlist.runner.positions import QUERY_HOOKS


def hooked_values(
    runner: Runner,
    base: Int[Tensor, "prompt position"],
    source: Int[Tensor, "prompt position"],
    lengths: Int[Tensor, " prompt"],
    hooks: Sequence[str],
    parts: Parts,
    measure: Measure,
    wanted: Bool[Tensor, "prompt cell"],
) -> tuple[Float[Tensor, "prompt cell"], Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
    """The metric of every wanted cell (NaN elsewhere), of the base and of the source."""
    runs = [[tokens[i, : lengths[i]] for i in range(len(tokens))] for tokens in (base, source)]
    plain_base, plain_source = (_measured(runner, run, measure, torch.arange(len(run))) for run in runs)
    kept = runner.capture(runs[1], *hooks)
    prompt, cell = wanted.nonzero().T
    patched = torch.full(wanted.shape, torch.nan)
    if len(prompt):
        changes = [
            Intervention(hook, _replacing(hook, kept[hook], layer, parts, prompt, cell, lengths))
            for layer, hook in enumerate(hooks)
            if (parts.layer == layer).any()
        ]
        with runner.intervene(*changes):
            patched[prompt, cell] = _measured(runner, [runs[0][i] for i in prompt.tolist()], measure, prompt)
    return patched, plain_base, plain_source


def _measured(
    runner: Runner, tokens: Sequence[Tensor], measure: Measure, prompt: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    def function(batch: Batch) -> dict[str, Tensor]:
        logits = batch.logits(measure.columns)
        return {"value": measure.of(logits, prompt[batch.rows.index])}

    return runner.map(tokens, function, positions=measure.read[prompt], label="Patching")["value"]


def _replacing(
    hook: str, value: Tensor, layer: int, parts: Parts, prompt: Tensor, cell: Tensor, lengths: Tensor
) -> Callable[[Tensor, Rows], Tensor]:
    """Writes the source's parts over those of each row that replaces something in this layer."""
    here: dict[int, list[tuple[int, int]]] = {}
    chosen = parts.layer == layer
    for c, p, h in zip(*(t[chosen].tolist() for t in (parts.cell, parts.position, parts.head)), strict=True):
        here.setdefault(c, []).append((p, h))

    def change(activation: Tensor, rows: Rows) -> Tensor:
        out = activation.clone()
        queries = hook.endswith(QUERY_HOOKS)
        for n, row in enumerate(rows.index.tolist()):
            i = int(prompt[row])
            end = int(lengths[i])
            for position, head in here.get(int(cell[row]), ()):
                where = slice(0, end) if position < 0 else slice(position, position + 1)
                heads = slice(None) if head < 0 else head
                if queries:
                    out[n, heads, where, :end] = value[i, heads, where, :end].to(out)
                elif head < 0:
                    out[n, where] = value[i, where].to(out)
                else:
                    out[n, where, head] = value[i, where, head].to(out)
        return out

    return change
