"""Circuits between tokens, read off the weights: does a token's entry stand out on the diagonal?

Two circuits of ARENA 1.2, after Elhage et al. 2021. Both leave out positional embeddings, biases,
rotary rotation, query-key norms, the data-dependent part of layer norms (and their gain and centring, where these are
not folded into the weights) and every MLP; where MLP0 remakes the embedding of a token, as in GPT-2, that matters.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.factored import check_head, embedding, head_weights, unembedding
from mechlist.types import Head, head_name
from mechlist.weights.blocked import PRODUCT_BYTES, Progress, Tile, products

Axis = Literal["query", "key"]

EXACT_FLOPS = 6e12
"""Of both axes of a circuit: about a minute on two cores. What takes more is read on a sample of the tokens."""
SAMPLE = 2000
"""Tokens of such a sample: the interval of a share then has a half-width of .022 at most."""


class Circuit(NamedTuple):
    """Scores [query, key] as two factors: `query_side @ key_side.T`, before the division by sqrt(d_head)."""

    query_side: Float[Tensor, "vocab d_head"]
    key_side: Float[Tensor, "vocab d_head"]


class OVCircuit(NamedTuple):
    """Logits [source, output] as two factors: `source_side @ output_side.T`; several heads stand side by side."""

    source_side: Float[Tensor, "token rank"]
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


def copying_circuit(module: Any, heads: Sequence[Head], *, tokens: Int[Tensor, " token"] | None = None) -> OVCircuit:
    """What attending to each token adds to each logit, W_E W_V W_O W_U, summed over `heads`. In float32 at least.

    The source side holds the rows of `tokens`, or of all.

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
    chosen = words if tokens is None else words[tokens.to(words.device)]
    return OVCircuit(_project(chosen, values), _project(outputs, writes.mT))


def sampled_tokens(
    vocab: int, rank: int, count: int | None, generator: torch.Generator
) -> Int[Tensor, " token"] | None:
    """Tokens whose rows of a circuit are read, in rising order; None for all of them.

    Args:
        vocab: tokens of the vocabulary.
        rank: of the circuit: columns of its factors.
        count: tokens that are read, 0 for all; None for all where both axes take about a minute, and else `SAMPLE`.
        generator: of the sample, which is drawn without replacement.

    Raises:
        InputError: a negative count.
    """
    if count is not None and count < 0:
        raise InputError(f"circuit_tokens must be 0 (all tokens) or more, not {count}.")
    if count is None:
        count = 0 if 4.0 * vocab * vocab * rank <= EXACT_FLOPS else SAMPLE
    if count == 0 or count >= vocab:
        return None
    return torch.randperm(vocab, generator=generator)[:count].sort().values


