"""Everything that a report knows of a head, in one entry a head, and links to it wherever the head is named."""

import re
from collections.abc import Iterator, Mapping

import pandas as pd
from pandas.api.types import is_numeric_dtype

from mechlist.report.model import Report
from mechlist.report.tables import table
from mechlist.report.text import escape
from mechlist.types import head_name

NAME = re.compile(r"\bL\d+H\d+\b")
MOST_ROWS = 3
"""Rows of a table that an entry shows of its head: tables list what is strongest first."""
MOST_SENTENCES = 4
# Text that a reader sees, and not what stands inside a tag, a script, a link, a title or what unfolds at a click.
_SKIPPED = re.compile(
    r"(<(script|pre|a|h1|h2|summary|nav|button)\b.*?</\2>|<[^>]*>)", re.DOTALL
)  # fmt: skip


def anchor(name: str) -> str:
    """The id of a head's entry."""
    return f"head-{name.lower()}"


def named(pages: str) -> list[str]:
    """The heads that HTML text names, by layer and head."""
    found = {match[0] for part in _texts(pages) for match in NAME.finditer(part)}
    return sorted(found, key=lambda name: tuple(map(int, re.findall(r"\d+", name))))


def linked(page: str) -> str:
    """HTML whose text names heads, each name a link to its entry."""
    parts, last = [], 0
    for match in _SKIPPED.finditer(page):
        parts += [_link(page[last : match.start()]), match[0]]
        last = match.end()
    return "".join([*parts, _link(page[last:])])


def entries(report: Report, names: list[str]) -> str:
    """What the tables and sentences of the report hold of each head, to unfold."""
    return "\n".join(_entry(report, name) for name in names)


def _texts(page: str) -> Iterator[str]:
    last = 0
    for match in _SKIPPED.finditer(page):
        yield page[last : match.start()]
        last = match.end()
    yield page[last:]


def _link(text: str) -> str:
    return NAME.sub(lambda match: f'<a class="head" href="#{anchor(match[0])}">{match[0]}</a>', text)


def _entry(report: Report, name: str) -> str:
    said = [line for section in report.sections for line in section.findings if re.search(rf"\b{name}\b", line)]
    lines = [f'<details class="head-entry" id="{anchor(name)}">', f"<summary>{name}</summary>"]
    if said:
        lines += ["<ul>", *(f"<li>{escape(line)}</li>" for line in said[:MOST_SENTENCES]), "</ul>"]
    tables = {"answer": report.answer_tables} | {one.name or one.title: one.tables for one in report.sections}
    lines += [part for label, held in tables.items() for part in _rows(label, held, name)]
    if len(lines) == 2:
        lines.append("<p>Nothing more is known of it here.</p>")
    return "\n".join([*lines, "</details>"])


def _rows(label: str, tables: Mapping[str, pd.DataFrame], name: str) -> Iterator[str]:
    """The rows of a section's tables that are about a head."""
    for key, frame in tables.items():
        found = of_head(frame, name)
        if len(found):
            more = f" ({MOST_ROWS} of {len(found)} rows)" if len(found) > MOST_ROWS else ""
            yield table(found.head(MOST_ROWS), f"{label}, {key}{more}")


def of_head(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a table that are about a head: by its columns layer and head, or by a column that names heads."""
    if {"layer", "head"} <= set(frame.columns) and all(is_numeric_dtype(frame[key]) for key in ("layer", "head")):
        pairs = zip(frame["layer"], frame["head"], strict=True)
        mine = [pd.notna(a) and pd.notna(b) and head_name((int(a), int(b))) == name for a, b in pairs]
        return frame.loc[mine].drop(columns=["layer", "head"]).reset_index(drop=True)
    for key in ("head", "heads", "component", "node", "edge", "sender", "set", "name"):
        if key in frame.columns:
            mine = [bool(re.search(rf"\b{name}\b", str(value))) for value in frame[key]]
            return frame.loc[mine].reset_index(drop=True)
    return frame.iloc[:0]
