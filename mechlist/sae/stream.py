"""SAEs streamed over the activations and gradients of prompts, and the strongest features set to 0 exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner import Intervention, Rows, Runner
from mechlist.sae.ablation import exact_effects
from mechlist.sae.attribution import FeatureAttribution, Site, feature_attribution
from mechlist.sae.load import Place, opened_sae
from mechlist.sae.sae import Sae, flat
from mechlist.sae.traces import Question, Traces, prompts_at_once, trace


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What features are asked for, and at which positions."""

    question: Question
    counted: Bool[Tensor, "prompt position"]
    """Positions that count."""
    names: Sequence[str]
    """Of the prompts, for what is said of one."""
    top: int
    """Features with their positions that are kept of each prompt."""
    minus: Question | None = None
    """The same prompts with another run's tokens, whose attributions are taken off."""
    summed: bool = False
    """Add up each feature's attributions over positions."""
    steps: int = 0
    """Of integrated gradients; 0 takes the gradient at what the features are."""


def stream_attribution(
    runner: Runner, where: Sequence[Place], hooks: Sequence[str], asked: Asked
) -> tuple[list[FeatureAttribution], Float[Tensor, " prompt"]]:
    """Attribution of each SAE's features, and the metric of the prompts.

    As many prompts as memory keeps go forward and backward once, and every SAE is read once for them.

    Raises:
        InputError: a prompt on which fewer than `top` features of an SAE are active.
    """
    prompts = len(asked.question.tokens)
    size = prompts_at_once(runner, asked.question, hooks)
    size = max(1, size // 2) if asked.minus else size
    parts: list[list[FeatureAttribution]] = [[] for _ in where]
    base: list[Tensor] = []
    for start in range(0, prompts, size):
        block = list(range(start, min(start + size, prompts)))
        traces = trace(runner, asked.question.select(block), hooks)
        less = None if asked.minus is None else trace(runner, asked.minus.select(block), hooks)
        base.append(traces.base if less is None else traces.base - less.base)
        counted = asked.counted[block, : int(asked.question.lengths[block].max())]
        for own, place in zip(parts, where, strict=True):
            with opened_sae(runner, place) as sae:
                own.append(_of_sae(runner, sae, asked, block, counted, traces, less))
    joined = [FeatureAttribution(*(torch.cat(column) for column in zip(*own, strict=True))) for own in parts]
    return joined, torch.cat(base)


def stream_ablation(
    runner: Runner, where: Sequence[Place], found: Sequence[FeatureAttribution], asked: Asked, count: int
) -> list[Float[Tensor, "prompt rank"]]:
    """The exact effect of each SAE's `count` largest attributions in size, over all prompts; NaN for the others."""
    out = [torch.full(own.attribution.shape, torch.nan, dtype=torch.float64) for own in found]
    if not count:
        return out
    counted = [row.nonzero()[:, 0].tolist() for row in asked.counted]
    for own, exact, place in zip(found, out, where, strict=True):
        size = own.attribution.abs().nan_to_num(0.0)
        order = size.flatten().argsort(descending=True, stable=True)[:count]
        row, rank = (order // size.shape[1]), (order % size.shape[1])
        kept = size[row, rank] > 0
        row, rank = row[kept], rank[kept]
        if not len(row):
            continue
        with opened_sae(runner, place) as sae:
            exact[row, rank] = exact_effects(
                runner,
                sae,
                asked.question,
                prompt=row.tolist(),
                feature=own.feature[row, rank].tolist(),
                position=own.position[row, rank].tolist(),
                counted=counted,
            )
    return out


def _of_sae(
    runner: Runner,
    sae: Sae,
    asked: Asked,
    block: Sequence[int],
    counted: Bool[Tensor, "prompt position"],
    traces: Traces,
    less: Traces | None,
) -> FeatureAttribution:
    """Of one SAE."""

    def site(of: Traces, question: Question) -> Site:
        if not asked.steps:
            return Site(of.x[sae.hook], of.g[sae.hook])
        g = integrated_gradient(runner, sae, question.select(block), counted, asked.steps)
        return Site(of.x[sae.hook], g)

    minus = None if less is None or asked.minus is None else site(less, asked.minus)
    found = feature_attribution(sae, site(traces, asked.question), counted, asked.top, minus=minus, summed=asked.summed)
    _check_active(found, sae.name, asked, block)
    return found


def integrated_gradient(
    runner: Runner, sae: Sae, question: Question, counted: Bool[Tensor, "prompt position"], steps: int
) -> Float[Tensor, "prompt position d_in"]:
    """Mean gradient at the SAE's hook while its features grow from 0 to what they are, its error kept (midpoints).

    Times the features it adds up to what the metric loses without them (Sundararajan et al. 2017), up to the steps.
    """
    total: Tensor | None = None
    for step in range(steps):
        with runner.intervene(_grown(sae, counted, (step + 0.5) / steps)):
            g = trace(runner, question, [sae.hook]).g[sae.hook]
        total = g if total is None else total + g
    assert total is not None
    return total / steps


def _grown(sae: Sae, counted: Bool[Tensor, "prompt position"], share: float) -> Intervention:
    """All features of the positions that count at a share of what they are."""

    def change(activation: Tensor, rows: Rows) -> Tensor:
        here = counted[rows.index][:, : activation.shape[1]].to(activation.device)
        out = flat(activation).clone()
        out[here] = out[here] - (1 - share) * (sae.decode(sae.encode(out[here])) - sae.bias).to(out)
        return out.reshape(activation.shape)

    return Intervention(sae.hook, change)


def _check_active(found: FeatureAttribution, name: str, asked: Asked, block: Sequence[int]) -> None:
    few = (found.n_active < asked.top).nonzero()[:, 0].tolist()
    if not few:
        return
    active, prompt = int(found.n_active[few[0]]), asked.names[block[few[0]]]
    if not active:
        raise InputError(f"No feature of {name} is active at any position that counts in {prompt}.")
    what = "features" if asked.summed else "features at positions"
    raise InputError(f"top must be at most the {active} {what} of {name} that are active in {prompt}, not {asked.top}.")
