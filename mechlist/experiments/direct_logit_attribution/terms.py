"""Direct logit attribution of lists and of pairs of prompts: every term by direction, run, list and item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.lists.directions import Direction
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.pairs.pair import Pairs
from mechlist.errors import InputError
from mechlist.lens.direct import Attribution, direct_attribution
from mechlist.metrics.measure import Each
from mechlist.runner import Runner
from mechlist.text import visible

TERMS = {
    "heads": ("layer", "head"),
    "attention_bias": ("layer",),
    "mlp": ("layer",),
    "embedding": (),
    "bias": (),
    "total": (),
}
"""Variables of the results, with their dimensions after (direction, run, list, item)."""
LISTS, PAIRS = ("as written", "adjective swapped"), ("clean", "corrupt")
"""Runs of each list, and of each pair."""


@dataclass(frozen=True)
class _Run:
    """Attributions of some of the lists."""

    lists: Sequence[int]
    found: Attribution


def on_lists(runner: Runner, lists: ListSet, directions: Sequence[Direction]) -> xr.Dataset:
    """Every list, and every list with an adjective again with the other one, which leaves all positions in place."""
    numbers = lists.swappable
    swapped = list(lists.swapped().rows) if numbers else []
    parts = []
    for direction in directions:
        where = torch.from_numpy(lists.positions(direction.role))
        if not (where >= 0).any():
            raise InputError(f"role must be one that some list has in an item; none has {direction.role!r}.")
        # A single set of tokens stands for every list.
        of: dict[str, Each] = {"answer": [direction.answer], "wrong": [direction.wrong]}
        runs = {LISTS[0]: _run(runner, list(lists.rows), where, of)}
        if numbers and (where[numbers] >= 0).any():
            runs[LISTS[1]] = _run(runner, swapped, where[numbers], of, numbers)
        parts.append(_dataset(runs, len(lists), LISTS).expand_dims(direction=[direction.name]))
    out = xr.concat(parts, dim="direction")
    out["role"] = ("direction", [direction.role for direction in directions])
    out["filler"] = (("list", "item"), lists.fillers)
    return out.assign_coords(lists.coords("n_items")).assign_attrs(origin=lists.origin)


def on_pairs(runner: Runner, pairs: Pairs) -> xr.Dataset:
    """Both prompts of each pair, at their last token: answer minus wrong answer."""
    runs = {}
    for run in PAIRS:
        rows = [torch.tensor(getattr(pair, run)) for pair in pairs.pairs]
        where = torch.tensor([[len(row) - 1] for row in rows])
        of: dict[str, Each] = {name: [getattr(pair, name) for pair in pairs.pairs] for name in ("answer", "wrong")}
        runs[run] = _run(runner, rows, where, of)
    number = len(pairs.pairs)
    out = _dataset(runs, number, PAIRS).expand_dims(direction=["answer - wrong"])
    out["role"] = ("direction", ["last token"])
    topics = pairs.clusters or [f"pair {i + 1}" for i in range(number)]
    coords = {"topic": ("list", [visible(topic) for topic in topics]), "adjective": ("list", ["pairs"] * number)}
    return out.assign_coords({**coords, "n_items": ("list", [1] * number)}).assign_attrs(origin="pairs")


def _run(
    runner: Runner,
    rows: list[Int[Tensor, " _"]],
    where: Int[Tensor, "list item"],
    of: Mapping[str, Each],
    lists: Sequence[int] | None = None,
) -> _Run:
    found = direct_attribution(runner, rows, where, **of)
    return _Run(range(len(rows)) if lists is None else lists, found)


def _dataset(runs: Mapping[str, _Run], lists: int, names: Sequence[str]) -> xr.Dataset:
    """All terms by run, list and item; NaN where a list has no such item, or no such run."""
    variables = {}
    for name, dims in TERMS.items():
        values = {run: getattr(made.found, name) for run, made in runs.items()}
        if any(value is None for value in values.values()):
            continue
        shape = next(iter(values.values())).shape[1:]
        out = np.full((len(names), lists, *shape), np.nan, dtype=np.float32)
        for run, made in runs.items():
            out[names.index(run), list(made.lists)] = values[run].numpy()
        variables[name] = (("run", "list", "item", *dims), out, {"units": "logits"})
    sizes = {dim: list(range(variables["heads"][1].shape[axis])) for axis, dim in ((3, "layer"), (4, "head"))}
    error, largest = (max(getattr(made.found, name) for made in runs.values()) for name in ("error", "largest"))
    checks = {"error": ((), error), "largest": ((), largest)}
    return xr.Dataset({**variables, **checks}, coords={"run": list(names), **sizes})
