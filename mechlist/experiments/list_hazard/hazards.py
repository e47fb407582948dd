"""The parts of the `list-hazard` results: every list, hazards by condition, and what chosen heads change."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mechlist.datasets.lists.list_set import ListSet
from mechlist.experiments.list_curves import (
    Curve,
    curve,
    hazards,
    sampled_curve,
    sampling_noise,
    total_variation,
)
from mechlist.experiments.list_endings import Endings
from mechlist.experiments.list_hazard.heads import CHOSEN, CLEAN
from mechlist.metrics.by_topic import ratio_variables
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.runner import Runner
from mechlist.text import ALL_LISTS

RULES = ("model", "as drawn", "sampled", "truth")
"""The model itself; the rules that a list was drawn with; Kaplan-Meier of the lists; the process of `list-tiny`."""
Variables = dict[str, Any]


def every_list(lists: ListSet, by_rule: Mapping[str, Endings]) -> xr.Dataset:
    """Probability of the end after each item of each list, in both stages, and how the list itself went on."""
    own, drawn, truth = (by_rule[rule] for rule in RULES if rule != "sampled")
    dims = ("list", "item")
    variables: Variables = {
        "end_inside": (dims, own.inside),
        "end_at_break": (dims, own.at_break),
        "drawn_end_inside": (dims, drawn.inside),
        "drawn_end_at_break": (dims, drawn.at_break),
        "true_end_at_break": (dims, truth.at_break),
        "filler": (dims, lists.fillers),
        "n_items": ("list", lists.n_items, {"units": "items"}),
        "ended": ("list", lists.ended),
        "time": ("list", lists.time, {"units": "items"}),
    }
    return xr.Dataset(variables, coords=lists.coords("temperature") | {"item": np.arange(1, lists.width + 1)})


def by_condition(runner: Runner, lists: ListSet, by_rule: Mapping[str, Endings], resamples: int) -> xr.Dataset:
    """Hazard, survival and length of the lists of each adjective and temperature, by each of the `RULES`."""
    found = lists.by_condition()
    parts = [
        _condition(runner, lists.of(rows), {rule: one.of(rows) for rule, one in by_rule.items()}, resamples)
        for _, _, rows in found
    ]
    results = xr.concat(parts, "condition", data_vars="all", coords="minimal", compat="override", join="exact")
    labels = {
        "condition_adjective": ("condition", [one.adjective for one in found]),
        "condition_temperature": ("condition", [one.temperature for one in found]),
    }
    return results.assign_coords(labels)


def written_with_heads(runner: Runner, written: Mapping[str, ListSet], resamples: int) -> xr.Dataset:
    """Lists written again with each set of heads changed: their items against those of the same list of `clean`.

    Each list is compared with the one of the same prompt and random numbers. A list that was cut off counts with the
    items that it has.
    """
    clean = written[CLEAN]
    items = np.stack([one.n_items for one in written.values()]).astype(float)
    ended = np.stack([one.ended for one in written.values()])
    names, adjectives = list(written), clean.adjectives
    words, topics = np.array(clean.adjective), clean.clusters
    change = items - items[names.index(CLEAN)]
    controls = [i for i, name in enumerate(names) if name not in (CLEAN, CHOSEN)]
    beyond = change[names.index(CHOSEN)] - (change[controls].mean(axis=0) if controls else np.nan)
    values = np.concatenate([change, beyond[None]]).T
    of = [*adjectives, ALL_LISTS]
    means = np.full((len(of), values.shape[1], 3), np.nan)
    for a, adjective in enumerate(of):
        rows = np.full(len(clean), True) if adjective == ALL_LISTS else words == adjective
        ends = bootstrap_interval(
            values[rows], resamples=resamples, clusters=topics[rows], generator=runner.numpy_generator("written")
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
        "written_topic": ("written", topics.tolist()),
        "written_adjective": ("written", words.tolist()),
    }
    return xr.Dataset(variables, coords=coords)


def _condition(runner: Runner, lists: ListSet, by_rule: Mapping[str, Endings], resamples: int) -> xr.Dataset:
    curves = _curves(runner, lists, by_rule, resamples)
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
    generator = runner.numpy_generator("sampling noise")
    noise = sampling_noise(drawn.hazard, sampled.lists, resamples=resamples, generator=generator)
    variables["sampling_noise"] = ((), noise)
    variables["variation_from_truth"] = ((), total_variation(model.hazard, truth.hazard))
    variables |= _truth_error(runner, lists, by_rule, resamples)
    variables["n_lists"] = ((), len(lists))
    variables["n_lists_ended"] = ((), int(lists.ended.sum()))
    return xr.Dataset(variables, coords={"rule": list(RULES), "item": np.arange(1, len(model.hazard) + 1)})


def _curves(runner: Runner, lists: ListSet, by_rule: Mapping[str, Endings], resamples: int) -> Sequence[Curve]:
    """Curves by each of the `RULES`; all are drawn again with the same topics."""
    items = by_rule["model"].inside.shape[1]

    def one(rule: str) -> Curve:
        generator = runner.numpy_generator("hazard")
        if rule == "sampled":
            columns = (lists.time, lists.ended, lists.clusters)
            return sampled_curve(*columns, items, resamples=resamples, generator=generator)
        return curve(hazards(by_rule[rule], lists.clusters, resamples=resamples, generator=generator))

    return [one(rule) for rule in RULES]


def _truth_error(runner: Runner, lists: ListSet, by_rule: Mapping[str, Endings], resamples: int) -> Variables:
    """Mean absolute difference of the probability of the end from the true one, over all line breaks of the lists."""
    error = np.abs(by_rule["model"].at_break - by_rule["truth"].at_break)
    return ratio_variables(
        "error_at_break",
        (),
        np.nan_to_num(error).sum(axis=1),
        np.isfinite(error).sum(axis=1),
        lists.clusters,
        resamples=resamples,
        generator=runner.numpy_generator("truth"),
    )
