"""The parts of the `list-hazard` results: every list, hazards by condition, and what chosen heads change."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.process import PROCESSES
from mechlist.experiments.list_curves import (
    Hazards,
    curve,
    hazards,
    median_change,
    sampled_curve,
    sampling_noise,
    total_variation,
)
from mechlist.experiments.list_endings import Endings, endings, true_endings
from mechlist.experiments.list_hazard.heads import CLEAN
from mechlist.experiments.list_hazard.process import process_hazards
from mechlist.experiments.list_predictions import Positions, drawing_rules
from mechlist.metrics.by_topic import ENDS, LEVEL, ratio_variables
from mechlist.metrics.ratios import ratio_draws
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.runner import Runner
from mechlist.text import ALL_LISTS

RULES = ("model", "as drawn", "sampled", "truth", "truth as drawn")
"""The model itself, at T = 1 without nucleus; by the rules that a list was drawn with; Kaplan-Meier of the lists; the
process of `list-tiny` in closed form, as it is and where its lists are drawn by these rules."""
BINS = (0.0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Ends of the bins of the model's probability of an end, in which its error is told."""
Variables = dict[str, Any]


class Read(NamedTuple):
    """Lists with the probability of an end after each item: the model's at T = 1, and the process's with its filler."""

    lists: ListSet
    model: Endings
    truth: Endings

    @classmethod
    def of(cls, lists: ListSet, end: Positions, capacities: Mapping[str, int]) -> "Read":
        """From the model's probability of the end after each position."""
        return cls(lists, endings(end, lists), true_endings(lists, capacities))

    def chosen(self, rows: Int[np.ndarray, " row"]) -> "Read":
        """Those of some of the lists."""
        return Read(self.lists.of(rows), self.model.of(rows), self.truth.of(rows))


def every_list(given: Read, drawn: Endings) -> xr.Dataset:
    """Probability of the end after each item of each list, in both stages, and how the list itself went on."""
    lists, dims = given.lists, ("list", "item")
    variables: Variables = {
        "end_inside": (dims, given.model.inside),
        "end_at_break": (dims, given.model.at_break),
        "drawn_end_inside": (dims, drawn.inside),
        "drawn_end_at_break": (dims, drawn.at_break),
        "true_end_at_break": (dims, given.truth.at_break),
        "filler": (dims, lists.fillers),
        "n_items": ("list", lists.n_items, {"units": "items"}),
        "ended": ("list", lists.ended),
        "time": ("list", lists.time, {"units": "items"}),
    }
    return xr.Dataset(variables, coords=lists.coords("temperature") | {"item": np.arange(1, lists.width + 1)})


