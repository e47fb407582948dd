"""How many components of the final hidden state the answer needs, and in which basis."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError, MechlistError
from mechlist.experiment import Experiment
from mechlist.experiments.components_needed import report
from mechlist.experiments.components_needed.bases import ROTATION, bases, sae_basis, sae_name
from mechlist.experiments.plain_prompts import Prompts, read_answers, read_prompts
from mechlist.metrics.significance import effect_table
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.progress import Bar
from mechlist.runner.raw import basis_words, raw_runner
from mechlist.weights.components import Basis, Curves, crossings, cumulative_curves
from mechlist.weights.output import OutputWeights, final_states, output_weights

WAYS = ("", "_norm_restored")
_TOLERANCE = 2e-3
"""By how much the whole state's probability may miss the model's own in float32, relative to it or to 1 %."""


@register("components-needed")
@dataclass(frozen=True, kw_only=True)
class ComponentsNeeded(Experiment):
    """Probability of the answer with only the largest components of the hidden state kept, basis by basis.

    "Needs 41 % of the components" was said of one prompt; here it is said of many prompts with an
    interval, and beside a random rotation, in which no component means anything.
    """

    needs_tokenizer: ClassVar[bool] = True
    raw_weights: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    prompt: tuple[str, ...] = ()
    """Prompts, read at their last token; by default a dozen plain texts."""
    answer: tuple[str, ...] = ()
    """One token with its leading blank for all prompts, or one for each; by default the model's most probable one."""
    share: float | int = 0.9
    """Share of the whole state's probability that is asked for."""
    lens: Path | None = None
    """Jacobian lens, of whose directions another basis is made: results.nc of jacobian-lens, or a published file."""
    lens_stage: int | None = None
    """Stage of the lens whose directions are taken; by default the middle one."""
    sae: str = ""
    """SAE of the residual stream after the last layer, of whose features another basis is made: a directory, DIR@HOOK
    or RELEASE:ID; by default the model's built-in one, if it has one."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share must be above 0 and at most 1, not {self.share}.")
        if self.lens_stage is not None and self.lens is None:
            raise InputError("lens_stage says which stage of a lens is taken: give --lens as well.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Curves of every prompt and basis, their crossings, and means over prompts with a test against rotation."""
        raw = raw_runner(runner)
        prompts = read_prompts(raw, self.prompt)
        given = read_answers(raw, self.answer, prompts)
        output, states = output_weights(raw), final_states(raw, prompts.rows, -1)[:, 0]
        logits = raw.logits(prompts.rows, positions=-1)[:, 0].float()
        answers = logits.argmax(-1) if given is None else torch.from_numpy(given)
        written = self._bases(raw, output, prompts, states)
        results = _curves(raw, output, written, states, answers)
        results["none_kept"] = (("prompt", "basis"), _none_kept(output, written, states, answers))
        own = logits.double().softmax(-1).gather(1, answers[:, None])[:, 0].numpy()
        _check_whole(results, own, raw)
        for way in WAYS:
            first, last = zip(
                *(crossings(results[f"probability{way}"].sel(basis=b.name).values, self.share) for b in written),
                strict=True,
            )
            results[f"first_crossing{way}"] = (("prompt", "basis"), np.stack(first, axis=1), {"units": "components"})
            results[f"last_crossing{way}"] = (("prompt", "basis"), np.stack(last, axis=1), {"units": "components"})
        means = _over_prompts(results, states.shape[1], raw.numpy_generator("components needed"))
        results = results.merge(means)
        results["own_probability"] = ("prompt", own)
        results["answer"] = ("prompt", answers.numpy())
        # As plain ASCII: text may hold anything, and NetCDF strings may not.
        results["answer_text"] = ("prompt", [json.dumps(text) for text in raw.token_texts(answers.tolist())])
        attrs = {"share": self.share, "basis": basis_words(raw), "prompts": prompts.labels}
        return results.assign_attrs(means.attrs | attrs, model=runner.language_model.info["name"])

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Curves of the first prompt and of the median one, and the share of the components that is needed."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """One row a basis, with its interval; one row a prompt and basis."""
        return report.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How many components are needed in each basis, and whether that differs from a random one."""
        return report.findings(results)

    def _bases(self, raw: Runner, output: OutputWeights, prompts: Prompts, states: Tensor) -> list[Basis]:
        with Bar("Making bases", output.weight.numel(), raw.progress) as bar:
            found = bases(raw, output, self.lens, self.lens_stage, bar.advance)
        name = sae_name(raw, self.sae)
        return [*found, sae_basis(raw, output, prompts.rows, states, name)] if name else found


