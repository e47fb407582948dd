"""Figures of a circuit, from saved results alone."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.circuit.statistics import interval, shares, verified
from mechlist.experiments.circuit.view import view_of
from mechlist.figures import agreement, interval_lines
from mechlist.figures.graph import circuit_graph
from mechlist.types import readable


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
    view, count = view_of(results), int(results["in_circuit"].sum())
    edges, steps = view.parts()
    names = {name for edge in edges for name in (edge.sender, edge.receiver)}
    left = f" The strongest {len(edges)} of them are drawn at most." if len(edges) < count else ""
    shared = " L0KV1 stands for the keys and values that several heads of layer 0 share." if view.joins else ""
    more = (
        " The slider shows fewer or more of the strongest, with the edges that join them to the input and the logits."
        if len(steps) > 1
        else ""
    )
    return circuit_graph(
        [[name for name in floor if name in names] for floor in view.floors],
        edges,
        steps=steps,
        joins=[join for join in view.joins if set(join) <= names],
        beside={name for name, node in view.nodes.items() if node.kind == "mlp"},
        title=f"The circuit: {count} edges",
        caption="Heads (L0H1 is head 1 of layer 0) and MLPs (m0) between the input, below, and the logits. The wider a "
        "line, the more the metric changes when it is patched; dotted where patching it raises the metric."
        f"{shared}{more}{left} Point at a node for its edges; a click in the report lights them and lists all.",
        unit=results["base"].attrs.get("units", ""),
    )


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
