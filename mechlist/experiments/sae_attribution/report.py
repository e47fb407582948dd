"""Figures, tables, files and sentences of attribution to features, from saved results alone."""

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.effects import decision, read, shown
from mechlist.experiments.sae_attribution.statistics import (
    PARTS,
    agreement_of,
    by_size,
    checked,
    edges_of,
    every_feature,
    over_lists,
)
from mechlist.experiments.sae_features import short_name, transfer_warning
from mechlist.figures import agreement, grouped_bars
from mechlist.figures.row_maps import row_maps
from mechlist.metrics.statistics import rank_correlation
from mechlist.sae.attributed import AttributedFeatures

NAMED = 5
"""Features that sentences name."""
DRAWN = 30
"""Features of the map by role."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """What parts get, features by role, and attribution against exact ablation."""
    out = {"parts": _parts(results)}
    if not results.attrs["summed"]:
        out["roles"] = _roles(results)
    table = checked(results)
    if len(table):
        out["agreement"] = agreement(
            table["attribution"].tolist(),
            table["exact"].tolist(),
            [f"{_feature(row)} in list {row['list']}" for row in table.to_dict("records")],
            title="Attribution and exact ablation of features",
            caption=f"{transfer_warning(results)}Each point is a feature of a list that is set to 0, the SAE's error "
            "kept; on the line the two are equal.",
            x_title=f"attribution ({results.attrs['units']})",
            y_title=f"exact ({results.attrs['units']})",
        )
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """`features`, one row a list and kept feature; `over-lists`, each feature's mean over all lists; `edges`."""
    out = {"features": every_feature(results), "over-lists": over_lists(results)}
    return out | ({"edges": edges_of(results)} if "edge" in results.dims else {})


def files(results: xr.Dataset) -> dict[str, str]:
    """`features.json`, where features have positions."""
    if results.attrs["summed"]:
        return {}
    table = by_size(every_feature(results))
    topics: dict[str, list[list[tuple[int, int, str]]]] = {}
    for number, topic in enumerate(results["topic"].values):
        own = table.iloc[np.flatnonzero(table["list"].to_numpy() == number)]
        rows = zip(own["position"].tolist(), own["feature"].tolist(), own["hook"].tolist(), strict=True)
        topics.setdefault(str(topic), []).append(list(rows))
    count = results.sizes["rank"] * results.sizes["sae"]
    saved = AttributedFeatures(model=results.attrs["model"], metric=_metric(results), top_k=count, topics=topics)
    return {"features.json": saved.to_json()}


def findings(results: xr.Dataset) -> list[str]:
    """What is explained, what features and errors get, the strongest features, and whether attribution is right."""
    units, n = results.attrs["units"], results.sizes["list"]
    kept = "are counted" if results.attrs["keep_special"] else "are left out"
    base = float(results["base"].mean())
    what = f"{_metric(results)[0].upper()}{_metric(results)[1:]}"
    warning = transfer_warning(results).strip()
    out = [warning] if warning else []
    out += [f"{what} is {base:+.2f} {units} on average over {n} lists; BOS and other special tokens {kept}."]
    means = {part: read(results, f"mean_{part}") for part in PARTS}
    texts = [
        f"{short_name(str(sae))}: features {shown(means['features'].sel(sae=sae))}, error "
        f"{shown(means['error'].sel(sae=sae))}, bias {shown(means['bias'].sel(sae=sae))}"
        for sae in results["sae"].values
    ]
    order = _order(results)
    out.append(
        f"{order[0].upper()}{order[1:]} the parts of each SAE add up to ({units}, mean over lists) {'; '.join(texts)}."
    )
    first = over_lists(results).head(NAMED).to_dict("records")
    named = [f"{_feature(row)} ({row['attribution']:+.3f}, {row['n_lists']} of {n} lists)" for row in first]
    out.append(f"The features with the largest mean attribution, over all lists, are {'; '.join(named)}.")
    if "edge" in results.dims:
        out.append(_edges(results))
    table = checked(results)
    if not len(table):
        return [*out, "No feature was set to 0 exactly: these are estimates, and nothing says how good they are."]
    missed = np.abs(table["attribution"].to_numpy() - table["exact"].to_numpy())
    worst = table.to_dict("records")[int(missed.argmax())]
    far = f"the worst is {_feature(worst)}: {worst['attribution']:+.3f}, exactly {worst['exact']:+.3f}"
    rank = agreement_of(results)
    said = "too few for a rank correlation" if np.isnan(rank) else f"rank correlation with attribution {rank:.2f}"
    return [*out, f"{len(table)} features were set to 0 exactly, the SAE's error kept: {said}; {far}."]


