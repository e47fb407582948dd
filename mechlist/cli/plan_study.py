"""What every step of a study would take, with stand-ins for the files that later steps take from earlier ones."""

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from mechlist.engine.local import Load, complete, runner_for
from mechlist.errors import MechlistError
from mechlist.experiment import needs_model
from mechlist.options import Settings
from mechlist.results import save_dataset, write_text
from mechlist.runs import EXPORTS, Job
from mechlist.study import Study, named_steps, settings_for, with_folders, with_settings
from mechlist.types import Plan


@dataclass(frozen=True)
class PlannedStep:
    """What a step would take, or why that is not known."""

    name: str
    settings: Settings
    needs_model: bool
    plan: Plan | None
    reason: str = ""
    """Why there is no plan."""


def planned_steps(study: Study, load: Load) -> Iterator[PlannedStep]:
    """Every step, in order, over one model as in a run."""
    study = with_settings(study, settings_for(study))
    wanted = {name for step in study.steps for name in named_steps(step.job.experiment)}
    with tempfile.TemporaryDirectory() as folder:
        for step in study.steps:
            job = dataclasses.replace(step.job, experiment=with_folders(step.job.experiment, Path(folder)))
            made = Path(folder) / step.name if step.name in wanted else None
            model_needed = needs_model(job.experiment)
            try:
                plan = _planned(complete(job), load, made)
            except MechlistError as error:
                # The folder of stand-ins is nothing that was asked for.
                reason = str(error).replace(f"{Path(folder).resolve()}/", "").replace(f"{folder}/", "")
                yield PlannedStep(step.name, study.settings, model_needed, None, reason)
                continue
            plan = plan if plan is None else _with_sources(plan, named_steps(step.job.experiment))
            yield PlannedStep(step.name, study.settings, model_needed, plan, "needs no model")


def _planned(job: Job, load: Load, made: Path | None) -> Plan | None:
    """What a step would take; with `made`, the files that a run of it would leave there, from a rehearsal."""
    experiment = job.experiment
    if not needs_model(experiment):
        if made is not None:
            # Without a model there is nothing to rehearse: the step itself is quick.
            _write(job, experiment.run(None), made)
        return None
    runner = runner_for(job, load)
    if made is None:
        return experiment.plan(runner)
    found = experiment.rehearse(runner)
    _write(job, found.results, made)
    return found.plan


def _write(job: Job, results: xr.Dataset, made: Path) -> None:
    """What a run leaves for other steps."""
    results.attrs = {"experiment": job.name, **results.attrs}
    save_dataset(results, made / "results.nc")
    for name, text in job.experiment.files(results).items():
        write_text(made / EXPORTS / name, text)


def _with_sources(plan: Plan, places: set[str]) -> Plan:
    if not places:
        return plan
    note = f"stand-ins are in place of what {' and '.join(sorted(places))} will give"
    return dataclasses.replace(plan, notes=(*plan.notes, note))
