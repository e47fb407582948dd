"""Lists that experiments run on, whatever they come from: tokens, roles, items, topics, and how they were drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mechlist.datasets.lists.conditions import Condition, conditions
from mechlist.datasets.lists.directions import Direction, list_directions
from mechlist.datasets.lists.parse import ListTokens, ParsedList, parse_list, survival_time, until_end
from mechlist.datasets.lists.prompts import SWAP, ListPrompt, in_order, swapped_prompt
from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.datasets.lists.roles import Roles, gather, list_roles, positions
from mechlist.errors import InputError
from mechlist.text import visible

Origin = Literal["recorded", "made", "sampled"]
"""Read from a file, made of given items, or drawn from the model in this run."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a list comes from; lists of one file, or of one call of the model, share it."""

    origin: Origin
    special: ListTokens
    """Of the tokenizer that the list is written in."""
    model: str = ""
    """That wrote it; empty where it was made."""
    path: Path | None = None
    """Of its file."""
    temperature: float | int | None = None
    """None where it is not known, or nothing was drawn."""
    top_p: float | int | None = None
    max_new_tokens: int | None = None
    """Tokens after which it was cut off."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ListSet:
    """Lists with what is known of each; entry i of every column is of list i."""

    rows: tuple[Int[Tensor, " _"], ...]
    """Whole sequences, prompt and list, up to the first end of turn or eos or to where they were cut off."""
    starts: tuple[int, ...]
    """Position of the prefilled hyphen, with which each list begins."""
    topic: tuple[str, ...]
    adjective: tuple[str, ...]
    """As labels show it: short, long, another word, or none."""
    number: tuple[int, ...]
    """Which list of its topic in its file, or of its prompt, counted from 1."""
    provenance: tuple[Provenance, ...]
    prompts: tuple[ListPrompt, ...] = ()
    """Empty where nobody asked for the places of their parts; there are no roles then, and no swap."""
    adjective_tokens: Mapping[str, int] = field(default_factory=dict)
    """Ids of short and long, where they are known."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def tokens(self) -> Int[Tensor, "list position"]:
        """All rows, padded on the right with 0."""
        return torch.nn.utils.rnn.pad_sequence(list(self.rows), batch_first=True)

    @property
    def lengths(self) -> Int[Tensor, " list"]:
        """Tokens of each row."""
        return torch.tensor([len(row) for row in self.rows])

    @property
    def scored(self) -> Bool[Tensor, "list next"]:
        """Of each position but the last whether the token behind it is the list's own, and not padding."""
        where = torch.arange(int(self.lengths.max()))
        return (where[:-1] >= torch.tensor(self.starts)[:, None]) & (where[1:] < self.lengths[:, None])

    @property
    def special(self) -> ListTokens:
        """The special tokens of all lists.

        Raises:
            InputError: lists of several tokenizers.
        """
        found = self.provenance[0].special
        other = next((one for one in self.provenance if one.special != found), None)
        if other is not None:
            raise InputError(
                f"recorded lists must be of one tokenizer: those of {other.model} have other special tokens."
            )
        return found

    @property
    def origin(self) -> Origin:
        """Of all lists."""
        return self.provenance[0].origin

    @property
    def temperature(self) -> Float[np.ndarray, " list"]:
        """That each list was drawn at; NaN where it is not known."""
        return _floats([one.temperature for one in self.provenance])

    @property
    def top_p(self) -> Float[np.ndarray, " list"]:
        """Nucleus of the drawing; NaN where it is not known."""
        return _floats([one.top_p for one in self.provenance])

    @cached_property
    def clusters(self) -> Shaped[np.ndarray, " list"]:
        """The topic of each list, as labels show it; lists of one topic are one cluster."""
        return _read_only(np.array([visible(topic) for topic in self.topic]))

    @property
    def adjectives(self) -> list[str]:
        """Those there are: short, long, others, none."""
        return in_order(self.adjective)

    @property
    def each_prompt(self) -> list[ListPrompt]:
        """The prompts, each once."""
        return list({prompt.tokens: prompt for prompt in self.prompts}.values())

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """(A) end of turn minus hyphen at line breaks; (B) blank minus line break at the last token of an item."""
        return list_directions(self.special)

    def coords(self, *names: str) -> dict[str, tuple[str, list[Any]]]:
        """Topic, adjective and more columns as labels over the dimension `list`."""
        more = {name: ("list", getattr(self, name).tolist()) for name in names}
        return {"topic": ("list", self.clusters.tolist()), "adjective": ("list", list(self.adjective)), **more}

    @cached_property
    def parsed(self) -> tuple[ParsedList, ...]:
        """Items and end of each list; every position is one of its row."""
        columns = zip(self.rows, self.starts, self.provenance, strict=True)
        return tuple(parse_list(row.tolist(), one.special, start=start) for row, start, one in columns)

    @cached_property
    def roles(self) -> tuple[Roles, ...]:
        """What each position of each row is."""
        columns = zip(self.rows, self.prompts, self.provenance, strict=True)
        return tuple(
            list_roles(prompt, row[len(prompt.tokens) :].tolist(), one.special) for row, prompt, one in columns
        )

    @property
    def n_items(self) -> Int[np.ndarray, " list"]:
        """Items of each list."""
        return np.array([len(one.items) for one in self.parsed], dtype=np.int64)

    @property
    def n_filler(self) -> Int[np.ndarray, " list"]:
        """Items with a filler."""
        return np.array([one.n_filler for one in self.parsed], dtype=np.int64)

    @property
    def ended(self) -> Bool[np.ndarray, " list"]:
        """Whether each list ended, and was not cut off."""
        return np.array([one.ended is not None for one in self.parsed], dtype=bool)

    @property
    def stops(self) -> Int[np.ndarray, " list"]:
        """Behind the last position whose next token is, or would be, part of the list."""
        ends = zip(self.parsed, self.rows, strict=True)
        return np.array([len(row) if one.ended is None else one.ended for one, row in ends], dtype=np.int64)

    @cached_property
    def time(self) -> Int[np.ndarray, " list"]:
        """Items that each list has, or after which it is known to go on; see `survival_time`."""
        columns = zip(self.rows, self.parsed, self.provenance, self.starts, strict=True)
        times = [survival_time(row.tolist(), one, of.special, start=start) for row, one, of, start in columns]
        return _read_only(np.array(times, dtype=np.int64))

    @property
    def width(self) -> int:
        """Items of the longest list, and 1 at least: the size of every axis `item`."""
        return max(1, int(self.n_items.max()))

    @property
    def whole(self) -> Bool[np.ndarray, "list item"]:
        """Whether each item's line was seen to its end: by a line break, or by the end of the list."""
        return np.arange(self.width) < np.array([one.n_whole_items for one in self.parsed])[:, None]

    @property
    def fillers(self) -> Float[np.ndarray, "list item"]:
        """1 where an item has a filler, 0 where it has none; NaN where there is no item, or its line was cut off."""
        found = np.full((len(self), self.width), np.nan)
        for row, one in zip(found, self.parsed, strict=True):
            for index, item in enumerate(one.items):
                if item.line_break is not None:
                    row[index] = item.filler is not None
        return found

    @property
    def item_tokens(self) -> Int[np.ndarray, "list item"]:
        """Content tokens of each item, without hyphen, filler and line break; 0 where there is no item."""
        found = np.zeros((len(self), self.width), dtype=np.int64)
        for row, one in zip(found, self.parsed, strict=True):
            row[: len(one.items)] = [len(item.content) for item in one.items]
        return found

    def most_items(self) -> dict[tuple[int, ...], int]:
        """Items of the longest list behind each prompt, which its tokens name."""
        most: dict[tuple[int, ...], int] = {}
        for prompt, number in zip(self.prompts, self.n_items.tolist(), strict=True):
            most[prompt.tokens] = max(most.get(prompt.tokens, 0), number)
        return most

    def positions(self, role: str, count_from: CountFrom = "start") -> Int[np.ndarray, "list item"]:
        """Where a role stands in each item of each list; -1 where a list has no such item, or the item no such role.

        Item 0 is the first, or counted from the end the last.

        Raises:
            InputError: a role that does not exist, or that can stand more than once in an item.
        """
        key = f"item_from_{count_from}"
        return np.stack([positions(self.roles, role, **{key: item}) for item in range(self.width)], axis=1)

    def by_item(
        self, values: Float[np.ndarray, "list position *cell"], role: str
    ) -> Float[np.ndarray, "list item *cell"]:
        """Values at the position of a role in each item; NaN where there is none, and in an item that was cut off.

        The last token of an item that was cut off is not known: more might have followed it.

        Raises:
            InputError: as `positions`.
        """
        columns = [gather(values, self.roles, role, item_from_start=item) for item in range(self.width)]
        found = np.stack(columns, axis=1)
        found[~self.whole] = np.nan
        return found

    def of(self, chosen: Sequence[int] | Int[np.ndarray, " row"]) -> "ListSet":
        """The lists of these numbers, in that order."""
        numbers = [int(i) for i in chosen]
        return replace(self, **{name: tuple(getattr(self, name)[i] for i in numbers) for name in self.columns})

    def select(self, *adjectives: str) -> "ListSet":
        """The lists with one of the adjectives.

        Raises:
            InputError: no list has one.
        """
        chosen = [i for i, adjective in enumerate(self.adjective) if adjective in adjectives]
        if not chosen:
            there = ", ".join(dict.fromkeys(self.adjective))
            raise InputError(f"adjective must be one that the lists have ({there}), not {' or '.join(adjectives)}.")
        return self.of(chosen)

    def ordered(self) -> "ListSet":
        """The same lists with short ones first, then long, others and none; otherwise as they stand."""
        order = self.adjectives
        return self.of(sorted(range(len(self)), key=lambda i: order.index(self.adjective[i])))

    @property
    def swappable(self) -> list[int]:
        """Numbers of the lists that stand behind short or long, in the order of `swapped`."""
        return [i for i, adjective in enumerate(self.adjective) if adjective in SWAP]

    def swapped(self) -> "ListSet":
        """Short lists after the long prompt and the other way round; lists with another adjective are left out.

        Row i is row i of `select("short", "long")` but for the adjective's one token, so roles and lengths are the
        same.

        Raises:
            InputError: no list with one of the two, or one whose opposite's token is not known.
        """
        chosen = self.select(*SWAP)
        return chosen.with_prompts([swapped_prompt(prompt, self.adjective_tokens) for prompt in chosen.prompts])

    def with_prompts(self, prompts: Sequence[ListPrompt]) -> "ListSet":
        """The same lists, each behind another prompt."""
        columns = zip(self.rows, self.starts, prompts, strict=True)
        rows = tuple(torch.cat([torch.tensor(prompt.tokens), row[start + 1 :]]) for row, start, prompt in columns)
        return replace(
            self,
            rows=rows,
            starts=tuple(prompt.hyphen for prompt in prompts),
            topic=tuple(prompt.topic for prompt in prompts),
            adjective=tuple(prompt.adjective_name for prompt in prompts),
            prompts=tuple(prompts),
        )

    def by_condition(self) -> list[Condition]:
        """Adjectives with temperatures, and which lists they have; see `conditions`."""
        return conditions(self.adjective, self.temperature)

    @property
    def columns(self) -> list[str]:
        """Names of the fields that hold one entry a list."""
        names = [one.name for one in fields(self) if one.name != "adjective_tokens"]
        return [name for name in names if getattr(self, name)]


