"""From the directory of a finished run to its figures and its one report, without the model."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.report.html import figure_page, render
from mechlist.report.model import Guard, Report, Section
from mechlist.results import load_dataset, write_text
from mechlist.runs import RunDirectory
from mechlist.study import Study, read_job, read_study, read_yaml

SHOWN_ROWS = 20
PLOTLY = "plotly.min.js"


@dataclasses.dataclass(frozen=True)
class Finished:
    """What is needed of one finished experiment to tell about it."""

    experiment: Experiment
    summary: str
    findings: tuple[str, ...]
    figures: dict[str, go.Figure]
    tables: dict[str, pd.DataFrame]
    record: dict[str, Any]


def write_report(path: Path) -> Path:
    """Draw the figures of a run or study again and write its report.html; returns the report's path.

    Raises:
        InputError: the directory holds no finished run.
    """
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} holds no run: a run's directory has a config.yaml.")
    config = read_yaml(path / "config.yaml")
    is_study = "steps" in config
    report = _study(path, read_study(path / "config.yaml", config)) if is_study else _single(path)
    write_text(path / "report.html", render(report))
    return path / "report.html"


def read_finished(path: Path) -> Finished:
    """Results, figures and tables of one finished experiment.

    Raises:
        InputError: it is not finished.
    """
    directory = RunDirectory(path)
    record = directory.record()
    if not directory.is_done:
        raise InputError(
            f"{path} has no finished run (its status is {record.get('status', 'unknown')!r}); "
            "run it again with --resume first."
        )
    job = read_job(path / "config.yaml", read_yaml(path / "config.yaml"))
    results = load_dataset(directory.results)
    experiment = job.experiment
    return Finished(
        experiment=experiment,
        summary=(type(experiment).__doc__ or job.name).strip().split("\n")[0],
        findings=tuple(experiment.findings(results)),
        figures=experiment.figures(results),
        tables=experiment.tables(results),
        record=record,
    )


def _single(path: Path) -> Report:
    done = read_finished(path)
    _write_figures(path, done)
    config = read_yaml(path / "config.yaml")
    return Report(
        title=str(config["experiment"]).replace("-", " ").capitalize(),
        subtitle=_subtitle(done.record, config),
        question=done.summary,
        findings=done.findings,
        sections=(_section("Results", "", (), done),),
        guards=_guards(done.record),
        config_yaml=(path / "config.yaml").read_text(encoding="utf-8"),
        facts=_facts(done.record),
    )


def _study(path: Path, study: Study) -> Report:
    record = RunDirectory(path).record()
    sections: list[Section] = []
    last: Finished | None = None
    for step in study.steps:
        last = read_finished(path / step.name)
        _write_figures(path / step.name, last)
        sections.append(_section(step.name.replace("-", " ").capitalize(), step.text, last.findings, last))
    config = study.config()
    return Report(
        title=study.title,
        subtitle=_subtitle(last.record if last else record, config),
        question=study.question,
        sections=tuple(sections),
        guards=_guards(last.record) if last else (),
        config_yaml=(path / "config.yaml").read_text(encoding="utf-8"),
        facts=_facts(record | {"model": last.record.get("model") if last else None}),
    )


def _section(title: str, text: str, findings: tuple[str, ...], done: Finished) -> Section:
    tables = {name: table.head(SHOWN_ROWS) for name, table in done.tables.items()}
    return Section(title=title, text=text, findings=findings, figures=done.figures, tables=tables)


def _write_figures(path: Path, done: Finished) -> None:
    """A page a figure, around one copy of plotly.js: inside each it would take 5 MB a figure."""
    for name, figure in done.figures.items():
        write_text(path / "figures" / f"{name}.html", figure_page(figure, PLOTLY))
    if done.figures:
        write_text(path / "figures" / PLOTLY, get_plotlyjs())


def _subtitle(record: dict[str, Any], config: dict[str, Any]) -> str:
    if config["model"] is None:
        return "From saved data; no model was run."
    return f"{config['model']}, {config['dtype']} on {record.get('device')}, seed {config['seed']}."


def _guards(record: dict[str, Any]) -> tuple[Guard, ...]:
    return tuple(Guard(**guard) for guard in record.get("guards", []))


def _facts(record: dict[str, Any]) -> dict[str, str]:
    model = record.get("model") or {}
    facts = {
        "model": model.get("name"),
        "architecture": model.get("architecture") or model.get("kind"),
        "fingerprint of the weights (SHA-256)": model.get("fingerprint"),
        "weight processing": _inline(model.get("processing")),
        "started": record.get("started"),
        "took": f"{record.get('seconds')} s",
        "versions": _inline(record.get("versions")),
    }
    return {name: str(value) for name, value in facts.items() if value}


def _inline(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value or "")
