"""The report of a study reads as an article: the answer, then claims with one figure each, and the rest folded."""

import html
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import xarray as xr

from mechlist.figures import finish
from mechlist.figures.graph import GraphEdge, circuit_graph
from mechlist.figures.token_text import coloured_text
from mechlist.report import Report, Section, Sentence, render
from mechlist.report.heads import of_head
from mechlist.report.themes import CARD, READABLE, contrast, dark
from mechlist.types import Guard
from tests.report.test_html import Page, without_plotly


def drawn(title: str) -> go.Figure:
    return finish(go.Figure(go.Bar(y=[1, 2], marker={"color": "#2a5f9e"})), title=title, caption="One bar a head.")


def article() -> Report:
    heads = pd.DataFrame({"layer": [4, 0], "head": [2, 1], "share": [0.82, 0.1]})
    steps = Section(
        title="L4H2 carries 82% of the filler",
        name="heads",
        text="Every head.",
        findings=tuple(f"L4H2 at role {i} and L0H1." for i in range(9)),
        figures={"roles": drawn("By role"), "all": drawn("All heads")},
        tables={"heads": heads, "rest": pd.DataFrame({"n": range(30)})},
        folder="heads/",
        folded=True,
        lead="all",
    )
    return Report(
        title="Why?",
        about="tiny: 5 parameters.",
        answer=(
            Sentence(text="L4H2 carries 82% of it.", section="heads", figure="all"),
            Sentence(text="Nothing else does.", section="nowhere"),
        ),
        answer_figures={"heads": drawn("Heads by factor")},
        sections=(steps, Section(title="Lists end", name="ending", folded=True)),
        guards=(Guard(name="Logits", passed=True),),
        config_yaml="a: 1\n",
        facts={"model": "tiny"},
    )


@pytest.fixture(scope="module")
def page() -> str:
    return without_plotly(render(article()))


def body(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page[page.index("<body>") :], flags=re.DOTALL)


def unfolded(page: str) -> str:
    """Text that shows before anything is unfolded."""
    text, closed = body(page), re.compile(r"<details[^>]*>(?:(?!<details|</details>).)*</details>", re.DOTALL)
    while closed.search(text):
        text = closed.sub(" ", text)
    return html.unescape(re.sub("<[^>]+>", " ", text))


def test_the_answer_stands_before_the_outline_and_the_sections(page):
    own = body(page)
    places = [
        own.index(text) for text in ("tiny: 5 parameters.", "The answer", "Heads by factor", "<nav", "Every head.")
    ]
    assert places == sorted(places)


def test_a_sentence_links_to_the_figure_that_shows_it(page):
    own = body(page)
    assert '<a class="evidence" href="#heads-all">Evidence: heads, All heads</a>' in own
    assert '<figure id="heads-all"' in own
    assert own.count('class="evidence"') == 1


def test_a_section_shows_its_claim_and_one_figure_and_folds_the_rest(page):
    shown = unfolded(page)
    assert "L4H2 carries 82% of the filler" in shown
    assert "All heads" in shown
    for hidden in ("By role", "at role 3", "tables/rest.parquet", "Logits", "a: 1"):
        assert hidden not in shown
        assert hidden in html.unescape(body(page))
    for summary in ("All 9 findings", "1 more figure", "2 tables", "1 check of the model: all that ran passed"):
        assert f"<summary>{summary}</summary>" in body(page)


def test_a_failed_check_is_not_folded():
    failed = Report(title="t", answer=article().answer, guards=(Guard(name="Padding", passed=False),))
    assert "<details open>\n<summary>1 check of the model: 1 check failed</summary>" in render(failed)


def test_a_head_named_anywhere_opens_all_that_is_known_of_it(page):
    own = Page(body(page))
    anchors = {link["href"] for link in own.named("a") if link.get("class") == "head"}
    assert anchors == {"#head-l4h2", "#head-l0h1"}
    ids = [tag["id"] for tag in own.named("details") if "id" in tag]
    assert ids == ["head-l0h1", "head-l4h2"]
    entry = body(page).split('id="head-l4h2"')[1]
    assert "L4H2 at role 0 and L0H1." in re.sub("<[^>]+>", "", entry)
    assert '<td class="number">0.8200</td>' in entry.split("</table>")[0]
    assert "0.1000" not in entry.split("</table>")[0]


