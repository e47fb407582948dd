"""What figures over lists share: ends of intervals, what stands behind a value, items from the last, captions."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures.panels import tick_step
from mechlist.text import from_last, lists_named, number_of

OVER_TOPICS = "95 % bootstrap intervals over topics"
OVER_LISTS = "95 % bootstrap intervals over a topic's lists"
MATCHED = (
    "last items of lists against items of the same number that are not the last of their list, those with a filler and "
    "those without apart; lists of topics of at most 30 items, which run out, are left out"
)
NOT_FEW = "points on fewer than 5 lists are not drawn where a curve has more"


class Ends(TypedDict):
    """Of intervals, as figures take them."""

    low: xr.DataArray
    high: xr.DataArray


def ends(results: xr.Dataset, name: str, **renamed: str) -> Ends:
    """Both ends of the intervals of a variable, with its dimensions renamed."""
    return Ends(low=results[f"{name}_low"].rename(renamed), high=results[f"{name}_high"].rename(renamed))


def beside_truth(results: xr.Dataset, name: str, truth: str, *, also: Sequence[str] = ()) -> xr.Dataset:
    """`name` with its ends, by adjective, each beside what is known to be true where something is; along `series`.

    Args:
        results: with the dimension `adjective`.
        name: of a variable that has `_low` and `_high` beside it.
        truth: of the variable that holds what is true, NaN where that is not known.
        also: other variables, which both have.
    """
    parts, names = [], []
    for adjective in results["adjective"].values.tolist():
        one = results.sel(adjective=adjective, drop=True)
        parts.append(one[[name, f"{name}_low", f"{name}_high", *also]])
        names.append(lists_named(adjective))
        if np.isfinite(one[truth]).any():
            unknown = one[truth] * np.nan
            parts.append(parts[-1].assign({name: one[truth], f"{name}_low": unknown, f"{name}_high": unknown}))
            names.append(f"{names[-1]}, known truth")
    return xr.concat(parts, dim="series").assign_coords(series=names)


def resampled(results: xr.Dataset) -> str:
    """What intervals are over: topics of lists; of pairs of prompts the pairs, or clusters of them."""
    if results.attrs["origin"] != "pairs":
        return "topics"
    return "pairs" if len(np.unique(results["topic"])) == results.sizes["list"] else "clusters of pairs"


def matched_differences(found: xr.Dataset) -> xr.Dataset:
    """Of `matched_last` the differences that there are, by adjective and filler along `series`.

    Args:
        found: `mean`, `low`, `high`, `lists` and `others`, with the dimension `by_adjective`.
    """
    flat = found.sel(kind="difference", drop=True).stack(series=("by_adjective", "by_filler"), create_index=False)
    pairs = zip(flat["by_adjective"].values.tolist(), flat["by_filler"].values.tolist(), strict=True)
    names = [f"{lists_named(adjective)}, {filler}" for adjective, filler in pairs]
    flat = flat.drop_vars(["by_adjective", "by_filler"]).assign_coords(series=names)
    return flat.isel(series=flat["mean"].notnull().any([d for d in flat["mean"].dims if d != "series"]).values)


def matched_counts(found: xr.Dataset) -> xr.DataArray:
    """Hover texts: how many items of both kinds stand behind each difference."""
    pairs = zip(found["lists"].values.ravel().tolist(), found["others"].values.ravel().tolist(), strict=True)
    texts = [f"{number_of(last, 'last items')}, {number_of(others, 'others')}" for last, others in pairs]
    return found["lists"].copy(data=np.array(texts, dtype=object).reshape(found["lists"].shape))


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
