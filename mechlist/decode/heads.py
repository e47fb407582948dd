"""Generation with changed activations: what replaces a head's output z, or goes on at another site, at every token."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.decoding import Decoder, RecomputingDecoder
from mechlist.models.language_model import LanguageModel
from mechlist.types import Head, head_name

HeadMode = Literal["zero", "mean", "swap"]


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Mean z of heads over tokens of one class, in the prompt and in what follows it."""

    class_of_token: Int[Tensor, " vocab"]
    """Number of each token's class."""
    values: Mapping[Head, Float[Tensor, "part class d_head"]]
    """Part 0 is the prompt before its last token, part 1 its last token and the completion."""

    def at(
        self, head: Head, tokens: Int[Tensor, "row token"], positions: Int[Tensor, " token"], last: int
    ) -> Float[Tensor, "row token d_head"]:
        """The mean for every token; `last` is the position of the prompt's last token."""
        part = (positions.cpu() >= last).long().expand(tokens.shape)
        return self.values[head][part, self.class_of_token[tokens.cpu()]]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadEdit:
    """Which heads are changed at every token, those of the prompt included, and how.

    zero: z is 0. mean: z is its mean over tokens of the same class. swap: z is what the head has in a run of its own on
    another prompt of equal length, the donor, that goes on with the same tokens and is not changed.
    """

    heads: tuple[Head, ...]
    mode: HeadMode = "zero"
    means: ClassMeans | None = None
    """For `mean`."""
    donors: Sequence[Sequence[int]] | None = None
    """For `swap`: one a prompt."""

    def __post_init__(self) -> None:
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise InputError(f"heads must hold one head at least, each once, not {list(map(head_name, self.heads))}.")
        if self.mode not in get_args(HeadMode):
            raise InputError(f"mode must be one of {', '.join(get_args(HeadMode))}, not {self.mode!r}.")
        if (self.means is not None) != (self.mode == "mean") or (self.donors is not None) != (self.mode == "swap"):
            raise InputError("means must be given for the mode mean and donors for the mode swap, and only then.")
        lacking = [] if self.means is None else [head for head in self.heads if head not in self.means.values]
        if lacking:
            raise InputError(f"means must hold every head that is changed; {head_name(lacking[0])} is missing.")

    def check(self, shape: tuple[int, int], prompts: Sequence[Tensor]) -> None:
        """Whether a model of `shape` (layers, heads a layer) has the heads, and each prompt its donor.

        Raises:
            InputError: it has not.
        """
        for layer, head in self.heads:
            if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
                last, other = head_name((shape[0] - 1, shape[1] - 1)), head_name((layer, head))
                raise InputError(f"heads must be from L0H0 to {last}, not {other!r}.")
        if self.donors is None:
            return
        if [len(donor) for donor in self.donors] != [len(prompt) for prompt in prompts]:
            raise InputError("donors must be one for each prompt, each as long as its prompt.")

    @property
    def name(self) -> str:
        """Digest of all that the result depends on."""
        digest = hashlib.sha256(f"{self.mode} {self.heads} {self.donors}".encode())
        if self.means is not None:
            digest.update(self.means.class_of_token.numpy().tobytes())
            for head in self.heads:
                digest.update(self.means.values[head].float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def of_layer(self, layer: int) -> list[int]:
        """The heads of a layer that are changed."""
        return [head for at, head in self.heads if at == layer]

    def changed(
        self,
        layer: int,
        z: Float[Tensor, "row token head d_head"],
        tokens: Int[Tensor, "row token"],
        first: int,
        last: int,
        nothing: Float[Tensor, "head d_head"] | None = None,
    ) -> Float[Tensor, "row token head d_head"]:
        """What goes on in place of z; in the mode swap the second half of the rows are donors.

        Args:
            layer: of z.
            z: of every head.
            tokens: that are read.
            first: position of the first of them.
            last: position of the prompt's last token.
            nothing: z of heads that write nothing; zero by default.
        """
        heads = self.of_layer(layer)
        if not heads:
            return z
        out = z.clone()
        if self.mode == "zero":
            out[:, :, heads] = 0 if nothing is None else nothing[heads].to(z)
        elif self.mode == "swap":
            half = len(z) // 2
            out[:half, :, heads] = z[half:, :, heads]
        elif self.means is not None:
            positions = torch.arange(first, first + tokens.shape[1])
            for head in heads:
                out[:, :, head] = self.means.at((layer, head), tokens, positions, last).to(z)
        return out


AtTokens = Callable[[Tensor, Int[Tensor, "row token"], int, int], Tensor]
"""Called with an activation [row token ...], the tokens that are read, the position of the first of them and that of
the prompt's last token; returns what goes on in its place."""
_HOOKS = {
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
"""Sites of a layer that generation can change."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HookEdit:
    """A change at hooks (the residual stream after a layer, z, what attention or an MLP adds), at tokens of its choice.

    `hook_resid_pre` of a layer is the stream after the one before.
    """

    changes: Mapping[str, AtTokens]
    """By hook."""
    name: str
    """Digest of all that the result depends on."""
    mode: str = "hooks"
    donors: None = None

    def check(self, shape: tuple[int, int], prompts: Sequence[Tensor]) -> None:  # noqa: ARG002 (as of HeadEdit)
        """Whether generation can change the hooks in a model of `shape` (layers, heads a layer).

        Raises:
            InputError: it cannot.
        """
        for hook in self.changes:
            layer, site = self._place(hook)
            if site not in _HOOKS or not 0 <= layer < shape[0]:
                raise InputError(
                    f"hooks that are changed while a text is written must be one of {', '.join(_HOOKS.values())} of "
                    f"layers 0 to {shape[0] - 1}, not {hook}."
                )

    def changed(
        self, layer: int, site: str, activation: Tensor, tokens: Int[Tensor, "row token"], first: int, last: int
    ) -> Tensor:
        """What goes on in place of the activation."""
        for hook, change in self.changes.items():
            if self._place(hook) == (layer, site):
                activation = change(activation, tokens, first, last)
        return activation

    @property
    def places(self) -> list[tuple[int, str]]:
        """Layers and sites that are changed."""
        return [self._place(hook) for hook in self.changes]

    def _place(self, hook: str) -> tuple[int, str]:
        _, layer, name = hook.split(".", 2)
        if name == "hook_resid_pre":
            return int(layer) - 1, "resid_post"
        return int(layer), next((site for site, own in _HOOKS.items() if own == name), name)


Edit = HeadEdit | HookEdit


def edited_decoder(model: LanguageModel, rows: int, capacity: int, edit: Edit) -> Decoder:
    """A decoder whose activations are changed; in the mode swap it takes the donors' prompts below the prompts."""
    changing = _Changing(edit, model)
    inner: Decoder
    if model.one_by_one().layers is not None:
        inner = model.decoder(rows, capacity, changing)
    else:
        inner = RecomputingDecoder(partial(_recomputed, model, changing))
    return inner if edit.mode != "swap" else _Paired(inner)


class _Changing:
    """An edit, once it has seen where the prompts end: with the first tokens that are read."""

    def __init__(self, edit: Edit, model: LanguageModel) -> None:
        self.edit, self._model = edit, model
        self._last: int | None = None

    def __call__(
        self, layer: int, site: str, activation: Tensor, tokens: Int[Tensor, "row token"], first: int
    ) -> Tensor:
        if self._last is None:
            self._last = first + tokens.shape[1] - 1
        if isinstance(self.edit, HookEdit):
            return self.edit.changed(layer, site, activation, tokens, first, self._last)
        if site != "z":
            return activation
        return self.edit.changed(layer, activation, tokens, first, self._last, self._model.nothing("z", layer))

    @property
    def places(self) -> list[tuple[int, str]]:
        """Layers and sites that are changed."""
        if isinstance(self.edit, HookEdit):
            return self.edit.places
        return [(layer, "z") for layer in sorted({layer for layer, _ in self.edit.heads})]


def _recomputed(model: LanguageModel, changing: _Changing, tokens: Tensor, hooks: Sequence[Any]) -> Tensor:
    """A whole forward pass with hooks, for models whose layers cannot be run one by one."""
    own = [
        (f"blocks.{layer}.{_HOOKS[site]}", partial(_hooked, changing, layer, site, tokens))
        for layer, site in changing.places
    ]
    return model.residual(tokens, [*hooks, *own])


def _hooked(
    changing: _Changing,
    layer: int,
    site: str,
    tokens: Tensor,
    activation: Tensor,
    hook: Any,  # noqa: ARG001
) -> Tensor:
    return changing(layer, site, activation, tokens, 0)


class _Paired:
    """Rows with their donors below them, which read the same tokens."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner
        self._rows = 0

    def feed(self, tokens: Int[Tensor, "given new"]) -> Float[Tensor, "row d_model"]:
        """The first time, tokens of the prompts and below them of their donors; later, those of the rows alone."""
        if self._rows:
            return self._inner.feed(tokens.repeat(2, 1))[: self._rows]
        self._rows = len(tokens) // 2
        return self._inner.feed(tokens)[: self._rows]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """See Decoder."""
        self._inner.keep(torch.cat([rows, rows + self._rows]))
        self._rows = len(rows)

    def fork(self, rows: Int[Tensor, " kept"], capacity: int) -> "_Paired":
        """See Decoder."""
        other = _Paired(self._inner.fork(torch.cat([rows, rows + self._rows]), capacity))
        other._rows = len(rows)
        return other
