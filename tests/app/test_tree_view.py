import time
from itertools import pairwise

import pytest

from mechlist.app.pages.tree import tree_pan
from mechlist.app.tree_elements import tree_elements
from mechlist.app.tree_view import MOST_SHOWN, TreeSheet, TreeView, matches, next_match, way_to
from mechlist.errors import InputError


@pytest.fixture(scope="module")
def sheet(wide_tree) -> TreeSheet:
    return TreeSheet.of(wide_tree(9000))


def test_a_large_tree_begins_with_its_most_probable_chains(sheet):
    view = TreeView.first(sheet)
    shown = view.shown(sheet)
    assert len(sheet.tree.nodes) >= 9000
    assert 40 <= len(shown) < 60
    assert shown[0] == 0
    for number in shown[1:]:
        assert sheet.segments[number].parent in shown


def test_showing_what_is_open_takes_a_moment_only(sheet):
    view = TreeView.first(sheet)
    started = time.process_time()
    tree_elements(sheet, view)
    assert time.process_time() - started < 0.5


def test_opening_and_closing(sheet):
    view = TreeView.first(sheet)
    closed = next(n for n in view.shown(sheet) if n not in view.open and sheet.segments[n].children)
    opened = view.toggled(sheet, closed)
    assert set(opened.shown(sheet)) - set(view.shown(sheet)) == set(sheet.segments[closed].children)
    assert opened.selected == closed
    again = opened.toggled(sheet, closed)
    assert again.shown(sheet) == view.shown(sheet)
    root = opened.toggled(sheet, 0)
    assert root.shown(sheet) == [0]
    assert root.open == frozenset()


def test_what_is_selected_is_shown_with_the_way_to_it(sheet):
    deep = max(range(len(sheet.segments)), key=lambda n: len(way_to(sheet, n)))
    view = TreeView(frozenset()).select(deep)
    assert view.shown(sheet) == sorted(way_to(sheet, deep))
    elements = {e["data"]["id"]: e for e in tree_elements(sheet, view)}
    assert "selected" in elements[str(deep)]["classes"]
    way = way_to(sheet, deep)
    assert all("way" in elements[str(n)]["classes"] for n in way)
    assert all("way" in elements[f"{a}-{b}"]["classes"] for a, b in pairwise(way))
    assert tree_pan(list(elements.values()), 0)["x"] == 16
    right = elements[str(deep)]["position"]["x"] + tree_pan(list(elements.values()), deep)["x"]
    assert right == pytest.approx(160 + elements[str(deep)]["data"]["width"] / 2)
    assert "closed" in elements["0"]["classes"]
    assert "(+2)" in elements["0"]["data"]["label"]


def test_no_more_is_shown_than_one_can_look_at(sheet):
    inner = frozenset(n for n, segment in enumerate(sheet.segments) if segment.children)
    view = TreeView(inner - {max(inner)})
    with pytest.raises(InputError, match=f"{MOST_SHOWN} chains can be shown at a time: collapse some"):
        view.toggled(sheet, max(inner))


def test_search_goes_from_match_to_match(sheet):
    found = matches(sheet, "W2B")
    assert len(found) == 9
    assert all(" w2b" in sheet.branches[n].text for n in found)
    assert next_match(found, 0) == found[0]
    assert next_match(found, found[0]) == found[1]
    assert next_match(found, found[-1]) == found[0]
    assert next_match(matches(sheet, ""), 0) is None


def test_odd_text_is_shown_as_itself(odd_tree):
    sheet = TreeSheet.of(odd_tree)
    labels = [e["data"].get("label", "") for e in tree_elements(sheet, TreeView.first(sheet))]
    for text in ("<script>window.ran=1</script>", "\\x00", "\\u202eabc", "😀", "\\ud83d", "∅"):
        assert any(label.startswith(text) for label in labels), text
