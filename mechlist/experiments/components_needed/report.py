"""Figures, tables and findings of `components-needed`, from its saved results alone."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.components_needed.bases import FEATURES, NEURONS, ROTATION
from mechlist.experiments.plain_prompts import told
from mechlist.figures import finish, interval_rows, plot_text
from mechlist.figures.style import SERIES
from mechlist.text import number, visible

LAST = "last_crossing"
ALPHA = 0.05
POINTS = 600
"""Of a curve that is drawn."""
_WORDS = {"": "", "_norm_restored": ", norm restored"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The first prompt's curves, the median over prompts, and what is needed in every basis."""
    share = results.attrs["share"]
    first = results.isel(prompt=0, drop=True)
    answer = visible(json.loads(str(first["answer_text"].item())))
    relative = results[["probability", "probability_norm_restored"]] / results["probability"].isel(kept=-1, drop=True)
    return {
        "curves": _curves(
            first,
            float(share * first["own_probability"]),
            title=f'Probability of "{answer}" after "{results.attrs["prompts"][0]}"',
            caption="By the number of largest components kept; dashed with the norm of the whole state restored. The "
            f"dotted line is {share:.0%} of the whole state's probability.",
            y_title="probability",
        ),
        "median-curves": _curves(
            relative.median("prompt"),
            share,
            title="Probability of the answer, relative to that of the whole state",
            caption=f"Median over {results.sizes['prompt']} prompts by the number of largest components kept; dashed "
            "with the norm restored.",
            y_title="share of the whole state's probability",
        ),
        "needed": _needed(results),
    }


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """One row a basis and way of counting; one row a prompt and basis."""
    names = ["needed", "needed_low", "needed_high", "difference", "difference_low", "difference_high"]
    bases = results[[*names, "difference_p_corrected"]].to_dataframe().reset_index()
    counted = dict(zip(results["basis"].values.tolist(), results["directions"].values.tolist(), strict=True))
    bases.insert(2, "directions", [counted[name] for name in bases["basis"]])
    crossings = [str(name) for name in results["crossing"].values]
    medians = {c: dict(zip(counted, results[c].median("prompt").values.tolist(), strict=True)) for c in crossings}
    pairs = zip(bases["crossing"].tolist(), bases["basis"].tolist(), strict=True)
    bases.insert(3, "median_count", [medians[crossing][basis] for crossing, basis in pairs])
    rows = results[crossings].to_dataframe().reset_index()
    rows.insert(1, "text", [results.attrs["prompts"][n] for n in rows["prompt"]])
    answers = [visible(json.loads(text)) for text in results["answer_text"].values.tolist()]
    rows.insert(2, "answer", [answers[n] for n in rows["prompt"]])
    rows.insert(3, "own_probability", results["own_probability"].values[rows["prompt"]])
    return {"bases": bases, "prompts": rows}


def findings(results: xr.Dataset) -> list[str]:
    """Counts and shares of every basis, and the verdict on the model's own dimensions."""
    share, prompts = results.attrs["share"], results.sizes["prompt"]
    at, early = results.sel(crossing=LAST), results.sel(crossing="first_crossing")
    parts = [
        f"{_share(at, basis)} in {_named(basis)} (median {results[LAST].sel(basis=basis).median():.0f} of "
        f"{int(at['directions'].sel(basis=basis))})"
        for basis in results["basis"].values.tolist()
    ]
    restored = results.sel(crossing=f"{LAST}_norm_restored")
    lost = int((results["first_crossing"] < results["last_crossing"]).sel(basis=NEURONS).sum())
    return [
        f"Over {prompts} prompts, the answer keeps {share:.0%} of its probability from the following share of largest "
        f"components on: {'; '.join(parts)}.",
        _verdict(results),
        f"In the model's own dimensions it is first reached at {_share(early, NEURONS)}, and lost again on {lost} of "
        f"{prompts} prompts; with the norm restored it is kept from {_share(restored, NEURONS)} on.",
        *_sparsest(results),
        *_left_out(results),
    ]


def _verdict(results: xr.Dataset) -> str:
    cell = results.sel(crossing=LAST, basis=NEURONS)
    value, p = float(cell["difference"]), float(cell["difference_p_corrected"])
    by = told(cell, "difference", "+.1%")
    if results.attrs["reason"]:
        return f"Own dimensions less random rotation: {by} of the components. {results.attrs['reason']}"
    if p > ALPHA:
        return (
            f"No difference between the model's own dimensions and a random rotation is beyond chance: it is {by} of "
            f"the components (corrected p {number(p)})."
        )
    return (
        f"The answer needs {'fewer' if value < 0 else 'more'} of the model's own dimensions than of a random "
        f"rotation's: the difference is {by} of the components (corrected p {number(p)})."
    )


