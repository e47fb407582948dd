"""Passes of a model that keep what edges need: what senders write, and gradients at what receivers read.

What is kept is narrow (z, and not what each head writes; gradients of queries, and not of what each head reads): the
wide tensors are made for a few positions of one prompt at a time.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.models.layers.layers import Layers
from mechlist.patching.circuits.nodes import LOGITS, QKV, Nodes
from mechlist.patching.gradients.gradient import site_gradients


class WithoutGradient:
    """A plain pass; gives what every sender writes."""

    def __init__(self, layers: Layers, embedded: Float[Tensor, "prompt position d_model"]) -> None:
        self._layers, self.embedded = layers, embedded
        self._z: list[Tensor] = []
        self._mlp: list[Tensor] = []
        keep = {"z": self._z, "mlp_out": self._mlp}

        def touch(name: str, activation: Tensor) -> Tensor:
            if name in keep:
                keep[name].append(activation.view(*embedded.shape[:2], *activation.shape[1:]))
            return activation

        self.final = layers.run(embedded, touch)
        """The residual stream after the last layer."""

    def written(self, prompt: int, piece: slice) -> Float[Tensor, "sender position d_model"]:
        """What every sender adds at a few positions of one prompt."""
        out = [self.embedded[prompt, piece][None]]
        for layer, z in enumerate(self._z):
            out.append(self._layers.head_outputs(layer, z[prompt, piece]).transpose(0, 1))
            if self._mlp:
                out.append(self._mlp[layer][prompt, piece][None])
        return torch.cat(out)


class Receivers:
    """A pass that is recorded; gives the gradient at what every receiver reads."""

    def __init__(self, layers: Layers, embedded: Float[Tensor, "prompt position d_model"]) -> None:
        self._layers = layers
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._read: list[Tensor] = []
        """The residual stream before each layer."""

        def touch(name: str, activation: Tensor) -> Tensor:
            if name == "resid_pre":
                self._read.append(activation.detach().view(embedded.shape))
            if name == "mlp_in":
                # A tensor of its own: its gradient is the MLP's alone.
                activation = activation.clone()
            if name in (*QKV, "mlp_in"):
                self._kept[name.removesuffix("_in"), len(self._read) - 1] = activation
            return activation

        self.final = layers.run(embedded.detach().requires_grad_(), touch)
        self._kept[LOGITS, len(self._read)] = self.final
        self._gradients: dict[tuple[str, int], Tensor] = {}

    def backward(self, finals: Float[Tensor, "prompt n d_model"], gradient: Float[Tensor, "prompt n d_model"]) -> None:
        """Gradients from those at `finals`, which came from this pass; what was recorded is freed."""
        shape = self.final.shape
        found = site_gradients(finals, gradient, list(self._kept.values()))
        self._gradients = {
            key: value if key[0] == LOGITS else value.view(*shape[:2], *value.shape[1:])
            for key, value in zip(self._kept, found, strict=True)
        }
        self._kept.clear()

    def gradients(
        self, nodes: Nodes, prompt: int, piece: slice
    ) -> Iterator[tuple[slice, int, Float[Tensor, "receiver position d_model"]]]:
        """By kind and layer: where its receivers stand, how many senders come before, and the gradients."""
        for (kind, layer), gradient in self._gradients.items():
            place = nodes.reading[kind, layer]
            here = gradient[prompt, piece]
            wide = self._at_input(kind, layer, prompt, piece, here) if kind in QKV else here[None]
            yield place, nodes.written_before(place.start), wide

    def _at_input(
        self, kind: str, layer: int, prompt: int, piece: slice, gradient: Float[Tensor, "position any_head d_head"]
    ) -> Float[Tensor, "any_head position d_model"]:
        """From a head's queries, keys or values back through its projection and the norm."""
        own = self._read[layer][prompt, piece][:, None].repeat(1, gradient.shape[1], 1).requires_grad_()
        (found,) = torch.autograd.grad(self._layers.project_each(layer, kind, own), own, gradient)
        return found.transpose(0, 1)
