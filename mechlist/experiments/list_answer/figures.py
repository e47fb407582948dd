"""Three figures beside the answer, from what was gathered alone."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiments.list_answer.effects import FACTORS, LABELS
from mechlist.experiments.list_answer.gathering import ENDS
from mechlist.experiments.list_answer.sentences import margin_of
from mechlist.figures.notes import NOT_FEW, OVER_TOPICS, beside_truth, counted, ends
from mechlist.metrics.by_topic import enough
from mechlist.text import lists_named, number, with_ends


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """P(end) by item with and without a filler, effects of factors on A, and heads by factor; those there are."""
    out: dict[str, go.Figure] = {}
    if "end_probability" in results:
        out["ending"] = _ending(results)
    if "coefficient" in results:
        out["factors"] = _factors(results)
    if "share" in results and np.isfinite(results["share"]).any():
        out["heads"] = _heads(results)
    return out


def _ending(results: xr.Dataset) -> go.Figure:
    kept = enough(results["end_lists"].fillna(0), "item")
    shown = results[[f"end_probability{end}" for end in ENDS]].where(kept).stack(x=("of_lists", "filler"))
    names = [f"{lists_named(of)}, {filler}" for of, filler in shown["x"].values]
    shown = shown.drop_vars(["x", "of_lists", "filler"]).assign_coords(x=names).rename(x="series").rename(item="x")
    counts = results["end_lists"].fillna(0).stack(series=("of_lists", "filler"))
    counts = counts.drop_vars(["series", "of_lists", "filler"]).assign_coords(series=names).rename(item="x")
    return draw.interval_lines(
        shown["end_probability"],
        **ends(shown, "end_probability"),
        title="How likely a list ends after an item, with and without a filler on it",
        caption="The model's own probability of the end of the turn at the line break behind an item, averaged over "
        f"the lists that got there; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
        note=counted(counts, "lists"),
    )


def _factors(results: xr.Dataset) -> go.Figure:
    shown = beside_truth(results, "coefficient", "truth").rename(term="x")
    shown = shown.assign_coords(x=[LABELS.get(term, term) for term in shown["x"].values.tolist()])
    margin = margin_of(results)
    return draw.interval_bars(
        shown["coefficient"],
        **ends(shown, "coefficient"),
        title="What each factor of a list does to the decision to end it",
        caption="Logits of A (end of turn minus hyphen at a line break) for one more of each, all others held; an "
        f"effect matters where its interval lies beyond {number(margin)} logits; {OVER_TOPICS}.",
        x_title="factor",
        y_title="change of A (logits)",
    )


def _heads(results: xr.Dataset) -> go.Figure:
    factors = [factor for factor in FACTORS if factor in results["factor"].values]
    factors += [factor for factor in results["factor"].values.tolist() if factor not in FACTORS]
    panels = {FACTORS.get(factor, factor): results.sel(factor=factor) for factor in factors}
    return draw.heads_panel(
        {name: one["share"] for name, one in panels.items()},
        title="Which heads carry each factor's effect",
        caption="Share of the factor's effect on A that a head's output at the last line break carries when it is "
        "exchanged alone; grey heads were not patched exactly.",
        unit="share",
        diverging=True,
        note={name: _intervals(one) for name, one in panels.items() if "share_low" in one},
    )


def _intervals(one: xr.Dataset) -> xr.DataArray:
    """What the hover box adds to a head's share."""
    ends_of = zip(*(one[f"share{end}"].values.ravel() for end in ENDS), strict=True)
    texts = [f", with its interval {with_ends(*end)}" if np.isfinite(end[1]) else "" for end in ends_of]
    return one["share"].copy(data=np.array(texts, dtype=object).reshape(one["share"].shape))
