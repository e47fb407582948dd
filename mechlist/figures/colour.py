"""The colour axis that heat maps share: white is zero, and the bar names the unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechlist.errors import InputError
from mechlist.figures.style import DIVERGING, SEQUENTIAL, plot_text

_ROUNDING = 1e-6
_LETTER = 7
"""Pixels a letter of the bar's title takes."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How values become colours."""

    unit: str
    """Title of the colour bar."""
    diverging: bool = False
    """Red below zero and blue above; else white at zero to blue."""
    limit: float | int | None = None
    """Far end of the scale, in the unit of the values; what lies beyond takes the last colour."""

    def __post_init__(self) -> None:
        if self.limit is not None and not (np.isfinite(self.limit) and self.limit > 0):
            raise InputError(f"limit must be a positive number; received {self.limit}.")

    def bounds(self, grids: Sequence[np.ndarray]) -> tuple[float, float]:
        """Lowest and highest value of the scale over all the arrays.

        Sequential: [0, 1] where that holds all values, else [0, largest].
        Diverging: as far below zero as above.

        Raises:
            InputError: values below zero on a sequential scale, which would hide them in white.
        """
        finite = np.concatenate([values[np.isfinite(values)] for values in grids])
        lowest = float(finite.min(initial=0))
        if not self.diverging and lowest < -_ROUNDING:
            raise InputError(
                f"a sequential colour scale takes values of 0 and above; received {lowest:.4g}: set diverging=True."
            )
        largest = float(np.abs(finite).max(initial=0))
        if self.diverging:
            top = self.limit or largest or 1.0
            return -top, top
        return 0.0, self.limit or (1.0 if largest <= 1 + _ROUNDING else largest)

    def axis(self, grids: Sequence[np.ndarray], height: int) -> dict[str, Any]:
        """Layout of plotly's `coloraxis` beside a plot area of this height in pixels."""
        low, high = self.bounds(grids)
        along = self._fits_along(height)
        title = {"text": plot_text(self.unit), "side": "right" if along else "top"}
        # The blanks keep the numbers off a title that runs along them.
        bar = {"title": title, "ticksuffix": "  ", "len": 1, "x": 1, "xanchor": "left", "xpad": 16, "y": 0.5, "ypad": 0}
        return {
            "cmin": low,
            "cmax": high,
            "colorscale": DIVERGING if self.diverging else SEQUENTIAL,
            "colorbar": {**bar, "nticks": 6 if height >= 160 else 4},
        }

    def space(self, height: int) -> int:
        """Pixels that the bar, its ticks and its title need right of a plot area of this height."""
        return 100 if self._fits_along(height) else max(100, 28 + len(self.unit) * _LETTER)

    def _fits_along(self, height: int) -> bool:
        return len(self.unit) * _LETTER <= height
