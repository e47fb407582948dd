"""`patch_grid`: the metric with one part of the model replaced at a time, exactly and all cells at once."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Metric
from mechlist.models.language_model import require_eval
from mechlist.patching.replacements import Given, Mean, Replacement, Resample, Zero, donors, means
from mechlist.patching.sweep.cells import by_role, check_site, grid, hook_name, named
from mechlist.patching.sweep.sweep import Replacing
from mechlist.patching.sweep.task import Task, Values, whole_passes
from mechlist.runner import Runner
from mechlist.runner.batching import check_prompts


def patch_grid(
    runner: Runner,
    *,
    base: Int[Tensor, "..."],
    source: Int[Tensor, "..."] | Replacement,
    site: str,
    per: str,
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    cells: Mapping[str, Iterable[Any]] | None = None,
    roles: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> xr.Dataset:
    """Replace parts of the base run, one cell at a time, and measure.

    Each value equals one full forward pass of the base prompt with a hook at the site, up to float rounding (1e-4 in
    float32 on every architecture in the tests). Models that cannot be run layer by layer, and models under
    interventions, go through such passes, batched.

    Args:
        runner: with the model.
        base: prompts that are run and changed.
        source: prompts whose runs the replacements come from, position for position; or `Zero()`, `Mean(...)`,
            `Resample(...)` or `Given(...)`.
        site: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pattern or attn_scores.
        per: position, head or head_position; for patterns and scores the position is the query's.
        metric: what is measured; `LogitDifference` or another `Metric`.
        lengths: real tokens of prompts that are padded on the right; cells beyond them are NaN.
        cells: named sets of (layer, position), (layer, head) or (layer, head, position), each replaced together, in
            place of the whole grid.
        roles: named sets of positions, given for each prompt, that take the place of the single positions: each
            layer's (and head's) positions of one role are replaced together. NaN where a prompt lacks the role.

    Returns:
        `patched(prompt, layer, head, position)` with the axes that `per` names, `role` in the place of `position` if
        there are roles, or `patched(prompt, cell)`; and `base(prompt)`. With source runs (those of `Resample` too) also
        `source(prompt)` and `recovered` = (patched - base) / (source - base), which is NaN where source and base
        measure the same.

    Raises:
        InputError: shapes that differ, tokens, positions, heads or a site that the model does not have.
        ModelError: a model in train mode whose dropout would make every number noise.
    """
    task, axes, coords = prepare(
        runner, base=base, source=source, site=site, per=per, metric=metric, lengths=lengths, cells=cells, roles=roles
    )
    values = task.values()
    _warn(values, task, "role" if "role" in axes else "cell" if "cell" in axes else None, coords)
    return _dataset(values, axes, coords, metric.unit, site)


def prepare(
    runner: Runner,
    *,
    base: Int[Tensor, "..."],
    source: Int[Tensor, "..."] | Replacement,
    site: str,
    per: str,
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    cells: Mapping[str, Iterable[Any]] | None = None,
    roles: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> tuple[Task, dict[str, int], dict[str, list[Any]]]:
    """The checked task of `patch_grid`, with the axes of its cells and their labels."""
    shape = runner.shape
    require_eval(runner.model)
    check_site(site, per, shape, runner.language_model.hook_names)
    if site == "resid_mid" and runner.language_model.makes_logits and whole_passes(runner, site) is not None:
        raise InputError(
            "Through TransformerBridge a change of resid_mid reaches the MLP alone, and not what follows it: take "
            "attn_out, or the next layer's resid_pre."
        )
    sizes = _lengths(base, source if isinstance(source, Tensor) else base, lengths)
    for tokens in (base, source):
        if isinstance(tokens, Tensor):
            check_prompts(tokens, shape.n_ctx, shape.d_vocab)
    measure = metric.prepare(base, sizes, shape.d_vocab_out)
    prompts, length = base.shape
    if cells is not None and roles is not None:
        raise InputError("cells and roles exclude each other: give one of them.")
    if cells is not None:
        parts, axes = named(cells, site, per, shape, length, prompts), {"cell": len(cells)}
        coords: dict[str, list[Any]] = {"cell": list(cells)}
    else:
        if roles is None:
            parts, axes = grid(site, per, shape, length, prompts)
        else:
            parts, axes = by_role(roles, site, per, shape, sizes)
        coords = {name: list(range(size)) for name, size in axes.items()}
        if roles is not None:
            coords["role"] = list(roles)
    tokens, replacing = _resolved(runner, source, base, sizes, site)
    return Task(runner, base, tokens, sizes, site, parts, measure, replacing), axes, coords


def _resolved(
    runner: Runner, source: Tensor | Replacement, base: Tensor, lengths: Tensor, site: str
) -> tuple[Tensor | None, Callable[[slice], Replacing]]:
    """Tokens of the source runs, if there are any, and what is put in for a block of prompts."""
    hooks = [hook_name(site, layer) for layer in range(runner.shape.n_layers)]
    if isinstance(source, Resample):
        source = donors(runner, source, base, lengths)
    if isinstance(source, Tensor):
        return source, lambda _: _of_source
    if isinstance(source, Zero):
        return None, lambda _: _zero
    if isinstance(source, Mean):
        average = means(runner, source, hooks, int(lengths.max()), base.shape[1])
        return None, lambda _: lambda layer, x, _: average[layer].to(x).expand_as(x)
    return None, _given(source, hooks, len(base))


def _of_source(layer: int, base: Tensor, source: Tensor | None) -> Tensor:  # noqa: ARG001 (a Replacing)
    assert source is not None
    return source


def _zero(layer: int, base: Tensor, source: Tensor | None) -> Tensor:  # noqa: ARG001 (a Replacing)
    # Scores of keys that the query may not see are minus infinity, or the type's least number, and stay so.
    return torch.where(base < torch.finfo(base.dtype).min / 2, base, torch.zeros_like(base))


def _given(source: Given, hooks: Sequence[str], prompts: int) -> Callable[[slice], Replacing]:
    if len(source.values) != len(hooks):
        raise InputError(f"Given activations must be one tensor for each of the {len(hooks)} layers.")

    def of_block(block: slice) -> Replacing:
        def put(layer: int, base: Tensor, _: Tensor | None) -> Tensor:
            value = source.values[layer]
            if value.shape != (prompts, *base.shape[1:]):
                raise InputError(
                    f"Given activations must have the shape {[prompts, *base.shape[1:]]} at {hooks[layer]}, not "
                    f"{list(value.shape)}."
                )
            return value[block].to(base)

        return put

    return of_block


def _lengths(base: Tensor, source: Tensor, lengths: Tensor | None) -> Int[Tensor, " prompt"]:
    if base.ndim != 2 or base.shape != source.shape:
        raise InputError(
            f"base and source must have one shape [prompt, position]; received {list(base.shape)} and "
            f"{list(source.shape)}. Align prompts of unequal length first (mechlist.datasets.pairs.align)."
        )
    whole = torch.full((len(base),), base.shape[1])
    if lengths is None:
        return whole
    chosen = torch.as_tensor(lengths, dtype=torch.long)
    if chosen.shape != whole.shape or ((chosen < 1) | (chosen > whole)).any():
        raise InputError(
            f"lengths must be from 1 to {base.shape[1]}, one for each of the {len(base)} prompts, not "
            f"{chosen.tolist()}."
        )
    return chosen


def _warn(values: Values, task: Task, named: str | None, coords: dict[str, list[Any]]) -> None:
    """Say which prompts have nothing to recover, and which of the sets that were asked for cannot do anything."""
    if values.source is not None:
        same = (values.base == values.source).nonzero()[:, 0].tolist()
        if same:
            warnings.warn(
                f"recovered is NaN for the prompts {same}: base and source measure the same there, so there is nothing "
                "to recover.",
                stacklevel=3,
            )
    # Roles are the last axis of the cells.
    blind = task.blind.view(-1, len(coords[named])).all(dim=0).nonzero()[:, 0].tolist() if named is not None else []
    if blind and named is not None:
        names = [coords[named][i] for i in blind]
        warnings.warn(
            f"The {named}s {names} change only what comes after every position that the metric reads: they cannot have "
            "an effect.",
            stacklevel=3,
        )


def _dataset(values: Values, axes: dict[str, int], coords: dict[str, list[Any]], unit: str, site: str) -> xr.Dataset:
    dims = ("prompt", *axes)
    patched = values.patched.double().numpy().reshape(len(values.base), *axes.values())
    base = values.base.double().numpy()
    variables: dict[str, Any] = {"patched": (dims, patched, {"units": unit}), "base": ("prompt", base, {"units": unit})}
    if values.source is not None:
        source = values.source.double().numpy()
        gap = np.where(base == source, np.nan, source - base).reshape(-1, *[1] * len(axes))
        variables["source"] = ("prompt", source, {"units": unit})
        variables["recovered"] = (dims, (patched - base.reshape(gap.shape)) / gap)
    return xr.Dataset(variables, coords=coords, attrs={"site": site, "path": values.path})
