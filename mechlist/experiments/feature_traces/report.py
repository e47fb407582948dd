"""Figures, tables, files and sentences of features along lists, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.sae_features import transfer_warning
from mechlist.figures.row_maps import row_maps
from mechlist.sae.neuronpedia import quick_list
from mechlist.sae.overlap import clustered
from mechlist.text import joined, number_of, shortened, unescaped, visible

NAMED = 6
"""Features that sentences tell of."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Largest activation of each feature on each list, clustered, beside the twin; counts by topic; roles; items."""
    warning, order = transfer_warning(results), _order(results)
    shown = results.isel(feature=order)
    names = [_name(shown, i) for i in range(shown.sizes["feature"])]
    scale = shown["largest"].max("list").where(lambda most: most > 0, 1.0)
    other = "long" if results.attrs["adjective"] == "short" else "short"
    columns = [f"{i} {topic}" for i, topic in enumerate(results["topic"].values)]
    twins = xr.concat([shown["largest"] / scale, shown["twin_largest"] / scale], "name").rename(
        feature="row", list="column"
    )
    twins = twins.assign_coords(name=[f"{results.attrs['adjective']} lists", f"as {other} lists"], column=columns)
    return {
        "lists": row_maps(
            _bare(twins),
            names,
            title="Largest activation of each feature on each list",
            caption=f"{warning}As a share of the feature's largest on any list; special tokens left out; features with "
            "similar rows stand together. The twin is the same list behind the other adjective.",
            unit="share of the largest",
            row_title="feature",
            column_title="list",
            limit=max(1.0, float(twins.max())),
            turned=True,
        ),
        "topics": _map(
            _by_topic(shown),
            names,
            title="Lists of each topic on which a feature is active",
            caption=f"{warning}Share of the topic's lists.",
            unit="share of lists",
            column_title="topic",
        ),
        "roles": _map(
            (shown["role_activation"] / scale).rename(role="column"),
            names,
            title="Activation of each feature by role",
            caption=f"{warning}Mean over the positions with the role, as a share of the feature's largest activation.",
            unit="share of the largest",
            column_title="role",
        ),
        "items": _map(
            (shown["item_activation"] / scale).rename(item="column"),
            names,
            title="Activation of each feature by item",
            caption=f"{warning}Largest activation inside an item, mean over lists, as a share of the largest of all.",
            unit="share of the largest",
            column_title="item",
        ),
    }


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """`features`, `contexts`, `tokens` and `topics`, one row each of what the name says."""
    features = pd.DataFrame(
        {
            "feature": results["feature"].values,
            "hook": results["hook"].values,
            "label": results["label"].values,
            "largest": results["largest"].max("list").values,
            "lists": (results["largest"] > 0).sum("list").values,
            "twin_lists": (results["twin_largest"] > 0).sum("list").values,
            "page": results["page"].values,
        }
    )
    names = [str(name) for name in results.data_vars if str(name).startswith("context_")]
    contexts = results[names].drop_vars(["hook", "number", "neuronpedia", "page", "label"]).to_dataframe().reset_index()
    contexts = contexts.iloc[np.flatnonzero(contexts["context_list"].to_numpy() >= 0)].reset_index(drop=True)
    for name in ("context_before", "context_token", "context_behind"):
        contexts[name] = [visible(unescaped(text)) for text in contexts[name]]
    tokens = results[["written", "written_token"]].drop_vars(["hook", "number", "neuronpedia", "page", "label"])
    written = tokens.to_dataframe().reset_index()
    written["written_token"] = [unescaped(text) for text in written["written_token"]]
    topics = _by_topic(results).rename(column="topic", row="feature").to_dataframe("share_of_lists").reset_index()
    topics["feature"] = np.repeat(results["feature"].values, len(np.unique(results["topic"].values)))
    return {"features": features, "contexts": contexts, "tokens": written, "topics": topics}


def files(results: xr.Dataset) -> dict[str, str]:
    """`neuronpedia.url`, the address of the list; nothing where Neuronpedia has none of the features."""
    columns = (results[name].values.tolist() for name in ("neuronpedia", "number", "label"))
    url = quick_list(f"{results.attrs['model']}: features of lists", list(zip(*columns, strict=True)))
    return {"neuronpedia.url": f"[InternetShortcut]\nURL={url}\n"} if url else {}


def findings(results: xr.Dataset) -> list[str]:
    """Of the first features: on how many lists, at which role and by which tokens."""
    warning = transfer_warning(results).strip()
    out = [warning] if warning else ["The SAEs pass the check on these lists."]
    n = results.sizes["list"]
    for i in range(min(NAMED, results.sizes["feature"])):
        one = results.isel(feature=i)
        lists, twins = int((one["largest"] > 0).sum()), int((one["twin_largest"] > 0).sum())
        if not lists:
            out.append(f"{_name(results, i)} is active on no list.")
            continue
        role = str(one["role"].values[int(np.nanargmax(one["role_activation"].values))])
        contexts = [unescaped(str(text)) for text in one["context_token"].values]
        tokens = list(dict.fromkeys(f'"{visible(text)}"' for text in contexts if text))
        up = [f'"{unescaped(str(text))}"' for text in one["written_token"].sel(end="up").values[:3]]
        writes = f"; its direction raises the logits of {joined(up)} most" if np.isfinite(one["written"]).any() else ""
        out.append(
            f"{_name(results, i)} is active on {lists} of {number_of(n, 'lists')} ({twins} of their twins), most at "
            f"the role {role}; its largest activations are at {joined(tokens)}{writes}."
        )
    return out


def _order(results: xr.Dataset) -> np.ndarray:
    """Features with similar rows together."""
    rows = np.nan_to_num(results["largest"].values)
    if len(rows) < 3:
        return np.arange(len(rows))
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(size > 0, size, 1.0)
    return clustered(np.clip(unit @ unit.T, 0, 1))


def _by_topic(shown: xr.Dataset) -> xr.DataArray:
    active = (shown["largest"] > 0).astype(float)
    topics = np.unique(shown["topic"].values)
    shares = [active.values[:, shown["topic"].values == topic].mean(axis=1) for topic in topics]
    return xr.DataArray(np.stack(shares, axis=1), dims=("row", "column"), coords={"column": topics})


def _map(
    values: xr.DataArray, names: list[str], *, title: str, caption: str, unit: str, column_title: str
) -> go.Figure:
    cells = values.rename(feature="row") if "feature" in values.dims else values
    labelled = cells.drop_vars([name for name in cells.coords if name != "column"]).expand_dims(name=[""])
    return row_maps(
        labelled,
        names,
        title=title,
        caption=caption,
        unit=unit,
        row_title="feature",
        column_title=column_title,
        turned=True,
    )


def _bare(values: xr.DataArray) -> xr.DataArray:
    return values.drop_vars([name for name in values.coords if name not in ("name", "column")])


def _name(results: xr.Dataset, index: int) -> str:
    label = str(results["label"].values[index])
    return f"{results['feature'].values[index]}{f' ({shortened(label, 40)})' if label else ''}"
