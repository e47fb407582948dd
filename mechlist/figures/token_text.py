"""Running text whose tokens are coloured; any token text shows as itself."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.colour import Scale
from mechlist.figures.style import DIVERGING, INK, MONO, MUTED, SEQUENTIAL, TITLE_SPACE, finish, meta, plot_text
from mechlist.text import visible

CONFIDENCE = [(0.0, "#db9162"), (0.3, "#ecc8aa"), (0.7, "#fbf3ea"), (1.0, "#fbfbfb")]
"""From red, where a token was improbable, to white, where it was sure."""
LETTER, LINE, _HEADING = 7.3, 21, 22
"""Pixels of a letter's width, and of the heights of a line and of a heading."""
_FONT = 12
_LEFT, _RIGHT, _BOTTOM = 10, 96, 12
_PALE = 0.6
"""Share of a scale that leaves black letters readable."""


@dataclass(frozen=True)
class Run:
    """Places of tokens in running text, in letters and lines."""

    left: tuple[int, ...]
    width: tuple[int, ...]
    line: tuple[int, ...]
    text: tuple[str, ...]
    """What is shown of each."""

    @classmethod
    def of(cls, texts: Sequence[str], columns: int) -> "Run":
        """Tokens one behind the other, wrapped at `columns` letters and behind every line break."""
        left, width, line, shown = [], [], [], []
        column = row = 0
        for text in texts:
            label = cut(visible(text) or "∅", columns)
            size = letters(label) + 1
            if column and column + size > columns:
                column, row = 0, row + 1
            left.append(column)
            width.append(size)
            line.append(row)
            shown.append(label)
            column, row = (0, row + 1) if text.endswith("\n") else (column + size, row)
        return cls(tuple(left), tuple(width), tuple(line), tuple(shown))

    @property
    def lines(self) -> int:
        """How many there are."""
        return max(self.line, default=-1) + 1


