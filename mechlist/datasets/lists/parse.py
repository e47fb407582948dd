"""What a list is, in tokens: items, fillers and the end of a list, by the study's definitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from mechlist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ListTokens:
    """Ids of the special tokens, which give a list its form."""

    hyphen: int
    line_break: int
    end_of_turn: int
    blank: int
    bos: int | None
    eos: int | None

    def __post_init__(self) -> None:
        special = {"hyphen": self.hyphen, "line_break": self.line_break, "blank": self.blank}
        special |= {"end_of_turn": self.end_of_turn}
        for name, token in special.items():
            twin = next((other for other, id_ in special.items() if other != name and id_ == token), None)
            if twin is not None:
                raise InputError(f"{name} and {twin} must be different tokens; both are {token}.")

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end a list: end of turn, and eos where it is another one."""
        return tuple(sorted({token for token in (self.end_of_turn, self.eos) if token is not None}))


@dataclass(frozen=True)
class Item:
    """One line of a list; every number is a position in the sequence that it was read from."""

    hyphen: int
    content: range
    """Tokens of the item itself, without hyphen, filler and line break; never empty."""
    filler: int | None
    """A blank right before the line break."""
    line_break: int | None
    """None where the line was cut off."""


@dataclass(frozen=True)
class ParsedList:
    """A sequence read as a list."""

    items: tuple[Item, ...]
    ended: int | None
    """Position of the first end of turn or eos; None where the list runs on to the end of the tokens."""

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

    @property
    def n_whole_items(self) -> int:
        """Items whose line was seen to its end: by a line break, or by the end of the list."""
        return sum(self.ended is not None or item.line_break is not None for item in self.items)


def parse_list(tokens: Sequence[int], special: ListTokens, *, start: int = 0) -> ParsedList:
    """Read a list, which begins with the prefilled hyphen at `start`; what stands before it is no part of it.

    An item is a line that starts with the hyphen token and has at least one content token; hyphens inside a line belong
    to the item. A blank right before a line break is a filler and not content; blanks alone are no content. A line that
    is cut off by the end of the turn or of the tokens has the content it has and no filler. What follows the end of the
    turn is not read.
    """
    ends = special.ends
    ended = next((i for i in range(start, len(tokens)) if tokens[i] in ends), None)
    stop = len(tokens) if ended is None else ended
    items = []
    while start < stop:
        line_break = next((i for i in range(start, stop) if tokens[i] == special.line_break), None)
        end = stop if line_break is None else line_break
        item = _item(tokens, start, end, line_break, special)
        if item is not None:
            items.append(item)
        start = end + 1
    return ParsedList(tuple(items), ended)


def until_end(tokens: Sequence[int], special: ListTokens, *, start: int = 0) -> Sequence[int]:
    """The tokens without those behind the first end of turn or eos at or after `start`."""
    ends = special.ends
    ended = next((i for i in range(start, len(tokens)) if tokens[i] in ends), None)
    return tokens if ended is None else tokens[: ended + 1]


def survival_time(tokens: Sequence[int], parsed: ParsedList, special: ListTokens, *, start: int = 0) -> int:
    """Number of items of a list that ended; else the number of items after which it is known not to have ended.

    A list that the token cap cuts in the middle of an item has come past its complete items and is censored at their
    number: what it would have done after the item it was writing is not known, so it is not at risk there. The same
    holds where the cap left a bare hyphen. Cut right behind a line break, or in text that is no item, the list had not
    yet gone on to another item, and is censored one item earlier: to count it as at risk after its last item would
    take the cap for a choice to go on. A list of which nothing was generated tells nothing: -1.
    """
    if parsed.ended is not None:
        return len(parsed.items)
    breaks = [place for place in range(start, len(tokens)) if tokens[place] == special.line_break]
    line = tokens[breaks[-1] + 1 if breaks else start :]
    # The first hyphen is prefilled: alone, it is no choice of the model's.
    goes_on = len(line) > (0 if breaks else 1) and line[0] == special.hyphen
    return parsed.n_whole_items - (0 if goes_on else 1)


def well_formed(tokens: Sequence[int], special: ListTokens, *, start: int = 0) -> bool:
    """Whether the list ended and every line of it is a hyphen, content, at most one filler, and a line break.

    Content neither begins nor ends with a blank, and does not begin with a second hyphen.
    """
    parsed = parse_list(tokens, special, start=start)
    if parsed.ended is None or not parsed.items or tokens[parsed.ended - 1] != special.line_break:
        return False
    lines = sum(token == special.line_break for token in tokens[start : parsed.ended])
    outer = [(tokens[item.content[0]], tokens[item.content[-1]]) for item in parsed.items]
    tidy = all(first not in (special.blank, special.hyphen) and last != special.blank for first, last in outer)
    return tidy and lines == len(parsed.items)


def _item(tokens: Sequence[int], start: int, end: int, line_break: int | None, special: ListTokens) -> Item | None:
    """The line from `start` up to `end` as an item, if it is one."""
    if tokens[start] != special.hyphen:
        return None
    filler = end - 1 if line_break is not None and end - 1 > start and tokens[end - 1] == special.blank else None
    content = range(start + 1, end if filler is None else filler)
    if all(tokens[i] == special.blank for i in content):
        return None
    return Item(start, content, filler, line_break)
