"""Figures, tables and sentences of attribution patching of heads on lists, from saved results alone."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.effects import SEED, estimated, rows, shown
from mechlist.experiments.list_patch.figures import NAMES
from mechlist.figures import agreement, head_heatmap, position_heatmap
from mechlist.metrics.ratios import resampled_ratios
from mechlist.metrics.statistics import rank_correlation

NAMED = 5
"""Heads that sentences name."""
FEWEST = 3
"""Cells from which on a rank correlation says something."""


@dataclass(frozen=True)
class Agreement:
    """How estimates rank the cells that were patched exactly."""

    rank: float
    """Spearman's correlation of mean estimates and mean exact effects."""
    low: float
    high: float


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Heads over all roles, the strongest head of each role, and estimates against exact patching."""
    cells = estimated(results["effect"])
    whole = estimated(results["effect"].sum("role", min_count=1))
    where = f"{results.attrs['direction']}; {NAMES[results.attrs['side']]}"
    drawn = {
        "heads": head_heatmap(
            whole["estimate"],
            title="Estimated effect of each head's output at all roles",
            caption=f"{where}. To first order, in logits, mean over all lists; a dot marks heads whose effect survives "
            "the correction for all heads.",
            unit="logits",
            diverging=True,
            marked=whole["survives"],
        )
    }
    strongest = cells["estimate"].isel(head=abs(cells["estimate"]).fillna(0).argmax("head"))
    by_role = strongest.rename(role="position").drop_vars(["position", "head"], errors="ignore")
    drawn["roles"] = position_heatmap(
        by_role,
        [str(role) for role in results["role"].values],
        title="Estimated effect of the strongest head of each layer, by role",
        caption=f"{where}. Look for where the heads read: effects at the position's own role are its last word.",
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
    table = rows(estimated(results["effect"])).sort_values("estimate", key=np.abs, ascending=False, ignore_index=True)
    return {"heads": table.head(top), "verified": checked_cells(results)}


def checked_cells(results: xr.Dataset) -> pd.DataFrame:
    """Means over lists of the cells that were patched exactly, the largest estimates first; with intervals."""
    exact = estimated(results["exact"])
    exact = exact.assign(exact=exact["estimate"], estimate=results["effect"].mean("list"))
    table: pd.DataFrame = rows(exact).loc[
        :, ["layer", "head", "role", "estimate", "exact", "low", "high", "n", "p_corrected"]
    ]
    return table.sort_values("estimate", key=np.abs, ascending=False, ignore_index=True)


def rank_agreement(results: xr.Dataset) -> Agreement:
    """Of the cells that were patched exactly; the interval is a bootstrap over topics. NaN with too few cells."""
    pair = [
        results[name].stack(cell=("layer", "head", "role")).transpose("list", "cell") for name in ("effect", "exact")
    ]
    chosen = pair[1].notnull().any("list").values
    if chosen.sum() < FEWEST:
        return Agreement(np.nan, np.nan, np.nan)
    values = [one.values[:, chosen].astype(float) for one in pair]
    there = np.isfinite(values[0]) & np.isfinite(values[1])
    means = [np.where(there, one, 0.0).sum(axis=0) / there.sum(axis=0) for one in values]
    both, weight = (
        np.concatenate([np.where(there, one, 0.0) for one in values], axis=1),
        np.tile(there, 2).astype(float),
    )
    generator, topics = np.random.default_rng(SEED), results["topic"].values
    if len(np.unique(topics)) < 2:
        return Agreement(rank_correlation(*means), np.nan, np.nan)
    drawn = resampled_ratios(both, weight, topics, resamples=1000, generator=generator)
    ranks = [rank_correlation(*np.split(draw, 2)) for draw in drawn if np.isfinite(draw).all()]
    low, high = np.quantile(ranks, [0.025, 0.975]) if ranks else (np.nan, np.nan)
    return Agreement(rank_correlation(*means), float(low), float(high))


def findings(results: xr.Dataset) -> list[str]:
    """The strongest heads, exactly, and how far the estimates can be trusted."""
    base, source = (estimated(results[name]) for name in ("base", "source"))
    which = NAMES[results.attrs["side"]]
    out = [
        f"{results.attrs['direction']}, at the {results.attrs['own']}, {which}: {shown(base)} in the runs that are "
        f"changed and {shown(source)} in those that heads' outputs come from, over {results.sizes['list']} lists."
    ]
    checked = checked_cells(results)
    if not len(checked):
        return [*out, "No head was patched exactly: these are estimates, and nothing says how good they are."]
    first = checked.sort_values("exact", key=np.abs, ascending=False, ignore_index=True).head(NAMED)
    texts = [
        f"{name} {row['exact']:+.2f}" + (f" [{row['low']:+.2f}, {row['high']:+.2f}]" if np.isfinite(row["low"]) else "")
        for name, (_, row) in zip(_names(first), first.iterrows(), strict=True)
    ]
    out.append(f"Patched exactly, the heads that move it most are {'; '.join(texts)} logits.")
    found = rank_agreement(results)
    worst = checked.loc[(checked["estimate"] - checked["exact"]).abs().idxmax()]
    name = _names(checked.loc[[worst.name]])[0]
    far = f"the worst is {name}: estimated {worst['estimate']:+.2f}, exact {worst['exact']:+.2f}"
    if np.isnan(found.rank):
        return [*out, f"Of the estimates {far}; {len(checked)} cells are too few for a rank correlation."]
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if np.isfinite(found.low) else ""
    return [
        *out,
        f"Of the {len(checked)} heads and roles with the largest estimates, the rank correlation with exact patching "
        f"is {found.rank:.2f}{interval}; {far}.",
    ]


def _names(table: pd.DataFrame) -> list[str]:
    return [f"L{layer}H{head} at {role}" for layer, head, role in table[["layer", "head", "role"]].to_numpy()]
