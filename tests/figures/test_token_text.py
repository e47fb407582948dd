"""Coloured text and trees of text: where tokens stand, what is escaped, and what is left out."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.points import named_points
from mechlist.figures.token_text import CONFIDENCE, LETTER, Run, coloured_text, confidence_colour, cut, letters
from mechlist.figures.word_tree import CUT_OFF, ENDED, Branch, word_tree

TEXTS = ["<b>", " one", "\n", "\u202e", "漢字"]


def drawn(values: Any, **changes: Any) -> Any:
    given: dict[str, Any] = {"title": "T <i>", "caption": "C", "unit": "probability", **changes}
    return coloured_text(values, given.pop("texts", TEXTS), **given)


def test_text_runs_and_wraps():
    run = Run.of(["ab", " c", "def\n", "g"], 8)
    assert run.text == ("ab", "·c", "def⏎", "g")
    assert run.line == (0, 0, 1, 2)
    assert run.left == (0, 3, 0, 0)
    assert run.lines == 3
    assert Run.of(["a" * 20], 8).text == ("aaaaaa…",)
    assert Run.of([""], 8).text == ("∅",)


def test_the_colour_of_a_page_is_that_of_a_figure():
    assert [confidence_colour(p) for p, _ in CONFIDENCE] == [colour for _, colour in CONFIDENCE]
    assert confidence_colour(0.15) == "#e4ac86"
    assert confidence_colour(1.0001) == CONFIDENCE[-1][1]


def test_wide_letters_take_two_columns():
    assert letters("漢字a") == 5
    assert letters("e\u0301") == 1
    assert cut("abcdef", 5) == "abc…"


def test_any_text_shows_as_itself():
    figure = drawn(xr.DataArray([0.1, 0.5, 0.9, np.nan, 1.0], dims="token"), hover=["<i>&", "", "a\nb", "", ""])
    labels = next(trace for trace in figure.data if trace.type == "scatter")
    assert list(labels.text) == ["&lt;b&gt;", "·one", "⏎", r"\u202e", "漢字"]
    boxes = [box for trace in figure.data if trace.type == "bar" for box in trace.customdata]
    assert "<b>&lt;b&gt;</b><br>probability: 0.100<br>&lt;i&gt;&amp;" in boxes
    assert "<b>⏎</b><br>probability: 0.900<br>a<br>b" in boxes
    assert "<b>\\u202e</b>" in boxes
    assert figure.layout.title.text == "T &lt;i&gt;"


def test_a_page_gets_the_text_to_wrap_with_colours_and_notes():
    figure = drawn(xr.DataArray([0.0, 0.5, 1.0, np.nan, 1.0], dims="token"), hover=["", "", "a\nb", "", ""])
    (part,) = figure.layout.meta["flow"]
    shown, colours, notes = zip(*part["tokens"], strict=True)
    assert shown == ("<b>", "·one", "⏎\n", r"\u202e", "漢字")
    assert colours[3] == ""
    assert colours[0] != colours[1] != colours[2] == colours[4]
    assert notes[2] == "⏎\nprobability: 1.000\na\nb"


def test_boxes_stand_behind_their_tokens():
    figure = drawn(xr.DataArray([0.1, 0.5, 0.9, 0.3, 1.0], dims="token"))
    bars, labels = figure.data
    assert list(bars.marker.color) == [0.1, 0.5, 0.9, 0.3, 1.0]
    assert list(bars.y) == list(labels.y)
    assert all(left < x < left + width for left, x, width in zip(bars.base, labels.x, bars.x, strict=True))
    assert bars.y[3] > bars.y[2]
    assert bars.base[1] == pytest.approx(4 * LETTER)


def test_what_is_not_known_has_no_colour():
    figure = drawn(xr.DataArray([0.1, np.nan, 0.9, 0.3, np.nan], dims="token"))
    coloured, plain, _ = figure.data
    assert list(coloured.marker.color) == [0.1, 0.9, 0.3]
    assert plain.marker.color == "rgba(0,0,0,0)"
    assert len(plain.y) == 2


def test_a_text_stands_once_a_name():
    values = xr.DataArray([[0.5, -1.0], [1.0, 0.0]], dims=("name", "token"), coords={"name": ["one", "<two>"]})
    figure = drawn(values, texts=["a", "b"], diverging=True)
    assert [a.text for a in figure.layout.annotations] == ["<b>one</b>", "<b>&lt;two&gt;</b>"]
    first, _, second, _ = figure.data
    assert max(first.y) < min(second.y)
    # Zero is in the middle of the scale, which is as far below as above and light enough for black letters.
    scale = figure.layout.coloraxis.colorscale
    assert (scale[0][0], scale[-1][0], scale[len(scale) // 2]) == (0.0, 1.0, (pytest.approx(0.5), "#fbfbfb"))
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax


def test_texts_are_one_a_token():
    with pytest.raises(InputError, match="texts and hover must be one for each of the 2 tokens; received 5 and 5"):
        drawn(xr.DataArray([0.1, 0.2], dims="token"))
    with pytest.raises(InputError, match="values must have the dimensions"):
        drawn(xr.DataArray([0.1, 0.2], dims="other"))


BRANCHES = [
    Branch("The <prompt>", None, 1.0, 0.0),
    Branch(" a", 0, 0.6, -0.5),
    Branch(" b", 0, 0.4, -0.9, hover="one\n<two>", mark=CUT_OFF),
    Branch(" c", 1, 0.7, -0.8, mark=ENDED),
    Branch("<d>", 1, 0.3, -1.6, mark=CUT_OFF),
]


def tree(branches: list[Branch], **changes: Any) -> Any:
    return word_tree(branches, title="T", caption="C.", **changes)


def test_leaves_stand_one_a_line_and_parents_amid_their_children():
    _, bars, labels, marks = tree(BRANCHES).data
    line = dict(zip(labels.text, bars.y, strict=True))
    assert line["·c"] < line["&lt;d&gt;"] < line["·b"]
    assert line["·a"] == pytest.approx((line["·c"] + line["&lt;d&gt;"]) / 2)
    left = dict(zip(labels.text, bars.base, strict=True))
    assert left["The &lt;prompt&gt;"] == 0
    assert left["·a"] == left["·b"] < left["·c"] == left["&lt;d&gt;"]
    assert list(marks.text) == [CUT_OFF, ENDED, CUT_OFF]
    assert bars.customdata[2] == "<b>·b</b><br>one<br>&lt;two&gt;"
    assert list(bars.marker.color) == [1.0, 0.6, 0.4, 0.7, 0.3]


def test_the_least_probable_leaves_are_left_out():
    many = [Branch("p", None, 1.0, 0.0), *(Branch(f"x{i}", 0, 0.1, -float(i)) for i in range(10))]
    figure = tree(many, most_leaves=4)
    assert [text for text in figure.data[2].text if text != "p"] == ["x0", "x1", "x2", "x3"]
    assert figure.layout.meta["caption"] == "C. Left out: the 6 least probable leaves."
    assert tree(many).layout.meta["caption"] == "C."
    # One leaf more takes no more room than the sentence about it.
    assert len(tree(many, most_leaves=9).data[2].text) == 11


def test_long_chains_are_cut_and_prompts_show_their_end():
    long = [Branch("x" * 60 + "END", None, 1.0, 0.0), Branch("y" * 60, 0, 0.5, -1.0)]
    root, child = tree(long, longest=20).data[2].text
    assert root.endswith("END")
    assert root.startswith("…")
    assert child == "y" * 18 + "…"


def test_several_trees_stand_below_each_other():
    two = [
        *BRANCHES,
        *(Branch(b.text, None if b.parent is None else b.parent + 5, b.value, b.weight) for b in BRANCHES),
    ]
    _, bars, *_ = tree(two).data
    assert max(bars.y[:5]) < min(bars.y[5:])


@pytest.mark.parametrize("branches", [[], [Branch("a", 0, 1.0, 0.0)], [Branch("a", 1, 1, 0), Branch("b", None, 1, 0)]])
def test_parents_stand_before_their_children(branches: list[Branch]):
    with pytest.raises(InputError, match="branches must hold one at least, and each parent before its children"):
        tree(branches)


def test_points_have_their_names():
    values = xr.DataArray(np.arange(12.0).reshape(2, 3, 2), dims=("panel", "point", "axis"))
    asked: dict[str, Any] = {"title": "T", "caption": "C", "panels": ["<p>", "q"], "axes": [("x", "y"), ("z", "<w>")]}
    figure: Any = named_points(values, ["<a>", "b", "c" * 30], **asked)
    assert list(figure.data[0].text) == ["&lt;a&gt;", "b", "c" * 13 + "…"]
    assert figure.data[0].customdata[2] == f"{'c' * 30} (position 2)"
    assert (list(figure.data[1].x), list(figure.data[1].y)) == ([6, 8, 10], [7, 9, 11])
    assert figure.layout.yaxis2.title.text == "&lt;w&gt;"
    with pytest.raises(InputError, match="received 1, 2, 2 and 2"):
        named_points(values, ["a"], **asked)
