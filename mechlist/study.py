"""YAML files of `mechlist run`: a study (ordered experiments over one model), or the config.yaml of a single run."""

import dataclasses
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from mechlist.engine.dry_run import plan_job
from mechlist.engine.local import Load, OneModel, as_loaded, complete, run_job, with_paths
from mechlist.errors import InputError, MechlistError
from mechlist.experiment import needs_model
from mechlist.options import Output, Settings
from mechlist.registry import find
from mechlist.runner.progress import stage
from mechlist.runs import Job, RunDirectory
from mechlist.sweeps import SETTINGS, SUMMARY, swept
from mechlist.text import joined
from mechlist.text_files import parse_yaml
from mechlist.types import Plan

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
PLACE = re.compile(r"\{([^{}]*)\}")
"""In a path, `{STEP}` stands for the folder of an earlier step."""


@dataclass(frozen=True, kw_only=True)
class JobFile(Settings):
    """The config.yaml of a single run."""

    experiment: str
    """Name of the experiment."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The experiment's parameters."""


@dataclass(frozen=True, kw_only=True)
class StepFile:
    """One step of a study; the settings are the study's."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    experiment: str
    """Name of the experiment."""
    name: str = ""
    """Folder of the step; the experiment's name without."""
    text: str = ""
    """What the step is for, in the report."""
    answer: bool = False
    """Whether its claims answer the study's question: they open the report, and end what the terminal says."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The experiment's parameters."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Model and seed of this step, where they are not the study's."""
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    """Values of parameters, of model or seed: a step for every combination of them, and a table over all."""


@dataclass(frozen=True, kw_only=True)
class StudyFile(Settings):
    """A study: settings for all steps, and the steps in order."""

    title: str
    """Heading of the report."""
    question: str = ""
    """What the study asks."""
    steps: list[dict[str, Any]]
    """Steps: mappings with experiment, name, text and parameters."""


@dataclass(frozen=True)
class Step:
    """A step that is ready to run."""

    name: str
    text: str
    job: Job
    answer: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the study's settings."""


@dataclass(frozen=True)
class Study:
    """Ordered steps over one model. A single run is a study of one step without a title."""

    title: str
    question: str
    settings: Settings
    steps: tuple[Step, ...]

    def config(self) -> dict[str, Any]:
        """The complete configuration, as it stands in the study's config.yaml."""
        steps = [
            {
                "name": step.name,
                "experiment": step.job.name,
                "text": step.text,
                **({"answer": True} if step.answer else {}),
                "parameters": step.job.config()["parameters"],
                **({"settings": dict(step.settings)} if step.settings else {}),
            }
            for step in self.steps
        ]
        settings = dataclasses.asdict(self.settings)
        return {"title": self.title, "question": self.question, **settings, "steps": steps}


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file is missing, not YAML, or not a mapping.
    """
    try:
        value = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except ValueError as error:
        raise InputError(f"{file} is not YAML: {error}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{file} must hold a mapping with `experiment` or `steps`, not {type(value).__name__}.")
    return value


def read_job(file: Path, value: Mapping[str, Any]) -> Job:
    """The run that a config.yaml describes.

    Raises:
        InputError: every fault of the file in one sentence.
    """
    faults: list[str] = []
    read = _validated(JobFile, value, "", faults)
    job = _job(read, read, "", faults) if isinstance(read, JobFile) else None
    if faults or job is None:
        raise InputError(f"{file} is not valid: {'; '.join(faults)}.")
    return job


def read_study(file: Path, value: Mapping[str, Any]) -> Study:
    """The study that a YAML file describes.

    Raises:
        InputError: every fault of the file in one sentence.
    """
    faults: list[str] = []
    study = _validated(StudyFile, value, "", faults)
    steps: list[Step] = []
    if isinstance(study, StudyFile):
        for number, entry in enumerate(study.steps):
            where = f"steps[{number}]."
            step = _validated(StepFile, entry, where, faults)
            for one in _expanded(step, where, faults) if isinstance(step, StepFile) else ():
                settings = _changed(study, one.settings, where, faults)
                job = _job(one, settings, where, faults)
                if job is not None:
                    steps.append(Step(one.name, one.text, job, one.answer, one.settings))
        names = [s.name for s in steps]
        answers = [step.name for step in steps if step.answer]
        faults += [f"one step at most can be the answer, not {joined(answers)}"] if len(answers) > 1 else []
        faults += [f"the step name {n!r} must be letters, digits, - and _" for n in names if not NAME.fullmatch(n)]
        faults += [f"two steps are called {n!r}" for n in sorted({n for n in names if names.count(n) > 1})]
        faults += [
            f"steps[{i}]: there is no earlier step {place!r} for {{{place}}}"
            for i, step in enumerate(steps)
            for place in sorted(named_steps(step.job.experiment) - set(names[:i]))
        ]
        faults += [] if study.steps else ["steps must hold at least one step"]
    if faults or not isinstance(study, StudyFile):
        raise InputError(f"{file} is not valid: {'; '.join(faults)}.")
    return Study(study.title, study.question, settings_of(study), tuple(steps))


def with_settings(study: Study, settings: Settings) -> Study:
    """The same steps under other settings."""
    steps = [
        dataclasses.replace(
            s, job=dataclasses.replace(s.job, settings=dataclasses.replace(settings, **dict(s.settings)))
        )
        for s in study.steps
    ]
    return dataclasses.replace(study, settings=settings, steps=tuple(steps))


def ready(study: Study, path: Path) -> Study:
    """The study as its steps run in `path`: with settings that leave nothing open, and with the folders of its steps.

    What the settings leave open is as the first step that needs a model would have it.
    """
    jobs = [dataclasses.replace(step.job, settings=study.settings) for step in study.steps]
    settings = complete(next((job for job in jobs if needs_model(job.experiment)), jobs[0])).settings
    chosen = with_settings(study, settings)
    steps = [
        dataclasses.replace(s, job=dataclasses.replace(s.job, experiment=with_folders(s.job.experiment, path)))
        for s in chosen.steps
    ]
    return dataclasses.replace(chosen, steps=tuple(steps))


def completed(study: Study) -> Study:
    """The study with settings that leave nothing open, as its config.yaml has them."""
    return with_settings(study, ready(study, Path()).settings)


def run_study(study: Study, path: Path, output: Output) -> RunDirectory:
    """Run every step of a study into a folder of its own, with one model in memory."""
    steps = ready(study, path.resolve())
    study = with_settings(study, steps.settings)
    directory = RunDirectory(path)
    directory.check(study.config(), output)
    load = OneModel()
    first = next((step.job for step in steps.steps if needs_model(step.job.experiment)), None)
    if first is not None:
        load(as_loaded(complete(first)))
    directory.claim(study.config(), output)
    with directory.session(study.settings.device, steps=[step.name for step in study.steps]):
        for number, step in enumerate(steps.steps, 1):
            with stage(step.name, number, len(steps.steps)):
                done = run_job(step.job, path / step.name, Output(resume=True), load)
            if step.answer:
                directory.update(findings=done.record()["findings"])
    return directory


@dataclass(frozen=True)
class PlannedStep:
    """What a step would take, or why that is not known."""

    name: str
    settings: Settings
    needs_model: bool
    plan: Plan | None
    reason: str = ""
    """Why there is no plan."""


def plan_study(study: Study, load: Load) -> Iterator[PlannedStep]:
    """Every step, in order; a step that cannot be planned says so, and the others go on.

    Files that a step would take from an earlier one are examples, which the plan of that one writes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        steps = ready(study, folder)
        places = [named_steps(step.job.experiment) for step in study.steps]
        for step, of_step in zip(steps.steps, places, strict=True):
            made = folder / step.name if any(step.name in others for others in places) else None
            model_needed = needs_model(step.job.experiment)
            try:
                plan = plan_job(step.job, load, made)
            except MechlistError as error:
                # The folder is nothing that was asked for.
                reason = str(error).replace(f"{folder}/", "")
                yield PlannedStep(step.name, steps.settings, model_needed, None, reason)
                continue
            if plan is not None and of_step:
                note = f"examples are in place of what {' and '.join(sorted(of_step))} will give"
                plan = dataclasses.replace(plan, notes=(*plan.notes, note))
            yield PlannedStep(step.name, steps.settings, model_needed, plan, "" if model_needed else "needs no model")


