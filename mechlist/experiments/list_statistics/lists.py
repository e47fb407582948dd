"""What is known of each recorded list, and of each of its items."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from mechlist.datasets.lists.parse import ListTokens, ParsedList, parse_list
from mechlist.datasets.lists.recorded import RecordedLists, read_recorded, recorded_files
from mechlist.text import visible

_LIST_UNITS = {
    "n_items": "items",
    "n_whole_items": "items",
    "n_filler": "items",
    "n_single_token_items": "items",
    "survival_time": "items",
    "n_tokens_per_item": "tokens",
}


class Items(NamedTuple):
    """Of every item of every list."""

    list: Int[np.ndarray, " item"]
    """Number of its list."""
    from_start: Int[np.ndarray, " item"]
    """Items before it."""
    from_end: Int[np.ndarray, " item"]
    """Items after it; -1 where the list did not end."""
    tokens: Int[np.ndarray, " item"]
    """Of its content."""
    filler: Bool[np.ndarray, " item"]
    """Whether it has one."""
    whole: Bool[np.ndarray, " item"]
    """Whether its line was seen to its end."""


@dataclass(frozen=True)
class Lists:
    """Recorded lists, read."""

    level: xr.Dataset
    """One entry a list, over the dimension `list`."""
    items: Items
    sources: list[dict[str, Any]]
    """Of each file: name, SHA-256, model, adjective, temperature, top_p, max_new_tokens, number of lists."""

    @property
    def topics(self) -> list[str]:
        """In the order of the files."""
        return list(dict.fromkeys(self.level["topic"].values.tolist()))

    @property
    def adjectives(self) -> list[str]:
        """Those there are, in the order short, long, none."""
        return [name for name in ("short", "long", "none") if name in self.level["adjective"].values]

    @property
    def conditions(self) -> list[tuple[str, float]]:
        """Adjectives with temperatures, ascending; a temperature that is not known is NaN and comes last."""
        columns = {name: self.level[name].values for name in ("adjective", "temperature")}
        frame = pd.DataFrame(columns).drop_duplicates()
        pairs = zip(frame["adjective"].tolist(), frame["temperature"].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (self.adjectives.index(pair[0]), np.isnan(pair[1]), pair[1]))

    def in_adjective(self) -> np.ndarray:
        """Whether each list (rows) is of each adjective (columns)."""
        return self.level["adjective"].values[:, None] == np.array(self.adjectives)

    def in_condition(self) -> np.ndarray:
        """Whether each list (rows) is of each condition (columns)."""
        adjective, temperature = self.level["adjective"].values, self.level["temperature"].values
        columns = [
            (adjective == name) & ((temperature == t) | (np.isnan(temperature) & np.isnan(t)))
            for name, t in self.conditions
        ]
        return np.stack(columns, axis=1)

    def count(
        self, cells: Int[np.ndarray, " item"], n_cells: int, chosen: Bool[np.ndarray, " item"]
    ) -> Float[np.ndarray, "list cell"]:
        """Chosen items of each list (rows) by cell 0, 1, 2, ... (columns)."""
        counts = np.zeros((self.level.sizes["list"], n_cells))
        np.add.at(counts, (self.items.list[chosen], cells[chosen]), 1)
        return counts


def read_lists(paths: Sequence[Path]) -> Lists:
    """Every list of the files and directories.

    Raises:
        InputError: a path that holds nothing to read, or a file that is malformed.
    """
    rows: list[dict[str, Any]] = []
    items: list[tuple[Any, ...]] = []
    sources: list[dict[str, Any]] = []
    for file in recorded_files(paths):
        recorded = read_recorded(file)
        before = len(rows)
        for topic, lists in recorded.topics.items():
            for number, ids in enumerate(lists, start=1):
                completion = recorded.completion(ids)
                parsed = parse_list(completion, recorded.tokens)
                items += _items(len(rows), parsed)
                labels = {"topic": visible(topic), "number": number, "file": visible(file.name)}
                rows.append(_labels(recorded) | labels | _row(completion, parsed, recorded.tokens))
        sources.append(_source(file, recorded, len(rows) - before))
    return Lists(_level(pd.DataFrame(rows)), _arrays(items), sources)


def survival_time(completion: Sequence[int], parsed: ParsedList, tokens: ListTokens) -> int:
    """Number of items of a list that ended; else the number of items after which it is known not to have ended.

    A list that the token cap cuts in the middle of an item has come past its complete items and is censored at their
    number: what it would have done after the item it was writing is not known, so it is not at risk there. The same
    holds where the cap left a bare hyphen. Cut right behind a line break, or in text that is no item, the list had not
    yet gone on to another item, and is censored one item earlier: to count it as at risk after its last item would
    take the cap for a choice to go on. A completion of which nothing was generated tells nothing: -1.
    """
    if parsed.ended is not None:
        return len(parsed.items)
    breaks = [place for place, token in enumerate(completion) if token == tokens.line_break]
    line = completion[breaks[-1] + 1 if breaks else 0 :]
    # The first hyphen is prefilled: alone, it is no choice of the model's.
    goes_on = len(line) > (0 if breaks else 1) and line[0] == tokens.hyphen
    return sum(item.line_break is not None for item in parsed.items) - (0 if goes_on else 1)


def _items(number: int, parsed: ParsedList) -> list[tuple[Any, ...]]:
    ended, last = parsed.ended is not None, len(parsed.items) - 1
    return [
        (
            number,
            index,
            last - index if ended else -1,
            len(item.content),
            item.filler is not None,
            ended or item.line_break is not None,
        )
        for index, item in enumerate(parsed.items)
    ]


def _labels(recorded: RecordedLists) -> dict[str, Any]:
    temperature = np.nan if recorded.temperature is None else float(recorded.temperature)
    return {"adjective": recorded.adjective_name, "temperature": temperature, "model": visible(recorded.model)}


def _row(completion: Sequence[int], parsed: ParsedList, tokens: ListTokens) -> dict[str, Any]:
    ended = parsed.ended is not None
    lengths = [len(item.content) for item in parsed.items]
    return {
        "n_items": len(parsed.items),
        "ended": ended,
        "n_filler": parsed.n_filler,
        "filler_on_last": parsed.filler_on_last,
        "n_single_token_items": parsed.n_single_token_items,
        "filler_only_on_last": parsed.filler_on_last and parsed.n_filler == 1,
        "n_whole_items": sum(ended or item.line_break is not None for item in parsed.items),
        "n_tokens_per_item": float(np.mean(lengths)) if lengths else np.nan,
        "survival_time": survival_time(completion, parsed, tokens),
    }


def _source(file: Path, recorded: RecordedLists, n_lists: int) -> dict[str, Any]:
    return {
        "file": visible(file.name),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "model": visible(recorded.model),
        "adjective": recorded.adjective_name,
        "temperature": recorded.temperature,
        "top_p": recorded.top_p,
        "max_new_tokens": recorded.max_new_tokens,
        "n_lists": n_lists,
    }


def _level(frame: pd.DataFrame) -> xr.Dataset:
    labels = ("topic", "adjective", "temperature", "model", "file", "number")
    # pandas keeps text in a type of its own, which NetCDF does not know.
    columns = {name: np.array(frame[name].tolist()) for name in frame.columns}
    units = {name: {"units": _LIST_UNITS[name]} if name in _LIST_UNITS else {} for name in columns}
    return xr.Dataset(
        {name: ("list", values, units[name]) for name, values in columns.items() if name not in labels},
        coords={name: ("list", columns[name]) for name in labels},
    )


def _arrays(items: list[tuple[Any, ...]]) -> Items:
    columns = zip(*items, strict=True) if items else [()] * len(Items._fields)
    kinds = [bool if name in ("filler", "whole") else np.int64 for name in Items._fields]
    return Items(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))
