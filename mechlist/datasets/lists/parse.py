"""What a list is, in tokens: items, fillers and the end of a completion, by the study's definitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from mechlist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ListTokens:
    """Token ids that give a list its form."""

    hyphen: int
    line_break: int
    end_of_turn: int
    blank: int
    bos: int | None
    eos: int | None

    def __post_init__(self) -> None:
        marks = {"hyphen": self.hyphen, "line_break": self.line_break, "blank": self.blank}
        marks |= {"end_of_turn": self.end_of_turn}
        for name, token in marks.items():
            twin = next((other for other, id_ in marks.items() if other != name and id_ == token), None)
            if twin is not None:
                raise InputError(f"{name} and {twin} must be different tokens; both are {token}.")

    def ends(self, token: int) -> bool:
        """Whether the token ends a list: end of turn, or eos."""
        return token in (self.end_of_turn, self.eos)


@dataclass(frozen=True)
class Item:
    """One line of a list; every number is an index into the completion it was read from."""

    hyphen: int
    content: range
    """Tokens of the item itself, without hyphen, filler and line break; never empty."""
    filler: int | None
    """A blank right before the line break."""
    line_break: int | None
    """None where the line was cut off."""


@dataclass(frozen=True)
class ParsedList:
    """A completion read as a list."""

    items: tuple[Item, ...]
    ended: int | None
    """Index of the first end of turn or eos; None where the list runs on to the end of the tokens."""

    @property
    def n_filler(self) -> int:
        """Items with a filler."""
        return sum(item.filler is not None for item in self.items)

    @property
    def filler_on_last(self) -> bool:
        """Whether the last item has a filler."""
        return bool(self.items) and self.items[-1].filler is not None

    @property
    def n_single_token_items(self) -> int:
        """Items of one content token."""
        return sum(len(item.content) == 1 for item in self.items)


def parse_list(completion: Sequence[int], tokens: ListTokens) -> ParsedList:
    """Read a completion, which begins with the prefilled hyphen, as a list.

    An item is a line that starts with the hyphen token and has at least one content token; hyphens inside a line belong
    to the item. A blank right before a line break is a filler and not content; blanks alone are no content. A line that
    is cut off by the end of the turn or of the tokens has the content it has and no filler. What follows the end of the
    turn is not read.
    """
    ended = next((i for i, token in enumerate(completion) if tokens.ends(token)), None)
    stop = len(completion) if ended is None else ended
    items, start = [], 0
    while start < stop:
        line_break = next((i for i in range(start, stop) if completion[i] == tokens.line_break), None)
        end = stop if line_break is None else line_break
        item = _item(completion, start, end, line_break, tokens)
        if item is not None:
            items.append(item)
        start = end + 1
    return ParsedList(tuple(items), ended)


def well_formed(completion: Sequence[int], tokens: ListTokens) -> bool:
    """Whether the list ended and every line of it is a hyphen, content, at most one filler, and a line break.

    Content neither begins nor ends with a blank, and does not begin with a second hyphen.
    """
    parsed = parse_list(completion, tokens)
    if parsed.ended is None or not parsed.items or completion[parsed.ended - 1] != tokens.line_break:
        return False
    lines = sum(token == tokens.line_break for token in completion[: parsed.ended])
    outer = [(completion[item.content[0]], completion[item.content[-1]]) for item in parsed.items]
    tidy = all(first not in (tokens.blank, tokens.hyphen) and last != tokens.blank for first, last in outer)
    return tidy and lines == len(parsed.items)


def _item(completion: Sequence[int], start: int, end: int, line_break: int | None, tokens: ListTokens) -> Item | None:
    """The line from `start` up to `end` as an item, if it is one."""
    if completion[start] != tokens.hyphen:
        return None
    filler = end - 1 if line_break is not None and end - 1 > start and completion[end - 1] == tokens.blank else None
    content = range(start + 1, end if filler is None else filler)
    if all(completion[i] == tokens.blank for i in content):
        return None
    return Item(start, content, filler, line_break)
