"""Figures of a circuit, from saved results alone."""

import re

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.circuit.findings import ends, interval, shares, verified
from mechlist.figures import agreement, interval_lines
from mechlist.figures.graph import GraphEdge, circuit_graph

DRAWN = 120
"""Edges of the graph, the strongest of the circuit; more are no picture."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The circuit, its faithfulness by size, and its scores against exact patching."""
    drawn = {"circuit": _graph(results), "faithfulness": _curve(results)}
    table = verified(results)
    unit = results["base"].attrs.get("units", "")
    if len(table):
        drawn["agreement"] = agreement(
            table["score"].tolist(),
            table["exact"].tolist(),
            table["edge"].tolist(),
            title="Scored and exact effects of edges",
            caption="Each point is an edge that was patched by itself; on the line its score is right.",
            x_title=f"score ({unit})",
            y_title=f"exact effect of patching the edge ({unit})",
        )
    return drawn


def _graph(results: xr.Dataset) -> go.Figure:
    mean = results["score"].mean("prompt").values
    kept = np.flatnonzero(results["in_circuit"].values)
    strongest = kept[np.argsort(-np.abs(mean[kept]), kind="stable")[:DRAWN]]
    edges = [GraphEdge(*ends(str(results["edge"].values[i])), score=float(mean[i])) for i in strongest]
    names = {name for edge in edges for name in (edge.sender, edge.receiver)}
    floors: dict[tuple[int, int], list[str]] = {}
    for name in sorted(names, key=_order):
        floors.setdefault(_order(name)[:2], []).append(name)
    left = f" The {DRAWN} strongest of {len(kept)} edges are drawn." if len(kept) > DRAWN else ""
    return circuit_graph(
        [floors[key] for key in sorted(floors)],
        edges,
        beside={name for name in names if name.startswith("m")},
        title=f"The circuit: {len(kept)} edges",
        caption="Heads a(layer).h(head) and MLPs m(layer) between the input and the logits. The wider an arrow, the "
        f"more the metric changes when it is patched; dotted where patching it raises the metric.{left}",
        unit=results["base"].attrs.get("units", ""),
    )


def _order(name: str) -> tuple[int, int, int]:
    """Layer, attention before MLP, and head."""
    if name in ("input", "logits"):
        return (-1, 0, 0) if name == "input" else (10**9, 0, 0)
    layer, head = re.fullmatch(r"[am](\d+)(?:\.h(\d+))?", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return int(layer), int(head is None), int(head or 0)


def _curve(results: xr.Dataset) -> go.Figure:
    names = {"circuit_metric": "circuit alone", "complement_metric": "all but the circuit"}
    middle = np.stack([shares(results, name) for name in names])
    low, high = (np.stack(side) for side in zip(*(interval(results, name) for name in names), strict=True))
    coords = {"series": list(names.values()), "x": results["n_edges"].values.astype(float)}
    # Sizes at which nothing new was connected are drawn once, and those without any edge not at all.
    distinct, first = np.unique(coords["x"], return_index=True)
    first = first[distinct > 0]
    arrays = [
        xr.DataArray(a[:, first], dims=("series", "x"), coords={**coords, "x": coords["x"][first]})
        for a in (middle, low, high)
    ]
    figure = interval_lines(
        arrays[0],
        low=arrays[1],
        high=arrays[2],
        title="Faithfulness by size",
        caption="A good circuit is near 1 with few edges, and little is left without it; the cross is the circuit that "
        "was chosen, grey points are random connected circuits of its size. Intervals are over "
        f"{'clusters of prompts' if 'cluster' in results else 'prompts'}.",
        x_title="edges in the circuit",
        y_title="faithfulness (0 no circuit, 1 the model)",
    )
    size = int(results["in_circuit"].sum())
    random = shares(results, "random")
    figure.add_scatter(
        x=[size] * len(random),
        y=random,
        mode="markers",
        name="random circuits",
        marker={"color": "#9aa1ad", "size": 7},
        hovertemplate="%{y:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=[size],
        y=[float(shares(results, "chosen"))],
        mode="markers",
        name="chosen",
        marker={"color": "#1f2430", "size": 11, "symbol": "x-thin", "line": {"width": 2.5}},
        hovertemplate="%{y:.3f}<extra></extra>",
    )
    ticks = [n for n in (1, 2, 5) for n in (n * 10**power for power in range(7))]
    figure.update_xaxes(type="log", tickvals=sorted(ticks), minor_ticks="")
    return figure
