"""The answer of the list study: what ends a list, in at most five sentences, from the results of its steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Claim, Experiment
from mechlist.experiments.list_answer import figures as list_answer_figures
from mechlist.experiments.list_answer import gathering, sentences
from mechlist.experiments.list_answer.gathering import ENDS
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runs import RESULTS

_NEEDED = {
    "factors": ("coefficient", "truth", "change", "mean_A", "text_A"),
    "hazard": ("end_at_break", "filler", "median_items"),
    "counter": ("probe_r2", "exchange_share", "random_share"),
    "statistics": ("median_items",),
    "heads": (),
}


@register("list-answer")
@dataclass(frozen=True, kw_only=True)
class ListAnswer(Experiment):
    """Say what tells a model that a list is over, from the results of other runs; what is not given is left out.

    A is the logit of the end of the turn minus that of the hyphen, at the line break behind an item.
    """

    needs_model: ClassVar[bool] = False
    captions: ClassVar[Mapping[str, str]] = {
        "heads": "the share of each factor's effect on A that a head carries, patched exactly",
    }

    factors: Path | None = None
    """Folder or results.nc of a list-factors run."""
    hazard: Path | None = None
    """Folder or results.nc of a list-hazard run."""
    counter: Path | None = None
    """Folder or results.nc of a list-counter run."""
    statistics: Path | None = None
    """Folder or results.nc of a list-statistics run, for lengths of lists where no list-hazard run is given."""
    heads: tuple[Path, ...] = ()
    """Folders or results.nc of list-heads runs, one a factor."""
    resamples: int = 2000
    """Bootstrap resamples of topics."""

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise InputError(f"resamples must be at least 1, not {self.resamples}.")

    def run(self, runner: Runner | None = None) -> xr.Dataset:  # noqa: ARG002
        """Everything that the sentences and figures say, in one Dataset."""
        given = {name: path for name in _NEEDED if name != "heads" and (path := getattr(self, name)) is not None}
        if not given and not self.heads:
            raise InputError(f"list-answer needs the results of a run at least: give {', '.join(_NEEDED)}.")
        found = {name: gathering.read(path, name, _NEEDED[name]) for name, path in given.items()}
        parts: list[xr.Dataset] = []
        if "factors" in found:
            parts.append(gathering.of_factors(found["factors"], self.resamples))
        if "hazard" in found:
            parts.append(gathering.of_hazard(found["hazard"], self.resamples))
        elif "statistics" in found:
            parts.append(gathering.of_statistics(found["statistics"]))
        if "counter" in found:
            parts.append(gathering.of_counter(found["counter"]))
        heads = [gathering.of_heads(gathering.read(path, "heads", ())) for path in self.heads]
        if heads:
            parts.append(_one_a_factor(heads))
        attrs = {name: value for part in parts for name, value in part.attrs.items()}
        folders = {name: _folder(path) for name, path in given.items()}
        folders |= {"heads": [_folder(path) for path in self.heads]} if heads else {}
        merged = xr.merge(parts, compat="no_conflicts", join="outer", combine_attrs="drop")
        return merged.assign_attrs({**attrs, "folders": folders})

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """P(end) with and without a filler, what factors do to A, and heads by factor."""
        return list_answer_figures.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Heads by factor."""
        if "share" not in results:
            return {}
        names = [f"share{end}" for end in ENDS if f"share{end}" in results]
        rows = results[names].to_dataframe(dim_order=["factor", "layer", "head"]).reset_index().dropna(subset=["share"])
        return {"heads": rows.sort_values(["factor", "share"], ascending=[True, False], ignore_index=True)}

    def findings(self, results: xr.Dataset) -> list[str]:
        """The answer."""
        return [claim.text for claim in sentences.claims(results)]

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The answer, each sentence with its evidence."""
        return sentences.claims(results)


def _one_a_factor(heads: list[xr.Dataset]) -> xr.Dataset:
    """Shares of all factors.

    Raises:
        InputError: two runs of one factor.
    """
    names = [str(one["factor"].values[0]) for one in heads]
    if len(set(names)) < len(names):
        raise InputError(f"heads must hold one run a factor, not runs of {', '.join(names)}.")
    return xr.concat(heads, "factor", data_vars="all", join="outer", combine_attrs="override")


def _folder(path: Path) -> str:
    return path.parent.name if path.name == RESULTS else path.name
