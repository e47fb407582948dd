"""How conditions look: each has one colour, one kind of line and one place in the order, in every figure of a report.

A series is known by its label: `short`, `short lists` and `short lists, items before` are blue, and the last is dotted.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise

from mechlist.figures.style import INK, MUTED, SERIES
from mechlist.text import ALL_LISTS, NO_ADJECTIVE, adjective_rank

BLUE, RUST, GREEN, MUSTARD, PURPLE, SLATE, TEAL, MAGENTA = SERIES
WARMTH = ("#35106b", "#7d2482", "#c73d73", "#f2705c", "#fca469")
"""Sequential, from dark to light: of a temperature from 0 to `HOTTEST`, and of layers."""
HOTTEST = 1.5
"""Temperature of the light end; higher ones look the same."""


@dataclass(frozen=True)
class Look:
    """How a series is drawn."""

    colour: str
    dash: str = "solid"
    """Of lines; other than solid where the label names a second condition, such as lists after the other adjective."""

    @property
    def pattern(self) -> str:
        """Of bars: plain for solid lines, hatched for others."""
        return "" if self.dash == "solid" else "/"

    @property
    def symbol(self) -> str:
        """Of points: filled for solid lines, open for others."""
        return "circle" if self.dash == "solid" else "circle-open"


_ADJECTIVES = {"short": BLUE, "long": RUST, NO_ADJECTIVE: GREEN, ALL_LISTS: SLATE}
_OTHERS = (MUSTARD, MAGENTA, TEAL, PURPLE)
"""Of adjectives beside short and long."""
_FAMILIES: tuple[Mapping[str, Look], ...] = (
    {"clean": Look(TEAL), "corrupt": Look(MAGENTA, "dash")},
    {"denoising": Look(TEAL), "noising": Look(MAGENTA, "dash")},
    {"as written": Look(PURPLE), "adjective swapped": Look(MUSTARD, "dash")},
    {
        "no head changed": Look(INK),
        "heads": Look(MAGENTA),
        "control": Look(MUTED, "dash"),
        "random": Look(MUTED, "dash"),
    },
    {
        "the model itself": Look(TEAL),
        "as the lists were drawn": Look(MUSTARD),
        "the lists themselves": Look(PURPLE),
        "known truth": Look(INK, "dot"),
        "known truth as drawn": Look(MUTED, "dash"),
    },
    {"own": Look(TEAL), "written": Look(MUSTARD, "dash")},
    {"last item": Look(PURPLE), "earlier items": Look(SLATE, "dot"), "items before": Look(SLATE, "dot")},
    {"plain": Look(SLATE), "tuned": Look(TEAL, "dashdot")},
    {"with filler": Look(MAGENTA), "without filler": Look(TEAL, "dot")},
    {"ended": Look(SLATE), "cut off": Look(MAGENTA)},
)
"""Conditions that exclude each other, in their order. Of a label that names several, the first gives the colour."""
_FAMILY = {name: number for number, family in enumerate(_FAMILIES) for name in family}
_DASHES = ("dash", "dot", "dashdot", "longdash")
"""Of numbered controls."""

_SWAPPED = re.compile(r' after "[^"]*"')
_OUTER = re.compile(r" (?:lists|prompts|lens)$")
_WHOLE = {"lists without adjective": NO_ADJECTIVE, "all lists": ALL_LISTS}
_NUMBERED = re.compile(r"(control|random|layer|T =) (\d+(?:\.\d+)?)")
_HEAD = re.compile(r"L\d+H\d+(?: and \d+ more)?")


@dataclass(frozen=True)
class _Label:
    """What a label says, taken apart at commas, colons and parentheses."""

    adjective: str | None
    conditions: tuple[str, ...]
    """Those of `_FAMILIES`."""
    numbers: Mapping[str, float]
    """Of a control, of a layer, and the temperature."""
    rest: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "_Label":
        """What a label says."""
        adjective, conditions, numbers, rest = None, [], {}, []
        words = re.split(r"[,:()]", _SWAPPED.sub(", adjective swapped", text))
        for word in filter(None, (word.strip() for word in words)):
            part = "heads" if _HEAD.fullmatch(word) else _WHOLE.get(word, _OUTER.sub("", word))
            if found := _NUMBERED.fullmatch(part):
                part = found[1]
                numbers[part] = float(found[2])
            if adjective is None and (part in _ADJECTIVES or word.endswith(" lists")):
                adjective = part
            elif part in _FAMILY:
                conditions.append(part)
            elif not found:
                rest.append(part)
        return cls(adjective, tuple(conditions), numbers, tuple(rest))

    def rank(self, family: int) -> int:
        """Place among the conditions of a family; 0 for a label that names none of them."""
        names = [name for name in self.conditions if _FAMILY[name] == family]
        return list(_FAMILIES[family]).index(names[0]) if names else 0


def looks(labels: Sequence[str], *, other: str | None = None) -> list[Look]:
    """One look a series: that of its condition, or of its temperature or layer on a sequential scale.

    Args:
        labels: of all series of a figure.
        other: colour of labels that name none of these; by default they share the colours that are left.
    """
    read = _read(labels)
    adjectives = _adjective_colours({label.adjective for label in read if label.adjective})
    deepest = max((label.numbers.get("layer", 0.0) for label in read), default=0.0)
    known = [_known(label, adjectives, deepest) for label in read]
    taken = {look.colour for look in known if look}
    left = cycle([colour for colour in SERIES if colour not in taken] or SERIES)
    return [look or Look(other or next(left)) for look in known]


def in_order(labels: Sequence[str]) -> list[int]:
    """Places of the labels in the order of their conditions: short, long, other adjectives, none; clean, corrupt; ...

    The nesting stays: labels that go by measure, and within it by adjective, still do, with the adjectives in order.
    """
    read = _read(labels)
    rests = list(dict.fromkeys(label.rest for label in read))
    levels = [[-1.0 if label.adjective is None else float(adjective_rank(label.adjective)) for label in read]]
    levels += [[float(label.rank(family)) for label in read] for family in range(len(_FAMILIES))]
    others = [[float(rests.index(label.rest)) for label in read]]
    others += [[label.numbers.get(name, -1.0) for label in read] for name in ("control", "random", "layer", "T =")]
    # What only spells a condition out, as the temperature behind "as the lists were drawn", is no level of its own.
    conditions = list(zip(*levels, strict=True))
    levels += [o for o in others if len(set(zip(conditions, o, strict=True))) > len(set(conditions))]
    levels.sort(key=_nesting)
    return sorted(range(len(labels)), key=lambda place: [level[place] for level in levels])


def _nesting(ranks: Sequence[float]) -> tuple[bool, int]:
    """Outer levels sort before inner ones: equal ranks stand together there, and change seldom."""
    changes = sum(a != b for a, b in pairwise(ranks))
    return changes >= len(set(ranks)), changes


def warmth(share: float) -> str:
    """The colour at a share, from 0 to 1, of the sequential scale."""
    place = min(max(share, 0.0), 1.0) * (len(WARMTH) - 1)
    low = min(int(place), len(WARMTH) - 2)
    ends = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in WARMTH[low : low + 2])
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in zip(*ends, strict=True))


def _read(labels: Sequence[str]) -> list[_Label]:
    """Labels; where one names an adjective, the first words of the others are adjectives too."""
    read = [_Label.of(label) for label in labels]
    if not any(label.adjective in _ADJECTIVES for label in read):
        return read
    return [
        label if label.adjective or not label.rest else replace(label, adjective=label.rest[0], rest=label.rest[1:])
        for label in read
    ]


def _adjective_colours(names: set[str]) -> dict[str, str]:
    """A colour an adjective; of others than short and long it follows from the name, as it must in the next figure."""
    colours = dict(_ADJECTIVES)
    for name in sorted(names - _ADJECTIVES.keys()):
        first = zlib.crc32(name.encode())
        turn = [_OTHERS[(first + step) % len(_OTHERS)] for step in range(len(_OTHERS))]
        colours[name] = next((colour for colour in turn if colour not in colours.values()), turn[0])
    return colours


def _known(label: _Label, adjectives: Mapping[str, str], deepest: float) -> Look | None:
    """The look of what a label names; None where that is nothing."""
    conditions = [_FAMILIES[_FAMILY[name]][name] for name in sorted(label.conditions, key=_FAMILY.__getitem__)]
    dash = next((look.dash for look in reversed(conditions) if look.dash != "solid"), "solid")
    number = label.numbers.get("control", label.numbers.get("random"))
    if number is not None:
        dash = _DASHES[(int(number) - 1) % len(_DASHES)]
    if label.adjective is not None:
        return Look(adjectives[label.adjective], dash)
    if conditions:
        return Look(conditions[0].colour, dash)
    if "T =" in label.numbers:
        return Look(warmth(label.numbers["T ="] / HOTTEST))
    return Look(warmth(label.numbers["layer"] / (deepest or 1.0))) if "layer" in label.numbers else None
