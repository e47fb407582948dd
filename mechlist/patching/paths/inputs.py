"""What receivers read when a sender alone differs: the first of path patching's two passes.

What a sender adds to the residual stream at a token follows from the two plain runs; and between a sender and what
reads it no attention runs, because every head keeps what it adds in the base run. So each token goes by itself, and
tokens of many prompts and senders go through one matrix product.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.models.layers.layers import Layers
from mechlist.patching.circuits.nodes import LOGITS, QKV, Sender
from mechlist.patching.sweep.sweep import Trace

FROZEN = ("all", "heads")
Frozen = Literal["all", "heads"]
"""What keeps its base run's output between a sender and a receiver: everything, or heads alone."""
BEFORE = "resid_pre"
"""The residual stream before a layer."""


@dataclass(frozen=True)
class Runs:
    """Base and source runs of a block of prompts; lists hold one tensor a layer, and none without MLPs."""

    layers: Layers
    made: Trace
    """With z as its site, so that `source` is the source runs' z."""
    source_embedded: Float[Tensor, "prompt position d_model"]
    mlp_in: list[Float[Tensor, "prompt position d_model"]]
    """What MLPs read in the base runs."""
    mlp_out: list[Float[Tensor, "run position d_model"]]
    """What they add in the base runs, and after them in the source runs."""


@dataclass(frozen=True)
class Tokens:
    """Packed tokens of pairs of a prompt and a sender, by the senders' stages."""

    pair: Int[Tensor, " token"]
    prompt: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    stage: Int[Tensor, " token"]
    """Of the sender; ascending."""

    def __getitem__(self, chosen: Tensor) -> "Tokens":
        return Tokens(*(column[chosen] for column in (self.pair, self.prompt, self.position, self.stage)))

    def before(self, stage: int) -> int:
        """How many, from the first on, are of senders that a receiver of this stage reads."""
        return int(torch.searchsorted(self.stage, stage, right=True))


@dataclass(frozen=True)
class Inputs:
    """What follows at receivers from each token's change of the residual stream."""

    values: dict[tuple[str, int], Tensor]
    """By site and layer: q, k, v [token any_head d_head], mlp_out [token d_model], and the residual stream before the
    layer that follows a changed MLP. They are of the tokens, from the first on, whose senders they read."""
    final: Float[Tensor, "read_token d_model"] | None
    """Change of the residual stream after the last layer of the tokens that are read, if that is wanted."""


def differences(runs: Runs, senders: Sequence[Sender], tokens: Tokens) -> Float[Tensor, "token d_model"]:
    """What each token's sender adds to the residual stream in the source run less what it adds in the base run.

    `senders` are those of the pairs. A norm after attention has the scale of each run.
    """
    device = runs.source_embedded.device
    out = runs.source_embedded.new_zeros(len(tokens.pair), runs.source_embedded.shape[-1])
    layer = torch.tensor([sender.layer for sender in senders])[tokens.pair]
    head = torch.tensor([-1 if sender.head is None else sender.head for sender in senders])[tokens.pair]
    for of_layer, of_heads in torch.stack([layer, (head >= 0).long()]).unique(dim=1).T.tolist():
        index = ((layer == of_layer) & ((head >= 0) == bool(of_heads))).nonzero()[:, 0]
        prompt, position = (column[index].to(device) for column in (tokens.prompt, tokens.position))
        if of_heads:
            difference = _head_differences(runs, of_layer, prompt, position, head[index].to(device))
        elif of_layer < 0:
            difference = runs.source_embedded[prompt, position] - runs.made.residual[0][prompt, position]
        else:
            both = runs.mlp_out[of_layer]
            difference = both[len(runs.source_embedded) + prompt, position] - both[prompt, position]
        out[index.to(device)] = difference
    return out


def _head_differences(
    runs: Runs,
    layer: int,
    prompt: Int[Tensor, " token"],
    position: Int[Tensor, " token"],
    head: Int[Tensor, " token"],
) -> Float[Tensor, "token d_model"]:
    """Heads of one layer, at each position once however many of them send from there."""
    places, which = torch.stack([prompt, position]).unique(dim=1, return_inverse=True)
    source, base = (
        runs.layers.head_outputs(layer, z[places[0], places[1]]) for z in (runs.made.source[layer], runs.made.z[layer])
    )
    return (source - base)[which, head]


def inputs(
    runs: Runs,
    tokens: Tokens,
    difference: Float[Tensor, "token d_model"],
    read: Bool[Tensor, " token"],
    frozen: Frozen,
    wanted: Collection[tuple[str, int]],
) -> Inputs:
    """What receivers make of the tokens' changes.

    Args:
        runs: of the prompts.
        tokens: by their senders' stages.
        difference: what they add to the residual stream.
        read: whether the metric reads the token's position: after the last other receiver the logits need no others.
        frozen: `all` lets the difference alone arrive; `heads` computes the MLPs on the way again.
        wanted: kind and layer of receivers, as nodes have them.
    """
    n_layers = runs.layers.n_layers
    to_logits = (LOGITS, n_layers) in wanted
    end = max((layer for kind, layer in wanted if kind != LOGITS), default=-1) + 1
    values: dict[tuple[str, int], Tensor] = {}
    delta = difference.clone()
    for layer in range(end):
        passing = frozen == "heads" and (to_logits or layer + 1 < end)
        _through(runs, layer, tokens, delta, wanted, values, passing=passing)
    if not to_logits:
        return Inputs(values, None)
    tokens, delta = tokens[read], delta[read.to(delta.device)]
    for layer in range(end, n_layers if frozen == "heads" else end):
        _through(runs, layer, tokens, delta, (), values, passing=True)
    return Inputs(values, delta)


def _through(
    runs: Runs,
    layer: int,
    tokens: Tokens,
    delta: Float[Tensor, "token d_model"],
    wanted: Collection[tuple[str, int]],
    values: dict[tuple[str, int], Tensor],
    *,
    passing: bool,
) -> None:
    """Add the values of a layer's receivers; and to the change before the layer, if it is `passing`, its MLP's."""
    layers = runs.layers
    prompt, position = tokens.prompt.to(delta.device), tokens.position.to(delta.device)
    if any((kind, layer) in wanted for kind in QKV):
        count = tokens.before(2 * layer)
        stream = runs.made.residual[layer][prompt[:count], position[:count]] + delta[:count]
        made = zip(QKV, layers.project(layer, stream), strict=True)
        values |= {(kind, layer): value for kind, value in made if (kind, layer) in wanted}
    if layers.attn_only or not (passing or ("mlp", layer) in wanted):
        return
    count = tokens.before(2 * layer + (not layers.parallel))
    here = prompt[:count], position[:count]
    new = layers.mlp(layer, runs.mlp_in[layer][here] + delta[:count])
    change = new - runs.mlp_out[layer][here]
    if ("mlp", layer) in wanted:
        values["mlp_out", layer] = new
        values[BEFORE, layer + 1] = runs.made.residual[layer + 1][here] + change
    if passing:
        delta[:count] += change
