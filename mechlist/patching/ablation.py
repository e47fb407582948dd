"""Ablation of attention heads: what the model predicts without them."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.metrics.logits import NextToken
from mechlist.runner import Intervention, Runner, replace
from mechlist.types import Head

Mode = Literal["zero", "mean"]


def ablated_next_tokens(
    runner: Runner, tokens: Int[Tensor, "prompt position"], heads: Sequence[Head], mode: Mode
) -> NextToken:
    """Log-probability (nats) and correctness of every next token, [prompt position-1], with `heads` ablated.

    `zero` sets a head's output z to 0; `mean` to its mean over the prompts at the same position, which leaves what
    the head says of every prompt alike and is the milder intervention.

    Raises:
        InputError: a layer or head that the model does not have.
    """
    with runner.intervene(*ablations(runner, tokens, heads, mode)):
        out = runner.map(tokens, lambda batch: batch.next_tokens()._asdict(), label=f"Ablating heads ({mode})")
    return NextToken(out["log_prob"], out["correct"])


def ablations(
    runner: Runner, tokens: Int[Tensor, "prompt position"], heads: Sequence[Head], mode: Mode
) -> list[Intervention]:
    """One intervention a layer that sets the heads' z to zero or to its mean over prompts."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    hooks = {layer: runner.hooks(f"blocks.{layer}.attn.hook_z")[0] for layer in by_layer}
    if mode == "zero":
        return [
            replace(hooks[layer], _nothing(runner, layer, chosen, tokens), heads=chosen)
            for layer, chosen in by_layer.items()
        ]
    means = mean_over_prompts(runner, tokens, list(hooks.values()))
    out: list[Intervention] = []
    for layer, chosen in by_layer.items():
        mean = means[hooks[layer]][:, chosen].expand(len(tokens), -1, -1, -1)
        out.append(replace(hooks[layer], mean, heads=chosen))
    return out


def _nothing(runner: Runner, layer: int, heads: list[int], tokens: Tensor) -> Tensor | float:
    """Z of heads that write nothing: zero, but for value biases that processing has moved."""
    value = runner.language_model.nothing("z", layer)
    return 0.0 if value is None else value[heads].expand(*tokens.shape, -1, -1)


def mean_over_prompts(
    runner: Runner, tokens: Int[Tensor, "prompt position"], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "position ..."]]:
    """Mean activation at every position over prompts of equal length, by hook, in float32."""
    kept = runner.capture(tokens, *hooks)
    return {hook: value.float().mean(dim=0) for hook, value in kept.items()}


def matched_random_heads(
    heads: Sequence[Head], excluded: Sequence[Head], shape: tuple[int, int], generator: torch.Generator
) -> list[Head]:
    """As many heads as `heads`, at random, from the same layers while they last; none of them in `excluded`.

    Fewer, when the model has no more. `shape` is (layers, heads a layer).
    """
    free = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    free = [head for head in free if head not in {*heads, *excluded}]
    order = [free[i] for i in torch.randperm(len(free), generator=generator).tolist()]
    chosen: list[Head] = []
    for layer, _ in heads:
        same = [head for head in order if head[0] == layer and head not in chosen]
        rest = [head for head in order if head not in chosen]
        chosen += (same or rest)[:1]
    return sorted(chosen)
