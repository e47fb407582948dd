"""Figures, tables and findings of `written-lists`, from its saved results alone."""

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiment import Claim
from mechlist.experiments.written_lists.compare import MEASURES
from mechlist.figures.notes import NOT_FEW, OVER_TOPICS, counted, ends
from mechlist.metrics.by_topic import enough
from mechlist.text import between, lists_named, number_of

ENDS = ("", "_low", "_high")
SLUGS = ("entropy-at-line-break", "entropy-at-last-token", "end-at-line-break", "filler-at-last-token", "fillers")


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Differences of entropies and of probabilities, and every measure by item."""
    out = {
        "entropy-differences": _differences(results, MEASURES[:2], "Entropy", "nats"),
        "probability-differences": _differences(results, MEASURES[2:], "End and fillers", "probability"),
    }
    for measure, slug in zip(MEASURES, SLUGS, strict=True):
        out[slug] = _by_item(results, measure)
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """By adjective and measure: both means and their difference, over all items and by item."""
    return {
        "differences": _frame(results, "overall", ["by_adjective", "measure"]),
        "items": _frame(results, "mean", ["by_adjective", "measure", "item"]),
    }


def findings(results: xr.Dataset) -> list[str]:
    """What the results say, with intervals over topics."""
    own, written = (int(n) for n in results["n_lists"].values)
    topics = number_of(int(results["n_topics"]), "topics")
    out = [
        f"{results.attrs['model']} read {own} lists of its own and {written} that it did not write "
        f"({results.attrs['written']}), behind the same prompts of {topics}."
    ]
    for adjective in results["by_adjective"].values.tolist():
        part = results.sel(by_adjective=adjective)
        told = [_sentence(part.sel(measure=measure), measure) for measure in MEASURES]
        out.append(f"{lists_named(adjective).capitalize()}, own against written: {'; '.join(told)}.")
    return out


def claims(results: xr.Dataset) -> list[Claim]:
    """In how many means own and written lists differ, by their intervals."""
    low, high = (results[f"overall_difference{end}"] for end in ENDS[1:])
    apart = int(((low > 0) | (high < 0)).sum())
    total = int(low.notnull().sum())
    text = f"Own and written lists differ in {apart} of {total} means by adjective and measure (intervals without 0)."
    return [Claim(text, "probability-differences")] if total else []


def _sentence(part: xr.Dataset, measure: str) -> str:
    own, written = (float(part["overall"].sel(source=source)) for source in ("own", "written"))
    gap, low, high = (float(part[f"overall_difference{end}"]) for end in ENDS)
    unit = " nats" if measure.startswith("entropy") else ""
    return f"{measure} {own:.3f} against {written:.3f}{unit} ({gap:+.3f}{between(low, high, '+.3f')})"


def _frame(results: xr.Dataset, stem: str, dims: list[str]) -> pd.DataFrame:
    parts = {source: results[stem].sel(source=source).drop_vars("source") for source in ("own", "written")}
    parts |= {f"difference{end}": results[f"{stem}_difference{end}"] for end in ENDS}
    frame = xr.Dataset(parts).to_dataframe(dim_order=dims).reset_index().rename(columns={"by_adjective": "adjective"})
    return frame.loc[frame["own"].notna() | frame["written"].notna()].reset_index(drop=True)


def _differences(results: xr.Dataset, measures: tuple[str, ...], what: str, unit: str) -> go.Figure:
    chosen = results[[f"overall_difference{end}" for end in ENDS]].sel(measure=list(measures))
    rows = chosen.stack(category=("measure", "by_adjective"), create_index=False)
    pairs = zip(rows["measure"].values, rows["by_adjective"].values, strict=True)
    labels = [f"{measure}, {adjective}" for measure, adjective in pairs]
    rows = rows.drop_vars(["measure", "by_adjective"]).assign_coords(category=labels)
    return draw.interval_rows(
        rows["overall_difference"],
        **ends(rows, "overall_difference"),
        title=f"{what}: the model's own lists minus lists that it did not write",
        caption="Means over the items that both lists of a prompt have; written lists are of "
        f"{results.attrs['written']}; {OVER_TOPICS}.",
        x_title=f"difference ({unit})",
    )


def _by_item(results: xr.Dataset, measure: str) -> go.Figure:
    part = results[[f"mean{end}" for end in ENDS]].sel(measure=measure).where(enough(results["lists_at"], "item"))
    shown = part.assign(lists_at=results["lists_at"]).stack(series=("by_adjective", "source"), create_index=False)
    pairs = zip(shown["by_adjective"].values, shown["source"].values, strict=True)
    labels = [f"{adjective}, {source}" for adjective, source in pairs]
    shown = shown.drop_vars(["by_adjective", "source"]).assign_coords(series=labels).rename(item="x")
    unit = " (nats)" if measure.startswith("entropy") else ""
    return draw.interval_lines(
        shown["mean"],
        **ends(shown, "mean"),
        title=f"{measure[0].upper()}{measure[1:]}, by item",
        caption=f"Own lists of the model against written ones ({results.attrs['written']}) behind the same prompts; "
        f"{OVER_TOPICS}; {NOT_FEW}.",
        x_title="item",
        y_title=f"mean{unit}",
        note=counted(shown["lists_at"], "lists"),
    )
