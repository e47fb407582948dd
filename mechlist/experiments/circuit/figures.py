"""Figures of a circuit, from saved results alone."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.circuit.findings import ends
from mechlist.experiments.circuit.statistics import interval, scores, shares, verified
from mechlist.figures import agreement, interval_lines
from mechlist.figures.graph import GraphEdge, circuit_graph
from mechlist.types import read_head, readable

DRAWN = 120
"""Edges of the graph, the strongest of the circuit; more are unreadable."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The circuit, its faithfulness by size, and its scores against exact patching."""
    drawn = {"circuit": _graph(results), "faithfulness": _curve(results)}
    table = verified(results)
    unit = results["base"].attrs.get("units", "")
    if len(table):
        drawn["agreement"] = agreement(
            table["score"].tolist(),
            table["exact"].tolist(),
            list(map(readable, table["edge"])),
            title="Scored and exact effects of edges",
            caption="Each point is an edge that was patched by itself; on the line its score is right.",
            x_title=f"score ({unit})",
            y_title=f"exact effect of patching the edge ({unit})",
        )
    return drawn


def _graph(results: xr.Dataset) -> go.Figure:
    mean = scores(results)["estimate"].values
    kept = np.flatnonzero(results["in_circuit"].values)
    strongest = kept[np.argsort(-np.abs(mean[kept]), kind="stable")[:DRAWN]]
    edges = [_edge(str(results["edge"].values[i]), float(mean[i])) for i in strongest]
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
        caption="Heads (L0H1 is head 1 of layer 0) and MLPs (m0) between the input and the logits. The wider an arrow, "
        f"the more the metric changes when it is patched; dotted where patching it raises the metric.{left}",
        unit=results["base"].attrs.get("units", ""),
    )


def _edge(name: str, score: float) -> GraphEdge:
    sender, receiver, entry = ends(name)
    return GraphEdge(readable(sender), readable(receiver), entry, score)


def _order(name: str) -> tuple[int, int, int]:
    """Layer, attention before MLP, and head."""
    if name in ("input", "logits"):
        return (-1, 0, 0) if name == "input" else (10**9, 0, 0)
    found = read_head(name)
    return (int(name[1:]), 1, 0) if found is None else (found[0][0], 0, found[0][1])


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
