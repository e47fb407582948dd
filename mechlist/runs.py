"""The directory of a run: what it was asked, what it found, and how to go on with it.

`config.yaml` (complete: running it again repeats the run), `run.json` (status, versions, fingerprints, timings),
`results.nc`, `tables/*.parquet`, `figures/*.html`, `report.html`, `log.txt`. Every file is written whole or not at all.
"""

import contextlib
import dataclasses
import errno
import json
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import xarray as xr
import yaml

from mechlist.errors import InputError, MechlistError, told
from mechlist.options import Output, Settings
from mechlist.results import load_dataset, write_json, write_text

PARTIAL = "partial"
"""Folder of finished batches while a run is under way."""
RESULTS = "results.nc"
EXPORTS = "exports"
"""Folder of files for other programs."""
RUNS = Path("runs")
"""Where runs without --out go."""
OWN_FILES = ("config.yaml", "run.json", RESULTS, "report.html", "log.txt")
OWN_FOLDERS = ("tables", "figures", EXPORTS, PARTIAL)
PACKAGES = ("mechlist", "torch", "transformer-lens", "transformers", "xarray", "numpy", "plotly")


@dataclass(frozen=True)
class Job:
    """One experiment with its parameters and settings: everything that fixes its result."""

    name: str
    experiment: Any
    """The experiment: a frozen dataclass."""
    settings: Settings
    repeats: Path | None = None
    """The directory of the run that this one is to repeat."""

    def config(self) -> dict[str, Any]:
        """The complete configuration, as it stands in config.yaml."""
        return {
            "experiment": self.name,
            **dataclasses.asdict(self.settings),
            "parameters": _plain(dataclasses.asdict(self.experiment)),
        }


class RunDirectory:
    """A directory that holds one run, or one step of a study."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fresh = False

    @property
    def journal(self) -> Path:
        """Where finished batches wait while the run is under way."""
        return self.path / PARTIAL

    @property
    def results(self) -> Path:
        """The numbers."""
        return self.path / RESULTS

    def record(self) -> dict[str, Any]:
        """What run.json says; empty if there is none.

        Raises:
            InputError: run.json is not readable.
        """
        file = self.path / "run.json"
        if not file.is_file():
            return {}
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file} is damaged: {error}") from error

    @property
    def is_done(self) -> bool:
        """Whether the run has finished."""
        return self.record().get("status") == "done"

    def check(self, config: dict[str, Any], output: Output) -> None:
        """See whether this run may have the directory; nothing is written.

        Raises:
            InputError: it holds something else, and neither --overwrite nor a fitting --resume was given.
        """
        if output.resume and output.overwrite:
            raise InputError("Give --resume or --overwrite, not both.")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; --out takes a directory.")
        held = self._held()
        if held and output.resume:
            self._check_same(config)
        elif held and not output.overwrite:
            resumable = (self.path / "config.yaml").is_file() and not self.is_done
            hint = ", --resume to go on with the run in it" if resumable else ""
            raise InputError(
                f"{self.path} is not empty (it holds {held[0]}): "
                f"give another --out, --overwrite to replace a run{hint}."
            )

    def claim(self, config: dict[str, Any], output: Output) -> None:
        """Make the directory this run's own, after the same checks, and write its configuration."""
        self.check(config, output)
        if output.overwrite:
            self._clear()
        self._fresh = not self._held()
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.yaml", to_yaml(config))

    @contextmanager
    def session(self, device: str, **facts: Any) -> Iterator[None]:
        """The time in which work is done; run.json says how it ended.

        A run that turns out to be asked for something impossible leaves a directory as empty as it found it.
        """
        began = time.monotonic()
        self._start(device)
        try:
            yield
        except BaseException as error:
            # On a full disk what is there is whole, and the first error is the one to report.
            with contextlib.suppress(OSError):
                self._give_up(error, time.monotonic() - began)
            raise
        self._done(seconds=round(time.monotonic() - began, 3), **facts)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """The time in which what is told of saved numbers is made, without the model: run.json keeps the rest.

        A run that had failed is done behind it; one that cannot be told about has failed.
        """
        try:
            yield
        except Exception as error:
            with contextlib.suppress(OSError):
                self._failed(error)
            raise
        if not self.is_done:
            self._done()

    @contextmanager
    def making(self, what: str) -> Iterator[None]:
        """The time in which `what` (tables, findings, ...) is made of the numbers in results.nc.

        Raises:
            MechlistError: it fails, in a sentence that says that the numbers are whole and how to go on.
        """
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise MechlistError(
                f"The numbers are whole in {self.results}, but the {what} failed ({told(error)}): "
                f"once this is mended, `mechlist report {self.path}` finishes the run."
            ) from error

    def _give_up(self, error: BaseException, seconds: float) -> None:
        if isinstance(error, InputError) and self._fresh and not self._steps():
            self._clear()
            if not self._held():
                self.path.rmdir()
            return
        self._failed(error, seconds=round(seconds, 3))

    def _failed(self, error: BaseException, **facts: Any) -> None:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.update(status=status, error=str(error) or type(error).__name__, **facts)
        self.log(f"run {status}")

    def _done(self, **facts: Any) -> None:
        record = {name: value for name, value in self.record().items() if name != "error"}
        write_json(self.path / "run.json", record | _plain({"status": "done", **facts}))
        self.log("run done")

    def _start(self, device: str) -> None:
        self.log("run started")
        write_json(
            self.path / "run.json",
            {
                "status": "running",
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": versions(),
                "platform": platform.platform(),
                "python": platform.python_version(),
                "device": device,
            },
        )

    def update(self, **facts: Any) -> None:
        """Add facts to run.json."""
        write_json(self.path / "run.json", self.record() | _plain(facts))

    def log(self, line: str) -> None:
        """Add a line to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie there."""
        for name in OWN_FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in OWN_FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for part in self.path.glob(".*.part"):
            part.unlink()
        for step in self._steps():
            shutil.rmtree(step)

    def _held(self) -> list[str]:
        return sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []

    def _steps(self) -> list[Path]:
        """Folders of a study's steps."""
        folders = [p for p in self.path.iterdir() if p.is_dir()] if self.path.is_dir() else []
        return [p for p in folders if (p / "config.yaml").is_file() and (p / "log.txt").is_file()]

    def _check_same(self, config: dict[str, Any]) -> None:
        file = self.path / "config.yaml"
        if not file.is_file():
            raise InputError(f"There is nothing to resume in {self.path}: it holds no config.yaml of a run.")
        before = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        changed = differences(before, config)
        if changed:
            raise InputError(
                f"{self.path} holds another run: {'; '.join(changed)}. Resume with the same settings, or give "
                "--overwrite."
            )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a configuration has become, field by field: `its seed is 0, now it is 1`.

    Of another experiment, or of a study with other steps, that alone is told: their fields have nothing in common.
    """
    if before.get("experiment") != now.get("experiment"):
        return [f"it is a run of {_kind(before)}, and this is {_kind(now)}"]
    old, new = dict(_fields(before)), dict(_fields(now))
    return [
        f"its {name} is {old.get(name, 'not given')!r}, now it is {new.get(name, 'not given')!r}"
        for name in {**old, **new}
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


_ABSENT = object()


def _kind(config: dict[str, Any]) -> str:
    return str(config.get("experiment", f"the study {config.get('title', 'without a title')!r}"))


def _fields(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every field with a name of its own: parameters and steps are taken apart."""
    for name, value in config.items():
        if name == "parameters" and isinstance(value, dict):
            yield from value.items()
        elif name == "steps" and isinstance(value, list):
            yield "steps", [step.get("name") for step in value]
            for step in value:
                yield from ((f"{key} of step {step.get('name')}", held) for key, held in _fields(step))
        else:
            yield name, value