def concatenated(parts: Sequence[ListSet]) -> ListSet:
    """The lists of one set after those of another; all have the same columns and the same tokenizer."""
    columns = {name: [entry for part in parts for entry in getattr(part, name)] for name in parts[0].columns}
    return replace(parts[0], **{name: tuple(entries) for name, entries in columns.items()})


def list_set(
    prompts: Sequence[ListPrompt],
    completions: Sequence[Sequence[int]],
    provenance: Provenance,
    *,
    numbers: Sequence[int] | None = None,
    adjective_tokens: Mapping[str, int] | None = None,
) -> ListSet:
    """Lists of one provenance from prompts and what follows their prefilled hyphens, cut behind its end.

    Args:
        prompts: one a list.
        completions: one a list.
        provenance: of all of them.
        numbers: of the lists; 1, 2, 3 and so on for each prompt by default.
        adjective_tokens: ids of short and long, where they are known.
    """
    rows = [prompt.with_completion(completion) for prompt, completion in zip(prompts, completions, strict=True)]
    special = provenance.special
    return ListSet(
        rows=tuple(
            torch.tensor(until_end(row, special, start=prompt.hyphen))
            for prompt, row in zip(prompts, rows, strict=True)
        ),
        starts=tuple(prompt.hyphen for prompt in prompts),
        topic=tuple(prompt.topic for prompt in prompts),
        adjective=tuple(prompt.adjective_name for prompt in prompts),
        number=tuple(_numbers(prompts) if numbers is None else numbers),
        provenance=(provenance,) * len(prompts),
        prompts=tuple(prompts),
        adjective_tokens=adjective_tokens or {},
    )


def _numbers(prompts: Sequence[ListPrompt]) -> list[int]:
    seen: dict[ListPrompt, int] = {}
    out = []
    for prompt in prompts:
        seen[prompt] = seen.get(prompt, 0) + 1
        out.append(seen[prompt])
    return out


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _floats(values: Sequence[float | int | None]) -> Float[np.ndarray, " list"]:
    return np.array([math.nan if value is None else float(value) for value in values])