def by_condition(
    runner: Runner, given: Read, drawn: Endings, own: Read, capacities: Mapping[str, int], resamples: int
) -> xr.Dataset:
    """Hazard, survival and length of the lists of each adjective and temperature, by each of the `RULES`.

    Args:
        runner: for its seed.
        given: lists that are read.
        drawn: the probability of an end along these by the rules that they were drawn with.
        own: lists of the same prompts at T = 1 without nucleus, where there are some; else the given ones.
        capacities: number of items by topic, of the process; empty where it is not known.
        resamples: of topics.
    """
    found, items = given.lists.by_condition(), max(given.lists.width, own.lists.width)
    words = np.array(own.lists.adjective)
    parts = [
        _condition(
            runner,
            given.lists.of(one.rows),
            drawn.of(one.rows).padded(items),
            # The given lists of other temperatures are no lists of this one.
            given.chosen(one.rows) if own is given else own.chosen(np.flatnonzero(words == one.adjective)),
            capacities,
            resamples,
        )
        for one in found
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
    values = change.T
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
    for i, end in enumerate(ENDS):
        variables[f"items_change{end}"] = (("of_lists", "set"), means[..., i], {"units": "items"})
    variables |= _gap_between(runner, items, clean, names, resamples)
    coords = {
        "set": names,
        "of_lists": of,
        "written_topic": ("written", topics.tolist()),
        "written_adjective": ("written", words.tolist()),
    }
    return xr.Dataset(variables, coords=coords)


def _gap_between(
    runner: Runner, items: Float[np.ndarray, "set list"], clean: ListSet, names: list[str], resamples: int
) -> Variables:
    """By how many items long lists are longer than short ones with each set (`items_gap`), and its change.

    Means of both kinds over whole topics that are drawn again; NaN where there are not both.
    """
    words, topics = np.array(clean.adjective), clean.clusters
    kinds = [np.flatnonzero(words == word) for word in ("short", "long")]
    gap, change = np.full(len(names), np.nan), np.full((len(names), 3), np.nan)
    if all(len(rows) for rows in kinds):
        drawn = []
        for rows in kinds:
            generator = runner.numpy_generator("written gap")
            values = items[:, rows].T
            below = np.ones_like(values)
            drawn.append(ratio_draws(values, below, topics[rows], resamples=resamples, generator=generator))
        apart, first = drawn[1].less(drawn[0]), names.index(CLEAN)
        changed = apart.map(lambda rows: rows - rows[:, [first]])
        gap, change = apart.whole, np.stack([changed.whole, *changed.interval(LEVEL)], axis=1)
    variables: Variables = {"items_gap": ("set", gap, {"units": "items"})}
    for i, end in enumerate(ENDS):
        variables[f"items_gap_change{end}"] = ("set", change[:, i], {"units": "items"})
    return variables


def _condition(
    runner: Runner, lists: ListSet, drawn: Endings, own: Read, capacities: Mapping[str, int], resamples: int
) -> xr.Dataset:
    by_rule = _hazards(runner, lists, drawn, own, capacities, resamples)
    items = drawn.inside.shape[1]
    columns = (lists.time, lists.ended, lists.clusters)
    generator = runner.numpy_generator("hazard")
    curves = {rule: curve(one) for rule, one in by_rule.items()}
    curves["sampled"] = sampled_curve(*columns, items, resamples=resamples, generator=generator)
    ordered = [curves[rule] for rule in RULES]
    variables: Variables = {}
    for name in ("hazard", "survival"):
        variables[name] = (("rule", "item"), np.stack([getattr(c, name) for c in ordered]))
        for i, end in enumerate(("low", "high")):
            ends = [getattr(c, f"{name}_ends")[i] for c in ordered]
            variables[f"{name}_{end}"] = (("rule", "item"), np.stack(ends))
    variables["length"] = (("rule", "item"), np.stack([c.length for c in ordered]))
    variables["lists_at"] = (("rule", "item"), np.stack([c.lists for c in ordered]))
    for name in ("median", "mean"):
        rows = [(getattr(c, name), *getattr(c, f"{name}_ends")) for c in ordered]
        for i, end in enumerate(ENDS):
            variables[f"{name}_items{end}"] = ("rule", [row[i] for row in rows], {"units": "items"})
    as_drawn, sampled = curves["as drawn"], curves["sampled"]
    variables["variation_from_sampled"] = ((), total_variation(as_drawn.hazard, sampled.hazard))
    generator = runner.numpy_generator("sampling noise")
    noise = sampling_noise(as_drawn.hazard, sampled.lists, resamples=resamples, generator=generator)
    variables["sampling_noise"] = ((), noise)
    variables["variation_from_truth"] = ((), total_variation(curves["model"].hazard, curves["truth"].hazard))
    variables |= _told_apart(by_rule) | _truth_error(runner, own, resamples)
    variables["n_lists"] = ((), len(lists))
    variables["n_lists_ended"] = ((), int(lists.ended.sum()))
    bins = [f"{low:.0%} to {high:.0%}" for low, high in pairwise(BINS)]
    coords = {"rule": list(RULES), "item": np.arange(1, items + 1), "probability": bins}
    return xr.Dataset(variables, coords=coords)


def _hazards(
    runner: Runner, lists: ListSet, drawn: Endings, own: Read, capacities: Mapping[str, int], resamples: int
) -> dict[str, Hazards]:
    """By each of the rules but Kaplan-Meier; all are drawn again with the same topics."""
    items, found = drawn.inside.shape[1], {}
    for rule, one, of in (("model", own.model.padded(items), own.lists), ("as drawn", drawn, lists)):
        generator = runner.numpy_generator("hazard")
        found[rule] = hazards(one, of.clusters, resamples=resamples, generator=generator)
    rules = set(drawing_rules(lists))
    process = PROCESSES.get(lists.prompts[0].adjective)
    for rule, of in (("truth", None), ("truth as drawn", rules.pop() if len(rules) == 1 else None)):
        known = process if rule == "truth" or of is not None else None
        found[rule] = process_hazards(known, capacities, lists.topic, items=items, rule=of)
    return found


def _told_apart(by_rule: Mapping[str, Hazards]) -> Variables:
    """Differences of the median number of items: of the model from the process, and what the rule of drawing does."""
    pairs = {
        "model_error_items": ("model", "truth"),
        "model_error_items_as_drawn": ("as drawn", "truth as drawn"),
        "rule_effect_items": ("as drawn", "model"),
        "rule_effect_items_truth": ("truth as drawn", "truth"),
    }
    variables: Variables = {}
    for name, (one, other) in pairs.items():
        found = median_change(by_rule[one], by_rule[other])
        for end, value in zip(ENDS, found, strict=True):
            variables[f"{name}{end}"] = ((), value, {"units": "items"})
    return variables


def _truth_error(runner: Runner, own: Read, resamples: int) -> Variables:
    """How the probability of the end differs from the true one, over the line breaks of the model's own lists.

    Its mean size (`error_at_break`), its mean with its sign (`signed_error_at_break`), and the latter by bins of the
    model's probability (`signed_error`, at so many `error_breaks`).
    """
    model, error = own.model.at_break, own.model.at_break - own.truth.at_break
    told = np.isfinite(error)
    place = np.digitize(np.nan_to_num(model), BINS[1:-1])
    in_bin = told[..., None] & (place[..., None] == np.arange(len(BINS) - 1))
    filled = np.where(told, error, 0.0)
    cells = {
        "error_at_break": ((), np.abs(filled).sum(axis=1), told.sum(axis=1)),
        "signed_error_at_break": ((), filled.sum(axis=1), told.sum(axis=1)),
        "signed_error": (("probability",), (in_bin * filled[..., None]).sum(axis=1), in_bin.sum(axis=1)),
    }
    variables: Variables = {"error_breaks": (("probability",), in_bin.sum(axis=(0, 1)))}
    for name, (dims, above, below) in cells.items():
        generator = runner.numpy_generator("truth")
        topics = own.lists.clusters
        variables |= ratio_variables(name, dims, above, below, topics, resamples=resamples, generator=generator)
    return variables
