"""How well an SAE reconstructs activations of prompts that it was not trained on, and what a model loses by it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.runner import Intervention, Rows, Runner, replace
from mechlist.sae.sae import Sae, flat
from mechlist.text import joined

LEAST = {"explained_variance": 0.5, "ce_recovered": 0.9}
"""Below these an SAE fails the check."""


def warning(names: Sequence[str], explained_variance: Sequence[float], ce_recovered: Sequence[float]) -> str:
    """Names the SAEs that fail, loudly, for every figure that rests on them; empty where none does."""
    scores = zip(names, explained_variance, ce_recovered, strict=True)
    failed = [
        name
        for name, explained, recovered in scores
        if not (explained >= LEAST["explained_variance"] and recovered >= LEAST["ce_recovered"])
    ]
    if not failed:
        return ""
    return (
        f"WARNING: {joined(failed)} fail{'s' if len(failed) == 1 else ''} the check here (explained variance below "
        f"{LEAST['explained_variance']} or cross-entropy recovered below {LEAST['ce_recovered']}): what the features "
        "say of these lists is not to be trusted. "
    )


class Reconstruction(NamedTuple):
    """Over all positions that count."""

    explained_variance: float
    """1 - |x - SAE(x)|^2 / |x - mean of x|^2."""
    l0: float
    """Active features at a position, on average."""
    active: Bool[Tensor, " feature"]
    """Features that are active anywhere."""


def spliced(sae: Sae, counted: Bool[Tensor, "prompt position"]) -> Intervention:
    """Put the SAE's reconstruction in the place of the activation, at the positions that count; no error is kept."""

    def change(activation: Tensor, rows: Rows) -> Tensor:
        here = counted[rows.index][:, : activation.shape[1]].to(activation.device)
        out = flat(activation).clone()
        out[here] = sae.decode(sae.encode(out[here])).to(out)
        return out.reshape(activation.shape)

    return Intervention(sae.hook, change)


def reconstruction(
    runner: Runner, sae: Sae, rows: Sequence[Tensor], counted: Bool[Tensor, "prompt position"]
) -> Reconstruction:
    """What the SAE makes of the activations of prompts at the positions that count."""
    activations = flat(runner.capture(rows, sae.hook)[sae.hook])
    x = activations[counted[:, : activations.shape[1]]]
    mean = x.double().mean(0)
    missed = whole = 0.0
    n_active, active = 0, torch.zeros(sae.d_sae, dtype=torch.bool)
    for piece in x.split(max(1, runner.shares.metric_logits // (4 * 4 * sae.d_sae))):
        features = sae.encode(piece.to(sae.decoder.device))
        missed += float((piece.double() - sae.decode(features).double().cpu()).square().sum())
        whole += float((piece.double() - mean).square().sum())
        n_active += int((features != 0).sum())
        active |= (features != 0).any(dim=0).cpu()
    return Reconstruction(1 - missed / whole if whole else float("nan"), n_active / len(x), active)


class CrossEntropy(NamedTuple):
    """Of the next token, in nats, mean over the tokens that count."""

    clean: float
    spliced: float
    zero: float
    """With the activation set to 0 at all positions, BOS included."""

    @property
    def recovered(self) -> float:
        """sae_lens's `ce_loss_score`: 1 where the splice changes nothing, 0 where it is as bad as setting to 0."""
        return (self.zero - self.spliced) / (self.zero - self.clean) if self.zero != self.clean else float("nan")


def cross_entropy(
    runner: Runner,
    sae: Sae,
    rows: Sequence[Tensor],
    counted: Bool[Tensor, "prompt position"],
    scored: Bool[Tensor, "prompt next"],
) -> CrossEntropy:
    """Cross-entropy as it is, with the SAE in the place of its activation, and with the activation set to 0.

    Args:
        runner: with the model.
        sae: that is spliced in.
        rows: prompts.
        counted: positions at which it is.
        scored: next tokens that are predicted: entry i is the token at i + 1.
    """

    def mean(*interventions: Intervention) -> float:
        with runner.intervene(*interventions):
            log_probs: Float[Tensor, "prompt next"] = runner.log_probs(rows)
        return -float(log_probs[scored[:, : log_probs.shape[1]]].double().mean())

    return CrossEntropy(mean(), mean(spliced(sae, counted)), mean(replace(sae.hook, 0.0)))
