"""Attribution of a metric to the features of many SAEs, in the memory of one.

Spliced in with its error passed through, x = f W_dec + b_dec + e, an SAE changes nothing, and the gradient of feature
i at a position is W_dec_i . g, where g is the gradient at the hook of the model without any SAE. So one forward and
one backward pass give (x, g) at every hook, and the SAEs are streamed over them one after the other: feature i gets
f_i (W_dec_i . g), the error e . g, the bias b_dec . g, and together they are x . g (SOURCES: Marks et al. 2024,
arXiv 2403.19647).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.sae.sae import Sae

SUMMED = -1
"""The position of a feature whose attributions at all positions were added up."""


class FeatureAttribution(NamedTuple):
    """Of one SAE over prompts: sums over the positions that count, in float64, and the strongest features."""

    total: Float[Tensor, " prompt"]
    """x . g: what features, bias and error add up to."""
    features: Float[Tensor, " prompt"]
    bias: Float[Tensor, " prompt"]
    error: Float[Tensor, " prompt"]
    n_active: Int[Tensor, " prompt"]
    """Features with positions at which they are active; features alone where positions are summed."""
    feature: Int[Tensor, "prompt rank"]
    """Largest attribution in size first; -1 where fewer are active."""
    position: Int[Tensor, "prompt rank"]
    attribution: Float[Tensor, "prompt rank"]
    activation: Float[Tensor, "prompt rank"]
    """At the position; the sum over positions where these are summed."""


@dataclass(frozen=True, eq=False)
class Site:
    """What the model had at a hook."""

    x: Float[Tensor, "prompt position d_in"]
    g: Float[Tensor, "prompt position d_in"]


def feature_attribution(
    sae: Sae,
    site: Site,
    counted: Bool[Tensor, "prompt position"],
    top: int,
    *,
    minus: Site | None = None,
    summed: bool = False,
) -> FeatureAttribution:
    """Attribution to every feature at the positions that count, and the `top` of them on each prompt.

    Args:
        sae: at whose hook the site is.
        site: activations and gradients.
        counted: positions that count.
        top: features, with their positions, that are kept of each prompt.
        minus: another run of the same positions, whose attributions are taken off (contrastive attribution).
        summed: add up each feature's attributions over positions.
    """
    rows = []
    for i in range(len(site.x)):
        own = _attribution(sae, site.x[i][counted[i]], site.g[i][counted[i]])
        if minus is not None:
            own = own.less(_attribution(sae, minus.x[i][counted[i]], minus.g[i][counted[i]]))
        rows.append(own.strongest(counted[i].nonzero()[:, 0], top, summed))
    return FeatureAttribution(*(torch.stack(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True, eq=False)
class _Dense:
    """All features of one prompt."""

    values: Float[Tensor, "position feature"]
    activation: Float[Tensor, "position feature"]
    active: Bool[Tensor, "position feature"]
    sums: Float[Tensor, " term"]
    """Total, features, bias and error."""

    def less(self, other: "_Dense") -> "_Dense":
        return _Dense(
            self.values - other.values,
            self.activation - other.activation,
            self.active | other.active,
            self.sums - other.sums,
        )

    def strongest(self, where: Int[Tensor, " position"], top: int, summed: bool) -> tuple[Tensor, ...]:
        values, activation, active = self.values, self.activation, self.active
        if summed:
            values, activation, active = values.sum(0)[None], activation.sum(0)[None], active.any(0)[None]
        width = values.shape[1]
        size = torch.where(active, values.abs(), -1.0).flatten()
        order = size.topk(min(top, len(size))).indices
        order = torch.nn.functional.pad(order, (0, top - len(order)), value=-1)
        there = (order >= 0) & (size[order] >= 0)
        row, feature = order // width, order % width
        position = torch.full_like(row, SUMMED) if summed else where.to(row.device)[row.clamp(min=0)]
        return (
            *self.sums.cpu(),
            active.sum().cpu(),
            torch.where(there, feature, -1).cpu(),
            torch.where(there, position, SUMMED).cpu(),
            torch.where(there, values.flatten()[order], torch.nan).float().cpu(),
            torch.where(there, activation.flatten()[order], torch.nan).float().cpu(),
        )


def _attribution(sae: Sae, x: Float[Tensor, "position d_in"], g: Float[Tensor, "position d_in"]) -> _Dense:
    device = sae.decoder.device
    x, g = x.to(device), g.to(device)
    f = sae.encode(x)
    slope = g.to(sae.decoder) @ sae.decoder.T
    values = f * slope
    error = x.double() - sae.decode(f).double()
    terms = [(x.double() * g).sum(), values.double().sum(), (g.double() @ sae.bias.double()).sum(), (error * g).sum()]
    return _Dense(values, f, f != 0, torch.stack(terms))
