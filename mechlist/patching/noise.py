"""Numerical noise of a sweep: the same effects once more, with the prompts in another order and in other batches."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import xarray as xr

from mechlist.metrics.significance import numerical_noise
from mechlist.patching.arguments import PatchArguments, prepare
from mechlist.runner import Runner

RUNS = 4096
"""Cells of all prompts together that are computed again; of a larger grid it is all cells of fewer prompts."""
LEAST = 2
"""Prompts that are swept again however large the grid is, so that there is another order."""
SHARE = 0.6
"""Of the tokens of a batch: batches of another size round otherwise even where they have the same members."""

EffectsOf = Callable[[PatchArguments, float], xr.DataArray]
"""Effects (patched - base) by prompt and cell, in batches of this share of their usual size."""


def exact_effects(runner: Runner, arguments: PatchArguments, batch_share: float = 1.0) -> xr.DataArray:
    """Patched - base of every prompt and cell, in float64; what `patch_grid` warns of is not said again."""
    task = prepare(runner, arguments)
    values = dataclasses.replace(task, batch_share=batch_share).values()
    return task.of_cells(values.patched.double() - values.base.double()[:, None])


def sampled(prompts: int, cells: int) -> int:
    """Prompts that are swept again: all where the grid is small."""
    return min(prompts, max(LEAST, RUNS // max(1, cells)))


def noise(
    runner: Runner, effects_of: EffectsOf, arguments: PatchArguments, effects: xr.DataArray, repeats: int
) -> xr.DataArray:
    """The largest difference, over prompts, between the effect of a cell and the same effect computed again.

    Prompts are drawn in another order each time and go in two groups, whose batches are smaller than the first time;
    nothing that was stored is used again. Attribute `prompts`: how many of them were swept again.

    Args:
        runner: with the model.
        effects_of: computes effects.
        arguments: what was swept; what chance decides is decided.
        effects: of the first time, by prompt and cell.
        repeats: how often.
    """
    cells = effects.isel(prompt=0)
    count = sampled(len(effects), cells.size)
    generator = runner.numpy_generator("batch order")
    chosen = np.sort(generator.permutation(len(effects))[:count])
    computed = [effects.values[chosen]]
    with _without_store(runner):
        for _ in range(repeats):
            again = np.empty_like(computed[0])
            order = generator.permutation(count)
            for group in _groups(order):
                again[group] = effects_of(arguments.select(chosen[group].tolist()), SHARE).values
            computed.append(again)
    found = numerical_noise(np.stack(computed)).per_cell
    return cells.copy(data=found).assign_attrs(prompts=count)


def _groups(order: np.ndarray) -> list[np.ndarray]:
    """Two groups of unequal size, where there are prompts enough."""
    first = len(order) * 2 // 3
    return [group for group in (order[:first], order[first:]) if len(group)]


@contextmanager
def _without_store(runner: Runner) -> Iterator[None]:
    store, runner.store = runner.store, None
    try:
        yield
    finally:
        runner.store = store
