"""One list up to where it is looked at, as written and with the other adjective, and the places that decide."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.made import made_lists
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import SWAP, list_prompt
from mechlist.datasets.lists.read import read_lists
from mechlist.datasets.topics import choose_topics
from mechlist.errors import InputError


@dataclass(frozen=True)
class OneList:
    """A set of one list, as what is read item by item."""

    of: ListSet

    @property
    def tokens(self) -> tuple[int, ...]:
        """Request and list."""
        return tuple(self.of.rows[0].tolist())

    @property
    def start(self) -> int:
        """Position of the prefilled hyphen."""
        return self.of.starts[0]

    @property
    def special(self) -> ListTokens:
        """The special tokens."""
        return self.of.special

    @property
    def adjective(self) -> str:
        """As labels show it."""
        return self.of.adjective[0]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Position of each item's last token, and of the line break behind it."""
        items = self.of.parsed[0].items
        return [(item.content[-1], item.line_break) for item in items if item.line_break is not None]

    @property
    def swappable(self) -> bool:
        """Whether another adjective may take the place of this one."""
        return SWAP.get(self.adjective) in self.of.adjective_tokens

    def cut(self, item: int) -> "OneList":
        """The list up to the line break behind an item, counted from 1."""
        return OneList(replace(self.of, rows=(self.of.rows[0][: self.places[item - 1][1] + 1],)))

    def swapped(self) -> "OneList":
        """The same list behind the other adjective.

        Raises:
            InputError: there is no other.
        """
        return OneList(self.of.swapped())


def made_list(tokenizer: Any, topic: str, adjective: str, items: int, *, filler: bool) -> OneList:
    """A list of a topic's best-known items, with a filler on the last or on none, and the line break behind it.

    Raises:
        InputError: a topic that there is not or that has fewer items; a tokenizer that does not write items as lines.
    """
    (names,) = choose_topics((), (topic,)).values()
    if items > len(names):
        raise InputError(f"item must be at most {len(names)}, the items of {topic!r} that are known, not {items}.")
    prompt = list_prompt(tokenizer, topic, adjective)
    return OneList(made_lists(tokenizer, [prompt], [names[:items]], filler=filler)).cut(items)


def recorded_list(tokenizer: Any, file: Path, topic: str, number: int) -> OneList:
    """The `number`-th recorded list of a topic, counted from 1; of the file's first topic without one.

    Raises:
        InputError: a file that cannot be read or is of another tokenizer; a list that there is not.
    """
    lists = read_lists((file,), keep_cut_off=True, tokenizer=tokenizer)
    topic, topics = topic or lists.topic[0], list(dict.fromkeys(lists.topic))
    if topic not in topics:
        raise InputError(f"topic must be one of {', '.join(topics)}, those of {file}, not {topic!r}.")
    own = [i for i, name in enumerate(lists.topic) if name == topic]
    if not 1 <= number <= len(own):
        raise InputError(f"number must be from 1 to {len(own)}, the recorded lists of {topic!r}, not {number}.")
    return OneList(lists.of([own[number - 1]]))
