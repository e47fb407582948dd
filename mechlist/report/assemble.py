"""From the directory of a finished run to its figures and its one report, without the model."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mechlist.engine.local import finish
from mechlist.errors import InputError
from mechlist.experiment import Claim, checked
from mechlist.models.sources.cards import about
from mechlist.report.html import figure_page, render
from mechlist.report.model import Report, Section, Sentence
from mechlist.results import load_dataset, write_text
from mechlist.runs import Job, RunDirectory
from mechlist.study import Step, Study, read_job, read_study, read_yaml
from mechlist.types import Guard

PLOTLY = "plotly.min.js"
Record = dict[str, Any]
"""What run.json says."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """What is needed of one finished experiment to tell about it."""

    summary: str
    findings: tuple[str, ...]
    claims: tuple[Claim, ...]
    figures: dict[str, go.Figure]
    tables: dict[str, pd.DataFrame]
    record: Record
    exhibits: dict[str, Any] = dataclasses.field(default_factory=dict)


def write_report(path: Path) -> Path:
    """Draw the figures of a run or study again and write its report.html; returns the report's path.

    A run that failed behind its numbers, while tables, findings or figures were made, is finished from them.

    Raises:
        InputError: the directory holds no run, or one without its numbers.
        MechlistError: tables, findings or figures fail.
    """
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} holds no run: a run's directory has a config.yaml.")
    config = read_yaml(path / "config.yaml")
    study = read_study(path / "config.yaml", config) if "steps" in config else None
    folders = [path / step.name for step in study.steps] if study else [path]
    for folder in folders:
        _check(folder, with_numbers=True)
    if study is None:
        report = _single(path, config, _drawn(path))
    else:
        with RunDirectory(path).finishing():
            report = _study(path, study, [_drawn(folder) for folder in folders])
    write_text(path / "report.html", render(report))
    return path / "report.html"


def read_finished(path: Path) -> Finished:
    """Results, figures and tables of one finished experiment.

    Raises:
        InputError: it is not finished.
    """
    directory = RunDirectory(path)
    _check(path)
    job = _job(path)
    results, experiment = load_dataset(directory.results), job.experiment
    with directory.making("findings"):
        findings = tuple(checked(experiment, "findings", experiment.findings(results)))
        claims = tuple(checked(experiment, "claims", experiment.claims(results)))
    with directory.making("figures"):
        figures = checked(experiment, "figures", experiment.figures(results))
    with directory.making("tables"):
        tables = checked(experiment, "tables", experiment.tables(results))
    with directory.making("exhibits"):
        exhibits = checked(experiment, "exhibits", experiment.exhibits(results))
    for name, frame in tables.items():
        frame.attrs.setdefault("caption", type(experiment).captions.get(name, ""))
    summary = (type(experiment).__doc__ or job.name).strip().split("\n")[0]
    return Finished(summary, findings, claims, figures, tables, directory.record(), exhibits)


def read_exhibits(path: Path) -> dict[str, Any]:
    """Responses and token trees of a finished experiment, or of all steps of a study, by title.

    Raises:
        InputError: no run, or one that is not finished.
    """
    config = read_yaml(path / "config.yaml")
    if "steps" in config:
        steps = read_study(path / "config.yaml", config).steps
        found = {step.name: read_exhibits(path / step.name) for step in steps}
        return {f"{name}, {title}": value for name, of in found.items() for title, value in of.items()}
    _check(path)
    experiment = _job(path).experiment
    return checked(experiment, "exhibits", experiment.exhibits(load_dataset(RunDirectory(path).results)))


def _check(path: Path, *, with_numbers: bool = False) -> None:
    """Whether a run is finished, or at least its numbers are there."""
    directory = RunDirectory(path)
    if not directory.is_done and not (with_numbers and directory.results.is_file()):
        raise InputError(
            f"{path} has no finished run (its status is {directory.record().get('status', 'unknown')!r}); "
            "run it again with --resume first."
        )


def _job(path: Path) -> Job:
    return read_job(path / "config.yaml", read_yaml(path / "config.yaml"))


def _drawn(path: Path) -> Finished:
    """A run that is finished if it was not, with its figures on disk."""
    directory = RunDirectory(path)
    if not directory.is_done:
        finish(_job(path), directory)
    with directory.finishing():
        done = read_finished(path)
        _write_figures(path, done)
    return done


def _single(path: Path, config: dict[str, Any], done: Finished) -> Report:
    return Report(
        title=str(config["experiment"]).replace("-", " ").capitalize(),
        subtitle=_subtitle([done.record], config),
        about=_about([done.record]),
        question=done.summary,
        findings=done.findings,
        sections=(
            Section(title="Results", figures=done.figures, tables=done.tables, exhibits=done.exhibits, folder=""),
        ),
        guards=_guards([done.record]),
        config_yaml=(path / "config.yaml").read_text(encoding="utf-8"),
        facts=_facts([done.record]),
    )


def _study(path: Path, study: Study, finished: Sequence[Finished]) -> Report:
    """The answer first, if a step gives one; then a section a step, titled by what the step found."""
    records = [done.record for done in finished]
    pairs = list(zip(study.steps, finished, strict=True))
    answer = next((done for step, done in pairs if step.answer), None)
    return Report(
        title=study.title,
        subtitle=_subtitle(records, study.config()),
        about=_about(records),
        question=study.question,
        answer=tuple(
            Sentence(text=claim.text, section=claim.run, figure=claim.figure)
            for claim in (answer.claims if answer else ())
        ),
        answer_figures=answer.figures if answer else {},
        answer_tables=answer.tables if answer else {},
        sections=tuple(_step(step, done) for step, done in pairs if not step.answer),
        guards=_guards(records),
        config_yaml=(path / "config.yaml").read_text(encoding="utf-8"),
        facts=_facts(records),
    )


def _step(step: Step, done: Finished) -> Section:
    claim = done.claims[0] if done.claims else Claim(step.name.replace("-", " ").capitalize())
    return Section(
        title=claim.text.rstrip("."),
        name=step.name,
        text=step.text or done.summary,
        findings=done.findings,
        figures=done.figures,
        tables=done.tables,
        exhibits=done.exhibits,
        folder=f"{step.name}/",
        folded=True,
        lead=claim.figure,
    )


def _write_figures(path: Path, done: Finished) -> None:
    """A page a figure, around one copy of plotly.js: inside each it would take 5 MB a figure."""
    for name, figure in done.figures.items():
        write_text(path / "figures" / f"{name}.html", figure_page(figure, PLOTLY))
    if done.figures:
        write_text(path / "figures" / PLOTLY, get_plotlyjs())


def _subtitle(records: Sequence[Record], config: dict[str, Any]) -> str:
    """What the runs were done with; `config` holds what is the same for all."""
    if config["model"] is None:
        return "From saved data; no model was run."
    device = " and ".join(_distinct(record.get("device") for record in records))
    return f"{config['model']}, {config['dtype']} on {device}, seed {config['seed']}."


def _about(records: Sequence[Record]) -> str:
    """What each model is, where its card says so."""
    return "\n\n".join(filter(None, (about(str(record["model"].get("name"))) for record in _models(records))))


def _models(records: Sequence[Record]) -> list[Record]:
    """The first record of each model that was run; steps without a model say nothing of it."""
    first: dict[str, Record] = {}
    for record in records:
        if record.get("model"):
            first.setdefault(str(record["model"].get("fingerprint")), record)
    return list(first.values())


def _guards(records: Sequence[Record]) -> tuple[Guard, ...]:
    """The guards of each model, with its name and fingerprint where there are several."""
    models = _models(records)
    guards: list[Guard] = []
    for record in models:
        model = record["model"]
        which = f"{model.get('name')} {str(model.get('fingerprint'))[:8]}: " if len(models) > 1 else ""
        guards += [Guard(**guard | {"name": which + guard["name"]}) for guard in record.get("guards", [])]
    return tuple(guards)


def _facts(records: Sequence[Record]) -> dict[str, str]:
    """What is known of the runs; where they differ, as runs do that were resumed elsewhere, each value once."""
    models = [record["model"] for record in _models(records)]
    seconds = [record["seconds"] for record in records if "seconds" in record]
    facts = {
        "model": _distinct(model.get("name") for model in models),
        "architecture": _distinct(model.get("architecture") or model.get("kind") for model in models),
        "fingerprint of the weights (SHA-256)": _distinct(model.get("fingerprint") for model in models),
        "weight processing": _distinct(_inline(model.get("processing")) for model in models),
        "started": sorted(_distinct(record.get("started") for record in records))[:1],
        "took": [f"{sum(seconds):.1f} s"] if seconds else [],
        "versions": _distinct(_inline(record.get("versions")) for record in records),
    }
    return {name: "; ".join(values) for name, values in facts.items() if values}


def _distinct(values: Iterable[Any]) -> list[str]:
    """Each value once, in order, without those that are empty."""
    return list(dict.fromkeys(str(value) for value in values if value))


def _inline(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value or "")
