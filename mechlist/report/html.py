"""One HTML file that works without a network, on a phone and on paper."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from mechlist.figures.style import meta
from mechlist.report.exhibits import exhibit
from mechlist.report.heads import entries, linked, named
from mechlist.report.model import Report, Section, Sentence
from mechlist.report.plots import asset, figure_block, plain_title, scripts
from mechlist.report.tables import table
from mechlist.report.text import Anchors, bullets, escape, paragraphs
from mechlist.text import number_of
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
    shown = [figure for figures in _figures(report) for figure in figures.values()]
    answer, parts = _answer(report, anchors), _parts(report, anchors)
    # A click on a node of a graph leads to its entry.
    nodes = [" ".join(meta(figure).get("nodes", [])) for figure in shown]
    if names := named(" ".join([answer, *(part.body for part in parts), *nodes])):
        parts.insert(_own_parts(report), _Part("Heads", anchors.new("Heads"), "Heads", entries(report, names)))
    body = [
        "<header>",
        f"<h1>{escape(report.title)}</h1>",
        paragraphs(report.subtitle, name="subtitle"),
        paragraphs(report.about, name="about"),
        paragraphs(report.question, name="question"),
        "</header>",
        linked(answer),
        _contents(parts),
        "<main>",
        _NO_SCRIPT if shown else "",
        *(_part(part) for part in parts),
        "</main>",
    ]
    return _page(report.title, body, shown)


def figure_page(figure: go.Figure, plotly: str = "") -> str:
    """One figure as an HTML page that works offline.

    Args:
        figure: any plotly figure.
        plotly: relative address of plotly.js (5 MB), for figures that lie beside one copy; without, it is inside.
    """
    block = figure_block(figure, "figure", name=plain_title(figure))
    return _page(plain_title(figure), ["<main>", _NO_SCRIPT, block, "</main>"], [figure], plotly=plotly)


def _page(title: str, body: list[str], figures: Sequence[go.Figure], *, plotly: str = "") -> str:
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
        *([scripts(figures, plotly)] if figures else []),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


class _Part(NamedTuple):
    """A part of the page below its heading."""

    title: str
    anchor: str
    label: str
    """What links to it say: the title, or less of it."""
    body: str


def _figures(report: Report) -> list[Mapping[str, go.Figure]]:
    return [report.answer_figures, *(section.figures for section in report.sections)]


def _own_parts(report: Report) -> int:
    """How many parts stand before what belongs to all of them."""
    return len(report.sections) + bool(report.findings)


def _parts(report: Report, anchors: Anchors) -> list[_Part]:
    """Headings with what stands below them, in reading order."""
    out = []
    if report.findings:
        out.append(_Part("Findings", anchors.new("Findings"), "Findings", bullets(report.findings)))
    for section in report.sections:
        anchor = anchors.new(section.name or section.title)
        out.append(_Part(section.title, anchor, section.title, _section(section, anchors)))
    if report.guards:
        failed = sum(guard.passed is False for guard in report.guards)
        said = f"{number_of(failed, 'checks')} failed" if failed else "all that ran passed"
        body = _guards(report.guards)
        out.append(_Part("Checks", anchors.new("Checks"), "Checks", _folded(
            f"{number_of(len(report.guards), 'checks')} of the model: {said}", body, opened=bool(failed)
        ) if report.answer else body))  # fmt: skip
    facts, config = _facts(report), _config(report.config_yaml)
    if facts or config:
        body = _folded("Model, versions and time", facts) if report.answer else facts
        out.append(_Part("Run", anchors.new("Run"), "Run", body + config))
    return out


def _answer(report: Report, anchors: Anchors) -> str:
    """The answer's sentences, each with a link to its evidence, and the figures beside them."""
    if not report.answer:
        return ""
    sections = {section.name or section.title: section for section in report.sections}
    items = [f"<li>{escape(one.text)}{_evidence(one, sections)}</li>" for one in report.answer]
    figures = [
        figure_block(figure, anchors.new("answer", name), name=name) for name, figure in report.answer_figures.items()
    ]
    lines = [f'<section id="{anchors.new("Answer")}">', "<h2>The answer</h2>", '<ol class="answer">', *items, "</ol>"]
    tables = _folded(number_of(len(report.answer_tables), "tables"), "\n".join(_tables(report.answer_tables)))
    return "\n".join([*lines, *figures, tables, "</section>"])


def _evidence(sentence: Sentence, sections: Mapping[str, Section]) -> str:
    section = sections.get(sentence.section)
    if section is None:
        return ""
    figure = section.figures.get(sentence.figure)
    anchor = Anchors().new(sentence.section)
    said = f"Evidence: {sentence.section}"
    if figure is not None:
        anchor, said = Anchors().new(sentence.section, sentence.figure), f"{said}, {plain_title(figure)}"
    return f' <a class="evidence" href="#{anchor}">{escape(said)}</a>'


def _part(part: _Part) -> str:
    return f'<section id="{part.anchor}">\n<h2>{escape(part.title)}</h2>\n{linked(part.body)}\n</section>'


def _contents(parts: Sequence[_Part]) -> str:
    """Links to the parts, where there are enough of them to need any."""
    if len(parts) < 3:
        return ""
    items = [f'<li><a href="#{part.anchor}">{escape(part.label)}</a></li>' for part in parts]
    lines = ['<nav aria-label="Contents">', "<details>", "<summary>Contents</summary>", "<ol>", *items, "</ol>"]
    return "\n".join([*lines, "</details>", "</nav>"])


def _section(section: Section, anchors: Anchors) -> str:
    blocks = {
        name: figure_block(figure, anchors.new(section.name or section.title, name), name=name)
        for name, figure in section.figures.items()
    }
    tables = _tables(section.tables, section.folder)
    exhibits = [exhibit(value, title) for title, value in section.exhibits.items()]
    text, findings = paragraphs(section.text), bullets(section.findings)
    if section.folded:
        lead = blocks.pop(section.lead if section.lead in blocks else next(iter(blocks), ""), "")
        parts = [
            text,
            lead and f'<div class="lead">{lead}</div>',
            _folded(f"All {number_of(len(section.findings), 'findings')}", findings),
            _folded(f"{number_of(len(blocks), 'more figures')}", "\n".join(blocks.values())),
            _folded(f"{number_of(len(exhibits), 'views to click through')}", "\n".join(exhibits)),
            _folded(f"{number_of(len(tables), 'tables')}", "\n".join(tables)),
        ]
    else:
        parts = [text, findings, *blocks.values(), *exhibits, *tables]
    return "\n".join(part for part in parts if part) or "<p>Nothing to show.</p>"


def _tables(tables: Mapping[str, pd.DataFrame], folder: str | None = None) -> list[str]:
    return [
        table(frame, name, "" if folder is None else f"{folder}tables/{name}.parquet") for name, frame in tables.items()
    ]


def _folded(summary: str, content: str, *, opened: bool = False) -> str:
    """Content to unfold; nothing for nothing."""
    if not content:
        return ""
    return f"<details{' open' if opened else ''}>\n<summary>{escape(summary)}</summary>\n{content}\n</details>"


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
    return _folded("Configuration", f"<pre>{escape(config)}</pre>" if config else "")
