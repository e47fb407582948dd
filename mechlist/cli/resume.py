"""Where a run goes: a new directory, the one that was named, or that of the unfinished run it goes on with."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mechlist.errors import InputError
from mechlist.options import Output
from mechlist.runs import RUNS, RunDirectory, default_out, differences, read_config, runs_in

NAMED = 3
"""Differences that a sentence lists."""


def run_path(config: dict[str, Any], name: str, output: Output, file: Path | None) -> Path:
    """The directory of a run.

    Args:
        config: its complete configuration.
        name: what a new directory is called after.
        output: flags; without `out`, `resume` takes the run that `file` belongs to, or the newest unfinished run of
            the same configuration.
        file: the YAML file that was run, if one was.

    Raises:
        InputError: nothing to resume.
    """
    if not output.resume:
        return output.out or default_out(name)
    if output.out is not None:
        if not (output.out / "config.yaml").is_file():
            raise InputError(
                f"There is nothing to resume in {output.out}: it holds no config.yaml of a run. Leave --resume out to "
                "begin one."
            )
        return output.out
    if file is not None and file.name == "config.yaml" and (file.parent / "log.txt").is_file():
        if RunDirectory(file.parent).is_done:
            raise InputError(f"There is nothing to resume: the run in {file.parent} is finished.")
        return file.parent
    return _newest(config, name)


def resume_command(words: Sequence[str], path: Path) -> str:
    """The command that goes on with the run in `path`, from the words behind `mechlist` that began it."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--out":
            skip = True
        elif not word.startswith("--out=") and word not in ("--resume", "--overwrite", "--no-resume", "--no-overwrite"):
            kept.append(word)
    return shlex.join(["mechlist", *kept, "--out", str(path), "--resume"])


def _newest(config: dict[str, Any], name: str) -> Path:
    unfinished = [run for run in runs_in(RUNS) if not run.is_done]
    configs = [(run.path, differences(read_config(run.path), config)) for run in unfinished]
    same = [path for path, changed in configs if not changed]
    if same:
        return same[0]
    kind = "experiment" if "experiment" in config else "title"
    near = [(path, found) for path, found in configs if read_config(path).get(kind) == config[kind]]
    sentence = f"There is nothing to resume: {RUNS} holds no unfinished run of {name} with this configuration"
    if near:
        path, found = near[0]
        sentence += f"; in the newest of {name}, {path}, {'; '.join(found[:NAMED])}"
    raise InputError(f"{sentence}.")
