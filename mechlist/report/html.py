"""One HTML file that works without a network, on a phone and on paper."""

import math

import plotly.graph_objects as go

from mechlist.report.exhibits import exhibit
from mechlist.report.model import Report, Section
from mechlist.report.plots import asset, figure_block, plain_title, scripts
from mechlist.report.tables import table
from mechlist.report.text import Anchors, bullets, escape, paragraphs
from mechlist.types import Guard

# The page may run its own inline scripts and load nothing from anywhere, whatever a figure asks for.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
)
_NO_SCRIPT = "<noscript><p>The figures of this page are drawn by a script inside it; scripts are off.</p></noscript>"
_WORDS = {True: "pass", False: "FAIL", None: "not run"}


def render(report: Report) -> str:
    """The report as one self-contained HTML page; the same report gives the same text."""
    anchors = Anchors()
    parts = [(title, anchors.new(title), body) for title, body in _parts(report, anchors) if body]
    figures = any(section.figures for section in report.sections)
    body = [
        "<header>",
        f"<h1>{escape(report.title)}</h1>",
        paragraphs(report.subtitle, name="subtitle"),
        paragraphs(report.question, name="question"),
        "</header>",
        _contents([(title, anchor) for title, anchor, _ in parts]),
        "<main>",
        _NO_SCRIPT if figures else "",
        *(_part(title, anchor, content) for title, anchor, content in parts),
        "</main>",
    ]
    return _page(report.title, body, figures=figures)


def figure_page(figure: go.Figure, plotly: str = "") -> str:
    """One figure as an HTML page that works offline.

    Args:
        figure: any plotly figure.
        plotly: relative address of plotly.js (5 MB), for figures that lie beside one copy; without, it is inside.
    """
    block = figure_block(figure, "figure", name=plain_title(figure))
    return _page(plain_title(figure), ["<main>", _NO_SCRIPT, block, "</main>"], figures=True, plotly=plotly)


def _page(title: str, body: list[str], *, figures: bool, plotly: str = "") -> str:
    policy = _POLICY.replace("script-src", "script-src file:") if plotly else _POLICY
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{asset('style.css')}</style>",
        "</head>",
        "<body>",
        *(part for part in body if part),
        *([scripts(plotly)] if figures else []),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _parts(report: Report, anchors: Anchors) -> list[tuple[str, str]]:
    """Headings with what stands below them, in reading order; there may be nothing."""
    sections = [(section.title, _section(section, anchors)) for section in report.sections]
    return [
        ("Findings", bullets(report.findings)),
        *sections,
        ("Checks", _guards(report.guards)),
        ("Run", _facts(report) + _config(report.config_yaml)),
    ]


def _part(title: str, anchor: str, content: str) -> str:
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{content}\n</section>'


def _contents(links: list[tuple[str, str]]) -> str:
    """Links to the parts, where there are enough of them to need any."""
    if len(links) < 3:
        return ""
    items = [f'<li><a href="#{anchor}">{escape(title)}</a></li>' for title, anchor in links]
    return "\n".join(['<nav aria-label="Contents">', "<ol>", *items, "</ol>", "</nav>"])


def _section(section: Section, anchors: Anchors) -> str:
    figures = [
        figure_block(figure, anchors.new(section.title, name), name=name) for name, figure in section.figures.items()
    ]
    tables = [table(frame, caption) for caption, frame in section.tables.items()]
    exhibits = [exhibit(value, title) for title, value in section.exhibits.items()]
    parts = [paragraphs(section.text), bullets(section.findings), *figures, *exhibits, *tables]
    return "\n".join(part for part in parts if part) or "<p>Nothing to show.</p>"


def _guards(guards: tuple[Guard, ...]) -> str:
    if not guards:
        return ""
    return "\n".join(['<ul class="guards">', *(_guard(guard) for guard in guards), "</ul>"])


def _guard(guard: Guard) -> str:
    word = _WORDS[guard.passed]
    measured = "" if math.isnan(guard.measured) else f"measured {guard.measured:.4g}"
    tolerance = "" if math.isnan(guard.tolerance) else f"tolerance {guard.tolerance:.4g}"
    numbers = ", ".join(part for part in (measured, tolerance) if part)
    said = [
        f'<strong class="{word.lower().replace(" ", "-")}">{word}</strong>',
        f"<b>{escape(guard.name)}</b>",
    ]
    said += [f"<span>{escape(part)}</span>" for part in (numbers, guard.detail) if part]
    return f"<li>{' '.join(said)}</li>"


def _facts(report: Report) -> str:
    if not report.facts:
        return ""
    rows = [f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts.items()]
    return "\n".join(["<dl>", *rows, "</dl>", ""])


def _config(config: str) -> str:
    if not config:
        return ""
    return f"<details>\n<summary>Configuration</summary>\n<pre>{escape(config)}</pre>\n</details>"
