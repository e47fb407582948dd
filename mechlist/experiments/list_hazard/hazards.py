"""The parts of the `list-hazard` results: every list, hazards by condition, and what chosen heads change."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from mechlist.experiments import whole_lists as lists_of
from mechlist.experiments.list_hazard.curves import (
    Curve,
    curve,
    hazards,
    mean_change,
    sampled_curve,
    sampling_noise,
    total_variation,
)
from mechlist.experiments.list_hazard.heads import CHOSEN, CLEAN
from mechlist.experiments.list_predictions import Readings, Stages, fillers, stages
from mechlist.experiments.whole_lists import Lists
from mechlist.metrics.ratios import ratio_interval
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.runner import Runner

RULES = ("model", "as drawn", "sampled", "truth")
"""The model itself; the rules that a list was drawn with; Kaplan-Meier of the lists; the process of `list-tiny`."""
ALL = "all"
Variables = dict[str, Any]


def numpy_generator(runner: Runner, purpose: str) -> np.random.Generator:
    """A random generator that follows from the Runner's seed and from what it is for."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=runner.generator(purpose))))


def every_list(lists: Lists, readings: Readings, truth: Stages, items: int) -> xr.Dataset:
    """Probability of the end after each item of each list, in both stages, and how the list itself went on."""
    own, drawn = stages(readings.end, lists, items), stages(readings.drawn_end, lists, items)
    dims = ("list", "item")
    variables: Variables = {
        "end_inside": (dims, own.inside),
        "end_at_break": (dims, own.at_break),
        "drawn_end_inside": (dims, drawn.inside),
        "drawn_end_at_break": (dims, drawn.at_break),
        "true_end_at_break": (dims, truth.at_break),
        "filler": (dims, fillers(lists, items)),
        "n_items": ("list", lists_of.n_items(lists), {"units": "items"}),
        "ended": ("list", [one.parsed.ended is not None for one in lists]),
        "time": ("list", [one.time for one in lists], {"units": "items"}),
    }
    return xr.Dataset(variables, coords=lists_of.labels(lists) | {"item": np.arange(1, items + 1)})


def by_condition(runner: Runner, level: xr.Dataset, resamples: int) -> xr.Dataset:
    """Hazard, survival and length of the lists of each adjective and temperature, by each of the `RULES`."""
    found = conditions(level)
    parts = [_condition(runner, level.isel(list=rows), resamples) for _, _, rows in found]
    results = xr.concat(parts, "condition", data_vars="all", coords="minimal", compat="override", join="exact")
    labels = {
        "condition_adjective": ("condition", [adjective for adjective, _, _ in found]),
        "condition_temperature": ("condition", [temperature for _, temperature, _ in found]),
    }
    return results.assign_coords(labels)


def read_with_heads(runner: Runner, lists: Lists, readings: Mapping[str, Readings], resamples: int) -> xr.Dataset:
    """Hazards of given lists with each set of heads changed, by adjective; the mean number of items against `clean`."""
    adjectives, items = lists_of.adjectives_in(lists), int(lists_of.n_items(lists).max())
    topics, kinds = lists_of.clusters(lists), np.array([one.adjective for one in lists])
    shape = (len(readings), len(adjectives))
    curves, change = np.full((*shape, 3, items), np.nan), np.full((*shape, 3), np.nan)
    told = np.zeros((len(adjectives), items), dtype=int)
    for a, adjective in enumerate(adjectives):
        rows = kinds == adjective
        found = {
            name: hazards(
                Stages(*(part[rows] for part in stages(one.end, lists, items))),
                topics[rows],
                resamples=resamples,
                generator=numpy_generator(runner, f"heads {adjective}"),
            )
            for name, one in readings.items()
        }
        told[a] = found[CLEAN].lists
        for s, one in enumerate(found.values()):
            made = curve(one)
            curves[s, a] = made.hazard, *made.hazard_ends
            change[s, a] = mean_change(one, found[CLEAN])
    dims = ("set", "by_adjective", "item")
    variables: Variables = {"changed_lists": (dims[1:], told.astype(float))}
    for i, end in enumerate(("", "_low", "_high")):
        variables[f"changed_hazard{end}"] = (dims, curves[:, :, i])
        variables[f"changed_mean_items{end}"] = (dims[:2], change[..., i], {"units": "items"})
    coords = {"set": list(readings), "by_adjective": adjectives, "item": np.arange(1, items + 1)}
    return xr.Dataset(variables, coords=coords)


