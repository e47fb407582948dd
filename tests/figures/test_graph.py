"""Drawn circuits."""

from typing import Any

import pytest

from mechlist.errors import InputError
from mechlist.figures.graph import COLOURS, WIDEST, GraphEdge, circuit_graph

FLOORS = [["input"], ["a0.h1"], [], ["a1.h0", "a1.h2"], ["m1"], ["logits"]]
EDGES = [
    GraphEdge("input", "a0.h1", "v", -4.0),
    GraphEdge("a0.h1", "a1.h2", "k", -2.0),
    GraphEdge("a1.h2", "logits", "", 1.0),
    GraphEdge("a1.h0", "m1", "", -1.0),
]


def drawn() -> list[Any]:
    """The traces."""
    figure: Any = circuit_graph(FLOORS, EDGES, beside={"m1"}, title="A circuit", caption="Look.", unit="logits")
    return list(figure.data)


def lines() -> list[Any]:
    return [trace for trace in drawn() if trace.mode == "lines" and trace.x[0] is not None]


def test_every_edge_is_an_arrow_with_its_width_colour_and_sign():
    found = lines()
    assert len(found) == len(EDGES)
    widest = found[-1]
    assert widest.line.width == WIDEST
    assert widest.line.color == COLOURS["v"]
    assert [t.line.dash for t in found].count("dot") == 1


def test_nodes_stand_on_their_floors_and_mlps_beside_them():
    nodes = drawn()[-1]
    at = {name: (x, y) for name, x, y in zip(nodes.text, nodes.x, nodes.y, strict=True)}
    assert [at[name][1] for name in ("input", "a0.h1", "a1.h0", "a1.h2", "m1", "logits")] == [0, 1, 2, 2, 3, 4]
    assert at["m1"][0] > max(x for name, (x, _) in at.items() if name != "m1")
    ends = {(line.x[0], line.y[0], line.x[2], line.y[2]) for line in lines()}
    assert (*at["input"], *at["a0.h1"]) in ends


def test_the_legend_names_each_entry_once():
    shown = [t.name for t in drawn() if t.name]
    assert shown == ["into keys", "into values", "into MLPs and logits"]


def test_hover_says_which_edge():
    texts = next(t.customdata for t in drawn() if t.customdata is not None)
    assert any("a0.h1 to a1.h2 (k)" in text and "2" in text and "logits" in text for text in texts)


def test_bad_graphs_are_refused():
    with pytest.raises(InputError, match="one node at least"):
        circuit_graph([[]], [], title="", caption="", unit="")
    with pytest.raises(InputError, match=r"'a9\.h9' is none"):
        circuit_graph(FLOORS, [GraphEdge("input", "a9.h9", "q", 1.0)], title="", caption="", unit="")
