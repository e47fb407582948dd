"""Figures, tables and sentences of path patching, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.effects import MEAN, legend, marked, notes, read, sentences
from mechlist.experiments.pair_experiment import METRICS
from mechlist.experiments.pair_look import look_findings, look_table
from mechlist.figures import grouped_bars, head_heatmap
from mechlist.text import joined
from mechlist.types import Head, read_head, readable

NAMED = 3
"""Senders that the sentences name for each set of receivers."""
PATHS = {"all": "the direct path", "heads": "all paths that avoid the heads between"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The heads by layer, one figure a set of receivers; the embedding and the MLPs as bars."""
    receivers = results["receiver"].values.tolist()
    heads = [_head(name) is not None for name in results["sender"].values.tolist()]
    drawn = {}
    if any(heads):
        names = ["heads"] if len(receivers) == 1 else [f"heads_{number}" for number in range(1, len(receivers) + 1)]
        drawn = {name: _heads(results, one) for name, one in zip(names, receivers, strict=True)}
    return drawn if all(heads) else drawn | {"others": _others(results, ~np.array(heads))}


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` senders by the size of their mean effect, with intervals and tests over prompts; and the prompts."""
    prompts = {"prompt": ["".join(row) for row in results["token"].values]}
    prompts |= {name: results[name].values for name in ("base", "source")}
    table = sender_table(results).head(top)
    names = {name: table[name].map(readable) for name in ("receiver", "sender")}
    return {"senders": table.assign(**names), "prompts": pd.DataFrame(prompts)} | look_table(results)


def sender_table(results: xr.Dataset) -> pd.DataFrame:
    """One row a sender and set of receivers that a path joins, the strongest first.

    `share` is the mean effect as a share of the mean difference between the two runs.
    """
    cells, gap = read(results, MEAN), float((results["source"] - results["base"]).mean())
    columns = {"effect": cells["estimate"], "share": cells["estimate"] / (gap or np.nan)}
    if results.sizes["prompt"] > 1:
        columns |= {name: cells[name] for name in ("low", "high", "n", "p_corrected")}
    table = xr.Dataset(columns).to_dataframe().reset_index()
    return table.dropna(subset=["effect"]).sort_values("effect", key=abs, ascending=False, ignore_index=True)


def findings(results: xr.Dataset) -> list[str]:
    """The runs, the strongest senders of each set of receivers, and how many move the metric beyond chance."""
    what, prompts = METRICS[results.attrs["metric"]], results.sizes["prompt"]
    base, source = (float(results[name].mean()) for name in ("base", "source"))
    said = [
        f"The {what} is {base:.3f} in the run that is changed and {source:.3f} in the run that senders' outputs come "
        f"from (mean over {prompts} prompt{'s' if prompts > 1 else ''})."
    ]
    table = sender_table(results)
    for receiver in results["receiver"].values.tolist():
        strongest = table[(table["receiver"] == receiver) & (table["effect"] != 0)].head(NAMED)
        if len(strongest):
            both = zip(strongest["sender"], strongest["effect"], strict=True)
            named = [f"{readable(sender)} ({effect:+.3f})" for sender, effect in both]
            said.append(
                f"Along {PATHS[results.attrs['frozen']]} to {_words(receiver)}, what changes it most is sent by "
                f"{joined(named)}."
            )
        else:
            said.append(f"Nothing that is sent to {_words(receiver)} changes it.")
    return said + sentences(results, read(results, MEAN), _unit(results)) + look_findings(results)


def _heads(results: xr.Dataset, receiver: str) -> go.Figure:
    cells = read(results, MEAN)
    values, dotted, note = (
        _by_head(array.sel(receiver=receiver)) for array in (cells["estimate"], marked(cells), notes(cells))
    )
    grey = " Grey: no path, or not among the senders." if values.isnull().any() else ""
    return head_heatmap(
        values,
        title=f"Heads along {PATHS[results.attrs['frozen']]} to {_words(receiver)}",
        caption=f"{_caption(results)}{grey} {legend(cells)}",
        unit=_unit(results),
        diverging=True,
        marked=dotted,
        note=note,
    )


def _by_head(array: xr.DataArray) -> xr.DataArray:
    """[layer head] of the heads that send, from values by sender."""
    heads = {name: head for name in array["sender"].values.tolist() if (head := _head(name)) is not None}
    shape = tuple(max(head[axis] for head in heads.values()) + 1 for axis in (0, 1))
    grid = np.full(shape, {"b": False, "f": np.nan}.get(array.dtype.kind, ""), dtype=array.dtype)
    for name, head in heads.items():
        grid[head] = array.sel(sender=name).item()
    return xr.DataArray(grid, dims=("layer", "head"))


def _others(results: xr.Dataset, others: np.ndarray) -> go.Figure:
    cells = read(results, MEAN)
    reaching = others & np.isfinite(cells["estimate"].values).any(axis=0)
    columns = np.flatnonzero(reaching if reaching.any() else others)
    coords = {"category": results["sender"].values[columns], "series": list(map(_words, results["receiver"].values))}

    def bars(name: str) -> xr.DataArray:
        return xr.DataArray(cells[name].values[:, columns].T, dims=("category", "series"), coords=coords)

    many = bool(cells["low"].notnull().any())
    interval = f" Bars end in {cells.attrs['level']:.0%} intervals over the prompts." if many else ""
    to = joined(coords["series"]) if len(coords["series"]) <= NAMED else "the receivers"
    return grouped_bars(
        bars("estimate"),
        title=f"Embedding and MLPs along {PATHS[results.attrs['frozen']]} to {to}",
        caption=f"{_caption(results)}{interval}",
        y_title=f"effect ({_unit(results)})",
        low=bars("low") if many else None,
        high=bars("high") if many else None,
    )


def _caption(results: xr.Dataset) -> str:
    direction = "corrupt into clean" if results.attrs["noising"] else "clean into corrupt"
    return f"Change of the {METRICS[results.attrs['metric']]}, {direction}; mean over the prompts."


def _unit(results: xr.Dataset) -> str:
    return results["base"].attrs.get("units", "")


def _words(receivers: str) -> str:
    """A set of receivers as sentences name it."""
    return joined([readable(one.strip()) for one in str(receivers).split(",")])


def _head(sender: str) -> Head | None:
    """Layer and head of a sender that is one."""
    found = read_head(sender)
    return None if found is None else found[0]
