"""Heads read off the weights: their circuits as factors, eigenvalue and copying scores, attention between positions.

After Elhage et al. 2021; what `mechlist.weights.circuit` says of what circuits leave out holds here too. Nothing is
vocabulary x vocabulary: the eigenvalues of a circuit between tokens, W_E W_V W_O W_U, are those of the small matrix
W_O (W_U W_E) W_V, and the middle of that is d_model x d_model.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.factored import (
    FactoredMatrix,
    check_head,
    embedding,
    head_weights,
    layer_weights,
    unembedding,
)
from mechlist.types import Head
from mechlist.weights.blocked import Progress
from mechlist.weights.circuit import copying_circuit, diagonal_ranks

BLOCK_TOKENS = 8192
MEAN_TOKENS = 256
"""Over which the input at a position is averaged."""


class TokenProducts(NamedTuple):
    """Sums over the vocabulary in which all circuits between tokens can be looked at. In float64 on the CPU."""

    reads_own: Float[Tensor, "d_model d_model"]
    """W_E^T W_E."""
    writes_own: Float[Tensor, "d_model d_model"]
    """W_U W_E: what is written, as it is read."""


def qk_circuit(module: Any, head: Head) -> FactoredMatrix:
    """W_Q W_K^T [d_model, d_model], before the division by sqrt(d_head): queries from the left, keys from the right.

    Raises:
        InputError: a layer or head that is not there.
    """
    check_head(module, *head)
    weights = head_weights(module, *head)
    return FactoredMatrix(weights.W_Q, weights.W_K.mT)


def ov_circuit(module: Any, head: Head) -> FactoredMatrix:
    """W_V W_O [d_model, d_model]: what is read from the left, what is written to the right.

    Raises:
        InputError: a layer or head that is not there.
    """
    check_head(module, *head)
    weights = head_weights(module, *head)
    return FactoredMatrix(weights.W_V, weights.W_O)


@torch.no_grad()
def token_products(module: Any, progress: Progress | None = None) -> TokenProducts:
    """Both products, by blocks of tokens.

    Raises:
        InputError: a model whose outputs are not its input tokens.
    """
    words, outputs = embedding(module), unembedding(module)
    if len(words) != outputs.shape[1]:
        raise InputError(f"This model reads {len(words)} tokens and writes {outputs.shape[1]}: no circuit to itself.")
    width = words.shape[1]
    reads, writes = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
    for start in range(0, len(words), BLOCK_TOKENS):
        block = words[start : start + BLOCK_TOKENS].float()
        reads += (block.mT @ block).cpu()
        writes += (outputs[:, start : start + BLOCK_TOKENS].float() @ block).cpu()
        if progress is not None:
            progress(len(block))
    return TokenProducts(reads, writes)


def eigenvalue_score(small: Float[Tensor, "*batch rank rank"]) -> Float[Tensor, "*batch"]:
    """Sum of the eigenvalues over the sum of their sizes, from -1 to 1; near 1 for a circuit that keeps what it reads.

    `small` has the eigenvalues of the circuit that are not 0. NaN where all are 0.
    """
    values = torch.linalg.eigvals(small.double())
    return values.real.sum(-1) / values.abs().sum(-1)


def layer_eigenvalue_scores(
    module: Any, layer: int, sums: TokenProducts
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """Of each head's OV circuit (copying, if positive) and QK circuit (attending to the same token), between tokens."""
    weights = layer_weights(module, layer)
    q, k, v, o = (w.double().cpu() for w in (weights.W_Q, weights.W_K, weights.W_V, weights.W_O))
    return eigenvalue_score(o @ sums.writes_own @ v), eigenvalue_score(k.mT @ sums.reads_own @ q)


def random_eigenvalue_scores(
    sums: TokenProducts, d_head: int, *, samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, " sample"], Float[Tensor, " sample"]]:
    """The same of heads with normal weights, between the same tokens: what a score of OV and of QK is worth."""
    width = len(sums.reads_own)
    drawn = torch.randn(4, samples, width, d_head, generator=generator, dtype=torch.float64)
    q, k, v, o = drawn
    return eigenvalue_score(o.mT @ sums.writes_own @ v), eigenvalue_score(k.mT @ sums.reads_own @ q)


def copying_ranks(
    module: Any, head: Head, *, tokens: Int[Tensor, " token"] | None = None, progress: Progress | None = None
) -> Int[Tensor, " token"]:
    """How many tokens gain more than a token itself when the head attends to it, for `tokens` or all.

    Raises:
        InputError: as `copying_circuit`.
    """
    source, output = copying_circuit(module, [head], tokens=tokens)
    return diagonal_ranks(source, output, own=tokens, progress=progress)


@torch.no_grad()
def previous_position_attention(module: Any, layer: int) -> Float[Tensor, " head"] | None:
    """Mean attention from each position to the one before, by learned positions alone; None for a model without them.

    What stands at a position is the mean over tokens of norm(W_E + W_pos); scores are those of its queries and keys,
    with biases, under a causal softmax. Layers before are left out. Where positions are rotated into queries and keys
    there is nothing to read without tokens.
    """
    positions = getattr(module, "W_pos", None)
    if positions is None or getattr(module.cfg, "positional_embedding_type", None) != "standard":
        return None
    weights, attn = layer_weights(module, layer), module.blocks[layer].attn
    heads = len(weights.W_Q)
    q_bias, k_bias = (
        bias.detach().float().repeat_interleave(heads // len(bias), dim=0)[:, None] for bias in (attn.b_Q, attn.b_K)
    )
    places = _mean_inputs(module, layer, positions.detach())
    queries, keys = places @ weights.W_Q.float() + q_bias, places @ weights.W_K.float() + k_bias
    scale = float(getattr(module.cfg, "attn_scale", weights.W_Q.shape[2] ** 0.5))
    found = []
    for query, key in zip(queries, keys, strict=True):
        scores = query @ key.mT / scale
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        found.append(scores.masked_fill(future, -torch.inf).softmax(-1).diagonal(-1).mean())
    return torch.stack(found).cpu()


def _mean_inputs(
    module: Any, layer: int, positions: Float[Tensor, "position d_model"]
) -> Float[Tensor, "position d_model"]:
    """What a layer's attention reads at each position, averaged over tokens spread through the vocabulary."""
    words, norm = embedding(module), getattr(module.blocks[layer], "ln1", None)
    chosen = torch.linspace(0, len(words) - 1, min(MEAN_TOKENS, len(words))).long()
    total = torch.zeros_like(positions, dtype=torch.float32)
    for token in chosen.tolist():
        stream = (words[token] + positions)[None]
        total += (stream if norm is None else norm(stream))[0].float()
    return total / len(chosen)
