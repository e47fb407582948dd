"""A norm written out: its gain, bias and scale, so that it can be frozen and shared among parts of a sum."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MISSES = 1e-4
"""By how much a norm that is written out may miss the module on random numbers, of its largest output."""


@dataclass(frozen=True, eq=False)
class Norm:
    """(x - its mean, if centred) / its size * gain + bias."""

    centred: bool
    """A LayerNorm takes the mean off, an RMSNorm does not."""
    eps: float
    gain: Float[Tensor, " width"] | None = None
    """None where it is folded into what follows, or was never there."""
    bias: Float[Tensor, " width"] | None = None

    def scale(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch one"]:
        """What x is divided by."""
        spread = x - x.mean(-1, keepdim=True) if self.centred else x
        return (spread.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def parts(self, parts: Float[Tensor, "token part width"]) -> Float[Tensor, "token part width"]:
        """Shares of the norm of a sum of parts that each of them makes, with the sum's own scale."""
        wide = parts if parts.dtype in (torch.float32, torch.float64) else parts.float()
        if self.centred:
            wide = wide - wide.mean(-1, keepdim=True)
        scale = (wide.sum(1, keepdim=True).pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        plain = (wide * scale).to(parts.dtype)
        plain = plain if self.gain is None else plain * self.gain
        return plain if self.bias is None else plain + self.bias / parts.shape[1]


def written_out(module: Any, width: int, eps: float) -> Norm | None:
    """A Hugging Face norm as a Norm; None if it is of another kind.

    Whether it takes the mean off, and whether its weight is stored less one (Gemma, Nemotron), is not told by all of
    them: what gives the module's own results on random numbers is taken.

    Args:
        module: the norm.
        width: of what it norms.
        eps: where the module does not say.
    """
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    if weight is not None and tuple(weight.shape) != (width,):
        return None
    own = next((float(v) for n in ("eps", "variance_epsilon") if (v := getattr(module, n, None)) is not None), eps)
    like = next(module.parameters(), torch.zeros(0))
    probe = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    with torch.no_grad():
        expected = module(probe).float()
    for centred, offset in product((True, False), (0.0, 1.0)):
        norm = Norm(centred, own, None if weight is None else weight.detach() + offset, bias)
        if _miss(norm, probe, expected) <= MISSES * (1 if like.dtype == torch.float32 else 100):
            return norm
    return None


def _miss(norm: Norm, probe: Tensor, expected: Tensor) -> float:
    wide = probe.float()
    plain = (wide - wide.mean(-1, keepdim=True) if norm.centred else wide) / norm.scale(wide)
    plain = plain if norm.gain is None else plain * norm.gain.float()
    plain = plain if norm.bias is None else plain + norm.bias.detach().float()
    return float((plain - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