def _sparsest(results: xr.Dataset) -> list[str]:
    needed = results["needed"].sel(crossing=LAST)
    order = needed.argsort().values
    best, other = (str(needed["basis"].values[i]) for i in order[:2])
    if best == ROTATION:
        return ["No basis that was tried is sparser than a random rotation."]
    cell = results.sel(crossing=LAST, basis=best)
    p = float(cell["difference_p_corrected"])
    by = told(cell, "difference", "+.1%")
    if p > ALPHA:
        return [
            f"No basis that was tried is sparser than a random rotation beyond chance; the nearest to it is "
            f"{_named(best)}, with {_share(results.sel(crossing=LAST), best)}, a difference of {by} (corrected p "
            f"{number(p)})."
        ]
    return [
        f"The sparsest basis of those tried is {_named(best)}, with {_share(results.sel(crossing=LAST), best)}, then "
        f"{_named(other)}; it differs from the random rotation by {by}"
        + ("." if np.isnan(p) else f" (corrected p {number(p)}).")
    ]


def _left_out(results: xr.Dataset) -> list[str]:
    """What the error and the bias of an SAE, which are kept throughout, have by themselves."""
    found = []
    for basis in results["basis"].values.tolist():
        if basis.startswith(FEATURES):
            alone = (results["none_kept"] / results["probability"].isel(kept=-1)).sel(basis=basis).median()
            found.append(
                f"The features of {basis.removeprefix(FEATURES)} leave out the SAE's error and bias, which are kept "
                "throughout (their share is of the stream's width, of which there are fewer dimensions than features): "
                f"without any feature the answer has a median of {number(float(alone))} times its "
                "probability."
            )
    return found


def _named(basis: str) -> str:
    return {NEURONS: "the model's own dimensions", ROTATION: "a random rotation"}.get(basis, f"the {basis}")


def _share(at: xr.Dataset, basis: str) -> str:
    return told(at.sel(basis=basis), "needed", ".1%")


def _curves(values: xr.Dataset, bar: float, *, title: str, caption: str, y_title: str) -> go.Figure:
    size = values.sizes["kept"]
    places = np.unique(np.geomspace(1, size, POINTS).round().astype(int)) - 1
    figure = go.Figure()
    for index, basis in enumerate(values["basis"].values.tolist()):
        for way, dash in (("", "solid"), ("_norm_restored", "dash")):
            line = {"width": 1.8, "dash": dash, "color": SERIES[index % len(SERIES)]}
            figure.add_trace(
                go.Scatter(
                    x=places + 1,
                    y=values[f"probability{way}"].sel(basis=basis).values[places],
                    mode="lines",
                    line=line,
                    name=plot_text(f"{basis}{_WORDS[way]}"),
                    hovertemplate="%{x} kept: %{y:.4f}<extra></extra>",
                )
            )
    figure.add_hline(y=bar, line={"width": 1.2, "dash": "dot", "color": "#6b7280"})
    figure.update_layout(height=440, hovermode="closest", meta={"min_width": 360})
    figure.update_xaxes(title="largest components kept", type="log")
    figure.update_yaxes(title=plot_text(y_title), rangemode="tozero")
    return finish(figure, title=title, caption=caption)


def _needed(results: xr.Dataset) -> go.Figure:
    flat = results[["needed", "needed_low", "needed_high"]].stack(category=("crossing", "basis"), create_index=False)
    labels = [
        f"{basis}: {str(crossing).replace('_crossing', '').replace('_norm_restored', ', norm restored')}"
        for crossing, basis in zip(flat["crossing"].values, flat["basis"].values, strict=True)
    ]
    bare = flat.drop_vars(["crossing", "basis"]).assign_coords(category=labels)
    return interval_rows(
        bare["needed"],
        low=bare["needed_low"],
        high=bare["needed_high"],
        title=f"Share of the largest components that keep {results.attrs['share']:.0%} of the answer's probability",
        caption=f"Mean over {results.sizes['prompt']} prompts with 95 % bootstrap intervals; first crossing: fewest "
        "that reach it, last: fewest from which on it is never lost.",
        x_title="components, as a share of the width of the residual stream",
    )
