"""Figures of `jacobian-lens`, from its saved results alone."""

import json

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures import SEQUENTIAL, finish, interval_lines, plot_text, token_labels
from mechlist.metrics.by_topic import ENDS
from mechlist.text import number, visible

LETTERS = 8
"""Of a token that a cell shows."""
CELL, ROW = 68, 22
"""Pixels of a cell's width and height."""
_STAGE = "layers passed (0 is the embedding, the last the model's own output)"
_TEXTS = "95 % bootstrap intervals over texts"


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """A sheet of the first prompt for each lens; curves of all lenses; edits."""
    out = {f"sheet-{slug(lens)}": _sheet(results, lens) for lens in results["lens"].values.tolist()}
    out["divergence"] = _curve(
        results,
        "fit_kl",
        title="How far each lens is from the model's own prediction",
        caption=f"KL divergence from the model's next-token distribution, mean over positions of "
        f"{results.attrs['held_out']} held-out texts; {_TEXTS}.",
        y_title="KL(model || lens), nats",
    )
    out["said-later"] = _curve(
        results,
        "said",
        title="How often the token that a lens reads is said soon",
        caption="Share of positions at which a lens's most probable token is among the next ten tokens of the text; "
        f"{_TEXTS}. At the last stage all lenses are the model itself.",
        y_title="share of positions",
    )
    out["edits"] = _edits(results)
    return out


def slug(lens: str) -> str:
    """Of a lens, for names of files."""
    return lens.split()[0].lower()


def _sheet(results: xr.Dataset, lens: str) -> go.Figure:
    """Stages from below upwards and positions to the right; each cell says the token that is read there."""
    length = int(results["length"][0])
    at = results.isel(prompt=0, position=slice(0, length)).sel(lens=lens)
    first = at.isel(rank=0)
    shares = first["top_probability"].transpose("stage", "position").values
    texts = first["top_text"].transpose("stage", "position").values
    shown = [[_cut(visible(json.loads(text))) for text in row] for row in texts.tolist()]
    hover = [
        [_box(at.isel(position=place, stage=stage)) for place in range(length)] for stage in range(at.sizes["stage"])
    ]
    labels = token_labels([json.loads(text) for text in results["text"].values[0, :length].tolist()])
    trace = go.Heatmap(
        z=shares,
        x=labels,
        y=[str(stage) for stage in at["stage"].values.tolist()],
        text=[[plot_text(text) for text in row] for row in shown],
        texttemplate="%{text}",
        textfont={"size": 10},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=[(min(1.0, place), colour) for place, colour in SEQUENTIAL],
        zmin=0,
        # The darkest colours would hide the letters.
        zmax=2,
        showscale=False,
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(trace)
    figure.update_xaxes(tickangle=-45, showline=False, ticks="")
    figure.update_yaxes(title="layers passed", showline=False, ticks="", type="category")
    width = CELL * length + 90
    figure.update_layout(height=ROW * at.sizes["stage"] + 190, width=width, meta={"min_width": width})
    return finish(
        figure,
        title=f"{lens[0].upper()}{lens[1:]}: what each stage reads",
        caption="The most probable token by stage and position, darker where it is more probable; a box shows the next "
        "ones, and how far the reading is from the model's own.",
    )


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"


def _box(cell: xr.Dataset) -> str:
    if int(cell["top_token"][0]) < 0:
        return "the lens has no matrix for this stage"
    names = [plot_text(visible(json.loads(text))) for text in cell["top_text"].values.tolist()]
    rows = [f"{name} {share:.3f}" for name, share in zip(names, cell["top_probability"].values, strict=True)]
    return "<br>".join([*rows, f"KL from the model {number(float(cell['kl']))} nats"])


def _curve(results: xr.Dataset, name: str, *, title: str, caption: str, y_title: str) -> go.Figure:
    values = {end: results[f"{name}{end}"].rename(lens="series", stage="x") for end in ENDS}
    return interval_lines(
        values[""],
        low=values["_low"],
        high=values["_high"],
        title=title,
        caption=caption,
        x_title=_STAGE,
        y_title=y_title,
    )


def _edits(results: xr.Dataset) -> go.Figure:
    parts = {"": "edit_effect", " (random directions)": "edit_control"}
    curves = {end: [] for end in ("mean", "low", "high")}
    names = []
    for suffix, name in parts.items():
        if f"{name}_mean" in results:
            names += [f"{edit}{suffix}" for edit in results["edit"].values.tolist()]
            for end, arrays in curves.items():
                arrays.append(results[f"{name}_{end}"].values)
    stages = results["edit_stage"].values
    arrays = {
        end: xr.DataArray(np.concatenate(found), dims=("series", "x"), coords={"series": names, "x": stages})
        for end, found in curves.items()
    }
    return interval_lines(
        arrays["mean"],
        low=arrays["low"],
        high=arrays["high"],
        title="What edits along the lens's directions do",
        caption="Change in the log-odds of the model's second choice against its first, when the stream of the last "
        f"token is edited at one stage; steering steps are {results.attrs['strength']:g} of the stream's norm. Random "
        "directions have the same norms and angle; 95 % bootstrap intervals over prompts.",
        x_title=_STAGE,
        y_title="change in log-odds, nats",
    )
