"""What an experiment is: parameters in, one Dataset out, figures from the Dataset alone."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.types import Plan


class Experiment(ABC):
    """Base of every experiment: a frozen dataclass whose fields are its parameters (their docstrings are the help).

    Validate parameters in `__post_init__` and raise `mechlist.errors.InputError`.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    needs_model: ClassVar[bool] = True
    """Whether `run` takes a Runner; without, it is called with None."""
    needs_tokenizer: ClassVar[bool] = False
    """Whether the model must have a tokenizer."""
    default_model: ClassVar[str] = "induction-tiny"
    """The model of `mechlist run NAME` without --model; a built-in one, so that it works offline."""

    @abstractmethod
    def run(self, runner: Runner) -> xr.Dataset:
        """Do the work and return every number of the result, with named dimensions."""

    def plan(self, runner: Runner) -> Plan:  # noqa: ARG002
        """What `run` would take; for experiments whose cost is worth knowing before.

        Raises:
            InputError: an experiment without a plan.
        """
        raise InputError(f"{type(self).__name__} has no plan: `mechlist plan` knows the costs of patching.")

    @abstractmethod
    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Figures by file name; pure: drawn from saved results, without the model."""

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:  # noqa: ARG002
        """Tables by file name, from saved results."""
        return {}

    def files(self, results: xr.Dataset) -> dict[str, str]:  # noqa: ARG002
        """Text files for other programs, by path inside the folder `exports`, from saved results."""
        return {}

    def findings(self, results: xr.Dataset) -> list[str]:  # noqa: ARG002
        """What the results say, in sentences, for the top of the report."""
        return []
