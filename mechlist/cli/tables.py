"""Data frames in the terminal."""

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(console: Console, title: str, frame: pd.DataFrame) -> None:
    """A table, in parts one below the other where the terminal is too narrow for all its columns."""
    printed = frame.map(lambda x: f"{x:.4g}" if isinstance(x, float) else str(x))
    for columns in _parts(printed, console.width):
        table = Table(title=escape(title))
        for column in columns:
            table.add_column(escape(column), no_wrap=True)
        for row in printed[columns].itertuples(index=False):
            table.add_row(*(escape(x) for x in row))
        console.print(table)


def _parts(printed: pd.DataFrame, width: int) -> list[list[str]]:
    """Columns in groups that fit the terminal, each after the first column, which names the row."""
    space = {str(c): max(len(str(c)), *map(len, printed[c]), 0) + 3 for c in printed.columns}
    first, *others = space
    groups: list[list[str]] = [[first]]
    for column in others:
        if len(groups[-1]) > 1 and sum(space[c] for c in (*groups[-1], column)) + 1 > width:
            groups.append([first])
        groups[-1].append(column)
    return groups
