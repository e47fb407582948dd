"""A text in lines, with numbers under every token and what might have come next on hover."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.style import DIVERGING, INK, MONO, MUTED, SEQUENTIAL, TITLE_SPACE, finish, plot_text
from mechlist.text import number, shortened, visible

_DIMS = ("measure", "token")
_CELL, _LEFT, _RIGHT = 50, 62, 12
"""Pixels of a cell's width, and of the space beside the cells."""
_TOKEN, _NUMBER, _GAP = 22, 15, 12
"""Pixels of the heights of a token, of a number under it, and between lines."""
_LETTERS = 7
"""Of a token that a cell holds."""
_PALE = 0.45
"""Share of a colour scale that leaves black numbers readable."""


@dataclass(frozen=True)
class Sheet:
    """Where tokens stand: line by line, a new one behind each token of `breaks`, wrapped at `columns`."""

    line: tuple[int, ...]
    column: tuple[int, ...]

    @classmethod
    def of(cls, count: int, breaks: Sequence[int], columns: int) -> "Sheet":
        """Places of `count` tokens."""
        line, column, places = 0, 0, []
        for token in range(count):
            if column == columns:
                line, column = line + 1, 0
            places.append((line, column))
            line, column = (line + 1, 0) if token in breaks else (line, column + 1)
        return cls(tuple(p[0] for p in places), tuple(p[1] for p in places))

    @property
    def size(self) -> tuple[int, int]:
        """Lines and columns in use."""
        return max(self.line) + 1, max(self.column) + 1


def token_sheet(
    values: xr.DataArray,
    texts: Sequence[str],
    *,
    title: str,
    caption: str,
    breaks: Sequence[int] = (),
    shares: Sequence[str] = (),
    signed: Sequence[str] = (),
    hover: Sequence[str] | None = None,
    columns: int = 6,
) -> go.Figure:
    """Tokens line by line as they are read, each with its numbers under it, from `values(measure, token)`.

    A figure of six columns fits a phone. NaN leaves a place empty.

    Args:
        values: dimensions (measure, token); the coordinate `measure` names the numbers at the left of each line.
        texts: token texts, which may hold anything.
        title: names the text.
        caption: one sentence that says how to read it.
        breaks: tokens behind which a new line begins.
        shares: measures from 0 to 1, whose cells are coloured from white to blue.
        signed: measures whose cells are coloured red below zero and blue above.
        hover: plain text that a token's hover box adds to its numbers, one a token; line breaks stay.
        columns: tokens in a line, at most.

    Raises:
        InputError: other dimensions, texts or hover that are not one a token, or a measure that is not there.
    """
    cells, names = matrix(values, _DIMS, "values"), [str(name) for name in coordinate(values, "measure")]
    notes = [""] * len(texts) if hover is None else list(hover)
    if not len(texts) == len(notes) == cells.shape[1]:
        raise InputError(
            f"texts and hover must be one for each of the {cells.shape[1]} tokens; received {len(texts)} and "
            f"{len(notes)}."
        )
    unknown = [name for name in (*shares, *signed) if name not in names]
    if columns < 1:
        raise InputError(f"columns must be at least 1, not {columns}.")
    if unknown:
        raise InputError(f"shares and signed must be among the measures {', '.join(names)}, not {unknown}.")
    sheet = Sheet.of(len(texts), breaks, columns)
    boxes = [_box(*row) for row in zip(texts, cells.T, notes, [names] * len(texts), strict=True)]
    figure = go.Figure()
    for kinds, scale, ends in (
        (shares, SEQUENTIAL, (0.0, 1 / _PALE)),
        (signed, DIVERGING, _around(cells, names, signed)),
    ):
        figure.add_trace(_colours(sheet, cells, names, kinds, boxes, scale, ends))
    figure.add_trace(_tokens(sheet, texts, boxes, len(names)))
    figure.add_traces([_numbers(sheet, cells[i], i, len(names)) for i in range(len(names))])
    told = {sheet.line[token] for token in np.flatnonzero(np.isfinite(cells).any(axis=0))}
    return finish(_laid_out(figure, sheet, names, told), title=title, caption=caption)


def _tops(sheet: Sheet, measures: int) -> np.ndarray:
    """Pixels from the top to each line."""
    return np.arange(sheet.size[0]) * (_TOKEN + measures * _NUMBER + _GAP)


