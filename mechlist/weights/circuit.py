"""Circuits between tokens, read off the weights: does a token's entry stand out on the diagonal?

Two circuits of ARENA 1.2 (SOURCES.md, 003), after Elhage et al. 2021. Both leave out positional embeddings, biases,
rotary rotation, query-key norms, the data-dependent part of layer norms (and their gain and centring, where these are
not folded into the weights) and every MLP; where MLP0 remakes the embedding of a token, as in GPT-2, that matters.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist import effort
from mechlist.errors import InputError
from mechlist.models.factored import check_head, embedding, head_weights, unembedding
from mechlist.types import Head, head_name

Axis = Literal["query", "key"]

CHUNK_BYTES = 2**26
BYTES_PER_SCORE = 16
"""A float32 score, three comparisons, the int32 that counting makes of each, and what allocators keep."""


class Circuit(NamedTuple):
    """Scores [query, key] as two factors: `query_side @ key_side.T`, before the division by sqrt(d_head)."""

    query_side: Float[Tensor, "vocab d_head"]
    key_side: Float[Tensor, "vocab d_head"]


class OVCircuit(NamedTuple):
    """Logits [source, output] as two factors: `source_side @ output_side.T`; several heads stand side by side."""

    source_side: Float[Tensor, "vocab rank"]
    output_side: Float[Tensor, "vocab rank"]


def k_composition_circuit(module: Any, previous: Head, induction: Head) -> Circuit:
    """How much a token as query attends to what `previous` wrote about each token, at the position after it.

    Query side W_E W_Q of the induction head; key side W_E W_V W_O of the previous-token head, then W_K of the induction
    head. In float32 at least.

    Raises:
        InputError: a layer or head that is not there, or a previous-token head that is not in an earlier layer.
    """
    check_head(module, *previous, name="previous head")
    check_head(module, *induction, name="induction head")
    if previous[0] >= induction[0]:
        raise InputError(
            f"previous head {head_name(previous)} must be in an earlier layer than the induction head "
            f"{head_name(induction)}."
        )
    first, second = head_weights(module, *previous), head_weights(module, *induction)
    key_map = _exact(first.W_V) @ (_exact(first.W_O) @ _exact(second.W_K))
    words = embedding(module)
    return Circuit(_project(words, _exact(second.W_Q)), _project(words, key_map))


def copying_circuit(module: Any, heads: Sequence[Head]) -> OVCircuit:
    """What attending to each token adds to each logit, W_E W_V W_O W_U, summed over `heads`. In float32 at least.

    Raises:
        InputError: no head, one twice, one that is not there, or a model whose outputs are not its input tokens.
    """
    if not heads or len(set(heads)) < len(heads):
        raise InputError(f"heads must name at least one head, and none twice, not {[head_name(h) for h in heads]}.")
    for head in heads:
        check_head(module, *head)
    words, outputs = embedding(module), unembedding(module).mT
    if len(words) != len(outputs):
        raise InputError(f"This model reads {len(words)} tokens and writes {len(outputs)}: no token to copy to.")
    weights = [head_weights(module, *head) for head in heads]
    values = torch.cat([_exact(w.W_V) for w in weights], dim=1)
    writes = torch.cat([_exact(w.W_O) for w in weights], dim=0)
    return OVCircuit(_project(words, values), _project(outputs, writes.mT))


def circuit_top_k_accuracy(
    query_side: Float[Tensor, "vocab d_head"],
    key_side: Float[Tensor, "vocab d_head"],
    *,
    axis: Axis,
    k: int = 1,
    chunk_bytes: int = CHUNK_BYTES,
) -> float:
    """Share of tokens whose own entry is among the `k` largest, between 0 and 1. Guessing gives k / vocab.

    `axis` is what the largest are sought over:

    - "key": for each query token, its own key among all keys (the row of scores [query, key]). ARENA's page: it says
      "argmax of each column (dim 0)" of the transpose, and prints "the highest activating key is the same token".
    - "query": for each key token, its own query among all queries (the column). ARENA's solutions.py: argmax(dim=1) of
      the transpose, so this is the number that its code prints.

    Ties count as for argmax: see `diagonal_ranks`. For several k, take `top_k_share` of `circuit_ranks`.

    Raises:
        InputError: another axis, or `k` below 1 or above the vocabulary.
    """
    return top_k_share(circuit_ranks(query_side, key_side, axis=axis, chunk_bytes=chunk_bytes), k)


def circuit_ranks(
    query_side: Float[Tensor, "vocab d_head"],
    key_side: Float[Tensor, "vocab d_head"],
    *,
    axis: Axis,
    chunk_bytes: int = CHUNK_BYTES,
) -> Int[Tensor, " vocab"]:
    """How many entries come before each token's own along `axis`, as in `circuit_top_k_accuracy`; for every k at once.

    Raises:
        InputError: another axis.
    """
    if axis not in ("query", "key"):
        raise InputError(f"axis must be 'query' or 'key', not {axis!r}.")
    rows, columns = (query_side, key_side) if axis == "key" else (key_side, query_side)
    return diagonal_ranks(rows, columns, chunk_bytes=chunk_bytes)


def copying_accuracy(module: Any, heads: Sequence[Head], *, k: int = 1, chunk_bytes: int = CHUNK_BYTES) -> float:
    """Share of tokens whose own logit is among the `k` that attending to them raises most, between 0 and 1.

    The sum over several heads is what they write together when all attend to the token (ARENA: 1.4 and 1.10).

    Raises:
        InputError: as `copying_circuit`, or `k` below 1 or above the vocabulary.
    """
    return top_k_share(diagonal_ranks(*copying_circuit(module, heads), chunk_bytes=chunk_bytes), k)


def diagonal_ranks(
    rows: Float[Tensor, "vocab rank"], columns: Float[Tensor, "vocab rank"], *, chunk_bytes: int = CHUNK_BYTES
) -> Int[Tensor, " vocab"]:
    """How many entries of each row of `rows @ columns.T` come before the diagonal one; 0 is the largest.

    Of equal scores the first column comes first, as in argmax. Equal means equal as computed: rounding may part scores
    that are equal on paper. Memory beyond the factors is about `chunk_bytes`, or one row of scores if that is more.

    Raises:
        InputError: factors that are not finite, or no room for a chunk.
    """
    if chunk_bytes < 1:
        raise InputError(f"chunk_bytes must be at least 1, not {chunk_bytes}.")
    if not (rows.isfinite().all() and columns.isfinite().all()):
        raise InputError("The circuit's factors hold values that are not finite; check the model's weights.")
    index = torch.arange(len(columns), device=rows.device)
    step = max(1, chunk_bytes // (BYTES_PER_SCORE * len(columns)))
    ranks = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    # While a run is planned only the first few tokens are ranked.
    for part in effort.slices(len(rows), step, f"the exact circuit of {len(rows):,} tokens, from weights"):
        ranks[part] = _ranks(rows[part], columns, index, index[part])
    return ranks


def _ranks(
    rows: Float[Tensor, "row rank"],
    columns: Float[Tensor, "vocab rank"],
    index: Int[Tensor, " vocab"],
    own: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    scores = rows @ columns.mT
    diagonal = scores.gather(1, own[:, None])
    before = torch.where(index < own[:, None], scores >= diagonal, scores > diagonal)
    # Left alone, torch counts booleans by way of an int64 copy.
    return before.sum(1, dtype=torch.int32)


def top_k_share(ranks: Int[Tensor, " vocab"], k: int) -> float:
    """Share of tokens with fewer than `k` entries before their own.

    Raises:
        InputError: `k` below 1 or above the vocabulary.
    """
    if not 1 <= k <= len(ranks):
        raise InputError(f"k must be from 1 to {len(ranks)}, the vocabulary, not {k}.")
    return int((ranks < k).sum()) / len(ranks)


def _project(
    tokens: Float[Tensor, "vocab d_model"], matrix: Float[Tensor, "d_model rank"]
) -> Float[Tensor, "vocab rank"]:
    # In parts, because the exact copy of a large vocabulary in half precision would be larger than the model.
    return torch.cat([_exact(part) @ matrix for part in tokens.split(8192)])


def _exact(weight: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """At least float32."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
