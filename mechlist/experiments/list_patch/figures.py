"""Figures of patching lists, from saved results alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.effects import decision, site_name
from mechlist.experiments.list_pairs import run_names, side_name
from mechlist.experiments.list_patch.statistics import shares, survivors
from mechlist.figures import heads_panel
from mechlist.figures.colour import Scale
from mechlist.figures.marks import dots, frame
from mechlist.figures.panels import Grid, grid_figure, thinned, tick_step
from mechlist.figures.style import MISSING, finish, plot_text
from mechlist.text import number

LETTER = 5.4
"""Pixels that a character of a slanted label takes below the axis."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Of each site a heat map of layers and roles, both ways; of sites by head, the heads as well."""
    drawn: dict[str, go.Figure] = {}
    for site in results.attrs["sites"]:
        share = shares(results, site)
        heads = next((dim for dim in ("head", "kv_head") if dim in share.dims), None)
        if heads is not None:
            drawn[f"{site}_heads"] = _heads(results, site, share, heads)
        drawn[site] = _roles(results, site, share, heads)
    return drawn


def _roles(results: xr.Dataset, site: str, share: xr.DataArray, heads: str | None) -> go.Figure:
    marked = survivors(results, site)
    strongest = ""
    if heads is not None:
        best = abs(share).fillna(0).argmax(heads)
        share, marked = share.isel({heads: best}), marked.isel({heads: best})
        strongest = " Of each layer and role the strongest head."
    panels = {side_name(results, side): share.sel(side=side) for side in share["side"].values}
    dotted = {side_name(results, side): marked.sel(side=side) for side in share["side"].values}
    figure = _panels(panels, dotted, scale=Scale(unit="share", diverging=True))
    return finish(
        figure,
        title=f"{site_name(site)}: {decision(results.attrs['direction'])}",
        caption=f"Share of the difference between {' and '.join(run_names(results))} that moves with the role, over "
        "all lists (1: all); "
        f"a dot marks cells whose effect survives the correction for all cells{_beyond(results, site)}.{strongest}",
    )


def _beyond(results: xr.Dataset, site: str) -> str:
    known = f"beyond_null_{site}" in results
    return " and is beyond what the list's items in another order do" if known else ""


def _heads(results: xr.Dataset, site: str, share: xr.DataArray, heads: str) -> go.Figure:
    share = share.rename({heads: "head"} if heads != "head" else {}).transpose("side", "layer", "head", "role")
    role = abs(share).fillna(0).argmax("role")
    best, names = share.isel(role=role), share["role"].values[role.values]
    note = xr.DataArray(names, dims=role.dims)
    sides = best["side"].values.tolist()
    return heads_panel(
        {side: best.sel(side=side).drop_vars("role", errors="ignore") for side in sides},
        title=f"{site_name(site)} by head: {decision(results.attrs['direction'])}",
        caption=f"Share of the difference between {' and '.join(run_names(results))} that moves with the head at its "
        f"strongest role, which the hover box names; denoising puts {' into '.join(run_names(results))}.",
        unit="share",
        diverging=True,
        columns=2,
        note={side: note.isel(side=number) for number, side in enumerate(sides)},
    )


def _panels(values: dict[str, xr.DataArray], marked: dict[str, xr.DataArray], *, scale: Scale) -> go.Figure:
    """Layers downwards and roles to the right, one panel above the other with the roles under the last."""
    first = next(iter(values.values()))
    layers, roles = first["layer"].values.tolist(), [str(role) for role in first["role"].values]
    width, height = int(np.clip(760 / len(roles), 14, 44)), int(np.clip(300 / len(layers), 9, 26))
    bottom = int(30 + LETTER * max(map(len, roles)))
    grid = Grid(
        names=tuple(values),
        width=len(roles) * width,
        height=len(layers) * height,
        columns=1,
        left=46,
        bottom=bottom,
        gap_y=36,
    )
    grid = replace(grid, right=scale.space(grid.area[1]))
    figure = grid_figure(grid)
    cells = {name: array.transpose("layer", "role").values.astype(float) for name, array in values.items()}
    ticks = thinned(layers, tick_step(len(layers), len(layers) * height, spacing=16))
    plain: dict[str, Any] = {"showgrid": False, "showline": False, "ticks": ""}
    for index, (name, z) in enumerate(cells.items()):
        row, column = grid.cell(index)
        hover = [
            [f"layer {layer}, {plot_text(role)}: {number(v)}" for role, v in zip(roles, line, strict=True)]
            for layer, line in zip(layers, z, strict=True)
        ]
        trace = go.Heatmap(z=z, customdata=hover, hovertemplate="%{customdata}<extra></extra>", coloraxis="coloraxis")
        figure.add_trace(trace.update(xgap=1, ygap=1), row=row, col=column)
        which = marked[name].transpose("layer", "role").values
        across, down = frame(which)
        if which.any():
            figure.add_trace(dots(which, min(width, height)), row=row, col=column)
        shown = grid.is_bottom(index)
        figure.update_xaxes(
            **across, tickvals=list(range(len(roles))), ticktext=[plot_text(role) for role in roles], tickangle=-60,
            showticklabels=shown, **plain, row=row, col=column,
        )  # fmt: skip
        figure.update_yaxes(**down, **ticks, **plain, title="layer", scaleanchor=False, row=row, col=column)
    figure.update_layout(coloraxis=scale.axis(list(cells.values()), grid.area[1]), plot_bgcolor=MISSING)
    return figure
