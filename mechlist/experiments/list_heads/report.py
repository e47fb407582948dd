"""Figures, tables and sentences of attribution patching of heads on lists, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.effects import MEAN, read, rows, shown
from mechlist.experiments.list_heads.statistics import WHOLE, checked_cells, rank_agreement
from mechlist.experiments.list_pairs import SIDE_NAMES
from mechlist.figures import agreement, head_heatmap, position_heatmap
from mechlist.text import between, with_interval
from mechlist.types import head_name

NAMED = 5
"""Heads that sentences name."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Heads over all roles, the strongest head of each role, and estimates against exact patching."""
    cells, whole = read(results, MEAN), read(results, WHOLE)
    where = f"{results.attrs['direction']}; {SIDE_NAMES[results.attrs['side']]}"
    drawn = {
        "heads": head_heatmap(
            whole["estimate"],
            title="Estimated effect of each head's output at all roles",
            caption=f"{where}. To first order, in logits, mean over all lists; a dot marks heads whose effect survives "
            "the correction for all heads.",
            unit="logits",
            diverging=True,
            marked=whole["survives"].astype(bool),
        )
    }
    strongest = cells["estimate"].isel(head=abs(cells["estimate"]).fillna(0).argmax("head"))
    by_role = strongest.rename(role="position").drop_vars(["position", "head"], errors="ignore")
    drawn["roles"] = position_heatmap(
        by_role,
        [str(role) for role in results["role"].values],
        title="Estimated effect of the strongest head of each layer, by role",
        caption=f"{where}. At the position's own role a head writes what is measured; at others, what later layers "
        "read from there.",
        unit="logits",
    )
    checked = checked_cells(results)
    if len(checked):
        drawn["agreement"] = agreement(
            checked["estimate"].tolist(),
            checked["exact"].tolist(),
            _names(checked),
            title="Estimated and exact effects",
            caption="Each point is a head at a role, one of those with the largest estimates, over all lists; on the "
            "line the two are equal.",
            x_title="estimate (logits)",
            y_title="exact (logits)",
        )
    return drawn


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` heads by role, by the size of their mean estimate; and those that were patched exactly."""
    table = rows(read(results, MEAN)).sort_values("estimate", key=np.abs, ascending=False, ignore_index=True)
    return {"heads": table.head(top), "verified": checked_cells(results)}


def findings(results: xr.Dataset) -> list[str]:
    """The strongest heads, exactly, and how far the estimates can be trusted."""
    base, source = (read(results, f"mean_{name}") for name in ("base", "source"))
    which = SIDE_NAMES[results.attrs["side"]]
    out = [
        f"{results.attrs['direction']}, at the {results.attrs['own']}, {which}: {shown(base)} in the runs that are "
        f"changed and {shown(source)} in those that heads' outputs come from, over {results.sizes['list']} lists."
    ]
    checked = checked_cells(results)
    if not len(checked):
        return [*out, "No head was patched exactly: these are estimates, and nothing says how good they are."]
    first = checked.sort_values("exact", key=np.abs, ascending=False, ignore_index=True).head(NAMED)
    values = first[["exact", "low", "high"]].to_numpy().tolist()
    texts = [f"{name} {with_interval(*value)}" for name, value in zip(_names(first), values, strict=True)]
    out.append(f"Patched exactly, the heads that move it most are {'; '.join(texts)} logits.")
    found = rank_agreement(results)
    worst = checked.loc[(checked["estimate"] - checked["exact"]).abs().idxmax()]
    name = _names(checked.loc[[worst.name]])[0]
    far = f"the worst is {name}: estimated {worst['estimate']:+.2f}, exact {worst['exact']:+.2f}"
    if np.isnan(found.rank):
        return [*out, f"Of the estimates {far}; {len(checked)} cells are too few for a rank correlation."]
    return [
        *out,
        f"Of the {len(checked)} heads and roles with the largest estimates, the rank correlation with exact patching "
        f"is {found.rank:.2f}{between(found.low, found.high, '.2f')}; {far}.",
    ]


def _names(table: pd.DataFrame) -> list[str]:
    places = zip(table["layer"], table["head"], table["role"], strict=True)
    return [f"{head_name((int(layer), int(head)))} at {role}" for layer, head, role in places]
