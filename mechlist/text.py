"""Text that people read: visible tokens, numbers with their intervals, counts, and the names of lists."""

import json
import math
import unicodedata
from collections.abc import Sequence

from mechlist.errors import InputError

_NAMED = {"\n": "⏎", "\t": "⇥"}
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}

NO_ADJECTIVE = "none"
"""How a label says that a prompt has no adjective."""
ALL_LISTS = "all"
_ORDER = {"short": 0, "long": 1, NO_ADJECTIVE: 3, ALL_LISTS: 4}
_LISTS = {NO_ADJECTIVE: "lists without adjective", ALL_LISTS: "all lists"}


def visible(text: str) -> str:
    r"""Readable plain text of a token: outer blanks '·', line break '⏎', tab '⇥', unseen characters escaped.

    Control characters, NUL, byte order marks, direction marks and lone surrogates become `\xNN` or `\uNNNN`,
    so the result always encodes to UTF-8. It is plain text: a plot needs `plot_text` or `token_labels` of
    `mechlist.figures`.
    """
    shown = "".join(_visible_character(character) for character in text)
    inner = shown.strip(" ")
    if not inner:
        return "·" * len(shown)
    left = len(shown) - len(shown.lstrip(" "))
    return "·" * left + inner + "·" * (len(shown) - left - len(inner))


def escaped(text: str) -> str:
    """A text as a label that any file can hold, in ASCII; `unescaped` gives the text back."""
    return json.dumps(text)


def unescaped(label: str) -> str:
    """The text that `escaped` made a label of."""
    return json.loads(label)


def number(value: float | int) -> str:
    """A value for a label: three decimals, three digits where that would hide it, or 'not measured'."""
    if math.isnan(value):
        return "not measured"
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3f}"
    return f"{value:.3g}"


def with_ends(value: float | int, low: float | int, high: float | int) -> str:
    """A value and its interval for a label: `0.940 [0.840, 1.140]`; the value alone where an end is NaN."""
    ends = "" if math.isnan(low) or math.isnan(high) else f" [{number(low)}, {number(high)}]"
    return number(value) + ends


def shortened(text: str, longest: int) -> str:
    """At most `longest` characters of a text, the last of them `…` where it was cut."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def between(low: float | int, high: float | int, form: str = "+.2f") -> str:
    """An interval behind its value: ` [low, high]`; nothing where it is not known, or is a point.

    Args:
        low: lower end; NaN where there is none.
        high: upper end.
        form: format of a number, such as `.1%`.
    """
    if not low < high:
        return ""
    return f" [{low:{form}}, {high:{form}}]"


def with_interval(value: float | int, low: float | int, high: float | int, form: str = "+.2f", unit: str = "") -> str:
    """A value with its unit and interval, as sentences have it: `1.23 nats [1.10, 1.35]`."""
    return f"{value:{form}}{f' {unit}' if unit else ''}{between(low, high, form)}"


def number_of(count: float | int, unit: str) -> str:
    """A count with its unit in the plural, or without its s: `1 list`, `2 lists`."""
    return f"{count:g} {unit[:-1] if count == 1 and unit.endswith('s') else unit}"


def time_text(seconds: float | int) -> str:
    """A time for people: `12 s`, `3 min` or `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def joined(texts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`.

    Raises:
        InputError: no text.
    """
    if not texts:
        raise InputError("texts must hold one text at least, not none.")
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def lists_named(adjective: str) -> str:
    """The lists of an adjective: `short lists`, `lists without adjective`, `all lists`."""
    return _LISTS.get(adjective, f"{adjective} lists")


def adjective_rank(adjective: str) -> int:
    """Place of an adjective's lists wherever several stand: short, long, any other, none, all lists together."""
    return _ORDER.get(adjective, 2)


def from_last(back: int) -> str:
    """An item counted from the end of its list: `last`, `last - 1` for the one before it, and so on."""
    return "last" if back == 0 else f"last - {back}"


def _visible_character(character: str) -> str:
    if character == " ":
        return character
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
