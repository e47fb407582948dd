"""Run an experiment, or the steps of a study, in this process; stop cleanly, resume exactly."""

import dataclasses
import gc
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from mechlist.engine.repeat import changes, facts_of
from mechlist.errors import InputError, MechlistError, told
from mechlist.experiment import Experiment, checked, filled, needs_model
from mechlist.models.load import resolve_device
from mechlist.options import Output, Settings
from mechlist.results import load_dataset, save_dataset, save_table, write_text
from mechlist.runner import Runner
from mechlist.runner.journal import Journal
from mechlist.runner.memory import MemoryShares
from mechlist.runner.raw import RAW
from mechlist.runner.store import ActivationStore, default_directory
from mechlist.runs import EXPORTS, RESULTS, Job, RunDirectory
from mechlist.text import joined
from mechlist.types import parse_bytes

DISK_BYTES = 10 * 2**30
Load = Callable[[Settings], Runner]


def load_runner(settings: Settings) -> Runner:
    """The Runner that the settings describe, with its cheap guards passed."""
    return Runner.load(
        str(settings.model),
        device=settings.device,
        dtype=settings.dtype,
        memory=settings.memory,
        seed=settings.seed,
        processing=settings.processing,
        store=default_store(settings.memory),
        bos=settings.bos,
        context=settings.context,
    )


def default_store(memory: str) -> ActivationStore | None:
    """The store of every run: its share of the memory, and 10 GiB on disk; none if $MECHLIST_CACHE is `off`."""
    if os.environ.get("MECHLIST_CACHE", "").lower() == "off":
        return None
    return ActivationStore(
        default_directory(), ram_bytes=MemoryShares(parse_bytes(memory)).store, disk_bytes=DISK_BYTES
    )


def complete(job: Job) -> Job:
    """The job with everything that was left to a default: model, device; local models and files by their full path."""
    settings = job.settings
    if settings.engine != "local":
        raise InputError(f"engine must be local in this version of mechlist, not {settings.engine}.")
    model = settings.model or type(job.experiment).default_model if needs_model(job.experiment) else None
    if model is not None and Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser().resolve())
    settings = dataclasses.replace(settings, model=model, device=resolve_device(settings.device))
    experiment = with_paths(filled(job.experiment), lambda path: path.expanduser().resolve())
    return dataclasses.replace(job, experiment=experiment, settings=settings)


def as_loaded(job: Job) -> Settings:
    """The settings that the model of a job is loaded with."""
    if not type(job.experiment).raw_weights:
        return job.settings
    return dataclasses.replace(job.settings, **dataclasses.asdict(RAW))


class OneModel:
    """`load_runner` for several jobs: the last Runner is kept, and dropped before the next one is loaded."""

    def __init__(self) -> None:
        self._last: tuple[Settings, Runner] | None = None

    def __call__(self, settings: Settings) -> Runner:
        """The Runner of these settings."""
        if self._last is None or self._last[0] != settings:
            self._last = None
            gc.collect()
            self._last = settings, load_runner(settings)
        return self._last[1]


def with_paths(experiment: Any, change: Callable[[Path], Path]) -> Any:
    """The experiment with `change` made to every Path among its parameters, and in tuples of them."""

    def changed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(changed(entry) for entry in value)
        return change(value) if isinstance(value, Path) else value

    values = {f.name: changed(getattr(experiment, f.name)) for f in dataclasses.fields(experiment)}
    return dataclasses.replace(experiment, **values)


