"""Figures, tables and sentences of attribution patching of heads on lists, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.effects import MEAN, notes, read, rows, shown
from mechlist.experiments.list_heads import ways
from mechlist.experiments.list_heads.statistics import WHOLE, checked_cells, rank_agreement
from mechlist.experiments.list_pairs import run_names, side_name
from mechlist.experiments.rules import by_rule_words
from mechlist.figures import agreement, head_heatmap, position_heatmap
from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.margin import verdict
from mechlist.metrics.statistics import Threshold, null_threshold
from mechlist.text import between, joined, number_of, with_interval
from mechlist.types import head_name

NAMED = 5
"""Heads that sentences name."""
MARGIN = 0.02
"""Share of the gap between the runs beyond which an interval must lie for a head to matter."""
SHARE_ENDS = ("share_low", "share_high")


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Heads over all roles, the strongest head of each role, and estimates against exact patching."""
    cells, whole = read(results, MEAN), read(results, WHOLE)
    where = f"{results.attrs['direction']}; {side_name(results, results.attrs['side'])}"
    drawn = {
        "heads": head_heatmap(
            whole["estimate"],
            title="Estimated effect of each head's output at all roles",
            caption=f"{where}. To first order, in logits, mean over all lists; a dot marks heads whose effect survives "
            "the correction for all heads.",
            unit="logits",
            diverging=True,
            marked=whole["survives"].astype(bool),
            note=notes(whole),
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
    if "share" in results:
        drawn["shares"] = head_heatmap(
            results["share"],
            title=f"What each head at the {results.attrs['own']} carries",
            caption=f"{where}. Share of the difference between {' and '.join(run_names(results))} that moves with the "
            "head's output there, patched exactly, over all lists (1: all).",
            unit="share",
            diverging=True,
            note=_share_notes(results),
        )
    if "way_share" in results:
        drawn["ways"] = ways.figure(results)
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


def _share_notes(results: xr.Dataset) -> xr.DataArray:
    """The interval of each share, and how often its head is among the strongest when topics are drawn again."""
    value, low, high, often = (results[name].values for name in ("share", *SHARE_ENDS, "selected"))
    texts = [
        f"interval{between(a, b, '.1%') or ' not known'}, among the strongest in {chosen:.0%} of resamples of topics"
        if np.isfinite(share)
        else "not patched exactly"
        for share, a, b, chosen in zip(*(x.ravel() for x in (value, low, high, often)), strict=True)
    ]
    return results["share"].copy(data=np.array(texts, dtype=object).reshape(low.shape))


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` heads by role, by the size of their mean estimate; and those that were patched exactly."""
    table = rows(read(results, MEAN)).sort_values("estimate", key=np.abs, ascending=False, ignore_index=True)
    out = {"heads": table.head(top), "verified": checked_cells(results)}
    out |= {"shares": head_shares(results)} if "share" in results else {}
    return out | {"ways": ways.table(results)} if "way_share" in results else out


def findings(results: xr.Dataset) -> list[str]:
    """The strongest heads, exactly, and how far the estimates can be trusted."""
    base, source = (read(results, f"mean_{name}") for name in ("base", "source"))
    which = side_name(results, results.attrs["side"])
    out = [
        f"{results.attrs['direction']}, at the {results.attrs['own']}, {which}: {shown(base)} in the runs that are "
        f"changed and {shown(source)} in those that heads' outputs come from, over {results.sizes['list']} lists."
    ]
    checked = checked_cells(results)
    if "share" in results:
        out += [_shares(results), *_null(results), *_joint(results)]
        out += ways.findings(results, MARGIN) if "way_share" in results else []
    elif "factor" in results.attrs and len(checked):
        one, other = run_names(results)
        out.append(
            f"The runs with {one} and {other} measure the same at the {results.attrs['own']}, but for rounding: there "
            "is no difference that a head could carry a share of."
        )
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
        *by_rule_words(results, "heads and roles"),
    ]


def head_shares(results: xr.Dataset) -> pd.DataFrame:
    """Of every head that was patched at the place that is measured its share, the largest first."""
    columns = ["share", *SHARE_ENDS, "estimate", "selected"]
    table: pd.DataFrame = results[columns].to_dataframe().reset_index().loc[:, ["layer", "head", *columns]]
    return table.dropna(subset=["share"]).sort_values("share", key=np.abs, ascending=False, ignore_index=True)


def _shares(results: xr.Dataset) -> str:
    """The heads whose share matters; where there are no intervals, the largest."""
    table = head_shares(results)
    known = not np.isnan(table["share_low"].to_numpy()).all()
    if known:
        ends = table[list(SHARE_ENDS)].to_numpy().tolist()
        table = table.loc[[verdict(low, high, MARGIN) == "matters" for low, high in ends]]
    table = table.loc[table["share"].abs() > _null_threshold(results).value]
    table = table.head(NAMED)
    where = (
        f"Of the {_gap(results):+.2f} logits between {' and '.join(run_names(results))}, at the {results.attrs['own']}"
    )
    if not len(table):
        beyond = " and that is more than an irrelevant change does" if "null_share" in results else ""
        return f"{where}, no head carries a share whose interval lies beyond {MARGIN:.0%}{beyond}; {_patched(results)}."
    texts = [
        f"{name} carries {with_interval(share, low, high, '.0%')}"
        for name, (share, low, high) in zip(
            _heads(table), table[["share", *SHARE_ENDS]].to_numpy().tolist(), strict=True
        )
    ]
    again = joined([f"{share:.0%}" for share in table["selected"].tolist()])
    stable = f"; among the {results.attrs['strongest']} strongest they are in {again} of resamples of topics"
    return f"{where}, {joined(texts)}{stable if known else ''}; {_patched(results)}."


def _null_threshold(results: xr.Dataset) -> Threshold:
    """The share that a head must go beyond to be more than an irrelevant change; 0 where none was tried."""
    if "null_share" not in results:
        return Threshold(0.0, 0.0)
    return null_threshold(np.abs(results["null_share"].values.astype(float)))


def _null(results: xr.Dataset) -> list[str]:
    """What an irrelevant change does to the same heads."""
    if "null_share" not in results:
        return []
    found, draws = _null_threshold(results), number_of(results.sizes["null_draw"], "draws")
    beyond = int((np.abs(results["share"]) > found.value).sum())
    return [
        "Where what is put in is the same list with its items in another order, which is not to matter, no head moves "
        f"it by more than {found.value:.1%} of that difference ({draws}, level {found.level:.2g}); {beyond} of the "
        f"{int(results['share'].notnull().sum())} heads go beyond it in the exchange."
    ]


def _gap(results: xr.Dataset) -> float:
    return float((results["source"] - results["base"]).mean())


def _patched(results: xr.Dataset) -> str:
    """How many heads were patched exactly, and what the others could do."""
    patched, among = int(results.attrs["heads_patched"]), results["share"].size
    if patched == among:
        return f"all {among} heads were patched exactly"
    return (
        f"{patched} of {among} heads were patched exactly, and by the largest ratio of effect and estimate among them "
        f"none of the others moves it by more than {results.attrs['reach']:.2g} logits"
    )


def _joint(results: xr.Dataset) -> list[str]:
    """What the heads do together that were chosen on other topics."""
    if "joint_share" not in results:
        return []
    together, alone = (_with_ends(results, name) for name in ("joint_share", "joint_sum_share"))
    others = results["joint_random_share"].values
    count = int(results["joint_chosen"].isel(half=0).sum())
    said = (
        f"The {count} strongest heads of one half of the topics, changed together on the other half and the other way "
        f"round, carry {together}; their single effects add up to {alone}."
    )
    if not len(others):
        return [said]
    rank = 1 + int((np.abs(others) >= abs(float(results["joint_share"]))).sum())
    p, low, high = (float(value) for value in (results["joint_p"], others.min(), others.max()))
    return [
        f"{said} Against {len(others)} sets of as many other heads of the same layers they are number {rank} of "
        f"{len(others) + 1} (p = {p:.2g}); these carry {low:.0%} to {high:.0%}."
    ]


def _with_ends(results: xr.Dataset, name: str) -> str:
    value, low, high = (float(results[f"{name}{end}"]) for end in ENDS)
    return with_interval(value, low, high, ".0%")


def _heads(table: pd.DataFrame) -> list[str]:
    return [head_name((int(layer), int(head))) for layer, head in zip(table["layer"], table["head"], strict=True)]


def _names(table: pd.DataFrame) -> list[str]:
    places = zip(table["layer"], table["head"], table["role"], strict=True)
    return [f"{head_name((int(layer), int(head)))} at {role}" for layer, head, role in places]