def written_with_heads(runner: Runner, written: Mapping[str, Lists], resamples: int) -> xr.Dataset:
    """Lists written again with each set of heads changed: their items against those of the same list of `clean`.

    Each list is compared with the one of the same prompt and random numbers. A list that was cut off counts with the
    items that it has.
    """
    clean = written[CLEAN]
    items = np.stack([lists_of.n_items(one) for one in written.values()]).astype(float)
    ended = np.stack([[one.parsed.ended is not None for one in lists] for lists in written.values()])
    names, adjectives = list(written), lists_of.adjectives_in(clean)
    kinds, topics = np.array([one.adjective for one in clean]), lists_of.clusters(clean)
    change = items - items[names.index(CLEAN)]
    controls = [i for i, name in enumerate(names) if name not in (CLEAN, CHOSEN)]
    beyond = change[names.index(CHOSEN)] - (change[controls].mean(axis=0) if controls else np.nan)
    values = np.concatenate([change, beyond[None]]).T
    of = [*adjectives, ALL]
    means = np.full((len(of), values.shape[1], 3), np.nan)
    for a, adjective in enumerate(of):
        rows = np.full(len(clean), True) if adjective == ALL else kinds == adjective
        ends = bootstrap_interval(
            values[rows], resamples=resamples, clusters=topics[rows], generator=numpy_generator(runner, "written")
        )
        means[a] = np.stack([values[rows].mean(axis=0), *ends], axis=1)
    variables: Variables = {
        "written_items": (("set", "written"), items, {"units": "items"}),
        "written_ended": (("set", "written"), ended),
    }
    for i, end in enumerate(("", "_low", "_high")):
        variables[f"items_change{end}"] = (("of_lists", "set"), means[:, :-1, i], {"units": "items"})
        variables[f"items_change_beyond_controls{end}"] = ("of_lists", means[:, -1, i], {"units": "items"})
    coords = {
        "set": names,
        "of_lists": of,
        "written_topic": ("written", lists_of.labels(clean)["topic"][1]),
        "written_adjective": ("written", kinds.tolist()),
    }
    return xr.Dataset(variables, coords=coords)


def conditions(level: xr.Dataset) -> list[tuple[str, float, np.ndarray]]:
    """Adjectives with temperatures, ascending, and the numbers of their lists; unknown temperatures are one."""
    adjective, temperature = level["adjective"].values, level["temperature"].values
    shown = np.where(np.isnan(temperature), np.inf, temperature)
    found = []
    for name in (name for name in lists_of.ORDER if name in adjective):
        for value in np.unique(shown[adjective == name]):
            rows = np.flatnonzero((adjective == name) & (shown == value))
            found.append((name, float(value) if np.isfinite(value) else np.nan, rows))
    return found


def _condition(runner: Runner, part: xr.Dataset, resamples: int) -> xr.Dataset:
    curves = _curves(runner, part, resamples)
    variables: Variables = {}
    for name in ("hazard", "survival"):
        variables[name] = (("rule", "item"), np.stack([getattr(c, name) for c in curves]))
        for i, end in enumerate(("low", "high")):
            ends = [getattr(c, f"{name}_ends")[i] for c in curves]
            variables[f"{name}_{end}"] = (("rule", "item"), np.stack(ends))
    variables["length"] = (("rule", "item"), np.stack([c.length for c in curves]))
    variables["lists_at"] = (("rule", "item"), np.stack([c.lists for c in curves]))
    for name in ("median", "mean"):
        rows = [(getattr(c, name), *getattr(c, f"{name}_ends")) for c in curves]
        for i, end in enumerate(("", "_low", "_high")):
            variables[f"{name}_items{end}"] = ("rule", [row[i] for row in rows], {"units": "items"})
    model, drawn, sampled, truth = curves
    variables["variation_from_sampled"] = ((), total_variation(drawn.hazard, sampled.hazard))
    noise = numpy_generator(runner, "sampling noise")
    variables["sampling_noise"] = (
        (),
        sampling_noise(drawn.hazard, sampled.lists, resamples=resamples, generator=noise),
    )
    variables["variation_from_truth"] = ((), total_variation(model.hazard, truth.hazard))
    variables |= _truth_error(runner, part, resamples)
    variables["n_lists"] = ((), part.sizes["list"])
    variables["n_lists_ended"] = ((), int(part["ended"].sum()))
    return xr.Dataset(variables, coords={"rule": list(RULES), "item": part["item"].values})


def _curves(runner: Runner, part: xr.Dataset, resamples: int) -> Sequence[Curve]:
    """Curves by each of the `RULES`; all are drawn again with the same topics."""
    topics, items = part["topic"].values, part.sizes["item"]

    def read(inside: np.ndarray, at_break: np.ndarray) -> Curve:
        generator = numpy_generator(runner, "hazard")
        return curve(hazards(Stages(inside, at_break), topics, resamples=resamples, generator=generator))

    inside, at_break, drawn_inside, drawn_at_break, true = (
        part[name].values
        for name in ("end_inside", "end_at_break", "drawn_end_inside", "drawn_end_at_break", "true_end_at_break")
    )
    return (
        read(inside, at_break),
        read(drawn_inside, drawn_at_break),
        sampled_curve(
            part["time"].values,
            part["ended"].values,
            topics,
            items,
            resamples=resamples,
            generator=numpy_generator(runner, "hazard"),
        ),
        read(np.where(np.isfinite(true), 0.0, np.nan), true),
    )


def _truth_error(runner: Runner, part: xr.Dataset, resamples: int) -> Variables:
    """Mean absolute difference of the probability of the end from the true one, over all line breaks of the lists."""
    error = np.abs(part["end_at_break"].values - part["true_end_at_break"].values)
    told = np.isfinite(error)
    above, below = np.nan_to_num(error).sum(axis=1), told.sum(axis=1).astype(float)
    generator = numpy_generator(runner, "truth")
    low, high = ratio_interval(above, below, part["topic"].values, resamples=resamples, generator=generator)
    mean = above.sum() / below.sum() if below.sum() else np.nan
    return {
        "error_at_break": ((), mean),
        "error_at_break_low": ((), float(low)),
        "error_at_break_high": ((), float(high)),
    }