def circuit_top_k_accuracy(
    query_side: Float[Tensor, "vocab d_head"],
    key_side: Float[Tensor, "vocab d_head"],
    *,
    axis: Axis,
    k: int = 1,
    tile_bytes: int = PRODUCT_BYTES,
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
    return top_k_share(circuit_ranks(query_side, key_side, axis=axis, tile_bytes=tile_bytes), k)


def circuit_ranks(
    query_side: Float[Tensor, "vocab d_head"],
    key_side: Float[Tensor, "vocab d_head"],
    *,
    axis: Axis,
    tokens: Int[Tensor, " token"] | None = None,
    tile_bytes: int = PRODUCT_BYTES,
    progress: Progress | None = None,
) -> Int[Tensor, " token"]:
    """How many entries come before each token's own along `axis`, as in `circuit_top_k_accuracy`; for every k at once.

    Args:
        query_side: one factor.
        key_side: the other.
        axis: what the entries run along.
        tokens: that are asked about, in rising order; all by default.
        tile_bytes: of the scores that are made at a time.
        progress: called with the number of scores that are done.

    Raises:
        InputError: another axis, or as `diagonal_ranks`.
    """
    if axis not in ("query", "key"):
        raise InputError(f"axis must be 'query' or 'key', not {axis!r}.")
    rows, columns = (query_side, key_side) if axis == "key" else (key_side, query_side)
    if tokens is not None:
        rows = rows[tokens.to(rows.device)]
    return diagonal_ranks(rows, columns, own=tokens, tile_bytes=tile_bytes, progress=progress)


def copying_accuracy(module: Any, heads: Sequence[Head], *, k: int = 1, tile_bytes: int = PRODUCT_BYTES) -> float:
    """Share of tokens whose own logit is among the `k` that attending to them raises most, between 0 and 1.

    The sum over several heads is what they write together when all attend to the token (ARENA: 1.4 and 1.10).

    Raises:
        InputError: as `copying_circuit`, or `k` below 1 or above the vocabulary.
    """
    return top_k_share(diagonal_ranks(*copying_circuit(module, heads), tile_bytes=tile_bytes), k)


def diagonal_ranks(
    rows: Float[Tensor, "row rank"],
    columns: Float[Tensor, "vocab rank"],
    *,
    own: Int[Tensor, " row"] | None = None,
    tile_bytes: int = PRODUCT_BYTES,
    progress: Progress | None = None,
) -> Int[Tensor, " row"]:
    """How many entries of each row of `rows @ columns.T` come before its own, the diagonal one; 0 is the largest.

    Of equal scores the first column comes first, as in argmax. Equal means equal as computed: rounding may part scores
    that are equal on paper. Memory beyond the factors is about `tile_bytes`.

    Args:
        rows: one factor.
        columns: the other.
        own: the column of each row's own entry, rising; by default the column of the same number.
        tile_bytes: of the scores that are made at a time.
        progress: called with the number of scores that are done.

    Raises:
        InputError: factors that are not finite, own columns that do not rise, or no room for a tile.
    """
    if not (_finite(rows) and _finite(columns)):
        raise InputError("The circuit's factors hold values that are not finite; check the model's weights.")
    mine = torch.arange(len(rows), device=rows.device) if own is None else own.to(rows.device)
    if not (mine.diff() > 0).all():
        raise InputError("The rows' own columns must be in rising order, each once.")
    ranks = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    diagonal = rows.new_empty(0)
    for tile in products(rows, columns, tile_bytes=tile_bytes, progress=progress):
        here = mine[tile.rows]
        if tile.columns.start == 0:
            # As a tile, because a product of single rows may be rounded in another way.
            diagonal = torch.mm(rows[tile.rows], columns[here].mT).diagonal().clone()
        ranks[tile.rows] += _before(tile, here, diagonal)
    return ranks


def _before(tile: Tile, own: Int[Tensor, " row"], diagonal: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """How many scores of the tile come before each row's own; the tile's buffer holds the answers."""
    start, stop = tile.columns.start, tile.columns.stop
    above, below = (int(torch.searchsorted(own, bound)) for bound in (start, stop))
    scores, bar = tile.values, diagonal[:, None]
    # Rows are in the order of their tokens: first those whose own column stands before the tile, last those behind it.
    scores[:above].gt_(bar[:above])
    scores[below:].ge_(bar[below:])
    if below > above:
        middle, mine = scores[above:below], own[above:below, None]
        index = torch.arange(start, stop, device=own.device)
        earlier = (index < mine) & (middle == bar[above:below])
        middle.gt_(bar[above:below]).masked_fill_(earlier, 1).masked_fill_(index == mine, 0)
    # Ones and zeros are exact in float32, and half precision is not computed in.
    return scores.sum(1).to(torch.int32)


def _finite(factor: Float[Tensor, "vocab rank"]) -> bool:
    return all(bool(part.isfinite().all()) for part in factor.split(8192))


def top_k_share(ranks: Int[Tensor, " token"], k: int, *, vocab: int | None = None) -> float:
    """Share of tokens with fewer than `k` entries before their own.

    Args:
        ranks: of all tokens, or of a sample of them.
        k: places that count.
        vocab: tokens that the ranks are among; as many as there are ranks by default.

    Raises:
        InputError: `k` below 1 or above the vocabulary.
    """
    most = len(ranks) if vocab is None else vocab
    if not 1 <= k <= most:
        raise InputError(f"k must be from 1 to {most}, the vocabulary, not {k}.")
    return int((ranks < k).sum()) / len(ranks)


def _project(
    tokens: Float[Tensor, "vocab d_model"], matrix: Float[Tensor, "d_model rank"]
) -> Float[Tensor, "vocab rank"]:
    # In parts, because the exact copy of a large vocabulary in half precision would be larger than the model.
    return torch.cat([_exact(part) @ matrix for part in tokens.split(8192)])


def _exact(weight: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """At least float32."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