def with_folders(experiment: Any, path: Path) -> Any:
    """The experiment with `{STEP}` in its paths replaced by the folder of that step."""
    return with_paths(experiment, lambda p: Path(PLACE.sub(lambda match: str(path / match.group(1)), str(p))))


def named_steps(experiment: Any) -> set[str]:
    """Steps that the paths of an experiment name."""
    found: set[str] = set()

    def look(path: Path) -> Path:
        found.update(PLACE.findall(str(path)))
        return path

    with_paths(experiment, look)
    return found


def settings_of(value: Settings) -> Settings:
    """The settings in a record that holds more."""
    return Settings(**{f.name: getattr(value, f.name) for f in dataclasses.fields(Settings)})


def _expanded(step: StepFile, where: str, faults: list[str]) -> list[StepFile]:
    """The step itself, or the steps that its sweep stands for and the table over them."""
    name = step.name or step.experiment
    if not step.sweep:
        return [dataclasses.replace(step, name=name)]
    try:
        runs = list(swept(name, step.experiment, step.parameters, step.sweep))
    except InputError as error:
        faults.append(f"{where}{str(error).rstrip('.')}")
        return []
    steps = [
        dataclasses.replace(
            step,
            name=run.name,
            text=step.text if n == 0 else "",
            parameters=run.parameters,
            settings={**step.settings, **run.settings},
            sweep={},
        )
        for n, run in enumerate(runs)
    ]
    if len(runs) < 2:
        return steps
    table = StepFile(experiment=SUMMARY, name=f"{name}-sweep", parameters={"runs": [f"{{{run.name}}}" for run in runs]})
    return [*steps, table]


def _changed(settings: Settings, changes: Mapping[str, Any], where: str, faults: list[str]) -> Settings:
    """The study's settings with a step's own model and seed."""
    wrong = sorted(set(changes) - set(SETTINGS))
    if wrong:
        faults.append(f"{where}settings: a step may have its own {' and '.join(SETTINGS)}, not {wrong[0]!r}")
        return settings
    changed = _validated(
        Settings, {**dataclasses.asdict(settings_of(settings)), **changes}, f"{where}settings.", faults
    )
    return changed or settings


def _job(step: StepFile | JobFile, settings: Settings, where: str, faults: list[str]) -> Job | None:
    try:
        kind = find(step.experiment)
    except InputError as error:
        faults.append(f"{where}experiment: {str(error).rstrip('.')}")
        return None
    experiment = _validated(kind, step.parameters, f"{where}parameters.", faults)
    return None if experiment is None else Job(step.experiment, experiment, settings_of(settings))


def _validated(kind: type, value: Any, where: str, faults: list[str]) -> Any:
    """`value` as an instance of the dataclass `kind`, or None after adding what is wrong to `faults`."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        for fault in error.errors():
            place = ".".join(str(x) for x in fault["loc"])
            faults.append(f"{where}{place}: {fault['msg']}" if place else f"{where.rstrip('.')}: {fault['msg']}")
    except InputError as error:
        faults.append(f"{where.rstrip('.')}: {str(error).rstrip('.')}")
    return None
