"""Exact runs of a model in which edges carry what their senders write in another run.

A receiver reads the sum of what its senders wrote. Here it reads, along the edges that are patched, what they wrote in
the *source* run (of the other prompt of the pair, or on average over prompts), and along all others what they write in
this very run, in which everything before has been changed by its own patched edges. With the edges outside a circuit
patched, this is what the circuit does by itself (Wang et al. 2022; Conmy et al. 2023); with one edge patched, it is
that edge's own effect.

One pass serves many *variants* (sets of patched edges) on many prompts. Rows are variants x prompts; what the receivers
of a layer read is one matrix product of the variant's edges and the differences that the senders make. Heads go through
the norm after attention where there is one, with the scale of their own run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.models.layers.layers import Layers
from mechlist.patching.circuits.nodes import LOGITS, QKV, Nodes


@dataclass(frozen=True)
class EdgeRuns:
    """Runs with edges patched, of a model whose layers can be run one by one."""

    layers: Layers
    nodes: Nodes

    def written(self, tokens: Int[Tensor, "prompt position"]) -> Float[Tensor, "prompt sender position d_model"]:
        """What senders add in the plain runs of some prompts."""
        out = torch.empty(0)

        def keep(place: slice, own: Tensor) -> None:
            nonlocal out
            if place.start == 0:
                out = own.new_empty(len(own), len(self.nodes.senders), *own.shape[2:])
            out[:, place] = own

        self._run(tokens, keep, _unchanged)
        return out

    def plain(self, tokens: Int[Tensor, "prompt position"]) -> Float[Tensor, "prompt position d_model"]:
        """The final, normalised residual stream of plain runs, with all that heads add apart."""
        x = self._run(tokens, _unseen, _unchanged)
        return self.layers.final(x.flatten(0, 1)).view(x.shape)

    def finals(
        self,
        base: Int[Tensor, "prompt position"],
        source: Float[Tensor, "all_or_one sender position d_model"],
        patched: Bool[Tensor, "variant sender receiver"],
        read: Int[Tensor, "prompt n"],
    ) -> Float[Tensor, "variant prompt n d_model"]:
        """The final, normalised residual stream at the positions that are read.

        Args:
            base: prompts that are run.
            source: what patched edges carry.
            patched: edges of each variant.
            read: positions.
        """
        variants, (prompts, length) = len(patched), base.shape
        width = self.layers.d_model
        made = source.new_empty(variants, prompts, len(self.nodes.senders), length * width)
        """What each sender adds in the source run less what it adds in this one."""
        wrote = 0

        def note(place: slice, own: Float[Tensor, "row k position d_model"]) -> None:
            nonlocal wrote
            made[:, :, place] = (source[None, :, place] - own.view(variants, prompts, *own.shape[1:])).flatten(3)
            wrote = place.stop

        def change(kind: str, layer: int, x: Tensor) -> Tensor | None:
            place = self.nodes.reading[kind, layer]
            edges = patched[:, :wrote, place]
            if not edges.any():
                return None
            into = edges.mT.to(made)[:, None].expand(-1, prompts, -1, -1)
            added = (into @ made[:, :, :wrote]).view(variants * prompts, -1, *x.shape[1:])
            return x[:, None] + added

        x = self._run(base.repeat(variants, 1), note, change)
        own = change(LOGITS, self.layers.n_layers, x)
        final = (x if own is None else own[:, 0]).view(variants, prompts, length, width)
        final = final[:, torch.arange(prompts, device=x.device)[:, None], read.to(x.device)]
        return self.layers.final(final.flatten(0, 2)).view(final.shape)

    def _run(
        self,
        tokens: Int[Tensor, "row position"],
        note: Callable[[slice, Float[Tensor, "row k position d_model"]], None],
        change: Callable[[str, int, Float[Tensor, "row position d_model"]], Tensor | None],
    ) -> Float[Tensor, "row position d_model"]:
        """The residual stream after the last layer.

        `note` is given what senders add; `change` gives what receivers of a kind and layer read, [row receiver position
        d_model], or None where that is the residual stream itself.
        """
        layers, (rows, length) = self.layers, tokens.shape
        positions = torch.arange(length, device=tokens.device)
        x = layers.embed(tokens)
        note(self.nodes.writing[-1, False], x[:, None])
        for layer in range(layers.n_layers):
            q, k, v = self._project(layer, x, change)
            k, q = layers.place(layer, k, positions, "k"), layers.place(layer, q, positions, "q")
            z = layers.attend(layer, q, k, v, positions, _leave)
            heads = layers.head_outputs(layer, z.flatten(0, 1)).view(rows, length, -1, x.shape[-1])
            before, x = x, x + heads.sum(2)
            parallel = self.nodes.parallel
            reading = None if layers.attn_only or not parallel else self._mlp_input(layer, before, change)
            note(self.nodes.writing[layer, True], heads.transpose(1, 2))
            if layers.attn_only:
                continue
            if reading is None:
                reading = self._mlp_input(layer, x, change)
            out = layers.mlp(layer, reading.flatten(0, 1)).view(x.shape)
            note(self.nodes.writing[layer, False], out[:, None])
            x = x + out
        return x

    @staticmethod
    def _mlp_input(layer: int, x: Tensor, change: Callable[[str, int, Tensor], Tensor | None]) -> Tensor:
        own = change("mlp", layer, x)
        return x if own is None else own[:, 0]

    def _project(
        self, layer: int, x: Float[Tensor, "row position d_model"], change: Callable[[str, int, Tensor], Tensor | None]
    ) -> list[Float[Tensor, "row position any_head d_head"]]:
        """Queries, keys and values."""
        layers = self.layers
        plain = layers.project(layer, x.flatten(0, 1))
        out = []
        for kind, activation in zip(QKV, plain, strict=True):
            own = change(kind, layer, x)
            if own is not None:
                activation = layers.project_each(layer, kind, own.transpose(1, 2).flatten(0, 1))
            out.append(activation.view(*x.shape[:2], *activation.shape[1:]))
        return out


def _unseen(place: slice, own: Tensor) -> None:  # noqa: ARG001
    return None


def _unchanged(kind: str, layer: int, x: Tensor) -> None:  # noqa: ARG001
    return None


def _leave(name: str, activation: Tensor) -> Tensor:  # noqa: ARG001 (a Touch)
    return activation
