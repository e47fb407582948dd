"""The guard that a converted model computes what Hugging Face computes."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import ModelError
from mechlist.models.exhaustion import is_out_of_memory
from mechlist.models.language_model import LanguageModel
from mechlist.types import Guard

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.3, torch.float16: 0.05}
"""Largest allowed difference of a log-probability, in nats, by the type the model runs in."""

ROUNDING = {torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""What is allowed instead where it is more, as a share of the largest logit: GPT-2's reach beyond 100."""

PIECE = 64
"""Tokens whose logits are compared at a time."""

LENGTH = 16
"""Random tokens of the cheap check."""


def parity(model: LanguageModel, hf_model: Any, length: int = LENGTH, seed: int = 0) -> Guard:
    """Compare log-probabilities of all tokens on one random sequence of `length` tokens.

    A wrong order of sliding-window layers shows only when `length` exceeds the window: `mechlist check` uses that.
    """
    tokens = random_tokens(model.shape.d_vocab, min(length, model.shape.n_ctx), seed)
    return compare(model, tokens, reference_logits(hf_model, tokens))


def random_tokens(d_vocab: int, length: int, seed: int = 0) -> Int[Tensor, "1 position"]:
    """The sequence that is compared."""
    return torch.randint(0, d_vocab, (1, length), generator=torch.Generator().manual_seed(seed))


def reference_logits(hf_model: Any, tokens: Int[Tensor, "1 position"]) -> Float[Tensor, "1 position vocab"]:
    """What Hugging Face's own forward pass says, on the CPU in float32.

    Raises:
        ModelError: it fails, as it does where config.json speaks of other shapes than the weights have.
    """
    try:
        with torch.inference_mode():
            return hf_model(tokens.to(hf_model.device)).logits.float().cpu()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"Hugging Face's own forward pass of this model fails ({' '.join(str(error).split()).rstrip('.')}): "
            "config.json may speak of other heads or sizes than the weights have."
        ) from error


def compare(
    model: LanguageModel, tokens: Int[Tensor, "1 position"], reference: Float[Tensor, "1 position vocab"]
) -> Guard:
    """The guard: the largest difference from the log-probabilities of `reference`; NaN on either side fails it."""
    pieces: list[Tensor] = []
    with torch.inference_mode():
        final = model.residual(tokens.to(model.device), [])
        # Over a large vocabulary a few hundred tokens would fill the memory with copies.
        for stream, piece in zip(final.split(PIECE, dim=1), reference.split(PIECE, dim=1), strict=True):
            ours, theirs = model.unembed(stream).float().cpu().log_softmax(-1), piece.log_softmax(-1)
            # Tokens that are all but impossible carry no information and large rounding errors.
            unlikely = theirs < theirs.amax(-1, keepdim=True) - 30
            pieces.append((ours - theirs).abs().masked_fill(unlikely, 0).max())
    largest = torch.stack(pieces).max().item()
    scale = reference.nan_to_num(0, 0, 0).abs().max().item()
    tolerance = max(TOLERANCE[model.dtype], ROUNDING[model.dtype] * scale)
    return Guard(
        "Hugging Face parity",
        largest <= tolerance,
        largest,
        tolerance,
        f"largest difference of a log-probability (nats) from Hugging Face's model on {tokens.shape[1]} random tokens",
    )