def confidence_colour(probability: float | int) -> str:
    """The colour of a token of this probability, as CSS: that of `coloured_text` with `confidence`."""
    low, high = next(ends for ends in pairwise(CONFIDENCE) if probability <= ends[1][0] or ends[1][0] == 1.0)
    along = min(1.0, max(0.0, (probability - low[0]) / (high[0] - low[0])))
    channels = [(int(low[1][at : at + 2], 16), int(high[1][at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(a + along * (b - a)):02x}" for a, b in channels)


def letters(text: str) -> int:
    """Columns of a monospaced font that a text takes: two for a wide character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def cut(text: str, most: int) -> str:
    """At most so many letters of a text."""
    return text if letters(text) <= most else text[: max(1, most - 2)] + "…"


def coloured_text(
    values: xr.DataArray,
    texts: Sequence[str],
    *,
    title: str,
    caption: str,
    unit: str,
    diverging: bool = False,
    confidence: bool = False,
    hover: Sequence[str] | None = None,
    columns: int = 92,
) -> go.Figure:
    """Text whose tokens are coloured by `values(token)`, or once for each name of `values(name, token)`.

    Args:
        values: NaN leaves a token without colour.
        texts: token texts, which may hold anything.
        title: names the text.
        caption: one sentence that says what to look for.
        unit: title of the colour bar.
        diverging: red below zero and blue above; else white at zero to blue.
        confidence: values are probabilities, and what is improbable is coloured.
        hover: plain text that a token's hover box adds, one a token; line breaks stay.
        columns: letters in a line.

    Raises:
        InputError: other dimensions, texts or hover that are not one a token, or no token.
    """
    values = values.expand_dims({"name": [""]}) if values.dims == ("token",) else values
    cells, names = matrix(values, ("name", "token"), "values"), [str(name) for name in coordinate(values, "name")]
    notes = [""] * len(texts) if hover is None else list(hover)
    if not len(texts) == len(notes) == cells.shape[1]:
        raise InputError(
            f"texts and hover must be one for each of the {cells.shape[1]} tokens; received {len(texts)} and "
            f"{len(notes)}."
        )
    run, figure = Run.of(texts, columns), go.Figure()
    block = run.lines * LINE + (_HEADING if any(names) else 0)
    for number, (name, row) in enumerate(zip(names, cells, strict=True)):
        top = number * block
        if name:
            figure.add_annotation(_heading(name, top))
        figure.add_traces(_run_traces(run, row, texts, notes, unit, top + block - run.lines * LINE))
    height = len(names) * block
    columns = max(40, *(left + width for left, width in zip(run.left, run.width, strict=True)))
    axis = colour_axis(cells, unit, height, diverging=diverging, confidence=confidence)
    figure = laid_out(figure.update_layout(coloraxis=axis), columns, height)
    figure.update_layout(meta={**meta(figure), "flow": _flow(cells, names, texts, notes, unit, axis)})
    return finish(figure, title=title, caption=caption)


def _flow(
    cells: np.ndarray, names: Sequence[str], texts: Sequence[str], notes: Sequence[str], unit: str, axis: dict[str, Any]
) -> list[dict[str, Any]]:
    """The same as text that a page can wrap: by name, of each token what is shown, its colour, and its hover text."""
    low, high = float(axis["cmin"]), float(axis["cmax"])
    out = []
    for name, row in zip(names, cells, strict=True):
        codes = _codes(axis["colorscale"], np.clip((np.nan_to_num(row) - low) / ((high - low) or 1.0), 0.0, 1.0))
        there = np.isfinite(row)
        tokens = [
            [
                visible(text) + ("\n" if text.endswith("\n") else ""),
                code if told else "",
                "\n".join([visible(text), *([f"{unit}: {value:.3f}"] if told else []), *note.split("\n")]).strip(),
            ]
            for text, code, told, value, note in zip(texts, codes, there, row, notes, strict=True)
        ]
        out.append({"name": name, "tokens": tokens})
    return out


def _codes(scale: Sequence[tuple[float, str]], places: np.ndarray) -> list[str]:
    """Colours at places from 0 to 1 of a scale."""
    steps = [place for place, _ in scale]
    channels = [[int(colour[i : i + 2], 16) for _, colour in scale] for i in (1, 3, 5)]
    found = np.stack([np.interp(places, steps, channel) for channel in channels], axis=1)
    return ["#" + "".join(f"{round(part):02x}" for part in colour) for colour in found.tolist()]


def _run_traces(
    run: Run, values: np.ndarray, texts: Sequence[str], notes: Sequence[str], unit: str, top: float | int
) -> list[Any]:
    """Coloured boxes, and the tokens in them."""
    told = [f"{unit}: {value:.3f}\n" if np.isfinite(value) else "" for value in values]
    boxes = [hover_box(text, own + note) for text, own, note in zip(texts, told, notes, strict=True)]
    middle = [top + (line + 0.5) * LINE for line in run.line]
    left, width = np.array(run.left) * LETTER, np.array(run.width) * LETTER
    return [*coloured(left, width - 1, middle, values, boxes), written(left + width / 2, middle, run.text)]


def hover_box(text: str, note: str) -> str:
    """What a token's hover box says, as plotly reads it: the token, and the lines of a note in plain text."""
    return "<br>".join([f"<b>{plot_text(visible(text))}</b>", *(plot_text(line) for line in note.split("\n") if line)])


def coloured(
    left: np.ndarray, width: np.ndarray, middle: Sequence[float | int], values: np.ndarray, boxes: list[str]
) -> list[go.Bar]:
    """Boxes from `left` on around the heights `middle`, coloured by their values; NaN stays without colour."""
    height, text = np.array(middle), np.array(boxes, dtype=object)
    there = np.isfinite(values)
    looks = {"color": values[there], "coloraxis": "coloraxis"}, {"color": "rgba(0,0,0,0)"}
    return [
        go.Bar(
            orientation="h",
            base=left[chosen],
            x=width[chosen],
            y=height[chosen],
            width=LINE - 3,
            marker={**look, "line": {"width": 0}},
            customdata=text[chosen],
            hovertemplate="%{customdata}<extra></extra>",
        )
        for chosen, look in zip((there, ~there), looks, strict=True)
        if chosen.any()
    ]


def written(x: np.ndarray, y: Sequence[float | int], texts: Sequence[str]) -> go.Scatter:
    """Plain texts around their places."""
    return go.Scatter(
        x=x,
        y=list(y),
        mode="text",
        text=[plot_text(text) for text in texts],
        textfont={"family": MONO, "size": _FONT, "color": INK},
        hoverinfo="skip",
    )


def _heading(text: str, top: float | int) -> dict[str, Any]:
    where = {"x": 0, "xanchor": "left", "y": top + _HEADING / 2, "yanchor": "middle"}
    return {"text": f"<b>{plot_text(text)}</b>", "showarrow": False, "font": {"size": 12, "color": MUTED}, **where}


def colour_axis(cells: np.ndarray, unit: str, height: int, *, diverging: bool, confidence: bool) -> dict[str, Any]:
    """The colour axis; both scales end where letters would be hard to read."""
    axis = Scale(unit=unit, diverging=diverging).axis([cells], max(height, 120))
    axis["colorbar"] |= {"lenmode": "pixels", "len": max(110, min(height, 260)), "y": 1, "yanchor": "top"}
    if confidence:
        return axis | {"colorscale": CONFIDENCE, "cmin": 0.0, "cmax": 1.0}
    scale = DIVERGING if diverging else SEQUENTIAL
    kept = [
        (place, colour)
        for place, colour in scale
        if abs(place - 0.5 * diverging) <= _PALE * (1 - 0.5 * diverging) + 1e-9
    ]
    first, last = kept[0][0], kept[-1][0]
    return axis | {"colorscale": [((place - first) / (last - first), colour) for place, colour in kept]}


def laid_out(figure: go.Figure, columns: float | int, height: float | int) -> go.Figure:
    """The figure without axes, as wide as so many letters and as high as so many pixels."""
    hidden: dict[str, Any] = {"visible": False, "fixedrange": True}
    span = columns * LETTER
    figure.update_xaxes(range=[0, span], **hidden)
    figure.update_yaxes(range=[height, 0], **hidden)
    top = TITLE_SPACE + 14
    width = round(_LEFT + span + _RIGHT)
    figure.update_layout(
        width=width,
        height=round(max(height, 120) + top + _BOTTOM),
        margin={"l": _LEFT, "r": _RIGHT, "t": top, "b": round(_BOTTOM + max(0, 120 - height))},
        showlegend=False,
        barmode="overlay",
        hovermode="closest",
        dragmode=False,
        plot_bgcolor="white",
        meta={"min_width": width},
    )
    return figure
