"""The parts of the `list-temperature` results: line breaks, and the endings that the model did not prefer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.decode import Sampling
from mechlist.experiments import whole_lists as lists_of
from mechlist.experiments.list_hazard.hazards import conditions, numpy_generator
from mechlist.experiments.list_predictions import by_item as at_items
from mechlist.experiments.list_predictions import end_tokens, final_places, read
from mechlist.experiments.whole_lists import Lists
from mechlist.metrics.ratios import ratio_interval
from mechlist.runner import Runner
from mechlist.runner.batch import Batch

Variables = dict[str, Any]


def line_breaks(runner: Runner, lists: Lists, rules: Sequence[Sampling], items: int) -> xr.Dataset:
    """Of the line break after each item: the logit difference, whether the end comes first, its probability by rule.

    `end_first` of a list is whether the end was the most probable token where the list did end.
    """
    readings = read(runner, lists, drawn=[None] * len(lists), label="Reading lists")
    final = final_places(lists)
    first = np.where(final >= 0, readings.end_first[np.arange(len(lists)), final], np.nan)
    variables: Variables = {
        "end_logit": (("list", "item"), at_items(readings.end_logit, lists, "line_break", items)),
        "end_first_at_break": (("list", "item"), at_items(readings.end_first, lists, "line_break", items)),
        "end_at_break": (("list", "item", "grid"), _by_rule(runner, lists, rules, items)),
        "ended": ("list", final >= 0),
        "end_first": ("list", first),
        "n_items": ("list", lists_of.n_items(lists), {"units": "items"}),
        "time": ("list", [one.time for one in lists], {"units": "items"}),
    }
    return xr.Dataset(variables, coords=lists_of.labels(lists) | {"item": np.arange(1, items + 1)})


def by_item(runner: Runner, level: xr.Dataset, resamples: int) -> xr.Dataset:
    """Means over the lists of each adjective that got to an item."""
    adjectives = [name for name in lists_of.ORDER if name in level["adjective"].values]
    rows = np.stack([level["adjective"].values == name for name in adjectives], axis=1)
    variables: Variables = {}
    for name, dims in (("end_logit", ("item",)), ("end_at_break", ("item", "grid"))):
        values = level[name].values[:, None]
        told = np.isfinite(values) & rows.reshape(len(rows), -1, *[1] * len(dims))
        above = np.where(told, values, 0.0)
        variables |= _means(runner, f"mean_{name}", ("by_adjective", *dims), above, told, level, resamples)
        if name == "end_logit":
            variables["lists_at"] = (("by_adjective", "item"), told.sum(axis=0))
    return xr.Dataset(variables, coords={"by_adjective": adjectives, "item": level["item"], "grid": level["grid"]})


def endings(runner: Runner, level: xr.Dataset, resamples: int) -> xr.Dataset:
    """By adjective and the temperature of the lists themselves: endings and goings-on that the model did not prefer.

    `noise_endings` is the share of lists that ended although the end was not the most probable token;
    `noise_goings_on` the share of line breaks with the end as the most probable token after which a list went on.
    """
    found = conditions(level)
    member = np.zeros((level.sizes["list"], len(found)), dtype=bool)
    for column, (_, _, rows) in enumerate(found):
        member[rows, column] = True
    ended = level["ended"].values[:, None] & member
    noise = ended & (level["end_first"].values[:, None] == 0)
    item, time = level["item"].values[None], level["time"].values[:, None]
    # Behind its last line break, a list that was cut off there might as well have ended.
    preferred = (np.nan_to_num(level["end_first_at_break"].values) == 1) & (item <= time)
    passed = preferred & ~((item == time) & level["ended"].values[:, None])
    dims = ("condition",)
    variables = _means(runner, "noise_endings", dims, noise, ended, level, resamples)
    variables |= _means(
        runner,
        "noise_goings_on",
        dims,
        member * passed.sum(axis=1)[:, None],
        member * preferred.sum(axis=1)[:, None],
        level,
        resamples,
    )
    variables["n_ended"] = (dims, ended.sum(axis=0))
    variables["n_noise"] = (dims, noise.sum(axis=0))
    coords = {
        "condition_adjective": ("condition", [name for name, _, _ in found]),
        "condition_temperature": ("condition", [temperature for _, temperature, _ in found]),
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
    adjectives = [name for name in lists_of.ORDER if name in level["adjective"].values]
    rows = np.stack([level["adjective"].values == name for name in adjectives], axis=1)[..., None]
    variables = _means(
        runner,
        "expected_noise_endings",
        ("by_adjective", "grid"),
        rows * noise.sum(axis=1)[:, None],
        rows * ending.sum(axis=1)[:, None],
        level,
        resamples,
    )
    return xr.Dataset(variables, coords={"by_adjective": adjectives, "grid": level["grid"]})


def _means(
    runner: Runner,
    name: str,
    dims: tuple[str, ...],
    above: np.ndarray,
    below: np.ndarray,
    level: xr.Dataset,
    resamples: int,
) -> Variables:
    """Ratio of sums over lists, with an interval over topics."""
    above, below = above.astype(float), below.astype(float)
    generator = numpy_generator(runner, name)
    low, high = ratio_interval(above, below, level["topic"].values, resamples=resamples, generator=generator)
    sums = below.sum(axis=0)
    mean = np.divide(above.sum(axis=0), sums, out=np.full(sums.shape, np.nan), where=sums > 0)
    return {name: (dims, mean), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}


def _by_rule(
    runner: Runner, lists: Lists, rules: Sequence[Sampling], items: int
) -> Float[np.ndarray, "list item rule"]:
    """Probability of the end at every line break by each rule."""
    out = np.full((len(lists), items, len(rules)), np.nan)
    places = [
        [one.prompt.hyphen + item.line_break for item in one.parsed.items if item.line_break is not None]
        for one in lists
    ]
    rows = [number for number, of_list in enumerate(places) if of_list]
    if not rows:
        return out
    width = max(map(len, places))
    positions = torch.tensor([[*places[i], *[places[i][-1]] * (width - len(places[i]))] for i in rows])
    ends, vocab = end_tokens(lists[0].marks), runner.shape.d_vocab_out

    def function(batch: Batch) -> dict[str, Tensor]:
        logits = batch.logits()
        # One row at a time: the whole distributions in double precision are the largest tensors here.
        by_rule = [torch.stack([rule.probability_of(row, ends) for row in logits.float()]) for rule in rules]
        return {"end": torch.stack(by_rule, dim=2)}

    found = runner.map(
        [lists[i].tokens for i in rows],
        function,
        positions=positions,
        row_bytes=lambda _, kept: 48 * kept * vocab,
        label="Reading line breaks at temperatures",
    )["end"].numpy()
    for row, number in enumerate(rows):
        out[number, : len(places[number])] = found[row, : len(places[number])]
    return out
