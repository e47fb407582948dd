"""The logit lens on lists or on pairs of prompts: where along layers and items a logit difference is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.pairs.pair import read_pairs
from mechlist.errors import InputError
from mechlist.experiment import Claim
from mechlist.experiments.list_experiment import MadeListExperiment, text_direction
from mechlist.experiments.logit_lens import figures as logit_lens_figures
from mechlist.experiments.logit_lens import findings as logit_lens_words
from mechlist.experiments.logit_lens.curves import changes, curves, matched
from mechlist.experiments.logit_lens.fitted import (
    fit_jacobian,
    lens_fits,
    load_translators,
    train,
    translators_dataset,
)
from mechlist.experiments.logit_lens.predictions import LensInputs, differences, list_inputs, pair_inputs
from mechlist.experiments.pair_experiment import pairs_of_texts
from mechlist.lens.jacobian import load_lens
from mechlist.lens.logit_lens import Translate, as_it_is
from mechlist.registry import register
from mechlist.runner import Runner


@register("logit-lens")
@dataclass(frozen=True, kw_only=True)
class LogitLens(MadeListExperiment):
    """Logit differences read from the residual stream of every layer, and where along the layers they are made."""

    captions: ClassVar[Mapping[str, str]] = {
        "curves": "means by direction, adjective, series, lens and layers passed, with intervals over topics",
        "matched": "last items against other items of equal number and filler, with intervals over topics",
        "change-points-layers": "where along the layers each contrast grows most, with intervals over topics",
        "change-points-items": "where along the items the largest step is, with intervals over topics",
        "lens-fit": "how far each lens is from the model's own distribution (KL, nats), by layers passed",
    }

    answer: tuple[str, ...] = ()
    """Tokens of a direction of one's own, with their leading blanks, in place of the study's two; needs --wrong."""
    wrong: tuple[str, ...] = ()
    """Tokens against which --answer is read."""
    role: str = "line_break"
    """Role of the positions at which --answer is read: hyphen, item_first, item_last, filler or line_break."""
    pairs: Path | None = None
    """File of pairs of prompts, in place of lists: lines of JSON with clean, corrupt, answer and wrong."""
    softcap: bool = False
    """Apply the softcap of the model's logits, if it has one."""
    tuned: bool = False
    """Also read through a tuned lens, trained on the lists of three quarters of the topics (Belrose et al. 2023)."""
    tuned_steps: int = 250
    """Steps of its training, for each layer."""
    tuned_batch: int = 128
    """Tokens of a step."""
    translators: Path | None = None
    """Tuned lens of an earlier run, by its results.nc or a safetensors file, in place of training."""

    lens: Literal["plain", "jacobian"] = "plain"
    """`jacobian` also reads through a Jacobian lens, what a stage makes the model go on to say, fitted on the lists of
    three quarters of the topics (Gurnee et al. 2026)."""
    jacobian: Path | None = None
    """Jacobian lens of an earlier run, by its results.nc or a published .pt file, in place of fitting."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.answer) != bool(self.wrong):
            raise InputError("answer and wrong must be given together, or neither.")
        if self.pairs is not None and (self.answer or self.recorded or self.topics):
            raise InputError("pairs come with their own prompts and answers: give them without recorded or answer.")
        if self.jacobian is not None and self.lens != "jacobian":
            raise InputError("jacobian is the file of a Jacobian lens: give --lens jacobian as well.")
        for name in ("tuned_steps", "tuned_batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The differences of every list, item and layer, their means, and their change points."""
        inputs = self._inputs(runner)
        lenses: dict[str, Translate] = {"plain": as_it_is}
        extra: list[xr.Dataset] = []
        trained_on: list[str] = []
        found = load_translators(self.translators, runner) if self.translators is not None else None
        if found is None and self.tuned:
            found = train(runner, inputs, steps=self.tuned_steps, batch=self.tuned_batch)
        if found is not None:
            lenses["tuned"] = found
            trained_on += found.trained_on
            extra.append(translators_dataset(found, keep=self.translators is None))
        if self.lens == "jacobian":
            lens, topics = (
                fit_jacobian(runner, inputs) if self.jacobian is None else (load_lens(self.jacobian, runner), ())
            )
            lenses["Jacobian"] = lens
            trained_on += topics
            extra.append(lens.dataset() if self.jacobian is None else xr.Dataset(attrs={"lens_source": lens.source}))
        results = differences(runner, inputs, lenses, softcap=self.softcap)
        generator = runner.numpy_generator("logit lens bootstrap")
        for made in (curves, changes, matched):
            results = results.merge(made(results, generator))
        if len(lenses) > 1:
            extra.append(lens_fits(runner, inputs, lenses, trained_on, generator))
        for part in extra:
            results = results.merge(part).assign_attrs(part.attrs)
        name = runner.language_model.info["name"]
        return results.assign_attrs(origin=inputs.origin, softcap=self.softcap, model=name)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Curves over layers, last items against others, layers and items, change points; how good other lenses are."""
        return logit_lens_figures.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Curves and change points with their intervals."""
        return logit_lens_words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Where along layers and items the difference is made, with intervals over topics."""
        return logit_lens_words.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return logit_lens_words.claims(results)

    def _inputs(self, runner: Runner) -> LensInputs:
        if self.pairs is not None:
            return pair_inputs(pairs_of_texts(runner, read_pairs(self.pairs)))
        lists = self.data(runner)
        own = (text_direction(runner, self.answer, self.wrong, self.role),) if self.answer else lists.directions
        return list_inputs(lists, own)