def _curves(runner: Runner, output: OutputWeights, written: list[Basis], states: Tensor, answers: Tensor) -> xr.Dataset:
    """Probabilities and ranks; a basis of fewer directions than another stays at its last value.

    Of an incomplete one the curve ends with the most directions that a prompt has: behind them nothing changes.
    """
    found = {}
    with Bar("Adding up components", len(written) * len(states) * output.weight.shape[1], runner.progress) as bar:
        for basis in written:
            curves = cumulative_curves(output, basis, states, answers, progress=bar.advance)
            most = None if basis.complete else max(1, int((basis.read(states.float().cpu()) != 0).sum(1).max()))
            found[basis.name] = Curves(*(values[:, :most] for values in curves))
    longest = max(curves.probability.shape[1] for curves in found.values())
    dims, out = ("prompt", "basis", "kept"), xr.Dataset()
    for name in ("probability", "probability_norm_restored", "rank", "rank_norm_restored"):
        values = [getattr(curves, name) for curves in found.values()]
        padded = [np.pad(v, ((0, 0), (0, longest - v.shape[1])), mode="edge") for v in values]
        out[name] = (dims, np.stack(padded, axis=1))
    sizes = [basis.number or found[basis.name].probability.shape[1] for basis in written]
    coords = {"prompt": np.arange(len(states)), "basis": list(found), "kept": 1 + np.arange(longest)}
    return out.assign_coords(coords).assign(directions=("basis", sizes))


def _none_kept(
    output: OutputWeights, written: list[Basis], states: Tensor, answers: Tensor
) -> Float[np.ndarray, "prompt basis"]:
    """The answer's probability without any component: of the bias, and of what a basis leaves out."""
    states = states.float().cpu()
    alone = torch.stack([basis.remainder(states, basis.read(states).float()) for basis in written], dim=1)
    found = [output.logits(of.to(output.weight.device)).double().softmax(-1) for of in alone]
    chosen = [of[:, int(answer)].cpu() for of, answer in zip(found, answers, strict=True)]
    return torch.stack(chosen).numpy()


def _over_prompts(results: xr.Dataset, width: int, generator: np.random.Generator) -> xr.Dataset:
    """Components at each crossing as a share of the width, with its interval, and its difference from the rotation."""
    names = [f"{crossing}_crossing{way}" for crossing in ("first", "last") for way in WAYS]
    shares = np.stack([(results[name] / width).values for name in names], axis=1)
    low, high = bootstrap_interval(shares, generator=generator)
    dims, coords = ("crossing", "basis"), {"crossing": names}
    out = xr.Dataset({"needed": (dims, shares.mean(axis=0)), "needed_low": (dims, low), "needed_high": (dims, high)})
    rotation = results["basis"].values.tolist().index(ROTATION)
    table = effect_table(shares - shares[:, :, rotation : rotation + 1], generator=generator)
    out["difference"] = (dims, table.estimate, {"note": "from the random rotation"})
    out["difference_low"], out["difference_high"] = (dims, table.low), (dims, table.high)
    out["difference_p_corrected"] = (dims, table.p_corrected)
    return out.assign_coords(coords).assign_attrs(reason=table.reason)


def _check_whole(results: xr.Dataset, own: np.ndarray, runner: Runner) -> None:
    """With all components kept the curve must be at the model's own probability."""
    rounding = max(_TOLERANCE, 64 * torch.finfo(runner.language_model.dtype).eps)
    whole = results["probability"].isel(kept=-1).values
    miss = np.abs(whole - own[:, None])
    if not (miss <= rounding * np.maximum(own[:, None], 0.01)).all():
        prompt = int(miss.max(axis=1).argmax())
        raise MechlistError(
            f"With all components kept, prompt {prompt} has a probability of {whole[prompt].tolist()}, and the model "
            f"itself gives {own[prompt]:.6g}: the curves cannot be trusted."
        )
