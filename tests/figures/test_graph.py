"""Drawn circuits."""

from typing import Any

import pytest

from mechlist.errors import InputError
from mechlist.figures.graph import COLOURS, WIDEST, GraphEdge, circuit_graph
from mechlist.figures.graph.places import RAISED, middle, places_of

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


def test_a_slider_offers_the_first_edges_and_the_nodes_at_their_ends():
    figure: Any = circuit_graph(
        FLOORS, EDGES, steps=[3, 4], beside={"m1"}, title="A circuit", caption="Look.", unit="logits"
    )
    slider = figure.layout.sliders[0]
    assert [step.label for step in slider.steps] == ["3", "4"]
    assert slider.active == 1
    for step, arrows, nodes in zip(slider.steps, (3, 4), (4, 6), strict=True):
        shown = [trace for trace, is_in in zip(figure.data, step.args[0]["visible"], strict=True) if is_in]
        assert len([trace for trace in shown if trace.meta and "ends" in trace.meta]) == arrows
        assert len(shown[-1].text) == nodes
        assert len([trace for trace in shown if trace.name]) == 3
        low, high = step.args[1]["yaxis.range"]
        assert low < min(shown[-1].y) < max(shown[-1].y) < high
    assert [trace.visible is not False for trace in figure.data] == list(slider.steps[1].args[0]["visible"])


def test_at_first_about_twenty_edges_are_shown():
    many = [GraphEdge("input", "logits", "", float(n)) for n in range(1, 41)]
    figure: Any = circuit_graph([["input"], ["logits"]], many, steps=[10, 20, 40], title="", caption="", unit="")
    assert figure.layout.sliders[0].active == 1
    assert not circuit_graph([["input"], ["logits"]], many, title="", caption="", unit="")["layout"]["sliders"]


def test_a_node_tells_its_edges_the_strongest_first_with_what_was_measured():
    edges = [GraphEdge("a0.h1", f"a1.h{n}", "q", float(-n), exact=-n - 0.5) for n in range(1, 8)]
    floors = [["a0.h1"], [f"a1.h{n}" for n in range(1, 8)]]
    figure: Any = circuit_graph(floors, edges, title="", caption="", unit="nats")
    nodes = figure.data[-1]
    box, numbers = nodes.customdata[list(nodes.text).index("a0.h1")]
    assert box.split("<br>")[:2] == ["<b>a0.h1</b>", "to a1.h7 (q): -7.000 nats (patched exactly: -7.500)"]
    assert box.endswith("and 2 more")
    assert numbers.split("\n")[0] == "a0.h1 to a1.h7 (q)\t-7.000\t-7.500"
    assert len(numbers.split("\n")) == 7


def test_many_nodes_of_a_floor_stand_in_two_rows_in_the_order_that_crosses_least():
    left, right = [f"a0.h{n}" for n in range(4)], [f"a1.h{n}" for n in range(4)]
    places = places_of([left, right], [(a, b) for a, b in zip(left, reversed(right), strict=True)])
    assert [places[name][0] for name in left] == [places[name][0] for name in reversed(right)]
    crowd = [f"a0.h{n}" for n in range(12)]
    raised = [places_of([crowd], [])[name][1] for name in crowd]
    assert raised[:4] == [0, RAISED, 0, RAISED]


def test_joins_are_drawn_where_both_ends_are():
    edges = [
        GraphEdge("input", "kv", "k", -1.0),
        GraphEdge("a1.h0", "logits", "", -1.0),
        GraphEdge("input", "logits", "", 1.0),
    ]
    floors = [["input"], ["kv"], ["a1.h0"], ["logits"]]
    figure: Any = circuit_graph(floors, edges, steps=[1, 3], joins=[("kv", "a1.h0")], title="", caption="", unit="")
    joins = [trace for trace in figure.data if trace.meta and trace.meta.get("ends") == ["kv", "a1.h0"]]
    assert len(joins) == 1
    # What leads to shared keys is told of the heads that read them.
    nodes = figure.data[-1]
    assert nodes.customdata[list(nodes.text).index("a1.h0")][1].split("\n")[0].startswith("input to kv (k)")
    with pytest.raises(InputError, match="'kw' is none"):
        circuit_graph(floors, edges, joins=[("kw", "a1.h0")], title="", caption="", unit="")
    with pytest.raises(InputError, match="steps must rise"):
        circuit_graph(floors, edges, steps=[2, 1], title="", caption="", unit="")


def test_a_line_bends_around_the_nodes_that_it_would_run_behind():
    places = {"a": (0.0, 0.0), "b": (0.0, 1.0), "c": (0.0, 2.0), "d": (2.0, 1.0)}
    assert middle(places, "a", "b") == (0.0, 0.5)
    x, y = middle(places, "a", "c")
    assert (abs(x), y) == (0.6, 1.0)
    # To the right another node would be in the way.
    assert middle(places | {"e": (0.7, 1.0)}, "a", "c")[0] == -0.6
    assert middle(places, "a", "b", 0.16) == (0.16, 0.5)


def test_nodes_of_many_floors_do_not_cover_each_other():
    """A graph of 18 layers is as tall as one can be; the sides of its nodes are less than floors are apart."""
    floors = [["input"], *([f"{kind}{layer}"] for layer in range(18) for kind in "am"), ["logits"]]
    figure: Any = circuit_graph(floors, [], title="t", caption="c", unit="logits")
    (nodes,) = [trace for trace in figure.data if trace.meta and trace.meta.get("nodes")]
    low, high = figure.layout.yaxis.range
    assert nodes.marker.size < (figure.layout.height - 150) / (high - low)
    few: Any = circuit_graph(floors[:3], [], title="t", caption="c", unit="logits")
    assert few.data[-1].marker.size > nodes.marker.size
