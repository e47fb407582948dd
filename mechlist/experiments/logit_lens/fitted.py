"""Lenses of the logit-lens experiment that are trained or fitted: on some topics, judged on the others, and kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechlist.errors import InputError
from mechlist.experiments.logit_lens.predictions import LensInputs
from mechlist.lens.jacobian import JacobianLens
from mechlist.lens.jacobian_fit import fit_jacobian_lens
from mechlist.lens.logit_lens import Translate
from mechlist.lens.translators import Translators
from mechlist.lens.tuned_lens import lens_fit, train_translators
from mechlist.metrics.by_topic import clustered_means
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.text import visible

HELD_OUT = 0.25
"""Share of the topics that training does not see."""


def train(runner: Runner, inputs: LensInputs, *, steps: int, batch: int) -> Translators:
    """Translators from the lists of three quarters of the topics, in all runs.

    Raises:
        InputError: a single topic: none would be left to judge them on.
    """
    generator = runner.generator("tuned lens")
    rows, where, names = _training(inputs, "tuned", generator)
    return train_translators(
        runner, rows, torch.stack(where), steps=steps, batch=batch, generator=generator, trained_on=names
    )


def fit_jacobian(runner: Runner, inputs: LensInputs) -> tuple[JacobianLens, tuple[str, ...]]:
    """A Jacobian lens from the lists of three quarters of the topics, in all runs, and these topics.

    Positions before the first that is trained on, such as the chat template's, are left out.

    Raises:
        InputError: a single topic, or too few or too short lists.
    """
    # The same topics as for a tuned lens, so that both are judged on the same others.
    rows, where, names = _training(inputs, "lens jacobian", runner.generator("tuned lens"))
    lens = fit_jacobian_lens(
        runner,
        rows,
        generator=runner.generator("Jacobian lens"),
        skip=min(int(own[0]) for own in where),
        source=f"{len(rows)} prompts of {len(names)} topics",
    )
    return lens, tuple(names)


def lens_fits(
    runner: Runner,
    inputs: LensInputs,
    lenses: Mapping[str, Translate],
    trained_on: Sequence[str],
    generator: np.random.Generator,
) -> xr.Dataset:
    """How far each lens is from the model on the topics that none was trained on; on all where there is no such topic.

    The attribute `held_out` says which.
    """
    unseen = [i for i, topic in enumerate(inputs.topics) if topic not in trained_on]
    chosen = unseen or list(range(len(inputs.topics)))
    first = next(iter(inputs.runs.values()))
    rows, where = [first.rows[i] for i in chosen], inputs.trained[chosen]
    kl = np.full((len(lenses), runner.shape.n_layers + 1, len(inputs.topics)), np.nan, dtype=np.float32)
    bias = np.zeros(kl.shape[:2], dtype=np.float32)
    for number, translate in enumerate(lenses.values()):
        fit = lens_fit(runner, rows, where, translate=translate)
        kl[number][:, chosen] = _by_prompt(fit.kl, fit.prompt, len(rows))
        bias[number] = fit.bias.numpy()
    topics = ("list", [visible(topic) for topic in inputs.topics])
    by_list = xr.DataArray(kl, dims=("lens", "stage", "list"), coords={"lens": list(lenses), "topic": topics})
    means = clustered_means(by_list, generator)
    out = means.rename({str(name): f"kl_{name}" for name in means.data_vars})
    out["bias"] = (("lens", "stage"), bias, {"units": "nats"})
    return out.assign_attrs(held_out=list(dict.fromkeys(inputs.topics[i] for i in unseen)))


def translators_dataset(found: Translators, *, keep: bool) -> xr.Dataset:
    """What a tuned lens was trained on and, with `keep`, the translators themselves."""
    out = xr.Dataset(attrs={"fingerprint": found.fingerprint, "trained_on": list(found.trained_on)})
    if keep:
        out["translator_weight"] = (("layer", "d_in", "d_out"), found.weight.numpy())
        out["translator_bias"] = (("layer", "d_out"), found.bias.numpy())
    return out


def load_translators(file: Path, runner: Runner) -> Translators:
    """Translators of an earlier run's results.nc, or of a safetensors file.

    Raises:
        InputError: a file that holds none, or those of another model.
    """
    found = Translators.load(file) if file.suffix == ".safetensors" else _from_results(file)
    found.check(runner)
    return found


def _training(
    inputs: LensInputs, name: str, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Prompts and positions of three quarters of the topics, in all runs, and these topics."""
    topics = list(dict.fromkeys(inputs.topics))
    if len(topics) < 2:
        raise InputError(f"{name} needs lists of two topics at least, or two pairs: one of them is held out.")
    order = torch.randperm(len(topics), generator=generator).tolist()
    kept = {topics[i] for i in order[max(1, round(HELD_OUT * len(topics))) :]}
    rows, where = [], []
    for run in inputs.runs.values():
        chosen = [(row, i) for row, i in zip(run.rows, run.lists, strict=True) if inputs.topics[i] in kept]
        rows += [row for row, _ in chosen]
        where += [inputs.trained[i] for _, i in chosen]
    return rows, where, [topic for topic in topics if topic in kept]


def _from_results(file: Path) -> Translators:
    results = load_dataset(file)
    if "translator_weight" not in results:
        raise InputError(f"{file} must be of a logit-lens run with --tuned, and holds no translators.")
    weight, bias = (torch.from_numpy(results[f"translator_{name}"].values) for name in ("weight", "bias"))
    return Translators(weight, bias, results.attrs["fingerprint"], tuple(results.attrs["trained_on"]))


def _by_prompt(kl: Tensor, prompt: Tensor, prompts: int) -> np.ndarray:
    """The mean over the tokens of each prompt, by stage."""
    total = torch.zeros(len(kl), prompts).index_add_(1, prompt, kl)
    return (total / torch.bincount(prompt, minlength=prompts)).numpy()