def _colours(
    sheet: Sheet,
    cells: np.ndarray,
    names: list[str],
    kinds: Sequence[str],
    boxes: list[str],
    scale: list[tuple[float, str]],
    ends: tuple[float, float],
) -> go.Heatmap:
    """Coloured cells behind the numbers of some measures, in strips of their own heights."""
    lines, columns = sheet.size
    strips = 2 + len(names)
    z = np.full((lines * strips, columns), np.nan)
    text = np.full(z.shape, "", dtype=object)
    for token, (line, column) in enumerate(zip(sheet.line, sheet.column, strict=True)):
        for i, name in enumerate(names):
            if name in kinds:
                z[line * strips + 1 + i, column] = cells[i, token]
                text[line * strips + 1 + i, column] = boxes[token]
    heights = np.array([_TOKEN, *[_NUMBER] * len(names), _GAP])
    edges = np.concatenate([[0], np.cumsum(np.tile(heights, lines))])
    look: dict[str, Any] = {"showscale": False, "hoverongaps": False, "xgap": 2, "colorscale": scale}
    trace = go.Heatmap(x=np.arange(columns + 1) * _CELL, y=edges, z=z, customdata=text, **look)
    trace.update(zmin=ends[0], zmax=ends[1], hovertemplate="%{customdata}<extra></extra>")
    return trace


def _around(cells: np.ndarray, names: list[str], signed: Sequence[str]) -> tuple[float, float]:
    """Ends of the scale of signed measures, as far below zero as above."""
    shown = np.abs(cells[[name in signed for name in names]])
    largest = float(np.nanmax(shown)) if np.isfinite(shown).any() else 1.0
    return -(largest or 1.0) / _PALE, (largest or 1.0) / _PALE


def _tokens(sheet: Sheet, texts: Sequence[str], boxes: list[str], measures: int) -> go.Scatter:
    tops = _tops(sheet, measures)
    cut = [shortened(visible(text), _LETTERS) for text in texts]
    return go.Scatter(
        x=[column * _CELL + _CELL / 2 for column in sheet.column],
        y=[tops[line] + _TOKEN / 2 for line in sheet.line],
        mode="text",
        text=[f"<b>{plot_text(text)}</b>" for text in cut],
        textfont={"family": MONO, "size": 11, "color": INK},
        customdata=boxes,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _numbers(sheet: Sheet, row: np.ndarray, index: int, measures: int) -> go.Scatter:
    tops = _tops(sheet, measures)
    return go.Scatter(
        x=[column * _CELL + _CELL / 2 for column in sheet.column],
        y=[tops[line] + _TOKEN + (index + 0.5) * _NUMBER for line in sheet.line],
        mode="text",
        text=[_short(value) for value in row],
        textfont={"size": 10, "color": INK},
        hoverinfo="skip",
    )


def _short(value: float) -> str:
    """A number of at most five characters; nothing for NaN."""
    if np.isnan(value):
        return ""
    if abs(value) < 10:
        return f"{value:z.2f}"
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _box(text: str, values: np.ndarray, note: str, names: list[str]) -> str:
    told = [f"{plot_text(name)}: {number(float(v))}" for name, v in zip(names, values, strict=True) if np.isfinite(v)]
    lines = [f"<b>{plot_text(visible(text))}</b>", *told]
    return "<br>".join([*lines, *(plot_text(line) for line in note.split("\n") if line)])


def _laid_out(figure: go.Figure, sheet: Sheet, names: list[str], told: set[int]) -> go.Figure:
    """The names of the numbers beside every line that has some, and the figure's size."""
    lines, columns = sheet.size
    height = lines * (_TOKEN + len(names) * _NUMBER + _GAP)
    for line, top in enumerate(_tops(sheet, len(names))):
        for i, name in enumerate(names if line in told else []):
            where = {"x": 0, "xref": "paper", "xanchor": "right", "xshift": -4, "yanchor": "middle"}
            font = {"size": 9, "color": MUTED}
            y = float(top) + _TOKEN + (i + 0.5) * _NUMBER
            figure.add_annotation(text=plot_text(name), y=y, showarrow=False, font=font, **where)
    hidden: dict[str, Any] = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[0, columns * _CELL], **hidden)
    figure.update_yaxes(range=[height, 0], **hidden)
    width, top = columns * _CELL + _LEFT + _RIGHT, TITLE_SPACE + 14
    figure.update_layout(
        width=width,
        height=height + top + 10,
        margin={"l": _LEFT, "r": _RIGHT, "t": top, "b": 10},
        showlegend=False,
        hovermode="closest",
        dragmode=False,
        meta={"min_width": width},
    )
    return figure
