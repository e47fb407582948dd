import base64
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import xarray as xr
from plotly.offline import get_plotlyjs

from mechlist.figures import attention_pattern, finish, head_heatmap
from mechlist.report import Report, Section, figure_page, render
from mechlist.types import Guard

EVIL = '</script><img src="x" onerror="alert(1)"><!--'
TOKENS = [EVIL, "<b>", "\x00", "\ud800", "\u2028", "&lt;"]


class Page(html.parser.HTMLParser):
    """What a browser would see: opening tags, and the text inside each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.data: list[dict] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        self.texts.append((tag, data))
        if attributes.get("type") == "application/json" and data.strip():
            self.data.append(json.loads(data))

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def figure(title: str = "Induction score") -> go.Figure:
    scores = xr.DataArray(np.arange(6).reshape(2, 3) / 6, dims=("layer", "head"))
    return head_heatmap(scores, title=title, caption="Dark cells are <induction> heads.", unit="weight")


def report() -> Report:
    weights = xr.DataArray(np.eye(6), dims=("query", "key"))
    pattern = attention_pattern(weights, title=EVIL, caption=EVIL, labels=TOKENS)
    rows = pd.DataFrame({"score": [0.123456, np.nan], "rank": [1, 2], "token": pd.Series(TOKENS[2:4], dtype=object)})
    return Report(
        title=f"Induction {EVIL}",
        subtitle="subtitle",
        question="Which heads?",
        findings=("One.", EVIL),
        sections=(
            Section(title="Scores", text="First.\n\nSecond & last.", figures={"a": figure(), "b": pattern}),
            Section(title="Scores", figures={"a": figure()}, tables={"Best": rows}),
        ),
        guards=(
            Guard(name="Logits", passed=True, measured=3.8e-6, tolerance=1e-4),
            Guard(name="Padding", passed=False, detail=EVIL),
            Guard(name="SAE", passed=None),
        ),
        config_yaml="model: gpt2\nperiod: 50 # <b>\n",
        facts={"model": "gpt2"},
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render(report())


def without_plotly(text: str) -> str:
    return text.replace(get_plotlyjs(), "")


def test_the_same_report_gives_the_same_bytes(page):
    assert render(report()).encode() == page.encode()


def test_plotly_is_embedded_once_and_only_where_there_are_figures(page):
    assert page.count(get_plotlyjs()) == 1
    assert "<script" not in render(Report(title="Nothing yet"))


def test_nothing_is_loaded_from_outside(page):
    own = Page(without_plotly(page))
    assert not [name for name in ("link", "iframe", "img", "object", "embed", "base") if own.named(name)]
    assert not [attributes for _, attributes in own.tags if "src" in attributes]
    assert all(attributes["href"].startswith("#") for attributes in own.named("a"))
    assert not re.search(r"https?://|url\(|@import", without_plotly(page))
    policy = next(meta["content"] for meta in own.named("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_no_text_breaks_out_of_its_place(page):
    own = without_plotly(page)
    assert "<img" not in own
    assert "<!--" not in own
    assert len(Page(own).named("script")) == 3 + 3


def test_figures_keep_their_values_and_lose_their_title_to_the_page(page):
    *figures, themes = Page(without_plotly(page)).data
    assert len(figures) == 3
    assert set(themes) == {"templates", "dark"}
    assert figures[1]["data"][0]["x"][0].startswith("0 &lt;/script&gt;")
    assert "text" not in figures[0]["layout"].get("title", {})
    z = figures[0]["data"][0]["z"]
    values = np.frombuffer(base64.b64decode(z["bdata"]), dtype=z["dtype"])
    np.testing.assert_array_equal(values, np.arange(6) / 6)


def test_captions_titles_and_anchors(page):
    assert page.count("Dark cells are &lt;induction&gt; heads.") == 2
    assert '<a class="title" href="#scores-a">Induction score</a>' in page
    ids = [attributes["id"] for _, attributes in Page(without_plotly(page)).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"findings", "scores", "scores-2", "scores-a", "scores-a-2", "checks", "run"} <= set(ids)


def test_headings_come_in_order_and_contents_point_at_them(page):
    own = Page(without_plotly(page))
    assert [name for name, _ in own.tags if re.fullmatch("h[1-6]", name)] == ["h1"] + ["h2"] * 5
    assert own.named("html") == [{"lang": "en"}]
    targets = {attributes["id"] for attributes in own.named("section")}
    assert {attributes["href"][1:] for attributes in own.named("a") if "class" not in attributes} == targets


def test_tables_round_align_and_show_what_is_missing(page):
    assert '<td class="number">0.1235</td><td class="number">1</td><td>\\x00</td>' in page
    assert '<td class="number">\N{EN DASH}</td><td class="number">2</td><td>\\ud800</td>' in page


def test_guards_say_in_words_whether_they_passed(page):
    assert '<strong class="pass">pass</strong> <b>Logits</b> <span>measured 3.8e-06, tolerance 0.0001</span>' in page
    assert '<strong class="fail">FAIL</strong> <b>Padding</b>' in page
    assert '<strong class="not-run">not run</strong> <b>SAE</b>' in page


def test_the_configuration_is_there_to_unfold(page):
    assert "<summary>Configuration</summary>\n<pre>model: gpt2\nperiod: 50 # &lt;b&gt;\n</pre>" in page


def test_text_comes_in_paragraphs(page):
    assert "<p>First.</p>\n<p>Second &amp; last.</p>" in page


def test_an_empty_report_is_a_page():
    own = Page(render(Report(title="Empty", sections=(Section(title="Step"),))))
    assert next(text for tag, text in own.texts if tag == "h1") == "Empty"
    assert own.named("nav") == []


def test_a_figure_page_stands_alone(tmp_path: Path):
    page = figure_page(figure("P(a) < 0.5"))
    assert "<title>P(a) &lt; 0.5</title>" in page
    assert page.count(get_plotlyjs()) == 1
    assert page == figure_page(figure("P(a) < 0.5"))
    tmp_path.joinpath("figure.html").write_text(page, encoding="utf-8")


def test_any_plotly_figure_is_shown():
    page = without_plotly(figure_page(go.Figure(go.Scatter(y=[1, 2]))))
    assert "<title>Figure</title>" in page
    marked = go.Figure(layout={"title": {"text": "<b>Bold</b> &amp; plain"}})
    assert "<title>Bold  &amp; plain</title>" in without_plotly(figure_page(marked))


def test_drawing_leaves_the_figure_as_it_was():
    shown = finish(go.Figure(), title="a", caption="b")
    before = shown.to_json()
    figure_page(shown)
    assert shown.to_json() == before
