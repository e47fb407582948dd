"""Dots on the cells of a heat map that stand out by more than their colour, such as those that survive a test."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Bool, Shaped

from mechlist.errors import InputError
from mechlist.figures.style import INK, plot_text

_CORNER = 0.3
"""Cells from the centre to a dot in the corner, either way."""


def marked_cells(
    marked: xr.DataArray | None, values: xr.DataArray, dims: tuple[str, str]
) -> Bool[np.ndarray, "down right"] | None:
    """Which cells get a dot, with axes in the order of `dims`; None where none was asked for.

    Raises:
        InputError: marks of other dimensions or another shape than the values, or that are not true or false.
    """
    if marked is None:
        return None
    cells = _arranged(marked, values, dims, "marked")
    if cells.dtype != bool:
        raise InputError(f"marked must hold True and False, not values of type {cells.dtype}.")
    return cells


def notes(note: xr.DataArray | None, values: xr.DataArray, dims: tuple[str, str]) -> Shaped[np.ndarray, "down right"]:
    """What the hover box adds to each cell: empty text, or a line of its own.

    Raises:
        InputError: notes of other dimensions or another shape than the values.
    """
    if note is None:
        return np.full([values.sizes[dim] for dim in dims], "", dtype=object)
    cells = _arranged(note, values, dims, "note")
    lines = ["".join(f"<br>{plot_text(line)}" for line in str(text).split("\n") if line) for text in cells.ravel()]
    return np.array(lines, dtype=object).reshape(cells.shape)


def dots(cells: Bool[np.ndarray, "down right"], pixels: int, *, corner: bool = False) -> go.Scatter:
    """A dark dot with a light rim, which is seen on light and dark cells, on each marked cell of so many pixels.

    It is in the middle, or with `corner` beside the value that is printed there.
    """
    down, right = np.nonzero(cells)
    shift = _CORNER if corner else 0.0
    size = float(np.clip(pixels * 0.2, 4, 8))
    return go.Scatter(
        x=right + shift,
        y=down - shift,
        mode="markers",
        marker={"size": size, "color": INK, "line": {"width": 1.2, "color": "white"}, "opacity": 1},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
        name="marked",
    )


def frame(cells: Bool[np.ndarray, "down right"]) -> tuple[dict[str, object], dict[str, object]]:
    """Ranges of both axes that hold the cells and no more: dots would widen them. The first row is on top."""
    down, right = cells.shape
    return {"range": [-0.5, right - 0.5]}, {"range": [down - 0.5, -0.5], "autorange": False}


def _arranged(array: xr.DataArray, values: xr.DataArray, dims: tuple[str, str], name: str) -> np.ndarray:
    sizes = {dim: values.sizes[dim] for dim in dims}
    if dict(array.sizes) != sizes:
        raise InputError(f"{name} must have the dimensions of the values, {sizes}; received {dict(array.sizes)}.")
    return array.transpose(*dims).values
