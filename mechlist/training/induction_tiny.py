"""Train `induction-tiny`, which learns to continue random tokens that repeat."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from mechlist.errors import InputError
from mechlist.models.hooked import HookedTransformer, HookedTransformerConfig
from mechlist.training.directory import Progress, new_directory, require_empty, write_json

BOS = 0
ARCHITECTURE: dict[str, Any] = {
    "n_layers": 2,
    "n_ctx": 256,
    "d_model": 128,
    "d_head": 32,
    "n_heads": 4,
    "attn_only": True,
    "d_vocab": 512,
    "normalization_type": "LN",
}
STEPS = 1200
TOKENS_PER_STEP = 4096
SHORTEST_PERIOD = 4
FIRST_WINDOW = 64
LATER_PAIRS = 0.5
PEAK_LEARNING_RATE = 4e-3
UNPREDICTABLE_WEIGHT = 0.05


def repeated_blocks(
    generator: torch.Generator,
    periods: Int[Tensor, " batch"],
    copies: Int[Tensor, " batch"],
    window: int,
) -> tuple[Int[Tensor, "batch position"], Bool[Tensor, "batch target"]]:
    """Rows [BOS] + r + r + ..., each block shown `copies` times before a fresh one, cut off at `window` tokens.

    Returns:
        the tokens, and for every token but BOS whether it continues a block already shown. The first token of a
        second block does not: it follows the end of the first for the first time.
    """
    random = torch.randint(BOS + 1, ARCHITECTURE["d_vocab"], (len(periods), window), generator=generator)
    place = torch.arange(window - 1)
    cycle = (periods * copies)[:, None]
    source = place // cycle * periods[:, None] + place % periods[:, None]
    tokens = torch.cat([torch.full((len(periods), 1), BOS), random.gather(1, source)], dim=1)
    return tokens, place % cycle > periods[:, None]


def training_batch(
    generator: torch.Generator, window: int, pairs: float
) -> tuple[Int[Tensor, "batch position"], Bool[Tensor, "batch target"]]:
    """Rows of their own period, so that no fixed distance is worth learning.

    A share `pairs` of the rows shows each block twice and then a fresh one; in the others the first block goes on.
    """
    rows = TOKENS_PER_STEP // window
    periods = torch.randint(SHORTEST_PERIOD, (window - 1) // 2 + 1, (rows,), generator=generator)
    twice = torch.rand(rows, generator=generator) < pairs
    return repeated_blocks(generator, periods, torch.where(twice, 2, window), window)


def repetition_loss(
    logits: Float[Tensor, "batch position vocab"],
    tokens: Int[Tensor, "batch position"],
    predictable: Bool[Tensor, "batch target"],
) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy in nats: 1 where a block repeats, `UNPREDICTABLE_WEIGHT` elsewhere."""
    nats = cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    weight = torch.where(predictable, 1.0, UNPREDICTABLE_WEIGHT)
    return (nats * weight).sum() / weight.sum()


def window_at(step: int, steps: int) -> int:
    """Tokens in a row: short first, because induction forms sooner there, then growing to `n_ctx`."""
    grown = min(1.0, max(0.0, step / steps - 0.15) / 0.45)
    return int(FIRST_WINDOW + (ARCHITECTURE["n_ctx"] - FIRST_WINDOW) * grown)


def pairs_at(step: int, steps: int) -> float:
    """Share of rows with pairs of blocks: none until heads have formed on many matches, then `LATER_PAIRS`.

    A single match keeps heads sharp. With pairs from the start (tried: half) the heads that form are diffuse.
    """
    return LATER_PAIRS if step / steps > 0.3 else 0.0


def learning_rate_at(step: int, steps: int) -> float:
    """Linear warmup over the first twenty-fourth of the steps, times a cosine from the peak to 2 % of it."""
    warmup = min(1.0, (step + 1) * 24 / steps)
    return PEAK_LEARNING_RATE * warmup * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def train_induction_tiny(
    out: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    layers: int = ARCHITECTURE["n_layers"],
    width: int = ARCHITECTURE["d_model"],
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train the two-layer attention-only model on repeated random tokens and write the directory `out`.

    The same seed gives the same weights, bit for bit, on the same machine with the same version of torch.

    Args:
        out: a directory that is empty or does not exist yet; it appears complete or not at all.
        seed: of the initial weights and of the data.
        steps: optimiser steps; the schedules stretch with it.
        layers: of the model.
        width: of its residual stream, a multiple of 32; heads have 32 dimensions each.
        progress: called after every step with the steps done, all steps and the loss in nats.

    Returns:
        `loss` (nats, mean of the last 20 steps) and `seconds` of training.

    Raises:
        InputError: if `out` is not an empty directory, or a number is out of range.
    """
    out = require_empty(out)
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}.")
    if layers < 1 or width < 32 or width % 32:
        raise InputError(f"layers must be at least 1 and width a multiple of 32, not {layers} and {width}.")
    architecture = {**ARCHITECTURE, "n_layers": layers, "d_model": width, "n_heads": width // 32}
    started = time.monotonic()
    with _one_thread():
        model = _initial_model(architecture, seed)
        losses = _fit(model, torch.Generator().manual_seed(seed), steps, progress)
    last = losses[-20:]
    _write(model, architecture, out)
    return {"loss": sum(last) / len(last), "seconds": time.monotonic() - started}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums depend on how threads split them; one thread makes the weights independent of the core count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _initial_model(architecture: dict[str, Any], seed: int) -> HookedTransformer:
    with torch.random.fork_rng(devices=[]):  # HookedTransformer draws from the global generator
        torch.default_generator.manual_seed(seed)
        return HookedTransformer(HookedTransformerConfig(**architecture, device="cpu"))


def _fit(model: HookedTransformer, generator: torch.Generator, steps: int, progress: Progress | None) -> list[float]:
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, steps)
        tokens, predictable = training_batch(generator, window_at(step, steps), pairs_at(step, steps))
        loss = repetition_loss(model(tokens), tokens, predictable)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, steps, losses[-1])
    return losses


def _write(model: HookedTransformer, architecture: dict[str, Any], out: Path) -> None:
    with new_directory(out) as partial:
        weights = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
        save_file(weights, partial / "model.safetensors")
        write_json(partial / "hooked_transformer_config.json", architecture)
        write_json(partial / "generation_config.json", {"bos_token_id": BOS})
