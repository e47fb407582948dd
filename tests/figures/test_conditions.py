"""One look and one place for each condition, whatever the label calls it."""

from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist import figures
from mechlist.figures.conditions import HOTTEST, WARMTH, Look, in_order, looks
from mechlist.figures.row_maps import row_maps
from mechlist.figures.style import INK, SERIES
from tests.figures.test_style import luminance

TOLD: Any = {"title": "t", "caption": "c"}
UPSIDE_DOWN = ["none", "long", "short"]
ORDERED = ["short", "long", "none"]


def look(label: str, *beside: str) -> Look:
    return looks([label, *beside])[0]


def ordered(*labels: str) -> list[str]:
    return [labels[place] for place in in_order(labels)]


@pytest.mark.parametrize(
    ("labels", "colour"),
    [
        (("short", "short lists", "short lists, last item", "short, own", "A, short: last item (plain)"), SERIES[0]),
        (("long", "long lists", 'long lists after "short"', "long lists: control 2", "long, T = 0.7"), SERIES[1]),
        (("none", "lists without adjective", "lists without adjective, items before"), SERIES[2]),
        (("all", "all lists", "all lists: heads"), SERIES[5]),
        (("clean", "clean prompts", "clean into something (denoising)", "denoising"), SERIES[6]),
        (("corrupt", "corrupt prompts", "noising", "heads", "L1H0, L4H5", "L1H0, L4H5 and 2 more"), SERIES[7]),
        (("last item", "as written", "last item (tuned lens)"), SERIES[4]),
        (("last item, adjective swapped", "adjective swapped"), SERIES[3]),
        (("no head changed", "known truth"), INK),
        (("as the lists were drawn (T = 0.7, top-p 0.8)", "as the lists were drawn"), SERIES[3]),
    ],
)
def test_a_condition_has_its_colour_under_every_name_and_beside_any_other(labels, colour):
    for label in labels:
        assert look(label).colour == colour, label
        assert look(label, "short", "long lists", "T = 1", "whatever").colour == colour, label


def test_a_second_condition_shows_in_the_line_the_bar_and_the_point():
    plain, swapped, before = looks(["short lists", 'short lists after "long"', "short lists, items before"])
    assert (plain.dash, plain.pattern, plain.symbol) == ("solid", "", "circle")
    assert (swapped.dash, swapped.pattern, swapped.symbol) == ("dash", "/", "circle-open")
    assert before.dash == "dot"
    assert look("short, own").dash == "solid"
    assert look("short, written").dash == "dash"


def test_no_two_series_of_a_figure_look_the_same():
    runs = ("last item", "earlier items", "last item, adjective swapped")
    lenses = [f"{run} ({lens} lens)" for lens in ("plain", "tuned") for run in runs]
    sets = ["no head changed", "L1H0", *(f"control {number} (L2H{number})" for number in (1, 2, 3, 4))]
    parts = ["last item", "items before"]
    lists = [f"{a}, {part}" for a in ("short lists", "long lists", "lists without adjective") for part in parts]
    for labels in (lenses, sets, lists, ["short", "brief", "good", "tiny", "long"], list("abcdefgh")):
        assert len(set(looks(labels))) == len(labels), labels


def test_other_adjectives_keep_their_colour_while_it_is_free():
    one, both = look("good lists", "short lists"), looks(["short", "good", "long", "brief"])
    assert one.colour == both[1].colour
    assert one.colour not in SERIES[:3]
    assert look("good lists, last item").colour == one.colour


def test_warmer_is_lighter_and_a_temperature_has_one_colour():
    labels = ["T = 0.1", "T = 0.5", "T = 0.7", "T = 0.9", "T = 1.3"]
    colours = [one.colour for one in looks(labels)]
    light = [luminance(colour) for colour in colours]
    assert light == sorted(light)
    assert min(b - a for a, b in pairwise(light)) > 0.02
    assert look("T = 0.7").colour == colours[2]
    assert look(f"T = {HOTTEST:g}").colour == look("T = 9").colour == WARMTH[-1]


def test_layers_run_over_the_whole_scale():
    layers = [one.colour for one in looks([f"layer {number}" for number in range(13)])]
    assert (layers[0], layers[-1], len(set(layers))) == (WARMTH[0], WARMTH[-1], 13)


def test_what_names_no_condition_takes_the_colours_that_are_left():
    assert [one.colour for one in looks(["top 1", "top 5"])] == [SERIES[0], SERIES[1]]
    assert [one.colour for one in looks(["own", "b", "c"])] == [SERIES[6], SERIES[0], SERIES[1]]
    assert [one.colour for one in looks(["Rivers", "Books"], other="black")] == ["black", "black"]
    assert looks([""])[0].colour == SERIES[0]
    assert len(looks([str(number) for number in range(20)])) == 20


def test_adjectives_stand_in_one_order():
    for labels in permutations(["short", "long", "good", "none", "all"]):
        assert ordered(*labels) == ["short", "long", "good", "none", "all"]
    lists = ["short lists", "long lists", "good lists", "lists without adjective"]
    for labels in permutations(lists):
        assert ordered(*labels) == lists


@pytest.mark.parametrize(
    "pair",
    [
        ("clean", "corrupt"),
        ("short put into long (denoising)", "long put into short (noising)"),
        ("as written", "adjective swapped"),
        ("no head changed", "L1H0, L4H5", "control 1 (L2H0)", "control 2 (L3H0)"),
        ("T = 0.5", "T = 0.7", "T = 1"),
        ("the model itself", "as the lists were drawn (T = 0.7, top-p 0.8)", "the lists themselves", "known truth"),
        ("ended", "cut off"),
        ("layer 2", "layer 10"),
    ],
)
def test_pairs_stand_in_one_order(pair):
    for labels in permutations(pair):
        assert ordered(*labels) == list(pair)


