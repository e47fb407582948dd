"""Data frames as HTML tables that read well: four digits, aligned, nothing missing in silence."""

import math
from numbers import Integral, Real

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mechlist.report.text import escape

MOST_ROWS = 20
"""Rows printed of a longer table; a run's directory holds all of them."""
ABSENT = "\N{EN DASH}"


def number(value: float) -> str:
    """Four significant digits, every digit left of the point, an en dash for NaN."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    return f"{value:.0f}" if abs(value) >= 999.95 else f"{value:#.4g}"


def cell(value: object) -> str:
    """One value as plain text: a number by `number`, a truth value as yes or no, an en dash for nothing."""
    if value is None or value is pd.NaT or value is pd.NA:
        return ABSENT
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return number(float(value))
    return str(value)


def table(frame: pd.DataFrame, caption: str, file: str = "") -> str:
    """A table in a box of its own that scrolls; a named or non-trivial index becomes its first columns.

    Args:
        frame: rows to print; the first `MOST_ROWS` of them. `attrs["caption"]` says what they hold.
        caption: plain text above the table, before what the frame says of itself.
        file: address of all rows, where they are saved.
    """
    trivial = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    shown = frame.head(MOST_ROWS)
    shown = shown if trivial else shown.reset_index()
    columns = [_column(shown.iloc[:, place]) for place in range(shown.shape[1])]
    heads = [_header(name, numeric) for name, (numeric, _) in zip(shown.columns, columns, strict=True)]
    rows = zip(*(cells for _, cells in columns), strict=True)
    body = ["<tr>" + "".join(row) + "</tr>" for row in rows]
    said = f"{caption}: {held}" if (held := str(frame.attrs.get("caption", ""))) else caption
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">',
        f"<table><caption>{escape(said)}{_cut(len(frame), file)}</caption>",
        f"<thead><tr>{''.join(heads)}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody></table></div>",
    ]
    return "\n".join(lines)


def _cut(rows: int, file: str) -> str:
    """How many rows are printed of more, and where the rest is."""
    if rows <= MOST_ROWS:
        return ""
    link = f'<a href="{escape(file)}">{escape(file[file.find("tables/") :])}</a>'
    rest = f"the rest in {link}" if file else f"{rows - MOST_ROWS:,} more"
    return f' <span class="cut">{MOST_ROWS} of {rows:,} rows, {rest}</span>'


def _header(name: object, numeric: bool) -> str:
    label = " / ".join(str(part) for part in name if str(part)) if isinstance(name, tuple) else str(name)
    return f'<th scope="col"{_right(numeric)}>{escape(label)}</th>'


def _right(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _column(values: pd.Series) -> tuple[bool, list[str]]:
    """Whether a column holds numbers, and its cells as HTML."""
    numeric = is_numeric_dtype(values) and not is_bool_dtype(values)
    cells = [cell(value) for value in values]
    if numeric and _counts(values):
        cells = [ABSENT if text == ABSENT else str(int(value)) for text, value in zip(cells, values, strict=True)]
    return numeric, [f"<td{_right(numeric)}>{escape(text)}</td>" for text in cells]


def _counts(values: pd.Series) -> bool:
    """Whether a column of floats holds whole numbers that only a missing one made floats."""
    held = values.dropna()
    return bool(values.isna().any()) and all(math.isfinite(value) and value == int(value) for value in held)
