"""Patching by whole forward passes with hooks, batched: for models whose layers cannot be run one by one."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.metrics.measure import Measure
from mechlist.patching.parts import ALL, Parts
from mechlist.runner import Intervention, Rows, Runner
from mechlist.runner.batch import Batch
from mechlist.runner.positions import QUERY_HOOKS


def hooked_rows(
    runner: Runner,
    base: Sequence[Tensor],
    source: Sequence[Tensor] | None,
    hooks: Sequence[str],
    put: Sequence[Tensor],
    parts: Parts,
    measure: Measure,
    rows: Int[Tensor, " row"],
) -> tuple[Float[Tensor, "prompt cell"], Float[Tensor, " prompt"], Float[Tensor, " prompt"] | None]:
    """The metric of `rows` (the base's for all others), of the base runs, and of the source runs if there are any.

    Args:
        runner: with the model.
        base: tokens of the prompts that are changed, without padding.
        source: tokens of the source runs.
        hooks: of the site, by layer.
        put: what is put in, by layer: [prompt position ...] or [prompt head query key].
        parts: what each row replaces.
        measure: the metric.
        rows: those that are run.
    """
    every = torch.arange(len(base))
    finals = _finals(runner, base, measure, every)

    def measured(values: Tensor, prompt: Tensor) -> Tensor:
        unembed = runner.language_model.unembed
        device = runner.language_model.device
        return measure(values.to(device), prompt, finals.to(device), unembed, runner.shape.d_vocab, runner.memory // 8)

    plain = measured(finals, every)
    patched = plain[:, None].repeat(1, parts.n_cells)
    if len(rows):
        prompt = rows // parts.n_cells
        changes = [
            Intervention(hook, _replacing(hook, put[layer], layer, parts, rows, base))
            for layer, hook in enumerate(hooks)
            if (parts.layer == layer).any()
        ]
        with runner.intervene(*changes):
            changed = _finals(runner, [base[i] for i in prompt.tolist()], measure, prompt)
        patched.view(-1)[rows] = measured(changed, prompt)
    sources = None if source is None else measured(_finals(runner, source, measure, every), every)
    return patched, plain, sources


def _finals(
    runner: Runner, tokens: Sequence[Tensor], measure: Measure, prompt: Int[Tensor, " row"]
) -> Float[Tensor, "row n d_model"]:
    """Final, normalised residual stream at the positions that the metric reads."""
    read = measure.read[prompt]

    def function(batch: Batch) -> dict[str, Tensor]:
        rows = torch.arange(len(batch.tokens), device=batch.tokens.device)[:, None]
        return {"final": batch.normalized[rows, read[batch.rows.index].to(rows.device)]}

    return runner.map(tokens, function, label="Patching")["final"]


def _replacing(
    hook: str, value: Tensor, layer: int, parts: Parts, rows: Int[Tensor, " row"], base: Sequence[Tensor]
) -> Callable[[Tensor, Rows], Tensor]:
    """Writes what is put in over the parts of each row that replaces something in this layer."""

    def change(activation: Tensor, batch: Rows) -> Tensor:
        out = activation.clone()
        row = rows[batch.index]
        mine, part = parts.of(row)
        chosen = parts.layer[part] == layer
        for n, number in zip(mine[chosen].tolist(), part[chosen].tolist(), strict=True):
            prompt = int(row[n]) // parts.n_cells
            end, position, head = len(base[prompt]), int(parts.position[number]), int(parts.head[number])
            where = slice(0, end) if position == ALL else slice(position, position + 1)
            heads = slice(None) if head == ALL else head
            if hook.endswith(QUERY_HOOKS):
                out[n, heads, where, :end] = value[prompt, heads, where, :end].to(out)
            elif head == ALL:
                out[n, where] = value[prompt, where].to(out)
            else:
                out[n, where, head] = value[prompt, where, head].to(out)
        return out

    return change
