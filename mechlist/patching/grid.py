"""`patch_grid`: the metric with one part of the model replaced at a time, exactly and all cells at once."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mechlist.metrics.measure import Metric
from mechlist.metrics.ratios import recoverable
from mechlist.patching.arguments import PatchArguments, prepare, read_runs, token_labels_of
from mechlist.patching.replacements import Replacement
from mechlist.patching.sweep.task import Task, Values
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts, real_lengths


def patch_grid(
    runner: Runner,
    *,
    base: Prompts,
    source: Prompts | Replacement,
    site: str = "resid_pre",
    per: str = "position",
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    cells: Mapping[str, Iterable[Any]] | None = None,
    roles: Mapping[str, Sequence[Sequence[int]]] | None = None,
    source_positions: Int[Tensor, "..."] | None = None,
) -> xr.Dataset:
    """Replace parts of the base run, one cell at a time, and measure.

    Each value equals one full forward pass of the base prompt with a hook at the site, up to float rounding (1e-4 in
    float32 on every architecture in the tests). Models that cannot be run layer by layer, and models under
    interventions, go through such passes, batched.

    Args:
        runner: with the model.
        base: prompts that are run and changed: Int[Tensor, "prompt position"], or one text or several, or whatever
            `Runner.rows` takes, of any lengths.
        source: prompts whose runs the replacements come from, position for position; or `Zero()`, `Mean(...)`,
            `Resample(...)` or `Given(...)`.
        site: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pattern or attn_scores.
        per: position, head or head_position; for patterns and scores the position is the query's.
        metric: what is measured; `LogitDifference` or another `Metric`. Its answers may be texts of one token.
        lengths: real tokens of prompts that are padded on the right; cells beyond them are NaN.
        cells: named sets of (layer, position), (layer, head) or (layer, head, position), each replaced together, in
            place of the whole grid.
        roles: named sets of positions, given for each prompt, that take the place of the single positions: each
            layer's (and head's) positions of one role are replaced together. NaN where a prompt lacks the role.
        source_positions: of each base position the position of the source run whose activation is put in there, for
            prompts of unequal length: [prompt, position]; -1 where nothing is put in. The positions that the metric
            reads must have a counterpart, at which the source run is measured. A pattern or score is put in where its
            query and its key both have one; the rows of a pattern then need not sum to 1.

    Returns:
        `patched(prompt, layer, head, position)` with the axes that `per` names, `role` in the place of `position` if
        there are roles, or `patched(prompt, cell)`; and `base(prompt)`. With source runs (those of `Resample` too) also
        `source(prompt)` and `recovered` = (patched - base) / (source - base), which is NaN where source and base
        measure the same. Prompts that are not given as a tensor get `token(prompt, token_position)`, their tokens as
        labels.

    Raises:
        InputError: shapes that differ, tokens, positions, heads or a site that the model does not have.
        ModelError: a model in train mode whose dropout would make every number noise.
    """
    runs = read_runs(runner, base, source, metric, lengths)
    arguments = PatchArguments(site=site, per=per, cells=cells, roles=roles, source_positions=source_positions, **runs)
    results = patch_cells(runner, arguments)
    if not isinstance(base, Tensor):
        labels = token_labels_of(runner, runs["base"], real_lengths(runs["base"], runs["lengths"]))
        results["token"] = (("prompt", "token_position"), labels)
    return results


def patch_cells(runner: Runner, arguments: PatchArguments) -> xr.Dataset:
    """`patch_grid` with its arguments as one value."""
    task = prepare(runner, arguments)
    values = task.values()
    _warn(values, task)
    unit = {"units": arguments.metric.unit}
    patched, base = task.of_cells(values.patched), values.base.double().numpy()
    variables: dict[str, Any] = {"patched": patched.assign_attrs(unit), "base": ("prompt", base, unit)}
    if values.source is not None:
        source = values.source.double().numpy()
        gap = xr.DataArray(recoverable(base, source), dims="prompt")
        variables["source"] = ("prompt", source, unit)
        variables["recovered"] = (patched - xr.DataArray(base, dims="prompt")) / gap
    return xr.Dataset(variables, attrs={"site": task.site, "path": values.path})


def _warn(values: Values, task: Task) -> None:
    """Say which prompts have nothing to recover, and which of the sets that were given cannot do anything."""
    if values.source is not None:
        base, source = (one.double().numpy() for one in (values.base, values.source))
        same = np.flatnonzero(np.isnan(recoverable(base, source))).tolist()
        if same:
            warnings.warn(
                f"recovered is NaN for the prompts {same}: base and source measure the same there, or nearly so, and "
                "there is nothing to recover.",
                stacklevel=4,
            )
    named = next((axis for axis in ("role", "cell") if axis in task.labels), None)
    if named is None:
        return
    # Roles are the last axis of the cells.
    labels = task.labels[named]
    blind, lacking = (of.view(-1, len(labels)).all(dim=0) for of in (task.blind, task.outside))
    blind = (blind & ~lacking).nonzero()[:, 0].tolist()
    if blind:
        warnings.warn(
            f"The {named}s {[labels[i] for i in blind]} change only what comes after every position that the metric "
            "reads: they cannot have an effect.",
            stacklevel=4,
        )
