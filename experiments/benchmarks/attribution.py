"""`attribution_grid` against `patch_grid` on the same cells: how much faster, and how well it ranks them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from experiments.benchmarks.shapes import gpt2_small_shape
from mechlist import LogitDifference, Runner, patch_grid
from mechlist.metrics.statistics import rank_correlation
from mechlist.models.quiet import quiet
from mechlist.patching.attribution import attribution_grid

PROMPTS, LENGTH, VOCABULARY = 32, 16, 50257
CHANGED = (3, 8, 12)
"""Positions whose tokens differ between base and source."""
EXACT_PROMPTS, EXACT_CELLS = 4, 300
"""Prompts, and cells drawn at random, that are patched exactly; its time for the whole follows from theirs."""
STEPS = 4

Result = TypeVar("Result")


def run() -> Iterator[str]:
    """One line a method."""
    runner = Runner(gpt2_small_shape(), progress=False)
    base, source = prompts()
    metric = LogitDifference(answer=11, wrong=12)
    asked = {"site": "z", "per": "head_position", "metric": metric}
    with quiet():
        attribution_grid(runner, base=base[:1], source=source[:1], **asked)
        seconds, found = _timed(lambda: attribution_grid(runner, base=base, source=source, **asked))
        cells, exact_seconds, exact = _exact(runner, base[:EXACT_PROMPTS], source[:EXACT_PROMPTS], metric)
        integrated_seconds, integrated = _timed(
            lambda: attribution_grid(
                runner, base=base[:EXACT_PROMPTS], source=source[:EXACT_PROMPTS], steps=STEPS, **asked
            )
        )
    effect = found["effect"]
    of_cells = effect[0].size * len(base) / (len(cells) * EXACT_PROMPTS)
    yield (
        f"attribution patching of z by head and position, {PROMPTS} prompts of {LENGTH} tokens, "
        f"{effect[0].size} cells each"
    )
    yield (
        f"exact: {exact_seconds * of_cells:.0f} s (from {len(cells)} cells drawn at random on {EXACT_PROMPTS} prompts, "
        f"{exact_seconds:.1f} s)"
    )
    yield _line("one gradient", seconds, exact_seconds * of_cells, _chosen(effect[:EXACT_PROMPTS], cells), exact)
    whole = integrated_seconds * PROMPTS / EXACT_PROMPTS
    chosen = _chosen(integrated["effect"], cells)
    yield _line(f"{STEPS} gradients a layer", whole, exact_seconds * of_cells, chosen, exact)


def _line(name: str, seconds: float, exact_seconds: float, effect: np.ndarray, exact: np.ndarray) -> str:
    # Cells of positions before the first change are 0 in both, and would flatter the ranks.
    moved = exact != 0
    ranks = rank_correlation(effect[moved], exact[moved])
    sizes = rank_correlation(np.abs(effect[moved]), np.abs(exact[moved]))
    return (
        f"{name:<20} {seconds:6.2f} s, {exact_seconds / seconds:6.0f} times as fast as exact patching, Spearman's rank "
        f"correlation {ranks:.3f}, of sizes {sizes:.3f} ({moved.sum()} cells)"
    )


def prompts() -> tuple[Tensor, Tensor]:
    """Base and source, which differ at a few positions."""
    generator = torch.Generator().manual_seed(0)
    base, other = (torch.randint(0, VOCABULARY, (PROMPTS, LENGTH), generator=generator) for _ in range(2))
    source = base.clone()
    source[:, CHANGED] = other[:, CHANGED]
    return base, source


def _exact(
    runner: Runner, base: Tensor, source: Tensor, metric: LogitDifference
) -> tuple[Sequence[tuple[int, int, int]], float, np.ndarray]:
    """Cells drawn at random, seconds, and patched - base of each prompt."""
    shape = (runner.shape.n_layers, runner.shape.n_heads, LENGTH)
    drawn = np.random.default_rng(0).choice(int(np.prod(shape)), EXACT_CELLS, replace=False)
    cells = [(int(a), int(b), int(c)) for a, b, c in zip(*np.unravel_index(drawn, shape), strict=True)]
    named = {str(i): [cell] for i, cell in enumerate(cells)}
    asked = {"site": "z", "per": "head_position", "metric": metric}
    seconds, found = _timed(lambda: patch_grid(runner, base=base, source=source, cells=named, **asked))
    return cells, seconds, (found["patched"] - found["base"]).values


def _chosen(effect: xr.DataArray, cells: Sequence[tuple[int, int, int]]) -> np.ndarray:
    return effect.values[(slice(None), *np.array(cells).T)]


def _timed(function: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result
