"""A grid of equal panels laid out in pixels, so that cells are square and text has its room."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechlist.errors import InputError
from mechlist.figures.style import INK, TITLE_SPACE, plot_text

NAME_PIXELS = 7.2
"""Of a letter of a panel's name."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where panels go, in pixels. `names` are the panel titles; one empty name is a figure of one panel."""

    names: tuple[str, ...]
    width: int
    """Of one panel's plot area."""
    height: int
    """Of one panel's plot area."""
    left: int
    """For tick labels and the axis title."""
    bottom: int
    """For tick labels and the axis title."""
    right: int = 24
    """For the colour bar."""
    columns: int = 3
    gap_x: int = 40
    gap_y: int = 64

    def __post_init__(self) -> None:
        if not self.names or self.columns < 1:
            raise InputError(
                f"a grid needs at least one panel and one column; received {len(self.names)} panels, "
                f"columns={self.columns}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns in use."""
        columns = min(self.columns, len(self.names))
        return -(-len(self.names) // columns), columns

    @property
    def across(self) -> int:
        """Pixels between panels that stand side by side: narrow ones leave room for their names."""
        longest = max(map(len, self.names)) * NAME_PIXELS
        return max(self.gap_x, round(longest) - self.width + 14)

    @property
    def area(self) -> tuple[int, int]:
        """Width and height of all panels with the gaps between them."""
        rows, columns = self.shape
        return (
            columns * self.width + (columns - 1) * self.across,
            rows * self.height + (rows - 1) * self.gap_y,
        )

    @property
    def top(self) -> int:
        """Space above the panels: the figure's title and, for several panels, theirs."""
        return TITLE_SPACE + (28 if any(self.names) else 14)

    def cell(self, index: int) -> tuple[int, int]:
        """Row and column of a panel, counted from 1 as plotly does."""
        columns = self.shape[1]
        return index // columns + 1, index % columns + 1

    def is_left(self, index: int) -> bool:
        """Whether no panel stands to the left."""
        return index % self.shape[1] == 0

    def is_bottom(self, index: int) -> bool:
        """Whether no panel stands below."""
        return index + self.shape[1] >= len(self.names)


def grid_figure(grid: Grid) -> go.Figure:
    """An empty figure with the axes of every panel, square cells, and the panels' names above them."""
    rows, columns = grid.shape
    width, height = grid.area
    specs = [[{} if r * columns + c < len(grid.names) else None for c in range(columns)] for r in range(rows)]
    figure = make_subplots(
        rows=rows,
        cols=columns,
        specs=specs,
        horizontal_spacing=grid.across / width if columns > 1 else 0,
        vertical_spacing=grid.gap_y / height if rows > 1 else 0,
    )
    for index, name in enumerate(grid.names):
        axis = "" if index == 0 else str(index + 1)
        figure.update_layout({f"yaxis{axis}": {"scaleanchor": f"x{axis}", "constrain": "domain"}})
        figure.update_layout({f"xaxis{axis}": {"constrain": "domain"}})
        if name:
            figure.add_annotation(_panel_name(name, axis))
    figure.update_layout(
        width=width + grid.left + grid.right,
        height=height + grid.top + grid.bottom,
        margin={"l": grid.left, "r": grid.right, "t": grid.top, "b": grid.bottom},
        meta=_sizes(grid),
    )
    return figure


def _panel_name(name: str, axis: str) -> dict[str, Any]:
    place = {
        "xref": f"x{axis} domain",
        "yref": f"y{axis} domain",
        "x": 0,
        "y": 1,
        "yanchor": "bottom",
        "yshift": 4,
    }
    font = {"size": 12, "color": INK, "weight": 600}
    return {"text": plot_text(name), "font": font, "showarrow": False, "xanchor": "left", **place}


def _sizes(grid: Grid) -> dict[str, float]:
    """How a page may shrink the figure: the plot area's height over width, and the least readable width."""
    width, height = grid.area
    # A colour bar lower than this cannot hold its title.
    readable = max(0.45 if grid.shape[1] == 1 else 0.8, min(1, 150 / height))
    return {"aspect": height / width, "min_width": round(width * readable) + grid.left + grid.right}


def thinned(labels: Sequence[object], step: int) -> dict[str, Any]:
    """Ticks at every `step`-th place of an axis that counts 0, 1, 2, ..., with the labels found there."""
    places = list(range(0, len(labels), step))
    return {"tickmode": "array", "tickvals": places, "ticktext": [plot_text(str(labels[p])) for p in places]}


def tick_step(count: int, pixels: int, spacing: int) -> int:
    """The smallest of 1, 2, 5, 10, ... that keeps ticks `spacing` pixels apart, `count` cells in all."""
    wanted = spacing * count / pixels
    return next(step * 10**power for power in range(9) for step in (1, 2, 5) if step * 10**power >= wanted)
