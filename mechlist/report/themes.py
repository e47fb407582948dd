"""Dark figures: the house template once more, and what every colour of a figure becomes on a dark page.

A page holds both and chooses by the reader's colour scheme; figures themselves are saved in light colours.
"""

import colorsys
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mechlist.figures.style import BLUES, GRID, INK, MISSING, MUTED, REDS, TEMPLATE, WHITE

CARD = "#1c1f26"
"""Behind a figure on a dark page."""
READABLE = 3.0
"""Contrast of a line or a letter with what is behind it, at least (WCAG 2, of graphics)."""
_PALE = 0.6
"""Luminance from which a colour is a background, which turns dark."""
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_RGBA = re.compile(r"rgba\((\d+), ?(\d+), ?(\d+), ?([\d.]+)\)")
_NAMED = {"white": CARD, "black": "#e4e6eb"}
_ABOVE, _BELOW = BLUES[::-1], REDS[::-1]
_KNOWN: Mapping[str, str] = {
    INK: "#e4e6eb",
    MUTED: "#a0a7b4",
    GRID: "#343944",
    MISSING: "#3b404b",
    "#b8bcc4": "#5b626f",
    "#f4f5f7": "#262a33",
    WHITE: "#20242c",
    **dict(zip(BLUES, _ABOVE, strict=True)),
    **dict(zip(REDS, _BELOW, strict=True)),
    # Of texts whose tokens are coloured: letters on these are light.
    "#fbf3ea": "#2a2724",
}
"""Inks, lines and scales; a scale runs from dark to light where it ran from light to dark."""


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, from 0 to 1 (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, from 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def dark(colour: str) -> str:
    """A colour as it is on a dark page: known ones by hand, pale ones as backgrounds, others lifted until read."""
    if colour.lower() in _NAMED:
        return _NAMED[colour.lower()]
    if found := _RGBA.fullmatch(colour):
        red, green, blue = _channels(dark("#" + "".join(f"{int(part):02x}" for part in found.groups()[:3])))
        return f"rgba({round(red * 255)}, {round(green * 255)}, {round(blue * 255)}, {found[4]})"
    if not _HEX.fullmatch(colour):
        return colour
    known = _KNOWN.get(colour.lower())
    if known is not None:
        return known
    hue, light, saturation = colorsys.rgb_to_hls(*_channels(colour))
    if luminance(colour) > _PALE:
        return _code(colorsys.hls_to_rgb(hue, 0.17, min(saturation, 0.35)))
    lifted = colour.lower()
    while contrast(lifted, CARD) < READABLE:
        light += 0.02
        lifted = _code(colorsys.hls_to_rgb(hue, min(light, 1.0), saturation))
    return lifted


def colours_of(value: Any, *, inside: bool = False) -> Iterable[str]:
    """Every colour in a figure's JSON: texts below a key that names one, wherever it stands."""
    if isinstance(value, str):
        if inside and (_HEX.fullmatch(value) or _RGBA.fullmatch(value) or value.lower() in _NAMED):
            yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from colours_of(part, inside=inside or "color" in str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from colours_of(part, inside=inside)


def repainted(value: Any, *, inside: bool = False) -> Any:
    """A figure's JSON, or a template's, with every colour as it is on a dark page."""
    if isinstance(value, str):
        return dark(value) if inside else value
    if isinstance(value, dict):
        return {key: repainted(part, inside=inside or "color" in str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [repainted(part, inside=inside) for part in value]
    return value


def templates() -> dict[str, Any]:
    """The house template by the reader's colour scheme, as plotly.js reads it."""
    light = TEMPLATE.to_plotly_json()
    return {"light": light, "dark": repainted(light)}


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _code(channels: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * min(max(c, 0.0), 1.0)):02x}" for c in channels)
