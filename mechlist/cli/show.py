"""`mechlist show DIR`: a finished run in the terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from mechlist.cli.parse import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mechlist.report.assemble import Finished
    from mechlist.runs import RunDirectory


@dataclass(frozen=True)
class ShowFlags:
    """Flags of `mechlist show`."""

    directory: tyro.conf.Positional[Path]
    """Directory of a run or study, or a folder of runs, which are listed."""
    rows: int = 10
    """Rows shown of each table."""


def main(argv: list[str]) -> int:
    """Print findings, then tables; of a study all its findings first. Of a folder of runs, what there is."""
    flags = parse(ShowFlags, argv, prog="mechlist show", description="Show a finished run in the terminal.")
    from mechlist.runs import runs_in

    if not (flags.directory / "config.yaml").is_file() and (runs := runs_in(flags.directory)):
        _list(runs)
        return 0
    from mechlist.report.assemble import read_finished
    from mechlist.study import read_study, read_yaml

    config = read_yaml(flags.directory / "config.yaml")
    if "steps" in config:
        study = read_study(flags.directory / "config.yaml", config)
        folders = {step.name: flags.directory / step.name for step in study.steps}
        print("\n".join(text for text in (study.title, study.question) if text))
    else:
        folders = {str(config.get("experiment")): flags.directory}
    done = {title: read_finished(folder) for title, folder in folders.items()}
    for title, finished in done.items():
        _say(finished, title)
    for title, finished in done.items():
        _show(folders[title], finished, flags.rows)
    return 0


def _list(runs: "Sequence[RunDirectory]") -> None:
    """A line a run, the newest first."""
    import pandas as pd
    from rich.console import Console

    from mechlist.cli.tables import print_table
    from mechlist.runs import read_config

    rows = []
    for run in runs:
        config, record = read_config(run.path), run.record()
        rows.append(
            {
                "run": str(run.path),
                "what": str(config.get("experiment") or config.get("title") or ""),
                "model": str(config.get("model") or ""),
                "status": str(record.get("status", "not begun")),
                "started": str(record.get("started", ""))[:16].replace("T", " "),
            }
        )
    print_table(Console(), "runs, the newest first", pd.DataFrame(rows))


def _say(done: "Finished", title: str) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    console.print(f"[bold]{escape(title)}[/bold]: {escape(done.summary)}")
    for finding in done.findings:
        console.print(f"- {escape(finding)}", highlight=False)


def _show(folder: Path, done: "Finished", rows: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    from mechlist.cli.tables import print_table

    console = Console()
    for name, frame in done.tables.items():
        print_table(console, name, frame.head(rows))
        if len(frame) > rows:
            rest = f"{len(frame) - rows} more rows in {folder / 'tables' / name}.parquet"
            console.print(escape(rest), soft_wrap=True)
