"""What a command line names: an experiment or a run's config.yaml with flags, or a study."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechlist.cli.help import experiment_help, study_help
from mechlist.cli.parse import parse
from mechlist.errors import InputError
from mechlist.options import Output, Settings


@dataclass(frozen=True)
class StudyFlags:
    """Flags of a study."""

    settings: Settings
    output: Output


@dataclass(frozen=True)
class Target:
    """One job, or a study of several, and where the run goes."""

    output: Output
    default_name: str
    job: Any = None
    """Or None, for a study."""
    study: Any = None
    file: Path | None = None
    """The YAML file that was named, if one was."""

    def config(self) -> dict[str, Any]:
        """The complete configuration, as config.yaml has it."""
        if self.job is not None:
            from mechlist.engine.local import complete

            return complete(self.job).config()
        from mechlist.study import completed

        return completed(self.study).config()


def read_target(command: str, target: str, rest: list[str]) -> Target:
    """The job or the study that the first argument names, with the flags that follow it.

    Raises:
        InputError: a name, a file or flags that cannot be.
    """
    if target.startswith("-"):
        raise InputError(f"The name of an experiment or a study file comes before the flags, not {target}.")
    if target.endswith((".yaml", ".yml")) or Path(target).is_file():
        return _of_file(command, Path(target), rest)
    from mechlist.registry import find
    from mechlist.runs import Job

    kind = find(target)
    name = target.replace("_", "-")
    settings, output, experiment = _flags(command, name, kind, None, Settings(), rest)
    return Target(output, name, job=Job(name, experiment, settings))


def _of_file(command: str, file: Path, rest: list[str]) -> Target:
    from mechlist.runs import Job
    from mechlist.study import read_job, read_study, read_yaml, with_settings

    value = read_yaml(file)
    if "steps" not in value:
        job = read_job(file, value)
        settings, output, experiment = _flags(
            command, job.name, type(job.experiment), job.experiment, job.settings, rest
        )
        same = experiment == job.experiment and settings == job.settings
        earlier = file.parent if same and (file.parent / "run.json").is_file() else None
        return Target(output, job.name, job=Job(job.name, experiment, settings, repeats=earlier), file=file)
    study = read_study(file, value)
    if {"-h", "--help"} & set(rest):
        print(study_help(command, file, study.title, study.settings))
        raise SystemExit(0)
    default = StudyFlags(study.settings, Output())
    flags = parse(StudyFlags, rest, prog=f"mechlist {command} {file}", description=study.title, default=default)
    return Target(flags.output, file.parent.name or file.stem, study=with_settings(study, flags.settings), file=file)


def _flags(
    command: str, name: str, kind: Any, default: Any, settings: Settings, rest: list[str]
) -> tuple[Settings, Output, Any]:
    """Flags of the run and of the experiment, in any order."""
    if {"-h", "--help"} & set(rest):
        print(experiment_help(command, name, kind, default, settings))
        raise SystemExit(0)
    needed = [f for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    parameters = {} if needed and default is None else {"default": default if default is not None else kind()}
    invocation = dataclasses.make_dataclass(
        "Invocation",
        [
            ("parameters", kind, field(**parameters)),
            ("settings", Settings, field(default=settings)),
            ("output", Output, field(default=Output())),
        ],
        kw_only=True,
    )
    flags: Any = parse(invocation, rest, prog=f"mechlist {command} {name}", description="")
    return flags.settings, flags.output, flags.parameters
