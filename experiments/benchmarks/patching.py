"""`patch_grid` against TransformerLens's own loop and against whole forward passes, batched, on GPT-2 small's shape."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor
from transformer_lens import patching as theirs

from experiments.benchmarks.shapes import gpt2_small_shape
from mechlist import LogitDifference, Runner, patch_grid
from mechlist.engine.dry_run import dry_run
from mechlist.models.quiet import quiet
from mechlist.patching.sweep.cells import grid, hook_name
from mechlist.patching.sweep.packing import ATTENTION_SITES

LAYER_WEIGHTS = 7.08e6
"""Weights of a layer that go through matrix products."""
LOOP_CELLS = 48
"""Cells of TransformerLens's loop that are run; its time for all follows from theirs."""
BATCHED_LAYER, BATCHED_CELLS = 6, 32
"""Layer and cells of the batched loop that are run: every layer costs it the same."""
ANSWER, WRONG = 11, 12


def run() -> Iterator[str]:
    """One line a sweep: on the CPU in float32, and in bfloat16 on a GPU that is there."""
    yield from _sweeps(torch.device("cpu"), torch.float32)
    if torch.cuda.is_available():
        yield from _sweeps(torch.device("cuda"), torch.bfloat16)


def _sweeps(device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    model = gpt2_small_shape()
    with quiet():
        model.to(device, print_details=False)
        model.to(dtype, print_details=False)
    runner = Runner(model, progress=False)
    peak = _peak(device, dtype)
    yield f"patching on {device.type}: the best {dtype} matrix product reaches {peak / 1e9:.0f} GFLOP/s"
    for length in (16, 64, 128):
        yield _line(runner, "resid_pre", "position", length, peak, theirs.get_act_patch_resid_pre)
    for length in (16, 64, 128):
        yield _line(runner, "z", "head", length, peak, theirs.get_act_patch_attn_head_out_all_pos)
    yield _line(runner, "z", "head_position", 16, peak, theirs.get_act_patch_attn_head_out_by_pos)
    yield _line(runner, "pattern", "head", 16, peak, theirs.get_act_patch_attn_head_pattern_all_pos)


def _line(runner: Runner, site: str, per: str, length: int, peak: float, loop: Callable[..., Tensor]) -> str:
    generator = torch.Generator().manual_seed(length)
    base, source = (torch.randint(0, 50257, (1, length), generator=generator) for _ in range(2))
    device = runner.language_model.device
    metric = LogitDifference(answer=ANSWER, wrong=WRONG)

    def ours(runner: Runner = runner) -> None:
        patch_grid(runner, base=base, source=source, site=site, per=per, metric=metric)

    _, axes = grid(site, per, runner.shape, length, 1)
    cells = [dict(zip(axes, at, strict=True)) for at in product(*(range(n) for n in axes.values()))]
    tokens = sum((length - cell.get("position", 0)) * (runner.shape.n_layers - cell["layer"]) for cell in cells)
    with quiet():
        ours()
        seconds = min(_timed(ours) for _ in range(3))
        plan = dry_run(runner, ours).plan
        each = _loop_seconds(runner, base.to(device), source.to(device), loop)
    batched = _batched_seconds(runner, site, base.to(device), source.to(device), cells)
    share = 2 * LAYER_WEIGHTS * tokens / seconds / peak
    name = f"{site} by {per}, {length} tokens ({len(cells)} cells)"
    return (
        f"{name:<52} ours {seconds:7.2f} s, TransformerLens {each * len(cells) / seconds:6.1f}x, batched "
        f"{batched / seconds:5.1f}x, {share:4.0%} of the peak; planned {plan.seconds:.2f} s"
    )


def _loop_seconds(runner: Runner, base: Tensor, source: Tensor, loop: Callable[..., Tensor]) -> float:
    """Seconds a cell of TransformerLens's loop, from its first cells."""
    model = runner.model
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        calls = [0]

        class Enough(Exception):  # noqa: N818
            """The cells asked for have run."""

        def metric(logits: Tensor) -> Tensor:
            calls[0] += 1
            if calls[0] > LOOP_CELLS:
                raise Enough
            return logits[0, -1, ANSWER] - logits[0, -1, WRONG]

        started = time.perf_counter()
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                loop(model, base, cache, metric)
        except Enough:
            calls[0] -= 1
        return (time.perf_counter() - started) / calls[0]


def _batched_seconds(runner: Runner, site: str, base: Tensor, source: Tensor, cells: list[dict[str, int]]) -> float:
    """Seconds for all cells of the loop that batches: rows of one layer share a whole forward pass with one hook."""
    model = runner.model
    name = hook_name(site, BATCHED_LAYER)
    mine = [cell for cell in cells if cell["layer"] == BATCHED_LAYER][:BATCHED_CELLS]

    def change(activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        for row, cell in enumerate(mine):
            heads, where = cell.get("head", slice(None)), cell.get("position", slice(None))
            index = (heads, where) if site in ATTENTION_SITES else (where, heads)
            activation[(row, *index[: activation.ndim - 1])] = kept[name][(0, *index[: activation.ndim - 1])]
        return activation

    with torch.no_grad():
        _, kept = model.run_with_cache(source, names_filter=name)
        started = time.perf_counter()
        logits = model.run_with_hooks(base.repeat(len(mine), 1), fwd_hooks=[(name, change)])[:, -1]
        (logits[:, ANSWER] - logits[:, WRONG]).tolist()
    return (time.perf_counter() - started) / len(mine) * len(cells)


def _peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of many matrix products: 2048 x 768 x 3072 on a CPU, a larger one where that is small."""
    rows, inner, columns = (2048, 768, 3072) if device.type == "cpu" else (8192, 8192, 8192)
    a, b = (torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, inner), (inner, columns)))
    return 2 * rows * inner * columns / min(_timed(lambda: a @ b) for _ in range(20))


def _timed(function: Callable[[], object]) -> float:
    _wait()
    started = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
