"""Figures, tables and sentences of path patching, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.claims import Claims, claims, legend, sentences
from mechlist.experiments.patch.report import METRICS
from mechlist.figures import grouped_bars, head_heatmap

NAMED = 3
"""Senders that the sentences name for each set of receivers."""
PATHS = {"all": "the direct path", "heads": "all paths that avoid the heads between"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The heads by layer, one figure a set of receivers; the embedding and the MLPs as bars."""
    found = claims(results)
    receivers, senders = (results[name].values.tolist() for name in ("receiver", "sender"))
    drawn = {}
    if any(map(_is_head, senders)):
        names = ["heads"] if len(receivers) == 1 else [f"heads_{number}" for number in range(1, len(receivers) + 1)]
        drawn = {name: _heads(results, found, one) for name, one in zip(names, receivers, strict=True)}
    return drawn if all(map(_is_head, senders)) else drawn | {"others": _others(results, found)}


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` senders by the size of their mean effect, with intervals and tests over prompts; and the prompts."""
    prompts = {"prompt": ["".join(row) for row in results["token"].values]}
    prompts |= {name: results[name].values for name in ("base", "source")}
    return {"senders": sender_table(results, claims(results)).head(top), "prompts": pd.DataFrame(prompts)}


def sender_table(results: xr.Dataset, found: Claims) -> pd.DataFrame:
    """One row a sender and set of receivers that a path joins, the strongest first.

    `share` is the mean effect as a share of the mean difference between the two runs.
    """
    tested, dims = found.table, found.effects.dims[1:]
    columns = {"effect": tested.estimate, "share": tested.estimate / (_gap(results) or np.nan)}
    if results.sizes["prompt"] > 1:
        columns |= {"low": tested.low, "high": tested.high, "n": tested.n_units, "p_corrected": tested.p_corrected}
    data = {name: (dims, values) for name, values in columns.items()}
    table = xr.Dataset(data, coords={name: results[name] for name in dims}).to_dataframe().reset_index()
    return table.dropna(subset=["effect"]).sort_values("effect", key=abs, ascending=False, ignore_index=True)


def findings(results: xr.Dataset) -> list[str]:
    """The runs, the strongest senders of each set of receivers, and how many move the metric beyond chance."""
    what, prompts = METRICS[results.attrs["metric"]], results.sizes["prompt"]
    base, source = (float(results[name].mean()) for name in ("base", "source"))
    said = [
        f"The {what} is {base:.3f} in the run that is changed and {source:.3f} in the run that senders' outputs come "
        f"from (mean over {prompts} prompt{'s' if prompts > 1 else ''})."
    ]
    found = claims(results)
    table = sender_table(results, found)
    for receiver in results["receiver"].values.tolist():
        strongest = table[(table["receiver"] == receiver) & (table["effect"] != 0)].head(NAMED)
        if len(strongest):
            both = zip(strongest["sender"], strongest["effect"], strict=True)
            named = [f"{sender} ({effect:+.3f})" for sender, effect in both]
            said.append(
                f"Along {PATHS[results.attrs['frozen']]} to {receiver}, what changes it most is sent by {_and(named)}."
            )
        else:
            said.append(f"Nothing that is sent to {receiver} changes it.")
    return said + sentences(found, _unit(results))


def _heads(results: xr.Dataset, found: Claims, receiver: str) -> go.Figure:
    values, marked, notes = (
        _by_head(array.sel(receiver=receiver)) for array in (found.effects.mean("prompt"), found.marked, found.notes)
    )
    grey = " Grey: no path, or not asked for." if values.isnull().any() else ""
    return head_heatmap(
        values,
        title=f"Heads along {PATHS[results.attrs['frozen']]} to {receiver}",
        caption=f"{_caption(results)}{grey} {legend(found)}",
        unit=_unit(results),
        diverging=True,
        marked=marked,
        note=notes,
    )


def _by_head(array: xr.DataArray) -> xr.DataArray:
    """[layer head] of the heads that were asked for, from values by sender."""
    places = {name: _place(name) for name in array["sender"].values.tolist() if _is_head(name)}
    shape = tuple(max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    grid = np.full(shape, {"b": False, "f": np.nan}.get(array.dtype.kind, ""), dtype=array.dtype)
    for name, place in places.items():
        grid[place] = array.sel(sender=name).item()
    return xr.DataArray(grid, dims=("layer", "head"))


def _others(results: xr.Dataset, found: Claims) -> go.Figure:
    others = np.array([not _is_head(name) for name in results["sender"].values.tolist()])
    reaching = others & np.isfinite(found.table.estimate).any(axis=0)
    columns = np.flatnonzero(reaching if reaching.any() else others)
    coords = {"category": results["sender"].values[columns], "series": results["receiver"].values}

    def bars(values: np.ndarray) -> xr.DataArray:
        return xr.DataArray(values[:, columns].T, dims=("category", "series"), coords=coords)

    table, many = found.table, bool(np.isfinite(found.table.low).any())
    interval = f" Bars end in {table.level:.0%} intervals over the prompts." if many else ""
    return grouped_bars(
        bars(table.estimate),
        title=f"Embedding and MLPs along {PATHS[results.attrs['frozen']]} to {_and(_receivers(results))}",
        caption=f"{_caption(results)}{interval}",
        y_title=f"effect ({_unit(results)})",
        low=bars(table.low) if many else None,
        high=bars(table.high) if many else None,
    )


def _caption(results: xr.Dataset) -> str:
    direction = "corrupt into clean" if results.attrs["noising"] else "clean into corrupt"
    return f"Change of the {METRICS[results.attrs['metric']]}, {direction}; mean over the prompts."


def _receivers(results: xr.Dataset) -> list[str]:
    names = results["receiver"].values.tolist()
    return names if len(names) <= NAMED else ["the receivers"]


def _gap(results: xr.Dataset) -> float:
    return float((results["source"] - results["base"]).mean())


def _unit(results: xr.Dataset) -> str:
    return results["base"].attrs.get("units", "")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is_head(name: str) -> bool:
    return ".h" in name


def _place(name: str) -> tuple[int, int]:
    """Layer and head of a head's name."""
    layer, head = name[1:].split(".h")
    return int(layer), int(head)
