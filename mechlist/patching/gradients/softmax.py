"""The exact change of an attention pattern when queries or keys are replaced, weighed by a gradient.

AtP* (Kramar et al. 2024, arXiv 2403.00745, section 3.1.1): a saturated softmax has almost no gradient, so a linear
estimate misses what a replaced query or key does.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.models.layers.layers import Layers


def queries_replaced(
    before: Float[Tensor, "prompt head query key"],
    after: Float[Tensor, "prompt head query key"],
    gradient: Float[Tensor, "prompt head query key"],
) -> Float[Tensor, "prompt query head"]:
    """Effect of each query: it changes its own row of the pattern and no other.

    Args:
        before: scores, minus infinity where a query may not look.
        after: scores of the replaced queries with the same keys.
        gradient: of the metric, with respect to the pattern.
    """
    change = after.double().softmax(-1) - before.double().softmax(-1)
    return (gradient * change).sum(-1).transpose(1, 2)


def keys_replaced(
    before: Float[Tensor, "prompt head query key"],
    after: Float[Tensor, "prompt head query key"],
    gradient: Float[Tensor, "prompt head query key"],
    places: Bool[Tensor, "prompt place key"] | None,
    kv_heads: int,
) -> Float[Tensor, "prompt place kv_head"]:
    """Effect of each set of keys, replaced together; of each key by itself for None.

    A key changes one column of the scores, and through the softmax every row that sees it; in all heads that share it.

    Args:
        before: scores, minus infinity where a query may not look.
        after: scores of the same queries with all keys replaced.
        gradient: of the metric, with respect to the pattern.
        places: which keys.
        kv_heads: heads that keys have.
    """
    if places is None:
        effect = _each_key(before.double(), after.double(), gradient.double()).transpose(1, 2)
    else:
        chosen = [torch.where(one[:, None, None], after, before) for one in places.to(before.device).unbind(1)]
        effect = torch.stack([queries_replaced(before, one, gradient).sum(1) for one in chosen], dim=1)
    return effect.unflatten(2, (kv_heads, -1)).sum(-1)


def scores(
    layers: Layers, layer: int, q: Float[Tensor, "prompt query head d_head"], k: Float[Tensor, "prompt key kv d_head"]
) -> Float[Tensor, "prompt head query key"]:
    """Attention scores of queries and keys as hook_q and hook_k see them: rotated, scaled, capped and masked."""
    positions = torch.arange(q.shape[1], device=q.device)
    kept: list[Tensor] = []

    def touch(name: str, activation: Tensor) -> Tensor:
        if name == "attn_scores":
            kept.append(activation)
        return activation

    # Only the scores are wanted: any values do.
    layers.attend(
        layer, layers.place(layer, q, positions, "q"), layers.place(layer, k, positions, "k"), k, positions, touch
    )
    return kept[0]


def _each_key(
    before: Float[Tensor, "prompt head query key"],
    after: Float[Tensor, "prompt head query key"],
    gradient: Float[Tensor, "prompt head query key"],
) -> Float[Tensor, "prompt head key"]:
    """Effect of each key by itself, in the time and memory of one pattern.

    If a row's weight on a key goes from w to w', the other keys share 1 - w' as they shared 1 - w. So the row's
    sum of gradient x change is (w' - w) (gradient at the key - mean gradient of the others by their weights).
    """
    weight, top = before.softmax(-1), before.argmax(-1, keepdim=True)
    weighted = gradient * weight
    # Log of the others' summed exponentials, and their mean gradient: the whole less the one ...
    others = before.logsumexp(-1, keepdim=True) + (-weight).log1p()
    mean = (weighted.sum(-1, keepdim=True) - weighted) / (1 - weight)
    # ... but not for the largest, which may be nearly all: there the others are added up without it.
    rest = before.scatter(-1, top, -torch.inf)
    others = others.scatter(-1, top, rest.logsumexp(-1, keepdim=True))
    mean = mean.scatter(-1, top, (gradient * rest.softmax(-1).nan_to_num(nan=0.0)).sum(-1, keepdim=True))
    change = ((after - others).sigmoid() - (before - others).sigmoid()) * (gradient - mean)
    return change.masked_fill(before == after, 0.0).sum(dim=2)
