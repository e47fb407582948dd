"""The layers of a model run one by one, compared with the model's own forward pass at every site."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.models.layers.layers import Layers
from mechlist.models.sites import ATTENTION_SITES, Site, hook_name

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 2e-2}
"""How far an activation may be from the model's own, as a share of its largest entry."""

LENGTH = 16
MOST = 64
"""Tokens that are compared when a model is loaded, and where a window is not much longer than that."""


@dataclass(frozen=True)
class OneByOne:
    """Whether a model's layers can be run one by one."""

    layers: Layers | None
    because: str | None
    """Why not, where they cannot."""
    sites: frozenset[str] = frozenset()
    """Sites at which they show what the model's own hooks show."""


Captures = Callable[[Tensor, list[str]], dict[str, Tensor]]
"""Of tokens and names of hook points: the activations of a plain pass by name, those that never fire left out; and the
final, normalised residual stream as `final`."""


def examined(
    layers: Layers,
    tokens: Int[Tensor, "1 token"],
    capture: Captures,
    hooks: frozenset[str],
    rounding: float,
) -> OneByOne:
    """The layers, if they give the model's own final residual stream, with the sites at which they agree."""
    names = {(site, n): hook_name(site, n) for site in get_args(Site) for n in range(layers.n_layers)}
    with torch.no_grad():
        theirs = capture(tokens, [name for name in names.values() if name in hooks])
        ours, final = walked(layers, tokens)
    wrong: list[str] = []
    first = None
    for (site, layer), name in names.items():
        if (site, layer) not in ours or name not in theirs:
            wrong.append(site)
        elif not miss(ours[site, layer], theirs[name]) <= rounding:
            wrong.append(site)
            first = min(first or (layer, site), (layer, site))
    by = miss(final, theirs["final"])
    if not by <= rounding:
        where = f", from {first[1]} of layer {first[0]} on" if first else ""
        return OneByOne(
            None, f"its layers, run one by one, miss its own residual stream by {by:.2g} of its largest entry{where}"
        )
    return OneByOne(layers, None, frozenset(get_args(Site)) - set(wrong))


def walked(
    layers: Layers, tokens: Int[Tensor, "row token"]
) -> tuple[dict[tuple[str, int], Tensor], Float[Tensor, "row token d_model"]]:
    """Activations by site and layer of a plain run, and the final, normalised residual stream."""
    rows, length = tokens.shape
    seen: dict[tuple[str, int], Tensor] = {}
    layer = -1

    def touch(name: str, activation: Tensor) -> Tensor:
        nonlocal layer
        layer += name == "resid_pre"
        seen[name, layer] = (
            activation if name in ATTENTION_SITES else activation.view(rows, length, *activation.shape[1:])
        ).clone()
        return activation

    final = layers.run(layers.embed(tokens), touch).flatten(0, 1)
    return seen, layers.final(final).view(rows, length, -1)


def miss(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the largest entry; infinite for another shape, NaN where either is NaN.

    Scores that a query may not see are minus infinity here, and there perhaps a very low number.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    seen = ~torch.isneginf(ours)
    low = torch.finfo(theirs.dtype).min / 2
    if (theirs[~seen] > low).any():
        return float("inf")
    ours, theirs = ours[seen].float(), theirs[seen].float()
    if not ours.numel():
        return 0.0
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))
