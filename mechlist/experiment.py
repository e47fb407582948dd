"""What an experiment is: parameters in, one Dataset out, figures from the Dataset alone."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.decode.records import Record
from mechlist.decode.tree import Tree
from mechlist.errors import InputError
from mechlist.runner import Runner


@dataclass(frozen=True)
class Option:
    """A parameter that counts in some cases only."""

    unused: Callable[[Any], str]
    """Of the experiment: where it does not count, such as "with data list"; empty where it does."""
    default: Any = None
    """What it is where it counts and is left at None; the parameter's docstring says so."""


@dataclass(frozen=True)
class Claim:
    """What results show, in one short sentence made from them, and the figure that shows it."""

    text: str
    figure: str = ""
    """Name of the figure, if there is one."""
    run: str = ""
    """Name of the folder, beside this run's, of the run that the figure belongs to; this run without."""


class Experiment(ABC):
    """Base of every experiment: a frozen dataclass whose fields are its parameters (their docstrings are the help).

    Validate parameters in `__post_init__` and raise `mechlist.errors.InputError`.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    needs_model: ClassVar[bool] = True
    """Whether `run` takes a Runner; without, it is called with None."""
    instead_of_model: ClassVar[str] = ""
    """Name of a field that takes the model's place where it is given, such as a file of recorded results."""
    needs_tokenizer: ClassVar[bool] = False
    """Whether the model must have a tokenizer."""
    raw_weights: ClassVar[bool] = False
    """Whether the model is loaded with its weights as Hugging Face has them, whatever the settings say."""
    default_model: ClassVar[str] = "induction-tiny"
    """The model of `mechlist run NAME` without --model; a built-in one, so that it works offline."""
    options: ClassVar[Mapping[str, Option]] = {}
    """Parameters that count in some cases only, by name; `check_options` in `__post_init__` refuses them elsewhere."""

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Parameters by heading in --help; the rest stands under "parameters"."""
    captions: ClassVar[Mapping[str, str]] = {}
    """What each table holds, by its name, in a few words."""

    def check_options(self) -> None:
        """Whether all that was given counts: a parameter that does nothing is no choice but a mistake.

        Raises:
            InputError: naming the first that does not, and why.
        """
        default = {field.name: field.default for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        for name, option in self.options.items():
            where = option.unused(self)
            if where and getattr(self, name) != default[name]:
                raise InputError(f"{name} does nothing {where}: leave it out.")

    def value_of(self, name: str) -> Any:
        """A parameter, or its default where it was left at None."""
        value = getattr(self, name)
        return self.options[name].default if value is None else value

    @abstractmethod
    def run(self, runner: Runner) -> xr.Dataset:
        """Do the work and return every number of the result, with named dimensions."""

    def example_completion(self, runner: Runner) -> tuple[int, ...]:  # noqa: ARG002
        """Tokens that stand for what the model writes when a run is planned and a sample of it takes too long."""
        return ()

    @abstractmethod
    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Figures by file name; pure: drawn from saved results, without the model."""

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:  # noqa: ARG002
        """Tables by file name, from saved results."""
        return {}

    def files(self, results: xr.Dataset) -> dict[str, str]:  # noqa: ARG002
        """Text files for other programs, by path inside the folder `exports`, from saved results."""
        return {}

    def exhibits(self, results: xr.Dataset) -> dict[str, Record | Tree]:  # noqa: ARG002
        """Responses and token trees by title, to click through in the report and in the app, from saved results."""
        return {}

    def findings(self, results: xr.Dataset) -> list[str]:  # noqa: ARG002
        """What the results say, in sentences, for the top of the report."""
        return []

    def claims(self, results: xr.Dataset) -> list[Claim]:  # noqa: ARG002
        """What the results show, the most telling first: it titles the section of a study's report.

        Of the step that a study marks as its answer, all are printed, each with a link to its figure.
        """
        return []


def needs_model(experiment: Experiment) -> bool:
    """Whether an experiment takes a Runner, with the parameters that it has."""
    instead = type(experiment).instead_of_model
    return type(experiment).needs_model and not (instead and getattr(experiment, instead))


def checked(experiment: Experiment, what: str, value: Any) -> Any:
    """What one of an experiment's methods gave, which is of the kind that it must give.

    Args:
        experiment: whose method it is.
        what: name of the method.
        value: that it returned.

    Raises:
        InputError: another kind, with what is expected.
    """
    outer, inner, words = _KINDS[what]
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    wrong = next((one for one in entries if inner is not None and not isinstance(one, inner)), None)
    named = all(isinstance(name, str) for name in value) if isinstance(value, dict) else True
    if isinstance(value, outer) and wrong is None and named:
        return value
    got = type(value).__name__ if wrong is None else f"{type(value).__name__} with {type(wrong).__name__} in it"
    cls = type(experiment)
    raise InputError(f"{what} of {cls.__module__}.{cls.__qualname__} must return {words}, not {got}.")


_KINDS: Mapping[str, tuple[Any, Any, str]] = {
    "run": (xr.Dataset, None, "an xarray.Dataset, which holds every number with named dimensions"),
    "figures": (dict, go.Figure, "a dict of file names to plotly figures (mechlist.figures makes them)"),
    "tables": (dict, pd.DataFrame, "a dict of file names to pandas data frames"),
    "files": (dict, str, "a dict of paths to texts"),
    "exhibits": (dict, Record | Tree, "a dict of titles to records (mechlist.decode.records) and trees"),
    "findings": (list | tuple, str, "a list of sentences"),
    "claims": (list | tuple, Claim, "a list of claims"),
}
"""What each method returns: its type, that of its entries, and both in words."""


T = TypeVar("T", bound=Experiment)


def filled(experiment: T) -> T:
    """The experiment with the defaults of what counts and was left at None written out: as config.yaml has it."""
    counts = [name for name, option in experiment.options.items() if not option.unused(experiment)]
    values = {name: experiment.value_of(name) for name in counts}
    return dataclasses.replace(experiment, **values)  # pyright: ignore[reportArgumentType]
