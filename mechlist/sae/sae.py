"""A sparse autoencoder as the rest sees it: a hook, an encoder, and one direction a feature."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError


@dataclass(frozen=True, eq=False)
class Sae:
    """An SAE of sae_lens whose output is linear in its features: x = f W_dec + b_dec + error.

    Activations with heads (hook_z) are flattened: [..., heads x d_head].
    """

    name: str
    """As it was asked for."""
    hook: str
    """Where it was trained."""
    model: str
    """The model that it was trained on; "" where its files do not say."""
    neuronpedia: str
    """Its id on Neuronpedia; "" for none."""
    module: Any
    """The SAE of sae_lens."""

    @property
    def d_in(self) -> int:
        """Size of the activation."""
        return int(self.module.W_dec.shape[1])

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.module.W_dec.shape[0])

    @property
    def decoder(self) -> Float[Tensor, "feature d_in"]:
        """What one unit of each feature adds to the reconstruction."""
        return self.module.W_dec.detach()

    @property
    def bias(self) -> Float[Tensor, " d_in"]:
        """What the reconstruction holds without any feature."""
        return self.module.b_dec.detach()

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """Activations of the features, in the SAE's own type."""
        return self.module.encode(x.to(self.decoder))

    @torch.no_grad()
    def decode(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction."""
        return features.to(self.decoder) @ self.decoder + self.bias


def flat(activation: Float[Tensor, "batch position ..."]) -> Float[Tensor, "batch position d_in"]:
    """An activation with its heads, if it has any, one behind the other."""
    return activation.flatten(2)


def require_linear(sae: Sae) -> None:
    """Refuse an SAE whose output is not f W_dec + b_dec, or whose weights are not numbers.

    Raises:
        InputError: naming the weight, or the setting that is not known here.
    """
    for name, weight in sae.module.named_parameters():
        if not weight.isfinite().all():
            raise InputError(f"The SAE {sae.name} cannot be used: its weight {name} holds values that are no numbers.")
    normalize = getattr(sae.module.cfg, "normalize_activations", "none")
    if normalize != "none":
        raise InputError(
            f"The SAE {sae.name} normalises its input ({normalize}), so that no fixed direction belongs to a feature; "
            "only SAEs that take activations as they are, or whose scale is folded into their weights, are supported."
        )
    some = torch.zeros(2, sae.d_sae)
    some[0, 0], some[1, -1] = 1.0, 2.0
    some = some.to(sae.decoder)
    with torch.no_grad():
        own = sae.module.decode(some)
    if own.shape != (2, sae.d_in) or not torch.allclose(own.float(), sae.decode(some).float(), rtol=1e-2, atol=1e-4):
        raise InputError(
            f"The SAE {sae.name} ({type(sae.module).__name__}) does not decode linearly, as attribution needs."
        )
