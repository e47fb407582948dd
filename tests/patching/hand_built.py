"""A two-layer attention-only model whose induction circuit is built by hand, edge by edge."""

import torch
from torch import Tensor

from mechlist.models.quiet import quiet
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig

VOCAB, CONTEXT = 40, 40
D_HEAD = 40
SHARPNESS = 9.0
PREVIOUS, INDUCTION = 1, 2
CIRCUIT = {"input->a0.h1<v>", "a0.h1->a1.h2<k>", "a1.h2->logits"}
"""What carries "which token came before" to "where to look"."""
SLOTS = ("token", "position", "before", "written", "unread")
"""The residual stream: what the token is, where it is, the token before, the prediction, and what nothing reads."""


def hand_built() -> Runner:
    """Layer 0: head 1 copies the token before. Layer 1: head 2 looks where the token before is the present one.

    The other heads attend somewhere and write something: of positions, or into a place that nothing reads.
    """
    with quiet():
        cfg = HookedTransformerConfig(
            n_layers=2,
            n_heads=4,
            d_model=len(SLOTS) * VOCAB,
            d_head=D_HEAD,
            d_vocab=VOCAB,
            n_ctx=CONTEXT,
            attn_only=True,
            normalization_type=None,
            use_attn_scale=False,
            init_weights=False,
        )
        model = HookedTransformer(cfg).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    model.W_E.data[:, slot("token")] = torch.eye(VOCAB)
    model.W_pos.data[:, slot("position")] = torch.eye(CONTEXT)
    model.unembed.W_U.data[slot("written")] = torch.eye(VOCAB)
    shift = SHARPNESS * torch.eye(CONTEXT).roll(1, dims=1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, VOCAB, D_HEAD, generator=generator) / D_HEAD**0.5
    set_head(model, 0, PREVIOUS, q=("position", torch.eye(CONTEXT)), k=("position", shift), v="token", o="before")
    set_head(model, 0, 0, q=("position", noise[0]), k=("position", noise[1]), v="position", o="before")
    set_head(model, 0, 2, q=("token", noise[2]), k=("token", noise[3]), v="token", o="unread")
    set_head(model, 0, 3, q=("token", noise[0]), k=("position", noise[2]), v="position", o="unread")
    find = SHARPNESS * torch.eye(VOCAB)
    set_head(model, 1, INDUCTION, q=("token", torch.eye(VOCAB)), k=("before", find), v="token", o="written")
    set_head(model, 1, 0, q=("position", noise[1]), k=("position", noise[3]), v="position", o="written")
    set_head(model, 1, 1, q=("token", noise[2]), k=("before", noise[0]), v="before", o="unread")
    set_head(model, 1, 3, q=("unread", noise[3]), k=("unread", noise[1]), v="unread", o="unread")
    return Runner(model, progress=False)


def slot(name: str) -> slice:
    """Where a part of the residual stream stands."""
    start = SLOTS.index(name) * VOCAB
    return slice(start, start + VOCAB)


def set_head(
    model: HookedTransformer, layer: int, head: int, *, q: tuple[str, Tensor], k: tuple[str, Tensor], v: str, o: str
) -> None:
    """What a head compares, and what it copies from where to where."""
    attention = model.blocks[layer].attn
    for weight, (name, matrix) in ((attention.W_Q, q), (attention.W_K, k)):
        weight.data[head, slot(name)] = matrix
    attention.W_V.data[head, slot(v)] = torch.eye(VOCAB)
    attention.W_O.data[head, :, slot(o)] = torch.eye(VOCAB)
