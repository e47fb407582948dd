"""What each head at the place that is measured carries of a factor's effect; and heads changed together."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from mechlist.experiments.effects import SEED, strongest
from mechlist.metrics.by_topic import LEVEL
from mechlist.metrics.margin import rank_p
from mechlist.metrics.ratios import clusters_of, ratio_draws
from mechlist.patching.ablation import matched_random_heads
from mechlist.patching.arguments import PatchArguments, prepare
from mechlist.patching.attribution import estimate_cells
from mechlist.patching.sweep.task import Task
from mechlist.runner import Runner
from mechlist.types import Head

RESAMPLES = 2000
HALVES = ("first half", "second half")


class Verified(NamedTuple):
    """Exact effects of the heads that were patched, and what could still be found among the others."""

    effects: Float[np.ndarray, "list cell"]
    """NaN where only estimated."""
    reach: float
    """What the mean effect of a head that was not patched could be, in size; 0 where all were."""


def verified_until(
    task: Task, estimate: Float[np.ndarray, "list cell"], count: int, block: int, *, every: bool
) -> Verified:
    """Patch heads exactly, those with the largest mean estimates first, until the `count` largest effects are known.

    A head that was not patched could reach its estimate times the largest ratio of effect and estimate among those that
    were: a bound as far as the other estimates are no worse. That is done when the `count`-th largest exact effect
    exceeds what any of them could reach; `every` patches all at once, which is cheap where a row carries one token.

    Args:
        task: one cell a head.
        estimate: effects to first order.
        count: effects that are to be known.
        block: heads a round.
        every: all in one round.
    """
    exact, size = np.full(estimate.shape, np.nan), np.abs(estimate.mean(axis=0))
    order = np.argsort(-size, kind="stable")
    step, reach = len(order) if every else max(1, block), np.inf
    for start in range(0, len(order), step):
        chosen = order[start : start + step]
        values = dataclasses.replace(task, parts=task.parts.only(torch.from_numpy(chosen))).values()
        exact[:, chosen] = (values.patched - values.base[:, None]).double().numpy()[:, chosen]
        known, rest = order[: start + step], order[start + step :]
        found = np.abs(exact[:, known].mean(axis=0))
        ratio = np.max(found[size[known] > 0] / size[known][size[known] > 0], initial=1.0)
        reach = float(ratio * size[rest].max(initial=0.0))
        if len(known) >= count and np.sort(found)[-count] > reach:
            break
    return Verified(exact, reach)


def shares(
    estimate: xr.DataArray, exact: xr.DataArray, gap: Float[np.ndarray, " list"], count: int
) -> dict[str, xr.DataArray]:
    """Of each head the mean effect as a share of the mean gap between the runs, exact and estimated.

    With intervals over topics, and the share of resamples of topics in which it is one of the `count` strongest.
    """
    topics = exact["topic"].values
    values = exact.values.reshape(len(exact), -1)
    gaps = np.repeat(gap[:, None], values.shape[1], axis=1)
    drawn = ratio_draws(np.nan_to_num(values), gaps, topics, resamples=RESAMPLES, generator=np.random.default_rng(SEED))
    there = np.isfinite(values).all(axis=0)
    known = there & (clusters_of(np.ones_like(values), topics) > 1)
    low, high = drawn.interval(LEVEL, known)
    chosen = np.stack([_top(np.where(there, one, 0.0), count) for one in drawn.again]).mean(axis=0)
    cells = exact.isel(list=0, drop=True)
    out = {
        "share": exact.mean("list", skipna=False) / gap.mean(),
        "share_low": cells.copy(data=low.reshape(cells.shape)),
        "share_high": cells.copy(data=high.reshape(cells.shape)),
        "estimate": estimate.mean("list") / gap.mean(),
    }
    out = {name: of.assign_attrs(units="share") for name, of in out.items()}
    return out | {"selected": cells.copy(data=chosen.reshape(cells.shape)).assign_attrs(units="share of resamples")}


def null_shares(
    runner: Runner, sources: Iterable[PatchArguments], exact: xr.DataArray, gap: Float[np.ndarray, " list"]
) -> xr.DataArray:
    """What an irrelevant change does at each head (null_draw, layer, head), as a share of the mean gap of the runs.

    Patched exactly where that is cheap, else to first order.

    Args:
        runner: with the model.
        sources: of each draw, arguments with a run put in that is not to differ in what is measured.
        exact: effects by list, layer and head, whose grid this is on.
        gap: between the runs, by list.
    """
    found, cells = [], exact.isel(list=0, drop=True)
    for arguments in sources:
        task = prepare(runner, arguments)
        if task.reason is None:
            values = task.values()
            effects = (values.patched - values.base[:, None]).double().numpy()
        else:
            effects = estimate_cells(runner, arguments)["effect"].values
        found.append(effects.reshape(len(exact), *cells.shape).mean(axis=0) / gap.mean())
    return xr.concat([cells.copy(data=one) for one in found], dim="null_draw").assign_attrs(units="share")


def joint(
    runner: Runner,
    arguments: PatchArguments,
    exact: xr.DataArray,
    gap: Float[np.ndarray, " list"],
    count: int,
    sets: int,
) -> dict[str, xr.DataArray]:
    """The `count` strongest heads of one half of the topics changed together on the other half, and the other way.

    Against `sets` sets of as many others of the same layers. Every list is in one of the halves, and counts once.

    Args:
        runner: with the model.
        arguments: of the heads at the place that is measured, its only role.
        exact: exact effects of single heads by list, layer and head.
        gap: between the runs, by list.
        count: heads that are chosen.
        sets: random sets.

    Returns:
        Nothing with fewer than two topics, or where the model has too few heads to choose others. Otherwise by list
        `joint_effect`, `joint_sum` (of the single effects) and `joint_random(draw)`, all of heads chosen without that
        list's topic; `joint_chosen(half, layer, head)`; their shares of the gap with intervals over topics; `joint_p`,
        the share of sets, random and chosen, that move as much as the chosen one.
    """
    topics = exact["topic"].values
    names = np.unique(topics)
    if len(names) < 2:
        return {}
    order = runner.numpy_generator("halves of topics").permutation(len(names))
    first = np.isin(topics, names[order[: len(names) // 2]])
    shape = (exact.sizes["layer"], exact.sizes["head"])
    effect, total = np.zeros((len(topics), 1 + sets)), np.zeros(len(topics))
    picked = np.zeros((2, *shape), dtype=bool)
    for half, selecting in enumerate((first, ~first)):
        mean = np.nan_to_num(exact.values[selecting].mean(axis=0))
        picked[half] = _top(mean.ravel(), count).reshape(shape)
        chosen: list[Head] = [(int(a), int(b)) for a, b in np.argwhere(picked[half])]
        generator = runner.generator(f"random heads against the {HALVES[half]}")
        others = [matched_random_heads(chosen, [], shape, generator) for _ in range(sets)]
        if not chosen or any(len(one) < len(chosen) for one in others):
            return {}
        held = np.flatnonzero(~selecting)
        effect[held] = _together(prepare(runner, arguments.select(held.tolist())), [chosen, *others], shape[1])
        total[held] = exact.values[held][:, picked[half]].sum(axis=1)
    return _joint_results(exact, gap, effect, total, picked)


def _together(task: Task, sets: list[list[Head]], heads: int) -> Float[np.ndarray, "list set"]:
    """Effects of sets of heads that are changed together; one cell a head in `task`."""
    cells = [torch.tensor([layer * heads + head for layer, head in one]) for one in sets]
    values = dataclasses.replace(
        task, parts=task.parts.together(cells), labels={"cell": list(range(len(sets)))}
    ).values()
    return (values.patched - values.base[:, None]).double().numpy()


def _joint_results(
    exact: xr.DataArray,
    gap: Float[np.ndarray, " list"],
    effect: Float[np.ndarray, "list set"],
    total: Float[np.ndarray, " list"],
    picked: Bool[np.ndarray, "half layer head"],
) -> dict[str, xr.DataArray]:
    topics = exact["topic"].values
    columns = np.concatenate([effect[:, :1], total[:, None]], axis=1)
    drawn = ratio_draws(
        columns,
        np.repeat(gap[:, None], 2, axis=1),
        topics,
        resamples=RESAMPLES,
        generator=np.random.default_rng(SEED),
    )
    low, high = drawn.interval(LEVEL)
    share = np.concatenate([effect, total[:, None]], axis=1).mean(axis=0) / gap.mean()
    logits, part = {"units": "logits"}, {"units": "share"}
    out = {
        "joint_effect": xr.DataArray(effect[:, 0], dims="list", attrs=logits),
        "joint_sum": xr.DataArray(total, dims="list", attrs=logits),
        "joint_random": xr.DataArray(effect[:, 1:], dims=("list", "draw"), attrs=logits),
        "joint_chosen": xr.DataArray(picked, dims=("half", "layer", "head"), coords={"half": list(HALVES)}),
        "joint_share": xr.DataArray(share[0], attrs=part),
        "joint_sum_share": xr.DataArray(share[-1], attrs=part),
        "joint_random_share": xr.DataArray(share[1:-1], dims="draw", attrs=part),
        "joint_p": xr.DataArray(rank_p(float(share[0]), share[1:-1])),
    }
    for place, name in enumerate(("joint_share", "joint_sum_share")):
        out[f"{name}_low"] = xr.DataArray(low[place], attrs=part)
        out[f"{name}_high"] = xr.DataArray(high[place], attrs=part)
    return out


def _top(mean: Float[np.ndarray, " cell"], count: int) -> Bool[np.ndarray, " cell"]:
    chosen = np.zeros(len(mean), dtype=bool)
    chosen[strongest(mean, count)] = True
    return chosen


def differing(base: Shaped[np.ndarray, " list"], source: Shaped[np.ndarray, " list"]) -> bool:
    """Whether there is an effect that a head could carry a share of: more than rounding, on average."""
    gap = float(np.mean(source - base))
    return bool(abs(gap) > 100 * np.finfo(np.float32).eps * float(np.abs([base, source]).max()))
