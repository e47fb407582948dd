"""Figures, tables and findings of `written-lists`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiment import Claim
from mechlist.experiments.written_lists.compare import MEASURES
from mechlist.figures.notes import NOT_FEW, OVER_TOPICS, counted, ends
from mechlist.metrics.by_topic import ENDS, enough
from mechlist.text import between, joined, lists_named, number_of, with_interval

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
    """By adjective and measure: both means and their difference, over all items, with equal fillers, and by item."""
    out = {"differences": _frame(results, "overall", ["by_adjective", "measure"])}
    if "matched_overall" in results:
        out["matched"] = _frame(results, "matched_overall", ["by_adjective", "measure"])
    return out | {"items": _frame(results, "mean", ["by_adjective", "measure", "item"])}


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
    """By how much the probability of the end differs at most, with and without the fillers of the model's own lists."""
    told = []
    for stem, words in (("overall", "as they are"), ("matched_overall", "with the fillers of the model's own")):
        name = f"{stem}_difference"
        if name in results:
            part = results.sel(measure=MEASURES[2])
            part = part.isel(by_adjective=np.flatnonzero(np.isfinite(part[name].values)))
            if part.sizes["by_adjective"]:
                most = part.isel(by_adjective=int(np.abs(part[name].values).argmax()))
                value, low, high = (float(most[f"{name}{end}"]) for end in ENDS)
                which = lists_named(str(most["by_adjective"].values))
                told.append(f"{with_interval(value, low, high, '+.3f')} {words} ({which})")
    text = "P(end) at line breaks of own lists less that of written ones, where it is largest:"
    return [Claim(f"{text} {joined(told)}.", "probability-differences")] if told else []


def _sentence(part: xr.Dataset, measure: str) -> str:
    own, written = (float(part["overall"].sel(source=source)) for source in ("own", "written"))
    gap, low, high = (float(part[f"overall_difference{end}"]) for end in ENDS)
    unit = " nats" if measure.startswith("entropy") else ""
    said = f"{measure} {own:.3f} against {written:.3f}{unit} ({gap:+.3f}{between(low, high, '+.3f')}"
    if measure == MEASURES[-1] or "matched_overall_difference" not in part:
        return f"{said})"
    value, low, high = (float(part[f"matched_overall_difference{end}"]) for end in ENDS)
    return f"{said}; with the same fillers {value:+.3f}{between(low, high, '+.3f')})"


def _frame(results: xr.Dataset, stem: str, dims: list[str]) -> pd.DataFrame:
    parts = {source: results[stem].sel(source=source).drop_vars("source") for source in ("own", "written")}
    parts |= {f"difference{end}": results[f"{stem}_difference{end}"] for end in ENDS}
    frame = xr.Dataset(parts).to_dataframe(dim_order=dims).reset_index().rename(columns={"by_adjective": "adjective"})
    return frame.loc[frame["own"].notna() | frame["written"].notna()].reset_index(drop=True)


def _differences(results: xr.Dataset, measures: tuple[str, ...], what: str, unit: str) -> go.Figure:
    parts: list[xr.Dataset] = []
    for stem, words in (("overall", ""), ("matched_overall", ", same fillers")):
        names = {f"{stem}_difference{end}": f"difference{end}" for end in ENDS}
        if f"{stem}_difference" not in results:
            continue
        kept = [measure for measure in measures if not words or measure != MEASURES[-1]]
        chosen = results[list(names)].rename(names).sel(measure=kept)
        rows = chosen.stack(category=("measure", "by_adjective"), create_index=False)
        pairs = zip(rows["measure"].values, rows["by_adjective"].values, strict=True)
        labels = [f"{_short(measure)}, {adjective}{words}" for measure, adjective in pairs]
        parts.append(rows.drop_vars(["measure", "by_adjective"]).assign_coords(category=labels))
    rows = xr.concat(parts, dim="category")
    names = [f"{_short(m)}, {a}" for m in measures for a in results["by_adjective"].values.tolist()]
    order = [name + words for name in names for words in ("", ", same fillers")]
    rows = rows.sel(category=[name for name in order if name in rows["category"].values])
    return draw.interval_rows(
        rows["difference"],
        **ends(rows, "difference"),
        title=f"{what}: the model's own lists minus lists that it did not write",
        caption="Means over the items that both lists of a prompt have; written lists are of "
        f"{results.attrs['written']}, without fillers or with the same as the own list; {OVER_TOPICS}.",
        x_title=f"difference ({unit})",
    )


def _short(measure: str) -> str:
    """For a row, which has little room."""
    return measure.removesuffix(" of item")


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
