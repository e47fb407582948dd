"""Peak memory, each measurement in a process of its own: what is resident at most, less what was before.

On Linux, which counts it.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from experiments.benchmarks.shapes import gpt2_small_shape
from mechlist.runner import Batch, Runner
from mechlist.types import format_bytes, parse_bytes
from mechlist.weights.circuit import circuit_top_k_accuracy, k_composition_circuit

BOUNDS = ("256MiB", "512MiB", "1GiB")


def run() -> list[str]:
    """One line a measurement."""
    lines = []
    for bound in BOUNDS:
        peak, _ = _apart(_capture, bound)
        lines.append(
            f"{f'attention patterns of 256 x 128 tokens under --memory {bound}':<66} "
            f"peak {format_bytes(peak)} ({peak / parse_bytes(bound):.0%})"
        )
    for axis in ("key", "query"):
        peak, seconds = _apart(_circuit, axis)
        lines.append(
            f"{f'K-composition circuit, vocabulary 50,257, axis {axis}':<66} peak {format_bytes(peak)}, {seconds:.1f} s"
        )
    return lines


def _apart(function: Callable[[str], tuple[int, float]], argument: str) -> tuple[int, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, argument).result()


def measured(work: Callable[[], object]) -> tuple[int, float]:
    """Bytes that are resident at most, less those that were before, and seconds."""
    # Linux forgets the peak so far, which is that of building the model.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    start = time.perf_counter()
    work()
    return _resident("VmHWM") - before, time.perf_counter() - start


def _resident(which: str) -> int:
    """Resident memory of this process now (VmRSS) or at most (VmHWM), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))


def _capture(bound: str) -> tuple[int, float]:
    runner = Runner(gpt2_small_shape(2), memory=bound, progress=False)
    prompts = torch.randint(0, 50257, (256, 128), generator=torch.Generator().manual_seed(0))
    hooks = runner.hooks("blocks.*.attn.hook_pattern")

    def last(batch: Batch) -> dict[str, torch.Tensor]:
        return {"score": torch.stack([batch[h][..., -1].mean((1, 2)) for h in hooks], dim=1)}

    # The libraries' own first-time allocations are not the run's.
    runner.map(prompts[:1, :8], last, capture=hooks)
    return measured(lambda: runner.map(prompts, last, capture=hooks))


def _circuit(axis: str) -> tuple[int, float]:
    model = gpt2_small_shape(2)

    def work() -> None:
        sides = k_composition_circuit(model, (0, 0), (1, 0))
        circuit_top_k_accuracy(*sides, axis="key" if axis == "key" else "query")

    return measured(work)
