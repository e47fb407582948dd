"""What experiments on lists run on: lists with their roles and topics, and the same with the adjective swapped."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import ListPrompt, PromptedList
from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.datasets.lists.roles import Roles, list_roles, positions
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.list_directions import Direction, list_directions
from mechlist.experiments.list_sources import SWAP, adjective_tokens, read_lists, write_lists
from mechlist.runner import Runner
from mechlist.runner.batching import pad_right
from mechlist.text import visible

NO_ADJECTIVE = "none"


@dataclass(frozen=True, kw_only=True, eq=False)
class ListData:
    """Lists, in the order short, long, none; every list ends with its end of turn."""

    tokens: Int[Tensor, "list position"]
    """Padded on the right; `rows` has them without padding."""
    lengths: Int[Tensor, " list"]
    roles: list[Roles]
    adjective: list[str]
    """short, long or none."""
    topic: list[str]
    """Lists of one topic are one cluster."""
    marks: ListTokens
    prompts: list[ListPrompt]
    source: Literal["recorded", "written"]
    adjective_tokens: Mapping[str, int]
    """Ids of the adjectives that are known."""

    @property
    def rows(self) -> list[Tensor]:
        """The tokens of each list, as the Runner takes them."""
        return [row[:n] for row, n in zip(self.tokens, self.lengths.tolist(), strict=True)]

    @property
    def clusters(self) -> np.ndarray:
        """The topic of each list."""
        return np.array(self.topic)

    @property
    def n_items(self) -> Int[np.ndarray, " list"]:
        """Items of each list."""
        return np.array([one.n_items for one in self.roles])

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """(A) end of turn minus hyphen at line breaks; (B) blank minus line break at the last token of an item."""
        return list_directions(self.marks)

    @property
    def coords(self) -> dict[str, tuple[str, list[Any]]]:
        """Labels over the dimension `list`, as a Dataset takes them."""
        return {
            "topic": ("list", [visible(topic) for topic in self.topic]),
            "adjective": ("list", list(self.adjective)),
            "n_items": ("list", self.n_items.tolist()),
        }

    def positions(self, role: str, count_from: CountFrom = "start") -> Int[np.ndarray, "list item"]:
        """Where a role stands in each item of each list; -1 where a list has no such item, or the item no such role.

        Item 0 is the first, or counted from the end the last.

        Raises:
            InputError: a role that does not exist, or that can stand more than once in an item.
        """
        key = f"item_from_{count_from}"
        columns = [positions(self.roles, role, **{key: item}) for item in range(self.n_items.max())]
        return np.stack(columns, axis=1)

    def select(self, *adjectives: str) -> "ListData":
        """The lists with one of the adjectives.

        Raises:
            InputError: no list has one.
        """
        chosen = [i for i, adjective in enumerate(self.adjective) if adjective in adjectives]
        if not chosen:
            there = ", ".join(dict.fromkeys(self.adjective))
            raise InputError(f"adjective must be one that the lists have ({there}), not {' or '.join(adjectives)}.")
        return self._of(chosen)

    def swapped(self) -> "ListData":
        """Short lists after the long prompt and the other way round; lists without adjective are left out.

        Row i is row i of `select("short", "long")` but for the adjective's one token, so roles and lengths are the
        same.

        Raises:
            InputError: no list with an adjective, or one whose opposite's token is not known.
        """
        data = self.select(*SWAP)
        prompts = []
        for prompt in data.prompts:
            other = SWAP[prompt.adjective]
            if other not in self.adjective_tokens:
                raise InputError(
                    f"To swap {prompt.adjective!r} for {other!r}, the recorded lists must hold both, or the model have "
                    "a tokenizer."
                )
            prompts.append(prompt.with_adjective(other, self.adjective_tokens[other]))
        tokens = data.tokens.clone()
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt.tokens)] = torch.tensor(prompt.tokens)
        return replace(data, tokens=tokens, prompts=prompts, adjective=[prompt.adjective for prompt in prompts])

    def _of(self, chosen: list[int]) -> "ListData":
        lengths = self.lengths[chosen]
        columns = {
            name: [getattr(self, name)[i] for i in chosen] for name in ("roles", "adjective", "topic", "prompts")
        }
        return replace(self, tokens=self.tokens[chosen, : int(lengths.max())], lengths=lengths, **columns)


@dataclass(frozen=True, kw_only=True)
class ListExperiment(Experiment):
    """Base of the experiments on lists: where their lists come from."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    recorded: tuple[Path, ...] = ()
    """Files of recorded lists, or folders of them, such as `exports/lists` of a generate-lists run; without, lists are
    written from the items of topics."""
    topics: tuple[str, ...] = ()
    """Topics to use; by default all that are recorded, or those of the study."""
    temperature: float | int | None = None
    """Only lists recorded at this temperature."""
    lists: int = 2
    """At most so many lists of each topic and adjective, the first ones that ended."""
    items: int = 8
    """Items of each written list; the last has a filler."""

    def __post_init__(self) -> None:
        for name in ("lists", "items"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.temperature is not None and not self.recorded:
            raise InputError("temperature chooses among recorded lists: give them with recorded.")

    def data(self, runner: Runner) -> ListData:
        """The lists to run on.

        Raises:
            InputError: as `read_lists` or `write_lists`.
        """
        if not self.recorded:
            lists, marks = write_lists(runner.tokenizer, self.topics, at_most=self.lists, items=self.items)
            return list_data(lists, marks, source="written", tokenizer=runner.tokenizer)
        lists, marks = read_lists(
            self.recorded,
            topics=self.topics,
            temperature=self.temperature,
            at_most=self.lists,
            tokenizer=runner.tokenizer,
        )
        return list_data(lists, marks, source="recorded", tokenizer=runner.tokenizer)


def list_data(
    lists: list[PromptedList], marks: ListTokens, *, source: Literal["recorded", "written"], tokenizer: Any = None
) -> ListData:
    """Lists with the roles of their positions."""
    rows = [torch.tensor(one.tokens) for one in lists]
    prompts = [one.prompt for one in lists]
    return ListData(
        tokens=pad_right(rows),
        lengths=torch.tensor([len(row) for row in rows]),
        roles=[list_roles(one.prompt, one.completion, marks) for one in lists],
        adjective=[prompt.adjective or NO_ADJECTIVE for prompt in prompts],
        topic=[prompt.topic for prompt in prompts],
        marks=marks,
        prompts=prompts,
        source=source,
        adjective_tokens=adjective_tokens(prompts, tokenizer),
    )
