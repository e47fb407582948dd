"""What a patching sweep takes, before it is run: counted, and timed on a sample."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.patching.sweep.cost import Cost
from mechlist.patching.sweep.packing import Batch
from mechlist.patching.sweep.parts import NEVER, Parts
from mechlist.patching.sweep.task import Task, Work
from mechlist.runner.memory import CPU_TOKENS, GPU_TOKENS, captured_bytes
from mechlist.types import Plan

SAMPLE_TOKENS = 2048
"""Packed tokens of the rows that are timed."""
SAMPLE_ROWS = 8
"""Rows that are timed where whole forward passes are needed."""


def plan_patching(task: Task) -> Plan:
    """Costs of the task. The runs of the first block of prompts, and a few rows, are computed for it."""
    return _swept(task) if task.reason is None else _whole(task)


def _swept(task: Task) -> Plan:
    block = task.blocks()[0]
    share = len(task.base) / (block.stop - block.start)
    task.work(slice(0, 1))  # So that what happens once, such as the comparison with TransformerLens, is not timed.
    work, trace_seconds = _timed(task, lambda: task.work(block))
    batches, _ = work.plan()
    costs = [batch_cost(work, work.rows[members]) for members in batches]
    sweep = sum(costs, Cost(0, 0))
    seconds = _sweep_seconds(task, work, batches, sweep.flops)
    sizes, length = task.sizes, task.base.shape[1]
    prompts = block.stop - block.start
    runs = prompts * (1 if task.source is None else 2)
    read = runs * task.measure.read.shape[1]
    traced = sizes.forward_flops(runs, length) + sizes.unembed_flops(read, _columns(task))
    flops = int(share * (traced + sweep.flops))
    kept = prompts * sizes.trace_bytes(task.site, length, source=task.source is not None)
    peak = max(sizes.trace_peak(task.site, prompts, length, source=task.source is not None), kept + sweep.peak_bytes)
    return _plan(
        task,
        runs=int(share * len(work.rows)),
        path="layer by layer",
        flops=flops,
        peak_bytes=peak,
        seconds=share * (trace_seconds + seconds),
    )


def batch_cost(work: Work, rows: Int[Tensor, " row"]) -> Cost:
    """One batch of rows, with the logits that are read."""
    task, sizes = work.task, work.task.sizes
    sweep = work.sweep
    batch = Batch(rows, work.parts, sweep.read, sweep.grain, sizes.shape.n_layers)
    cost = sizes.batch(batch, task.site)
    tokens = int((batch.is_read.sum(dim=1) * batch.joined(sizes.shape.n_layers)).sum())
    # The streams, their copy and its norm.
    finals = 2 * sizes.element * tokens * sizes.shape.d_model
    held = finals + task.measure.piece_bytes(tokens, sizes.shape.d_vocab_out, task.runner.memory // 8)
    return Cost(cost.flops + sizes.unembed_flops(tokens, _columns(task)), max(cost.peak_bytes + finals, held))


def _sweep_seconds(task: Task, work: Work, batches: list[list[int]], flops: int) -> float:
    """Seconds of the batches, from some rows of the one in the middle."""
    if not batches:
        return 0.0
    members = batches[len(batches) // 2]
    step = max(1, int(work.widths[members].sum()) // SAMPLE_TOKENS)
    chosen = members[::step]
    _, seconds = _timed(task, lambda: work.compute(chosen))
    return seconds / batch_cost(work, work.rows[chosen]).flops * flops


def _whole(task: Task) -> Plan:
    runner, sizes, length = task.runner, task.sizes, task.base.shape[1]
    wanted = int((~(task.blind | task.outside)).sum())
    plain = 1 if task.source is None else 2
    columns = _columns(task) if not runner.language_model.makes_logits else None
    read = task.measure.read.shape[1] if not runner.language_model.makes_logits else length
    runs = wanted + plain * len(task.base)
    few = _first_rows(task)
    few.values()
    _, seconds = _timed(task, few.values)
    each = runner.forward_bytes(length)
    most = CPU_TOKENS if runner.language_model.device.type == "cpu" else GPU_TOKENS
    rows = max(1, min(runs, most // length, runner.memory * 5 // 8 // each))
    kept = (plain + 1) * captured_bytes(runner.shape, task.hooks, length, length, sizes.element)
    return _plan(
        task,
        runs=wanted,
        path=f"whole forward passes, because {task.reason}",
        flops=runs * (sizes.forward_flops(1, length) + sizes.unembed_flops(read, columns)),
        peak_bytes=len(task.base) * kept + rows * each,
        seconds=seconds / (few.parts.first_layer.lt(NEVER).sum().item() + plain) * runs,
    )


def _first_rows(task: Task) -> Task:
    """The task on a few cells of the first prompt alone."""
    one = slice(0, 1)
    parts = task.parts.block(0, 1)
    wanted = (~(task.blind | task.outside))[0].nonzero()[:, 0]
    chosen = torch.isin(parts.row, wanted[:: max(1, len(wanted) // SAMPLE_ROWS)][:SAMPLE_ROWS])
    row, layer, position, head = (c[chosen] for c in (parts.row, parts.layer, parts.position, parts.head))
    return dataclasses.replace(
        task,
        base=task.base[one],
        source=None if task.source is None else task.source[one],
        lengths=task.lengths[one],
        parts=Parts(row, layer, position, head, parts.n_cells, 1),
        measure=task.measure.block(one),
    )


def _plan(task: Task, *, runs: int, path: str, flops: int, peak_bytes: int, seconds: float | int) -> Plan:
    sizes, length = task.sizes, task.base.shape[1]
    cells = int((~task.outside).sum())
    each = sizes.forward_flops(1, length)
    module = task.runner.model
    return Plan(
        cells=cells,
        runs=runs,
        path=path,
        forward_tokens=flops / (each / length),
        flops=flops,
        loop_flops=cells * (each + sizes.unembed_flops(length, None)),
        peak_bytes=peak_bytes,
        model_bytes=sum(weight.numel() * weight.element_size() for weight in module.parameters()),
        seconds=seconds,
    )


def _columns(task: Task) -> int | None:
    return None if task.measure.columns is None else len(task.measure.columns)


def _timed(task: Task, function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function gives, and how long it takes."""
    on_gpu = task.runner.language_model.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = function()
    if on_gpu:
        torch.cuda.synchronize()
    return result, time.perf_counter() - started
