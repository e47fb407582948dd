"""What a model decides along a list, with some heads changed where that is asked for."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.experiments.list_tree.lists import OneList
from mechlist.runner import Intervention, Rows, Runner
from mechlist.runner.batch import Batch
from mechlist.types import Head

DECISIONS = ("filler", "end", "next_item")
"""Of a blank behind an item, and of the end of turn and another hyphen behind its line break."""


def heads_of(runner: Runner, source: OneList, heads: Sequence[Head]) -> AbstractContextManager[None]:
    """A context in which heads have, at every position of the list, the output z that they have in `source`."""
    layers = sorted({layer for layer, _ in heads})
    hooks = {layer: f"blocks.{layer}.attn.hook_z" for layer in layers}
    kept = runner.capture([list(source.tokens)], *hooks.values())
    return runner.intervene(
        *(
            Intervention(hook, _putting(kept[hook][0], [head for at, head in heads if at == layer]))
            for layer, hook in hooks.items()
        )
    )


def _putting(value: Float[Tensor, "position head d_head"], heads: list[int]) -> Callable[[Tensor, Rows], Tensor]:
    def change(activation: Tensor, rows: Rows) -> Tensor:  # noqa: ARG001 (an Intervention's)
        out = activation.clone()
        size = min(len(value), out.shape[1])
        # What is written behind the list has nothing to be taken from.
        out[:, :size, heads] = value[:size, heads].to(out)
        return out

    return change


def decisions(runner: Runner, one: OneList) -> Float[np.ndarray, "item decision"]:
    """P(filler) at each item's last token, P(end) and P(next item) at its line break."""
    special = one.special
    last, breaks = (list(positions) for positions in zip(*one.places, strict=True))

    def function(batch: Batch) -> dict[str, Tensor]:
        probs = batch.logits().float().softmax(dim=-1)
        return {
            "end": probs[..., list(special.ends)].sum(-1),
            "filler": probs[..., special.blank],
            "next": probs[..., special.hyphen],
        }

    found = runner.map(
        [list(one.tokens)],
        function,
        positions=last + breaks,
        row_bytes=lambda _, kept: 8 * kept * runner.shape.d_vocab_out,
        label="Reading the list",
    )
    size = len(last)
    parts = [found["filler"][0, :size], found["end"][0, size:], found["next"][0, size:]]
    return torch.stack(parts, dim=1).double().numpy()