def test_rows_of_a_head_are_found_by_number_and_by_name():
    nodes = pd.DataFrame({"node": ["L4H2", "m3"], "edges_in": [2, 1]})
    assert of_head(nodes, "L4H2")["edges_in"].tolist() == [2]
    edges = pd.DataFrame({"edge": ["L4H2->L5H1.k", "input->L4H20.v"], "score": [1.0, 2.0]})
    assert of_head(edges, "L4H2")["score"].tolist() == [1.0]
    by_name = pd.DataFrame({"heads": ["L1H0, L4H5", "L11H0"], "items": [2.0, 3.0]})
    assert of_head(by_name, "L1H0")["items"].tolist() == [2.0]
    assert of_head(pd.DataFrame({"layer": [1, None], "head": [0, 2], "x": [5, 6]}), "L1H0")["x"].tolist() == [5]
    assert of_head(pd.DataFrame({"layer": [1]}), "L1H0").empty


def test_links_go_nowhere_but_to_the_page_and_its_tables(page):
    own = Page(body(page))
    targets = {tag["id"] for _, tag in own.tags if "id" in tag}
    for link in own.named("a"):
        assert link["href"] == "heads/tables/rest.parquet" or link["href"][1:] in targets
    assert len(targets) == len([tag for _, tag in own.tags if "id" in tag])


def test_figures_hold_light_colours_and_the_page_their_dark_partners(page):
    *figures, themes = Page(page).data
    assert len(figures) == 3
    assert all("template" not in figure["layout"] for figure in figures)
    assert figures[0]["data"][0]["marker"]["color"] == "#2a5f9e"
    assert contrast(themes["dark"]["#2a5f9e"], CARD) >= READABLE
    assert themes["templates"]["light"]["layout"]["paper_bgcolor"] == "white"
    assert themes["templates"]["dark"]["layout"]["paper_bgcolor"] == CARD


def test_text_of_tokens_flows_with_what_is_known_of_each():
    values = xr.DataArray([0.1, np.nan], dims="token")
    figure = coloured_text(values, ["<a>\n", "b"], hover=["x & y", ""], title="t", caption="c", unit="P(end)")
    page = without_plotly(render(Report(title="t", sections=(Section(title="s", figures={"text": figure}),))))
    assert (
        'data-note="&lt;a&gt;⏎\nP(end): 0.100\nx &amp; y">&lt;a&gt;⏎</span><br><span tabindex="0" data-note="b">'
        in page
    )
    assert re.search(r'style="--light:#[0-9a-f]{6};--dark:#[0-9a-f]{6}"', page)
    assert "data-figure" not in body(page)


@pytest.mark.parametrize("colour", ["#2a5f9e", "#c4562f", "#35106b", "#1f2430", "#7b5aa6", "#000000"])
def test_lines_and_letters_can_be_read_on_a_dark_page(colour):
    assert contrast(dark(colour), CARD) >= READABLE
    assert dark(colour) == dark(colour.upper())


def test_backgrounds_turn_dark_and_bands_keep_their_opacity():
    assert dark("white") == CARD
    assert contrast(dark("#f4f5f7"), CARD) < 1.5
    assert contrast(dark("#fdf0d5"), "#e4e6eb") >= READABLE
    assert re.fullmatch(r"rgba\(\d+, \d+, \d+, 0.16\)", dark("rgba(42, 95, 158, 0.16)"))
    assert dark("coloraxis") == "coloraxis"


def test_nodes_of_a_graph_have_entries_even_where_no_sentence_names_them():
    graph = circuit_graph(
        [["input"], ["L3H1", "m3"], ["logits"]],
        [GraphEdge("input", "L3H1", "v", -1.0), GraphEdge("L3H1", "logits", "", -1.0)],
        title="The circuit",
        caption="Nothing.",
        unit="logits",
    )
    made = body(render(Report(title="T", sections=(Section(title="Results", figures={"circuit": graph}),))))
    assert 'id="head-l3h1"' in made
    assert made.count('class="head-entry"') == 1
