"""Patching by whole forward passes with hooks, batched: for models whose layers cannot be run one by one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.metrics.measure import Measure
from mechlist.patching.sweep.parts import ALL, Parts
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
    *,
    source_read: Int[Tensor, "prompt n"],
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
        source_read: where in the source runs what the metric reads stands.
    """
    every = torch.arange(len(base))
    base_finals = _finals(runner, base, measure)
    plain = _measured(runner, base, measure, every, base_finals)
    patched = plain[:, None].repeat(1, parts.n_cells)
    if len(rows):
        prompt = rows // parts.n_cells
        changes = [
            Intervention(hook, _replacing(hook, put[layer], layer, parts, rows, base))
            for layer, hook in enumerate(hooks)
            if (parts.layer == layer).any()
        ]
        with runner.renumbered(prompt), runner.intervene(*changes):
            patched.view(-1)[rows] = _measured(runner, [base[i] for i in prompt.tolist()], measure, prompt, base_finals)
    of_source = replace(measure, read=source_read)
    sources = None if source is None else _measured(runner, source, of_source, every, base_finals)
    return patched, plain, sources


def _finals(runner: Runner, tokens: Sequence[Tensor], measure: Measure) -> Float[Tensor, "prompt n d_model"]:
    """Final, normalised residual stream at the positions that the metric reads."""
    return runner.map(tokens, lambda batch: {"final": _read(batch, measure.read[batch.rows.index])}, label="Patching")[
        "final"
    ]


def _measured(
    runner: Runner,
    tokens: Sequence[Tensor],
    measure: Measure,
    prompt: Int[Tensor, " row"],
    base: Float[Tensor, "prompt n d_model"],
) -> Float[Tensor, " row"]:
    """The metric of runs of these tokens, which belong to these prompts."""
    unembed, d_vocab = runner.language_model.unembed, runner.shape.d_vocab_out

    def function(batch: Batch) -> dict[str, Tensor]:
        mine = prompt[batch.rows.index]
        finals = _read(batch, measure.read[mine])
        return {"value": measure(finals, mine, base.to(finals.device), unembed, d_vocab, runner.shares.metric_logits)}

    return runner.map(tokens, function, label="Patching")["value"]


def _read(batch: Batch, read: Int[Tensor, "row n"]) -> Float[Tensor, "row n d_model"]:
    rows = torch.arange(len(read), device=batch.normalized.device)[:, None]
    return batch.normalized[rows, read.to(rows.device)]


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
