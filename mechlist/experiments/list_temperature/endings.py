"""The parts of the `list-temperature` results: line breaks, and the endings that the model did not prefer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from mechlist.datasets.lists.conditions import conditions, membership
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.prompts import in_order
from mechlist.decode import Sampling
from mechlist.decode.sampling import SORTED_COPIES
from mechlist.experiments.list_predictions import predict, read_logits
from mechlist.metrics.by_topic import ratio_variables, share_variables
from mechlist.runner import Runner

Variables = dict[str, Any]


def line_breaks(runner: Runner, lists: ListSet, rules: Sequence[Sampling]) -> xr.Dataset:
    """Of the line break after each item: the logit difference, whether the end comes first, its probability by rule.

    `end_first` of a list is whether the end was the most probable token where the list did end.
    """
    predictions = predict(runner, lists, label="Reading lists")
    last = predictions.end_first[np.arange(len(lists)), lists.stops - 1]
    variables: Variables = {
        "end_logit": (("list", "item"), lists.by_item(predictions.end_logit, "line_break")),
        "end_first_at_break": (("list", "item"), lists.by_item(predictions.end_first, "line_break")),
        "end_at_break": (("list", "item", "grid"), _by_rule(runner, lists, rules)),
        "ended": ("list", lists.ended),
        "end_first": ("list", np.where(lists.ended, last, np.nan)),
        "n_items": ("list", lists.n_items, {"units": "items"}),
        "time": ("list", lists.time, {"units": "items"}),
    }
    return xr.Dataset(variables, coords=lists.coords("temperature") | {"item": np.arange(1, lists.width + 1)})


def by_item(runner: Runner, level: xr.Dataset, resamples: int) -> xr.Dataset:
    """Means over the lists of each adjective that got to an item."""
    adjectives, rows = _by_adjective(level)
    variables: Variables = {}
    for name, dims in (("end_logit", ("item",)), ("end_at_break", ("item", "grid"))):
        values = level[name].values[:, None]
        told = np.isfinite(values) & rows.reshape(len(rows), -1, *[1] * len(dims))
        above = np.where(told, values, 0.0)
        variables |= _ratios(runner, f"mean_{name}", ("by_adjective", *dims), above, told, level, resamples)
        if name == "end_logit":
            variables["lists_at"] = (("by_adjective", "item"), told.sum(axis=0))
    return xr.Dataset(variables, coords={"by_adjective": adjectives, "item": level["item"], "grid": level["grid"]})


def endings(runner: Runner, level: xr.Dataset, resamples: int) -> xr.Dataset:
    """By adjective and temperature of the lists themselves: endings and continuations that the model did not prefer.

    `noise_endings` is the share of lists that ended although the end was not the most probable token;
    `noise_continuations` the share of line breaks with the end as the most probable token after which a list went on.
    """
    found = conditions(level["adjective"].values.tolist(), level["temperature"].values)
    member = membership([one.rows for one in found], level.sizes["list"])
    ended = level["ended"].values[:, None] & member
    noise = ended & (level["end_first"].values[:, None] == 0)
    item, time = level["item"].values[None], level["time"].values[:, None]
    # Behind its last line break, a list that was cut off there might as well have ended.
    preferred = (np.nan_to_num(level["end_first_at_break"].values) == 1) & (item <= time)
    passed = preferred & ~((item == time) & level["ended"].values[:, None])
    dims = ("condition",)
    counts = {
        "noise_endings": (noise, ended),
        "noise_continuations": (member * passed.sum(axis=1)[:, None], member * preferred.sum(axis=1)[:, None]),
    }
    variables: Variables = {}
    for name, (hits, among) in counts.items():
        generator, topics = runner.numpy_generator(name), level["topic"].values
        variables |= share_variables(name, dims, hits, among, topics, resamples=resamples, generator=generator)
    variables["n_ended"] = (dims, ended.sum(axis=0))
    variables["n_noise"] = (dims, noise.sum(axis=0))
    coords = {
        "condition_adjective": ("condition", [one.adjective for one in found]),
        "condition_temperature": ("condition", [one.temperature for one in found]),
    }
    return xr.Dataset(variables, coords=coords)


def expected_endings(runner: Runner, level: xr.Dataset, resamples: int) -> xr.Dataset:
    """Share of the endings at each temperature of the grid that sampling noise would make along the given lists.

    Each list is followed from line break to line break; the chance of an ending there is that of not having ended
    before, times the end's probability.
    """
    chance = np.nan_to_num(level["end_at_break"].values)
    reached = np.cumprod(np.concatenate([np.ones_like(chance[:, :1]), 1 - chance[:, :-1]], axis=1), axis=1)
    ending = reached * chance
    noise = ending * (level["end_first_at_break"].values == 0)[..., None]
    adjectives, rows = _by_adjective(level)
    variables = _ratios(
        runner,
        "expected_noise_endings",
        ("by_adjective", "grid"),
        rows[..., None] * noise.sum(axis=1)[:, None],
        rows[..., None] * ending.sum(axis=1)[:, None],
        level,
        resamples,
    )
    return xr.Dataset(variables, coords={"by_adjective": adjectives, "grid": level["grid"]})


def _by_adjective(level: xr.Dataset) -> tuple[list[str], np.ndarray]:
    """Adjectives in their order, and whether each list (rows) is of each of them (columns)."""
    adjectives = in_order(level["adjective"].values.tolist())
    return adjectives, level["adjective"].values[:, None] == np.array(adjectives)


def _ratios(
    runner: Runner,
    name: str,
    dims: tuple[str, ...],
    above: np.ndarray,
    below: np.ndarray,
    level: xr.Dataset,
    resamples: int,
) -> Variables:
    generator = runner.numpy_generator(name)
    return ratio_variables(name, dims, above, below, level["topic"].values, resamples=resamples, generator=generator)


def _by_rule(runner: Runner, lists: ListSet, rules: Sequence[Sampling]) -> Float[np.ndarray, "list item rule"]:
    """Probability of the end at every line break by each rule; NaN where an item has none."""
    ends = torch.tensor(lists.special.ends)
    found = read_logits(
        runner,
        lists.rows,
        torch.from_numpy(lists.positions("line_break")),
        lambda logits, _: {"end": torch.stack([rule.probability_of(logits, ends) for rule in rules], dim=1)},
        copies=SORTED_COPIES,
        label="Reading line breaks at temperatures",
    )
    return found["end"].numpy()
