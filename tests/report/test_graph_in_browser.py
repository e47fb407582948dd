"""A click on a node of a drawn circuit, in a real Chromium; skipped where there is none."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from mechlist.figures.graph import GraphEdge, circuit_graph
from mechlist.report import Report, Section, render

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

EDGES = [
    GraphEdge("input", "L0H1", "v", -4.0, exact=-4.5),
    GraphEdge("L0H1", "L1H2", "k", -3.0),
    GraphEdge("L1H2", "logits", "", -2.0),
    GraphEdge("input", "m0", "", 1.0),
    GraphEdge("m0", "logits", "", 1.0),
]
FLOORS = [["input"], ["L0H1"], ["m0"], ["L1H2"], ["logits"]]
OPACITIES = (
    """plot => plot.data.filter(t => t.meta && t.meta.ends && t.visible).map(t => [t.meta.ends.join(), t.opacity])"""
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Page]":
    """A report with a graph and a table that names its heads; in the end nothing may have gone wrong."""
    graph = circuit_graph(
        FLOORS, EDGES, steps=[3, 5], beside={"m0"}, title="The circuit", caption="Look.", unit="logits"
    )
    table = pd.DataFrame({"node": ["L0H1", "L1H2"], "edges_in": [1, 1]})
    section = Section(title="Results", figures={"circuit": graph}, tables={"nodes": table}, folder="")
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(Report(title="Circuit", sections=(section,))), encoding="utf-8")
    wrong: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_selector("[data-drawn]")
        yield page
        browser.close()
    assert wrong == []


def click(page: "Page", name: str) -> None:
    page.locator(".textpoint text", has_text=name).locator("visible=true").first.click(force=True)


def test_a_click_lights_the_edges_of_a_node_and_lists_their_numbers(page: "Page"):
    plot = page.locator("[data-drawn]").first
    plot.locator(".slider-group").wait_for()
    click(page, "L0H1")
    page.wait_for_selector(".picked")
    lit = dict(plot.evaluate(OPACITIES))
    assert lit["input,L0H1"] == lit["L0H1,L1H2"] == 1
    assert lit["L1H2,logits"] == lit["m0,logits"] < 0.2
    rows = page.locator(".picked tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["input to L0H1 (v)", "-4.000", "-4.500"],
        ["L0H1 to L1H2 (k)", "-3.000", "\N{EN DASH}"],
    ]
    assert page.locator(".picked a").get_attribute("href") == "#head-l0h1"
    page.locator(".picked a").click()
    assert page.locator("#head-l0h1").get_attribute("open") is not None
    click(page, "L0H1")
    page.wait_for_selector(".picked", state="detached")
    assert {opacity for _, opacity in plot.evaluate(OPACITIES)} == {0.75}


def test_the_slider_shows_fewer_edges(page: "Page"):
    plot = page.locator("[data-drawn]").first
    assert len(plot.evaluate(OPACITIES)) == 5
    plot.locator(".slider-rail-touch-rect").click(position={"x": 5, "y": 5}, force=True)
    page.wait_for_function("plot => plot.layout.sliders[0].active === 0", arg=plot.element_handle())
    assert len(plot.evaluate(OPACITIES)) == 3
