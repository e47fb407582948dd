"""`patch_grid` on a model of Gemma 2 2B's shape in bfloat16: seconds, and on Linux the peak memory beyond the model.

`python -m experiments.benchmarks.patching_gemma` prints this part alone; it wants 9 GiB of memory.
"""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from experiments.benchmarks.memory import measured
from mechlist import LogitDifference, Runner, patch_grid
from mechlist.models.quiet import quiet
from mechlist.types import format_bytes, parse_bytes

BOUND = "4GiB"
LENGTH = 50
LAYERS = 26
WIDTH, HEADS, KEY_VALUE_HEADS, HEAD_WIDTH, MLP_WIDTH, VOCABULARY = 2304, 8, 4, 256, 9216, 256_000
LAYER_WEIGHTS = WIDTH * HEAD_WIDTH * 2 * (HEADS + KEY_VALUE_HEADS) + 3 * WIDTH * MLP_WIDTH
"""Weights of a layer that go through matrix products."""
PATIENCE = 480
"""Seconds that the sweep may take; where it would take longer, fewer positions are patched."""
EXPECTED_SHARE = 0.4
"""Of the best matrix product: what the sweep's length is foreseen from."""
FEWEST_POSITIONS = 6
"""The first, whose rows are the longest, and enough of them (26 x 6 rows of about 50 tokens) for full batches."""


@dataclass(frozen=True)
class Sweep:
    """What patching the first `positions` positions took."""

    positions: int
    model_bytes: int
    peak_bytes: int
    """Resident at most, less what was resident with the model built and warm."""
    seconds: float

    @property
    def flops(self) -> float:
        """Operations that the cells need: tokens from the patch on, through layers from the patch on."""
        return _flops(self.positions)


def run() -> Iterator[str]:
    """One line: the whole sweep, or the part that there is time for."""
    best = _best_product()
    positions = _positions(best)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        sweep = pool.submit(_sweep, positions).result()
    yield _line(sweep, best)


def _line(sweep: Sweep, best: float) -> str:
    part = "" if sweep.positions == LENGTH else f", first {sweep.positions} positions only for want of time"
    name = f"Gemma 2 2B's shape, bfloat16, resid_pre, {LENGTH} tokens ({LAYERS * sweep.positions} cells{part})"
    return (
        f"{name:<52} peak {format_bytes(sweep.peak_bytes)} beyond the model's {format_bytes(sweep.model_bytes)} under "
        f"--memory {BOUND} ({sweep.peak_bytes / parse_bytes(BOUND):.0%}), {sweep.seconds:.0f} s, "
        f"{sweep.flops / sweep.seconds / best:.0%} of the best product ({best / 1e9:.0f} GFLOP/s)"
    )


def _sweep(positions: int) -> Sweep:
    """In a process of its own: resident memory is counted by process."""
    model = gemma_2_2b_shape()
    runner = Runner(model, memory=BOUND, progress=False)
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(0, VOCABULARY, (1, LENGTH), generator=generator) for _ in range(2))
    everything = positions == LENGTH

    def patch(length: int, cells: dict[str, list[tuple[int, int]]] | None) -> None:
        metric = LogitDifference(answer=11, wrong=12)
        patch_grid(
            runner,
            base=base[:, :length],
            source=source[:, :length],
            site="resid_pre",
            per="position",
            metric=metric,
            cells=cells,
        )

    some = {f"{layer} {position}": [(layer, position)] for layer in range(LAYERS) for position in range(positions)}
    with quiet():
        # The libraries' own first-time allocations are not the sweep's.
        patch(4, {"warm-up": [(0, 0)]})
        peak, seconds = measured(lambda: patch(LENGTH, None if everything else some))
    held = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return Sweep(positions, held, peak, seconds)


def gemma_2_2b_shape() -> HookedTransformer:
    """26 layers, alternately local and global, with random weights: made in bfloat16 and in place, so held once."""
    with quiet(), torch.random.fork_rng():
        cfg = HookedTransformerConfig(
            n_layers=LAYERS,
            d_model=WIDTH,
            n_heads=HEADS,
            n_key_value_heads=KEY_VALUE_HEADS,
            d_head=HEAD_WIDTH,
            d_mlp=MLP_WIDTH,
            d_vocab=VOCABULARY,
            n_ctx=8192,
            act_fn="gelu_pytorch_tanh",
            gated_mlp=True,
            normalization_type="RMS",
            use_normalization_before_and_after=True,
            final_rms=True,
            eps=1e-6,
            positional_embedding_type="rotary",
            rotary_base=10_000,
            rotary_dim=HEAD_WIDTH,
            use_local_attn=True,
            attn_types=["local", "global"] * (LAYERS // 2),
            window_size=4096,
            attn_scores_soft_cap=50.0,
            output_logits_soft_cap=30.0,
            original_architecture="Gemma2ForCausalLM",
            initializer_range=0.02,
            seed=0,
            dtype=torch.bfloat16,
            device="cpu",
        )
        return HookedTransformer(cfg).eval().requires_grad_(False)


def _positions(best: float) -> int:
    """All, or as many as `PATIENCE` is foreseen to allow."""
    allowed = PATIENCE * EXPECTED_SHARE * best
    fit = max((n for n in range(1, LENGTH + 1) if _flops(n) <= allowed), default=0)
    return LENGTH if fit == LENGTH else max(FEWEST_POSITIONS, fit)


def _flops(positions: int) -> float:
    tokens = sum(LENGTH - position for position in range(positions))
    layers = sum(LAYERS - layer for layer in range(LAYERS))
    return 2.0 * LAYER_WEIGHTS * tokens * layers


def _best_product() -> float:
    """FLOP/s of the best of many products with one of the MLP's matrices, in bfloat16."""
    weights = torch.randn(WIDTH, MLP_WIDTH, dtype=torch.bfloat16)
    return max(_product(torch.randn(n, WIDTH, dtype=torch.bfloat16), weights) for n in (512, 1024, 2048) * 4)


def _product(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    _ = a @ b
    return 2.0 * a.shape[0] * a.shape[1] * b.shape[1] / (time.perf_counter() - started)


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