def test_the_nesting_stays():
    by_measure = ["P(end), none", "P(end), long", "P(end), short", "fillers, none", "fillers, long", "fillers, short"]
    assert ordered(*by_measure) == [
        "P(end), short", "P(end), long", "P(end), none", "fillers, short", "fillers, long", "fillers, none",
    ]  # fmt: skip
    by_lists = ["long lists: control 1", "long lists: heads", "short lists: control 1", "short lists: heads"]
    assert ordered(*by_lists) == [
        "short lists: heads", "short lists: control 1", "long lists: heads", "long lists: control 1",
    ]  # fmt: skip


def test_what_names_no_condition_stays_where_it_is():
    assert ordered("b", "a", "c") == ["b", "a", "c"]
    assert ordered("circuit alone", "all but the circuit") == ["circuit alone", "all but the circuit"]
    assert in_order([]) == []


def values(dim: str) -> xr.DataArray:
    """3, 2 and 1 at x = 0, which is the order that is wanted turned round."""
    numbers = [[3.0, 3.5], [2.0, 2.5], [1.0, 1.5]]
    return xr.DataArray(numbers, dims=(dim, "x"), coords={dim: UPSIDE_DOWN, "x": [0, 1]})


@pytest.mark.parametrize("draw", [figures.interval_lines, figures.interval_bars])
def test_curves_and_bars_with_intervals_stand_in_the_order_of_their_conditions(draw):
    array = values("series")
    note = array.copy(data=np.array([[name] * 2 for name in UPSIDE_DOWN], dtype=object))
    figure: Any = draw(array, low=array - 0.5, high=array + 0.5, note=note, x_title="x", y_title="y", **TOLD)
    assert [trace.name for trace in figure.data] == ORDERED
    assert [trace.y[0] for trace in figure.data] == [1, 2, 3]
    assert [trace.customdata[0].split("<br>")[1] for trace in figure.data] == ORDERED
    colours = [trace.marker.color or trace.line.color for trace in figure.data]
    assert colours == [one.colour for one in looks(ORDERED)]


def test_grouped_bars_stand_in_the_order_of_their_conditions_on_both_axes():
    array = values("series").rename(x="category").assign_coords(category=["corrupt", "clean"])
    figure: Any = figures.grouped_bars(array, low=array - 1, high=array + 1, y_title="y", **TOLD)
    assert [trace.name for trace in figure.data[::2]] == ORDERED
    assert [list(trace.y) for trace in figure.data[::2]] == [[1.5, 1], [2.5, 2], [3.5, 3]]
    assert figure.layout.xaxis.ticktext == ("clean", "corrupt")
    np.testing.assert_allclose(figure.data[0].error_y.array, 1)


def test_position_lines_stand_in_the_order_of_their_conditions():
    lines = {name: xr.DataArray([float(place)], dims="position") for place, name in enumerate(UPSIDE_DOWN)}
    figure: Any = figures.position_lines(lines, x_title="x", y_title="y", **TOLD)
    assert [(trace.name, trace.y[0]) for trace in figure.data] == [("short", 2), ("long", 1), ("none", 0)]
    assert [trace.line.color for trace in figure.data] == [one.colour for one in looks(ORDERED)]


def test_rows_stand_in_the_order_of_their_conditions_and_have_their_colour():
    array = values("category").isel(x=0, drop=True)
    note = array.copy(data=np.array(UPSIDE_DOWN, dtype=object))
    figure: Any = figures.interval_rows(array, low=array - 1, high=array + 1, note=note, x_title="x", **TOLD)
    assert figure.layout.yaxis.ticktext == tuple(ORDERED)
    assert [(trace.x[0], trace.y[0], trace.marker.color) for trace in figure.data] == [
        (place + 1, place, one.colour) for place, one in enumerate(looks(ORDERED))
    ]
    assert figure.data[0].customdata == ("short: 1.000 [0.000, 2.000]<br>short",)


def test_bubbles_stand_in_the_order_of_their_conditions():
    counts = values("category").expand_dims(series=["ended"], axis=1)
    ends = counts.isel(series=0, x=0, drop=True)
    said: Any = {"x_title": "x", "unit": "lists", "median": ends, "low": ends, "high": ends, **TOLD}
    figure: Any = figures.bubble_rows(counts, **said)
    assert figure.layout.yaxis.ticktext == tuple(ORDERED)
    assert list(figure.data[-1].x) == [1, 2, 3]
    assert figure.data[0].customdata[0] == "short<br>1 list at 0"


def test_panels_stand_in_the_order_of_their_conditions():
    panels: Any = {name: xr.DataArray([[float(n)]], dims=("layer", "head")) for n, name in enumerate(UPSIDE_DOWN)}
    figure: Any = figures.heads_panel(panels, unit="logits", **TOLD)
    assert [note.text for note in figure.layout.annotations] == ORDERED
    assert [trace.z[0][0] for trace in figure.data] == [2, 1, 0]
    maps = values("name").rename(x="column").expand_dims("row", axis=1)
    figure: Any = row_maps(maps, ["a"], unit="nats", row_title="list", column_title="item", **TOLD)
    assert [note.text for note in figure.layout.annotations] == ORDERED
    assert [trace.z[0][0] for trace in figure.data] == [1, 2, 3]
