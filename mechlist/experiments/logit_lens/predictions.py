"""What the logit lens reads: lists, as written and with the adjective swapped, or pairs of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.lists.directions import Direction
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.pairs.pair import Pairs
from mechlist.errors import InputError
from mechlist.lens.logit_lens import Translate, checked_sets, lens_logits, set_difference
from mechlist.metrics.measure import Each
from mechlist.runner import Runner
from mechlist.text import visible

LISTS, PAIRS = ("as written", "adjective swapped"), ("clean", "corrupt")
"""Runs of each list, and of each pair."""


@dataclass(frozen=True)
class Run:
    """Prompts of one run."""

    rows: Sequence[Tensor]
    lists: list[int]
    """The list, or pair, of each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LensInputs:
    """Prompts, and for each direction where it is read and which tokens it compares."""

    runs: Mapping[str, Run]
    run_names: tuple[str, ...]
    directions: list[str]
    where: Int[Tensor, "list direction item"]
    """-1 where a list has no such position."""
    answer: list[Each]
    """Of each direction, for every list."""
    wrong: list[Each]
    trained: Int[Tensor, "list n"]
    """Positions that a tuned lens is trained on; -1 for none."""
    topics: list[str]
    coords: Mapping[str, Any]
    origin: str
    """Of lists, as in ListSet; `pairs` of pairs."""
    fillers: Float[np.ndarray, "list item"] | None = None
    """Of lists; see ListSet."""


def list_inputs(lists: ListSet, directions: Sequence[Direction]) -> LensInputs:
    """Every list, and every list with an adjective again with the other one, which leaves all positions in place.

    Raises:
        InputError: a direction whose role no list has.
    """
    where = []
    for direction in directions:
        where.append(torch.from_numpy(lists.positions(direction.role)))
        if not (where[-1] >= 0).any():
            raise InputError(f"role must be one that some list has in an item; none has {direction.role!r}.")
    runs = {LISTS[0]: Run(lists.rows, list(range(len(lists))))}
    if lists.swappable:
        runs[LISTS[1]] = Run(lists.swapped().rows, lists.swappable)
    return LensInputs(
        runs=runs,
        run_names=LISTS,
        directions=[direction.name for direction in directions],
        where=torch.stack(where, dim=1),
        # A single set of tokens stands for every list.
        answer=[[direction.answer] for direction in directions],
        wrong=[[direction.wrong] for direction in directions],
        # From the prefilled hyphen to the last token that another one follows.
        trained=_spans(lists.starts, [len(row) - 1 for row in lists.rows]),
        topics=list(lists.topic),
        coords=lists.coords("n_items"),
        origin=lists.origin,
        fillers=lists.fillers,
    )


def pair_inputs(pairs: Pairs) -> LensInputs:
    """Both prompts of each pair, at their last token."""
    runs = {}
    for name in PAIRS:
        rows = [torch.tensor(getattr(pair, name)) for pair in pairs.pairs]
        runs[name] = Run(rows, list(range(len(rows))))
    lengths = [len(pair.clean) for pair in pairs.pairs]
    topics = pairs.clusters or [f"pair {n}" for n in range(1, len(lengths) + 1)]
    coords = {"topic": ("list", [visible(topic) for topic in topics]), "adjective": ("list", ["pairs"] * len(lengths))}
    return LensInputs(
        runs=runs,
        run_names=PAIRS,
        directions=["answer - wrong"],
        where=torch.tensor(lengths)[:, None, None] - 1,
        answer=[[pair.answer for pair in pairs.pairs]],
        wrong=[[pair.wrong for pair in pairs.pairs]],
        # The first token, often BOS, is no more than the start.
        trained=_spans([min(1, n - 1) for n in lengths], lengths),
        topics=topics,
        coords={**coords, "n_items": ("list", [1] * len(lengths))},
        origin="pairs",
    )


def differences(runner: Runner, inputs: LensInputs, lenses: Mapping[str, Translate], *, softcap: bool) -> xr.Dataset:
    """Differences by lens, direction, run, list, item and stage; NaN where a list has no such item, or no such run."""
    shape = (len(lenses), len(inputs.run_names), *inputs.where.shape, runner.shape.n_layers + 1)
    found = np.full(shape, np.nan, dtype=np.float32)
    for number, translate in enumerate(lenses.values()):
        for name, run in inputs.runs.items():
            values = _differences(runner, inputs, run, translate, softcap)
            found[number, inputs.run_names.index(name), run.lists] = values.numpy()
    dims = ("lens", "run", "list", "direction", "item", "stage")
    capped = getattr(runner.language_model, "softcap", None)
    units = {"units": "logits" + (f" {'after' if softcap else 'before'} the softcap" if capped else "")}
    labels = {"lens": list(lenses), "run": list(inputs.run_names), "direction": inputs.directions}
    numbers = {"item": np.arange(1, shape[4] + 1), "stage": np.arange(shape[5])}
    variables: dict[str, Any] = {"difference": (dims, found, units)}
    if inputs.fillers is not None:
        variables["filler"] = (("list", "item"), inputs.fillers, {})
    return xr.Dataset(variables, {**inputs.coords, **labels, **numbers})


def _differences(runner: Runner, inputs: LensInputs, run: Run, translate: Translate, softcap: bool) -> Tensor:
    """All directions in one pass: float32 [row, direction, item, stage]."""
    where = inputs.where[run.lists]
    total, d_vocab = len(inputs.topics), runner.shape.d_vocab_out
    sides = [
        checked_sets(answer, wrong, total, d_vocab) for answer, wrong in zip(inputs.answer, inputs.wrong, strict=True)
    ]
    columns = torch.cat([ids[there] for pair in sides for ids, there in pair]).unique()
    logits = lens_logits(runner, run.rows, where.flatten(1), columns, softcap=softcap, translate=translate)
    logits = logits.unflatten(1, where.shape[1:])
    parts = []
    for number, (answer, wrong) in enumerate(sides):
        own = [(ids[run.lists], there[run.lists]) for ids, there in (answer, wrong)]
        parts.append(set_difference(logits[:, number], columns, *own))
    return torch.stack(parts, dim=1)


def _spans(starts: Sequence[int], stops: Sequence[int]) -> Int[Tensor, "list n"]:
    """The positions from each start up to its stop, padded with -1."""
    width = max(stop - start for start, stop in zip(starts, stops, strict=True))
    positions = torch.tensor(starts)[:, None] + torch.arange(width)
    return torch.where(positions < torch.tensor(stops)[:, None], positions, -1)