def run_job(job: Job, path: Path, output: Output, load: Load = load_runner) -> RunDirectory:
    """Run one experiment into `path`; a finished run that is resumed is left as it is.

    The model is loaded before anything is written: a mistyped name leaves nothing behind and replaces nothing. Numbers
    are saved before anything is made of them: a run that failed behind that, and is resumed, is finished from them.

    Raises:
        MechlistError: whatever stopped it, in one sentence; run.json says how it ended.
    """
    job = complete(job)
    directory = RunDirectory(path)
    directory.check(job.config(), output)
    if output.resume and directory.is_done:
        return directory
    if output.resume and directory.results.is_file():
        finish(job, directory)
        return directory
    runner = runner_for(job, load) if needs_model(job.experiment) else None
    facts = facts_of(job, runner)
    if output.resume:
        _check_unchanged(directory, facts)
    since = [] if job.repeats is None else changes(RunDirectory(job.repeats).record(), facts)
    directory.claim(job.config(), output)
    with directory.session(job.settings.device):
        directory.update(**facts)
        if since:
            said = f"This run does not repeat {job.repeats}: {joined(since)}."
            warnings.warn(said, stacklevel=2)
            directory.update(differs=since)
            directory.log(said)
        _work(job, runner, directory)
    Journal(directory.journal).discard()
    return directory


def _check_unchanged(directory: RunDirectory, facts: dict[str, Any]) -> None:
    """Finished batches of another model or of other files must not be mixed with new ones.

    Raises:
        InputError: something has changed since the run was stopped.
    """
    since = changes(directory.record(), facts, libraries=False)
    if since:
        raise InputError(
            f"{directory.path} cannot be gone on with: {joined(since)} since it was stopped; give --overwrite to begin "
            "again."
        )


def runner_for(job: Job, load: Load = load_runner) -> Runner:
    """The Runner of a job that `complete` made whole.

    Raises:
        InputError: a model without tokenizer, where the experiment needs one.
    """
    runner = load(as_loaded(job))
    if type(job.experiment).needs_tokenizer and runner.tokenizer is None:
        raise InputError(f"{job.name} needs a tokenizer, and the model {job.settings.model} has none.")
    return runner


def _work(job: Job, runner: Runner | None, directory: RunDirectory) -> None:
    experiment = job.experiment
    if runner is not None:
        runner.restart(Journal(directory.journal))
        directory.update(
            guards=[dataclasses.asdict(guard) for guard in runner.guards],
            seeds={"seed": job.settings.seed},
        )
        directory.log(f"model {job.settings.model} loaded, {len(runner.guards)} guards passed")
    try:
        results = checked(experiment, "run", experiment.run(runner))
    except (MechlistError, OSError, MemoryError):
        raise
    except Exception as error:
        # A full disk says so in its text only, where a library wrote.
        if "No space left" in str(error):
            raise
        raise MechlistError(f"{job.name} failed: {told(error)} (--debug shows the traceback).") from error
    results.attrs = {"experiment": job.name, **results.attrs}
    save_dataset(results, directory.results)
    _hand_on(experiment, results, directory)


def finish(job: Job, directory: RunDirectory) -> None:
    """Tables, exports and findings of a run that failed behind its numbers, from results.nc.

    Raises:
        MechlistError: they fail again.
    """
    with directory.finishing():
        _hand_on(job.experiment, load_dataset(directory.results), directory)
    Journal(directory.journal).discard()


def _hand_on(experiment: Experiment, results: xr.Dataset, directory: RunDirectory) -> None:
    """All that is made of the numbers without the model, but for what the report draws."""
    with directory.making("tables"):
        for name, table in checked(experiment, "tables", experiment.tables(results)).items():
            save_table(table, directory.path / "tables" / f"{name}.parquet")
    with directory.making("exports"):
        _export(experiment, results, directory.path)
    with directory.making("findings"):
        directory.update(findings=checked(experiment, "findings", experiment.findings(results)))


def write_results(job: Job, results: xr.Dataset, path: Path) -> None:
    """What a run leaves for others to read: its results, and files for other programs."""
    save_dataset(results.assign_attrs({"experiment": job.name, **results.attrs}), path / RESULTS)
    _export(job.experiment, results, path)


def _export(experiment: Experiment, results: xr.Dataset, path: Path) -> None:
    for name, text in checked(experiment, "files", experiment.files(results)).items():
        write_text(path / EXPORTS / name, text)
