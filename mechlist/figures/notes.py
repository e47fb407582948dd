"""What figures over lists share: ends of intervals, what stands behind a value, items from the last, captions."""

from typing import TypedDict

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures.panels import tick_step
from mechlist.text import from_last, number_of

OVER_TOPICS = "95 % bootstrap intervals over topics"
OVER_LISTS = "95 % bootstrap intervals over a topic's lists"
NOT_FEW = "points on fewer than 5 lists are not drawn where a curve has more"


class Ends(TypedDict):
    """Of intervals, as figures take them."""

    low: xr.DataArray
    high: xr.DataArray


def ends(results: xr.Dataset, name: str, **renamed: str) -> Ends:
    """Both ends of the intervals of a variable, with its dimensions renamed."""
    return Ends(low=results[f"{name}_low"].rename(renamed), high=results[f"{name}_high"].rename(renamed))


def counted(counts: xr.DataArray, unit: str) -> xr.DataArray:
    """Hover texts: how many units stand behind each value."""
    texts = [number_of(int(count), unit) for count in counts.values.ravel()]
    return counts.copy(data=np.array(texts, dtype=object).reshape(counts.shape))


def items_from_last(figure: go.Figure, items: int) -> go.Figure:
    """The figure with an x axis that counts items back from 0 turned round and its places named: `last - 1`, `last`."""
    places = list(range(0, items, tick_step(items, 12, 1)))
    return figure.update_xaxes(
        autorange="reversed", tickmode="array", tickvals=places, ticktext=[from_last(place) for place in places]
    )
