"""Layer by layer on Gemma 3's shape against TransformerLens's own loop, and through the bridge against whole passes.

Random weights of the released shapes. The loop is `transformer_lens.patching`'s: one whole pass a cell; some cells of
every layer are run, and the time of all of them follows from these.

`python -m experiments.benchmarks.patching_bridge` prints this part alone.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge

from mechlist import LogitDifference, Runner, patch_grid
from mechlist.models.quiet import quiet
from mechlist.models.tokenizer import stand_in
from mechlist.runner import Intervention

LAYERS, VOCABULARY = 18, 262_144
PERIOD = 6
"""Every sixth layer sees everything."""
SAMPLED = 12
"""Cells of the loop that are run."""


def run() -> Iterator[str]:
    """One line a comparison."""
    runner = Runner(gemma_3_270m_shape(), progress=False)
    for length, changed in ((17, 6), (64, 24)):
        base, source = _pair(VOCABULARY, length, changed)
        seconds = _best(lambda base=base, source=source: _sweep(runner, base, source))
        loop = _loop(runner, base, source)
        yield _line(f"Gemma 3 270M's shape, resid_pre, {length} tokens, the last {changed} changed", seconds, loop)
    runner = Runner(stablelm_shape(), progress=False)
    base, source = _pair(runner.shape.d_vocab, 17, 6)
    seconds = _best(lambda: _sweep(runner, base, source))
    yield _line(
        "StableLM through the bridge, resid_pre, 17 tokens, the last 6 changed, whole passes",
        seconds,
        _whole(runner, base, source),
    )


def _line(name: str, ours: float, other: float) -> str:
    return f"{name:<80} {ours:8.2f} s {other:9.1f} s {other / ours:7.1f}x"


def _pair(vocabulary: int, length: int, changed: int) -> tuple[Tensor, Tensor]:
    """A prompt and another that differs in its last tokens, as a pair with one name swapped does."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(0, vocabulary, (1, length), generator=generator)
    source = base.clone()
    source[:, -changed:] = torch.randint(0, vocabulary, (1, changed), generator=generator)
    return base, source


def _sweep(runner: Runner, base: Tensor, source: Tensor) -> None:
    metric = LogitDifference(answer=11, wrong=12)
    patch_grid(runner, base=base, source=source, site="resid_pre", per="position", metric=metric)


def _best(function: Callable[[], None], tries: int = 3) -> float:
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def _loop(runner: Runner, base: Tensor, source: Tensor) -> float:
    """Seconds of one whole pass a cell, extrapolated from some cells."""
    model: Any = runner.model
    with torch.no_grad():
        _, kept = model.run_with_cache(source)
        started = time.perf_counter()
        for n in range(SAMPLED):
            layer, position = n * LAYERS // SAMPLED, n * base.shape[1] // SAMPLED

            def put(x: Tensor, hook: Any, position: int = position) -> Tensor:
                x[:, position] = kept[hook.name][:, position]
                return x

            model.run_with_hooks(base, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", put)])
    return (time.perf_counter() - started) / SAMPLED * LAYERS * base.shape[1]


def _whole(runner: Runner, base: Tensor, source: Tensor) -> float:
    """Seconds of the same sweep by whole passes, batched: under an intervention, here one that changes nothing."""
    with runner.intervene(Intervention("blocks.0.hook_resid_pre", lambda activation, _: activation)):
        return _best(lambda: _sweep(runner, base, source), tries=1)


def gemma_3_270m_shape() -> HookedTransformer:
    """18 layers of 640, every sixth of which sees everything."""
    with quiet(), torch.random.fork_rng():
        cfg = HookedTransformerConfig(
            n_layers=LAYERS,
            d_model=640,
            n_heads=4,
            n_key_value_heads=1,
            d_head=256,
            d_mlp=2048,
            d_vocab=VOCABULARY,
            n_ctx=32768,
            act_fn="gelu_pytorch_tanh",
            gated_mlp=True,
            normalization_type="RMS",
            use_normalization_before_and_after=True,
            use_qk_norm=True,
            final_rms=True,
            eps=1e-6,
            positional_embedding_type="rotary",
            rotary_base=1_000_000,
            rotary_base_local=10_000,
            rotary_dim=256,
            use_local_attn=True,
            attn_types=["global" if n % PERIOD == PERIOD - 1 else "local" for n in range(LAYERS)],
            window_size=512,
            original_architecture="Gemma3ForCausalLM",
            initializer_range=0.02,
            seed=0,
            device="cpu",
        )
        return HookedTransformer(cfg).eval().requires_grad_(False)


def stablelm_shape() -> TransformerBridge:
    """A StableLM of 12 layers of 768, which TransformerLens has no HookedTransformer for."""
    config = transformers.StableLmConfig(
        vocab_size=50_304,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
    )
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = transformers.StableLmForCausalLM(config).eval().requires_grad_(False)
        model.set_attn_implementation("eager")
        bridge = TransformerBridge.boot_transformers("stablelm", hf_model=model, tokenizer=stand_in(), device="cpu")
    return bridge.eval()


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
