"""The last part of a training of SAEs: towards what the model makes of reconstructions, and not these alone.

A short fine-tune on the divergence of the model's predictions, with the error of reconstruction beside it, makes up
much of what is lost by a splice (Karvonen 2025, "Revisiting End-To-End Sparse Autoencoder Training"): the error that
is left goes where the model does not look.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.runner import Runner

LEARNING_RATE = 2e-4
WARM_UP = 5
"""Steps after which the learning rate is whole; over the last half of all steps it falls to 0."""
ERROR = 0.3
"""Weight of the share of variance that is not explained, beside the divergence in nats."""


def tune(
    runner: Runner,
    trainers: Sequence[Any],
    hooks: Sequence[str],
    rows: Sequence[Int[Tensor, " _"]],
    *,
    updates: int,
    rate: float,
) -> float:
    """One step of every SAE on these rows, in so many updates; the mean loss.

    Args:
        runner: with the model, which does not change.
        trainers: of sae_lens, whose SAEs and optimisers do.
        hooks: residual streams after a layer, one a trainer.
        rows: of any length; those of like length share an update.
        updates: parts of the rows.
        rate: learning rate.
    """
    losses = []
    for part in np.array_split(np.argsort([len(row) for row in rows], kind="stable"), updates):
        own = [rows[i] for i in part]
        tokens = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
        real = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in own])[:, None]
        tokens, real = (one.to(runner.language_model.device) for one in (tokens, real))
        with torch.no_grad():
            logits, cache = runner.model.run_with_cache(tokens, names_filter=list(hooks))
        target = logits[real].log_softmax(-1)
        for trainer, hook in zip(trainers, hooks, strict=True):
            for group in trainer.optimizer.param_groups:
                group["lr"] = rate
            losses.append(_update(runner.model, trainer, int(hook.split(".")[1]), cache[hook], real, target))
    return sum(losses) / len(losses)


def rate_of(step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, 2 * (steps - step) / steps)


def _update(
    model: Any,
    trainer: Any,
    layer: int,
    stream: Float[Tensor, "row position d_model"],
    real: Bool[Tensor, "row position"],
    target: Float[Tensor, "token vocab"],
) -> float:
    """The SAE takes the place of the stream at all real tokens but BOS, whose activation is unlike all others."""
    scale, sae = trainer.activation_scaler.scaling_factor, trainer.sae
    counted = real.clone()
    counted[:, 0] = False
    x = stream[counted]
    with torch.enable_grad():
        features = sae.encode(x * scale)
        made = sae.decode(features) / scale
        missed = (made - x).square().sum() / (x - x.mean(0)).square().sum()
        spliced = stream.clone()
        spliced[counted] = made
        found = model(spliced, start_at_layer=layer + 1)[real].log_softmax(-1)
        loss = (target.exp() * (target - found)).sum(-1).mean() + ERROR * missed
        trainer.optimizer.zero_grad()
        # The model's own weights need no gradients.
        loss.backward(inputs=list(sae.parameters()))
    trainer.optimizer.step()
    trainer.n_forward_passes_since_fired += 1
    trainer.n_forward_passes_since_fired[(features.detach() > 0).any(0)] = 0
    return float(loss.detach())