def claims(results: xr.Dataset) -> list[Claim]:
    """The feature with the largest mean attribution."""
    first = over_lists(results).head(1).to_dict("records")
    return [
        Claim(
            f"F{_feature(row)[1:]} gets the most of {_metric(results)}: {row['attribution']:+.2f} "
            f"{results.attrs['units']} on average, in {row['n_lists']} of {results.sizes['list']} lists.",
            "parts",
        )
        for row in first
    ]


def _edges(results: xr.Dataset) -> str:
    table = edges_of(results)
    rank = rank_correlation(table["attribution"].to_numpy(), table["exact"].to_numpy()) if len(table) > 2 else np.nan
    said = "" if np.isnan(rank) else f"; rank correlation with what setting these to 0 does {rank:.2f}"
    first = by_size(table).head(NAMED).to_dict("records")
    named = [
        f"{row['earlier_feature']} of {row['earlier']} to {row['later_feature']} of {row['later']} "
        f"({row['attribution']:+.2f}, exactly {row['exact']:+.2f})"
        for row in first
    ]
    return f"From SAE to SAE, in units of the later feature's activation, the largest are {'; '.join(named)}{said}."


def _parts(results: xr.Dataset) -> go.Figure:
    cells = {part: read(results, f"mean_{part}") for part in PARTS}
    labels = {"sae": [short_name(str(sae)) for sae in results["sae"].values]}

    def joined(name: str) -> xr.DataArray:
        both = xr.concat([one[name].assign_coords(labels) for one in cells.values()], "series")
        return both.drop_vars("hook", errors="ignore").rename(sae="category").assign_coords(series=list(PARTS))

    return grouped_bars(
        joined("estimate"),
        low=joined("low"),
        high=joined("high"),
        title="What features, bias and error of each SAE are attributed",
        caption=f"{transfer_warning(results)}Mean over lists of {_metric(results)}, {_order(results)}; 95 % bootstrap "
        "intervals over topics. What the error gets, no feature explains.",
        y_title=f"attribution ({results.attrs['units']})",
    )


def _roles(results: xr.Dataset) -> go.Figure:
    """The strongest features, and at which role they are: added up over kept positions, mean over lists."""
    first = over_lists(results).head(DRAWN)
    roles = [str(role) for role in results["role"].values]
    rows = list(zip(first["sae"], first["feature"], strict=True))
    cells = np.zeros((len(rows), len(roles)))
    for one in every_feature(results).to_dict("records"):
        key = (one["sae"], one["feature"])
        if key in rows and one["role"]:
            cells[rows.index(key), roles.index(one["role"])] += one["attribution"] / results.sizes["list"]
    values = xr.DataArray(cells[None], dims=("name", "row", "column"), coords={"name": [""], "column": roles})
    return row_maps(
        values,
        [f"{short_name(sae)} {feature}" for sae, feature in rows],
        title="The strongest features, by role",
        caption=f"{transfer_warning(results)}Attribution of {_metric(results)}, mean over lists of what each list's "
        f"{results.sizes['rank']} strongest features get at a role.",
        unit=results.attrs["units"],
        row_title="feature",
        column_title="role",
        diverging=True,
        turned=True,
    )


def _order(results: xr.Dataset) -> str:
    steps = results.attrs.get("integrated_gradients", 0)
    return f"by integrated gradients of {steps} steps" if steps else "to first order"


def _metric(results: xr.Dataset) -> str:
    """What is explained, as sentences name it."""
    what = "the logit difference" if results.attrs["of"] == "logit-difference" else "minus the log-probability"
    contrast = ", this adjective minus the other" if results.attrs["contrast"] else ""
    where = (
        f"{decision(results.attrs['direction'])} at the {results.attrs['own']} of {results.attrs['adjective']} lists"
    )
    return f"{what} of {where}{contrast}"


def _feature(row: Mapping[Hashable, object]) -> str:
    return f"feature {row['feature']} of {short_name(str(row['sae']))}"
