"""`mechlist show DIR`: a finished run in the terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from mechlist.cli.parse import parse

if TYPE_CHECKING:
    import pandas

    import mechlist.report.assemble


@dataclass(frozen=True)
class ShowFlags:
    """Flags of `mechlist show`."""

    directory: tyro.conf.Positional[Path]
    """Directory of a run or study."""
    rows: int = 10
    """Rows shown of each table."""


def main(argv: list[str]) -> int:
    """Print findings and tables."""
    flags = parse(ShowFlags, argv, prog="mechlist show", description="Show a finished run in the terminal.")
    from mechlist.report.assemble import read_finished
    from mechlist.study import read_study, read_yaml

    config = read_yaml(flags.directory / "config.yaml")
    if "steps" not in config:
        _show(flags.directory, read_finished(flags.directory), str(config.get("experiment")), flags.rows)
        return 0
    for step in read_study(flags.directory / "config.yaml", config).steps:
        folder = flags.directory / step.name
        _show(folder, read_finished(folder), step.name, flags.rows)
    return 0


def _show(folder: Path, done: "mechlist.report.assemble.Finished", title: str, rows: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{escape(title)}[/bold]: {escape(done.summary)}")
    for finding in done.findings:
        console.print(f"- {escape(finding)}", highlight=False)
    for name, frame in done.tables.items():
        printed = frame.head(rows).map(lambda x: f"{x:.4g}" if isinstance(x, float) else str(x))
        for columns in _parts(printed, console.width):
            table = Table(title=escape(name))
            for column in columns:
                table.add_column(escape(column), no_wrap=True)
            for row in printed[columns].itertuples(index=False):
                table.add_row(*(escape(x) for x in row))
            console.print(table)
        if len(frame) > rows:
            rest = f"{len(frame) - rows} more rows in {folder / 'tables' / name}.parquet"
            console.print(escape(rest), soft_wrap=True)


def _parts(printed: "pandas.DataFrame", width: int) -> list[list[str]]:
    """Columns in groups that fit the terminal, each after the first column, which names the row."""
    space = {str(c): max(len(str(c)), *map(len, printed[c]), 0) + 3 for c in printed.columns}
    first, *others = space
    groups: list[list[str]] = [[first]]
    for column in others:
        if len(groups[-1]) > 1 and sum(space[c] for c in (*groups[-1], column)) + 1 > width:
            groups.append([first])
        groups[-1].append(column)
    return groups
