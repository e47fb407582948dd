"""Causal tracing: tokens' embeddings noised, and single states restored (Meng et al. 2022)."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.answers import LogProb
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.patching.grid import patch_grid
from mechlist.patching.replacements import Given
from mechlist.patching.tokens.inputs import INPUT, answer_log_probs, input_statistics
from mechlist.runner import Intervention, Rows, Runner


def noise(runner: Runner, length: int, draws: int, deviations: float | int) -> Float[Tensor, "draw position d_model"]:
    """Normal noise for a prompt's embeddings, `deviations` standard deviations of the vocabulary's wide.

    It follows from the Runner's seed; more draws begin with the same.
    """
    if draws < 1 or not deviations > 0:
        raise InputError(f"draws must be at least 1 and deviations above 0, not {draws} and {deviations}.")
    generator = runner.generator("noise of embeddings")
    drawn = torch.randn(draws, length, runner.shape.d_model, generator=generator)
    return deviations * input_statistics(runner, length).deviation * drawn


def noised(added: Float[Tensor, "row position d_model"]) -> Intervention:
    """Adds each row's noise to the embeddings of its prompt."""

    def change(activation: Tensor, rows: Rows) -> Tensor:
        return activation + added[rows.index, : activation.shape[1]].to(activation)

    return Intervention(INPUT, change)


def noise_each(
    runner: Runner, tokens: Sequence[int], answer: int, *, draws: int, deviations: float | int = 3.0
) -> Float[Tensor, "draw position"]:
    """Log p(answer) of the whole prompt minus that with the embedding of each token noised, draw by draw; nats."""
    size = len(tokens)
    drawn = noise(runner, size, draws, deviations)
    # Row (draw, position): the noise of that position alone.
    rows = torch.zeros(draws, size, size, drawn.shape[-1])
    places = torch.arange(size)
    rows[:, places, places] = drawn
    with runner.intervene(noised(rows.flatten(0, 1))):
        found = answer_log_probs(runner, [list(tokens)] * (draws * size), answer)
    (clean,) = answer_log_probs(runner, [list(tokens)], answer)
    return clean - found.view(draws, size)


def causal_trace(
    runner: Runner,
    tokens: Sequence[int],
    answer: int,
    subject: Sequence[int],
    *,
    draws: int,
    deviations: float | int = 3.0,
) -> xr.Dataset:
    """What is won back when one state of the clean run is restored into the run with the subject's embeddings noised.

    States are the residual streams before each layer, by position, through `patch_grid`; before the first layer they
    are the embeddings themselves.

    Args:
        runner: with the model.
        tokens: the prompt.
        answer: token whose log-probability is measured.
        subject: positions that are noised.
        draws: of noise.
        deviations: of the noise, in standard deviations of embeddings.

    Returns:
        `restored(layer, position)` in nats over the noised run, the mean over draws, with its bootstrap interval over
        draws (`restored_low`, `restored_high`); `noised(draw)` and `clean`, the log-probability in both runs.

    Raises:
        InputError: no subject, or positions that the prompt does not have.
    """
    size = len(tokens)
    places = [position + size if position < 0 else position for position in subject]
    if not places or not all(0 <= place < size for place in places):
        raise InputError(f"subject must be positions of the prompt's {size} tokens, not {list(subject)}.")
    added = torch.zeros(draws, size, runner.shape.d_model)
    added[:, places] = noise(runner, size, draws, deviations)[:, places]
    base = torch.tensor([list(tokens)] * draws)
    hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(runner.shape.n_layers)]
    kept = runner.capture(base[:1], *hooks)
    clean_states = Given([kept[hook].expand(draws, -1, -1) for hook in hooks])
    with runner.intervene(noised(added)):
        grid = patch_grid(
            runner, base=base, source=clean_states, site="resid_pre", per="position", metric=LogProb(answer=answer)
        )
    won = (grid["patched"] - grid["base"]).transpose("prompt", "layer", "position")
    low, high = bootstrap_interval(won.values, generator=np.random.default_rng(runner.seed))
    (clean,) = answer_log_probs(runner, [list(tokens)], answer).tolist()
    dims, units = ("layer", "position"), {"units": "nats"}
    return xr.Dataset(
        {
            "restored": (dims, won.values.mean(axis=0), units),
            "restored_low": (dims, low, units),
            "restored_high": (dims, high, units),
            "noised": ("draw", grid["base"].values, units),
            "clean": ((), clean, units),
        }
    )
