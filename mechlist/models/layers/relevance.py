"""What runs back through a layer under RelP: relevance in the place of gradients, in one backward pass.

RelP (Jafari et al. 2025, arXiv 2508.21258) makes the steps of a layer linear with coefficients of the run itself: a
norm's scale is a constant (LN-rule), an activation function is multiplication by f(x) / x (identity rule), and of the
product in a gated MLP each factor gets half (half rule). All else keeps its gradient: matrix products, attention,
softcaps. The authors' code also knows patterns as constants (AH-rule); the settings that they show leave it out, and so
it is here: nothing would reach queries and keys.

What runs forward stays as it is, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.models.layers.norms import Norm

Function = Callable[[Tensor], Tensor]


def carried(value: Float[Tensor, "*shape"], linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`value` on the way forward, and the gradient of `linear` on the way back."""
    return value.detach() + (linear - linear.detach())


def normed(norm: Norm, out: Float[Tensor, "*batch width"], x: Float[Tensor, "*batch width"]) -> Tensor:
    """What a norm makes of x, which is `out`, with its scale as a constant (LN-rule)."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    spread = wide - wide.mean(-1, keepdim=True) if norm.centred else wide
    linear = (spread / norm.scale(wide.detach())).to(out.dtype)
    return carried(out, linear if norm.gain is None else linear * norm.gain.detach())


def secant(function: Function, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """f(x) / x of an activation function that is 0 at 0; at 0 itself, its slope to the right of it."""
    x = x.detach()
    nearest = torch.finfo(x.dtype).eps
    x = torch.where(x.abs() < nearest, nearest, x)
    return function(x) / x


@dataclass(frozen=True, eq=False)
class Parts:
    """An MLP written out: out(activation(into(x))), or out(activation(gate(x)) * into(x))."""

    into: Function
    activation: Function
    out: Function
    gate: Function | None = None

    def plain(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What it computes."""
        if self.gate is None:
            return self.out(self.activation(self.into(x)))
        return self.out(self.activation(self.gate(x)) * self.into(x))

    def relevance(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The same with the identity rule, and the half rule for the product of gate and input."""
        if self.gate is None:
            pre = self.into(x)
            return self.out(carried(self.activation(pre.detach()), pre * secant(self.activation, pre)))
        pre, linear = self.gate(x), self.into(x)
        active, other = self.activation(pre.detach()), linear.detach()
        halves = pre * (secant(self.activation, pre) * other / 2) + linear * (active / 2)
        return self.out(carried(active * other, halves))


def no_rule(because: str) -> str:
    """What is said where relevance cannot run back."""
    return f"Relevance cannot run back through this model's layers: {because}. Take rule gradient."
