"""The Jacobian lens: what every residual stream makes the model go on to say, beside logit lens and tuned lens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist.decode.own_texts import own_texts, with_bos
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.jacobian_lens import figures as drawing
from mechlist.experiments.jacobian_lens import findings as words
from mechlist.experiments.jacobian_lens.edits import edited, tested
from mechlist.experiments.jacobian_lens.reading import fidelity, read
from mechlist.experiments.plain_prompts import Prompts, read_prompts
from mechlist.lens.jacobian import JacobianLens, load_lens, published_lens
from mechlist.lens.jacobian_fit import SKIPPED, fit_jacobian_lens
from mechlist.lens.logit_lens import Translate, as_it_is
from mechlist.lens.tuned_lens import train_translators
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.raw import has_raw_stream, raw_runner
from mechlist.weights.output import output_weights

STAGES = 6
"""At which edits are made, evenly spread, by default."""


@register("jacobian-lens")
@dataclass(frozen=True, kw_only=True)
class JacobianLensExperiment(Experiment):
    """Read every stage by the mean Jacobian of what follows: what it makes the model go on to say (Gurnee et al. 2026).

    The lens is fitted on texts, loaded from a file, or the published one; its directions are then steered along,
    ablated and swapped.
    """

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    prompt: tuple[str, ...] = ()
    """Prompts that are read; by default a dozen plain texts."""
    lens: Path | None = None
    """A lens in place of fitting: a published .pt file, or results.nc of an earlier run."""
    published: bool = False
    """Take the lens that neuronpedia/jacobian-lens has for this model."""
    texts: Path | None = None
    """File of texts to fit on, one a line; by default texts that the model writes from nothing."""
    fit_prompts: int = 100
    """Texts that the lens is fitted on."""
    fit_tokens: int = 128
    """Tokens of each text, at most."""
    skip: int = SKIPPED
    """First positions of each text that are left out; the last is left out too."""
    dimensions: int | None = None
    """Dimensions of the final stream for which each text gives a row, 0 for all: exact; by default ten texts each."""
    held_out: int = 10
    """Texts more, on which the lenses are compared with the model."""
    tuned: bool = False
    """Also train a tuned lens on the same texts (Belrose et al. 2023)."""
    tuned_steps: int = 250
    """Steps of its training, for each stage."""
    top: int = 5
    """Tokens that are kept of each reading."""
    edit_stages: tuple[int, ...] = ()
    """Stages at which the stream is edited; by default six, evenly spread."""
    strength: float | int = 0.5
    """Length of a steering step, in norms of the stream."""
    controls: int = 3
    """Draws of random directions that the edits are compared with."""

    def __post_init__(self) -> None:
        for name, least in (("fit_prompts", 2), ("fit_tokens", 2), ("skip", 0), ("held_out", 1), ("tuned_steps", 1),
                            ("top", 1), ("controls", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        if self.lens is not None and self.published:
            raise InputError("lens and published are two ways to get a lens: give one of them.")
        if self.skip + 2 > self.fit_tokens:
            raise InputError(
                f"skip leaves out the first {self.skip} positions and the last of fit_tokens {self.fit_tokens}: "
                "nothing is left."
            )
        if not np.isfinite(self.strength):
            raise InputError(f"strength must be finite, not {self.strength}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The lens, what it and the others read, how near they are to the model, and what edits along it do."""
        if self.top > runner.shape.d_vocab_out:
            raise InputError(f"top must be at most {runner.shape.d_vocab_out}, the vocabulary, not {self.top}.")
        if (self.published or self.lens is not None) and not has_raw_stream(runner):
            runner = raw_runner(runner)
        prompts, stages = read_prompts(runner, self.prompt), self._edit_stages(runner)
        texts = self._texts(runner)
        lens = self._lens(runner, texts[: self.fit_prompts])
        lenses: dict[str, Translate] = {"logit lens": as_it_is, "Jacobian lens": lens}
        if self.tuned:
            lenses["tuned lens"] = self._tuned(runner, texts[: self.fit_prompts])
        results = _readings(runner, prompts, lenses, self.top)
        generator = runner.numpy_generator("Jacobian lens")
        results = results.merge(fidelity(runner, texts[-self.held_out :], lenses, self.skip, generator))
        output = output_weights(runner)
        stages = [stage for stage in stages if stage in lens.stages or stage == lens.n_layers]
        found = edited(
            runner, prompts.rows, lens, output, stages=stages, strength=self.strength, controls=self.controls,
            generator=runner.generator("random edits"),
        )  # fmt: skip
        results = results.merge(found)
        claims = tested(found, generator)
        stored = lens.dataset()
        results = results.merge(claims).merge(stored)
        return results.assign_attrs(claims.attrs | stored.attrs, **self._facts(runner, prompts, results))

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """What each lens reads of the first prompt, how near it is to the model, and the edits."""
        return drawing.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Readings at the end of each prompt, lenses by stage, and edits."""
        return words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """From which stage on the lens is near to the model, what it reads before that, and what edits do."""
        return words.findings(results)

    def _texts(self, runner: Runner) -> list[Tensor]:
        """Texts to fit on and, behind them, those that are held out; the latter only if there is nothing to fit."""
        fitted = 0 if self.lens is not None or self.published else self.fit_prompts
        wanted = (self.fit_prompts if fitted or self.tuned else 0) + self.held_out
        if self.texts is None:
            return with_bos(runner, own_texts(runner, wanted, self.fit_tokens - 1, label="Writing texts to fit on"))
        rows = _read_texts(runner, self.texts, self.fit_tokens, self.skip + 2)
        if len(rows) < wanted:
            raise InputError(
                f"{self.texts} must hold {wanted} texts of {self.skip + 2} tokens at least, one a line: fit_prompts "
                f"and held_out ask for so many; it holds {len(rows)}."
            )
        return rows[:wanted]

    def _lens(self, runner: Runner, texts: list[Tensor]) -> JacobianLens:
        if self.lens is not None:
            return load_lens(self.lens, runner)
        if self.published:
            return published_lens(runner.language_model.info["name"], runner)
        source = f"{len(texts)} texts of {self.texts}" if self.texts else f"{len(texts)} texts of the model's own"
        generator = runner.generator("turns of dimensions")
        return fit_jacobian_lens(
            runner, texts, generator=generator, dimensions=self.dimensions, skip=self.skip, source=source
        )

    def _tuned(self, runner: Runner, texts: list[Tensor]) -> Translate:
        width = max(len(text) for text in texts)
        where = torch.full((len(texts), width), -1)
        for row, text in zip(where, texts, strict=True):
            row[self.skip : len(text) - 1] = torch.arange(self.skip, len(text) - 1)
        generator = runner.generator("tuned lens")
        return train_translators(runner, texts, where, steps=self.tuned_steps, generator=generator)

    def _edit_stages(self, runner: Runner) -> list[int]:
        last = runner.shape.n_layers
        wrong = [stage for stage in self.edit_stages if not 0 <= stage <= last]
        if wrong:
            raise InputError(f"edit_stages must be from 0 to {last}, layers that have passed, not {wrong[0]}.")
        return list(self.edit_stages) or sorted({round(x) for x in np.linspace(1, last, STAGES)})

    def _facts(self, runner: Runner, prompts: Prompts, results: xr.Dataset) -> dict[str, object]:
        pairs = [results[name].values.tolist() for name in ("first_choice", "second_choice")]
        return {
            "model": runner.language_model.info["name"],
            "prompts": prompts.labels,
            "choices": [[json.dumps(text) for text in runner.token_texts(tokens)] for tokens in pairs],
            "strength": self.strength,
            "held_out": self.held_out,
            "skip": self.skip,
        }


def _readings(runner: Runner, prompts: Prompts, lenses: Mapping[str, Translate], top: int) -> xr.Dataset:
    """What every lens reads of the prompts, with the texts of the tokens."""
    results = read(runner, prompts.rows, lenses, top)
    known = np.unique(results["top_token"].values)
    texts = {-1: ""} | dict(
        zip(known.tolist(), runner.token_texts([max(0, token) for token in known.tolist()]), strict=True)
    )
    texts[-1] = ""
    # As plain ASCII: text may hold anything, and NetCDF strings may not.
    named = np.vectorize(lambda token: json.dumps(texts[token]), otypes=[object])(results["top_token"].values)
    results["top_text"] = (results["top_token"].dims, named)
    width = results.sizes["position"]
    own = np.array([[*map(json.dumps, runner.token_texts(row)), *[""] * (width - len(row))] for row in prompts.rows])
    results["text"] = (("prompt", "position"), own)
    results["length"] = ("prompt", [len(row) for row in prompts.rows], {"units": "tokens"})
    return results


def _read_texts(runner: Runner, file: Path, longest: int, least: int) -> list[Tensor]:
    """Lines of a file as tokens, cut; lines that are too short are left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"texts must be a file of UTF-8 text; {file} cannot be read ({error}).") from error
    cut = min(longest, runner.shape.n_ctx)
    rows = [runner.to_tokens(line)[:cut] for line in lines if line.strip()]
    return [torch.tensor(row) for row in rows if len(row) >= least]