def runs_in(folder: Path, *, below: bool = False) -> list[RunDirectory]:
    """The runs and studies in a folder, the newest first; with `below`, it and what lies up to four folders down."""
    patterns = ["/".join([*["*"] * depth, "config.yaml"]) for depth in (range(5) if below else (1,))]
    files = [file for pattern in patterns for file in folder.glob(pattern)] if folder.is_dir() else []
    return [RunDirectory(f.parent) for f in sorted(files, key=lambda f: (f.stat().st_mtime, f), reverse=True)]


def results_file(path: Path) -> Path:
    """results.nc of a run that is named by its folder, or by that file."""
    return path / RESULTS if path.is_dir() else path


def results_of(path: Path, experiment: str, parameter: str) -> xr.Dataset:
    """The numbers of a run of a certain experiment, which a parameter names.

    Raises:
        InputError: nothing there, or results of another experiment.
    """
    file = results_file(path)
    if not file.is_file():
        raise InputError(
            f"{file} does not exist: {parameter} must be the folder or the {RESULTS} of a {experiment} run."
        )
    results = load_dataset(file)
    if results.attrs.get("experiment") != experiment:
        raise InputError(f"{file} must be results of {experiment}, not of {results.attrs.get('experiment')}.")
    return results


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a directory; empty if it is none."""
    try:
        value = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def default_out(name: str) -> Path:
    """Where a run without --out goes: runs/NAME-<time>."""
    return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def to_yaml(value: dict[str, Any]) -> str:
    """YAML in the order of the keys."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def explain_os_error(error: BaseException) -> str:
    """One sentence for a failure of the file system."""
    filename = getattr(error, "filename", None)
    where = f" ({filename})" if filename else ""
    # HDF5 and safetensors report a full disk in their text only.
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return f"The disk is full{where}: free some space and go on with --resume; what was written is whole."
    if isinstance(error, PermissionError):
        return f"No permission to write{where}."
    return f"The file system failed: {getattr(error, 'strerror', None) or error}{where}."


def _plain(value: Any) -> Any:
    """Only what YAML and JSON know: tuples as lists, paths as strings."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
