"""Attribution to the features of SAEs: peak memory of six against one, and time against a loop with SAEs spliced in."""

import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from experiments.benchmarks.memory import measured
from experiments.benchmarks.shapes import gpt2_small_shape
from experiments.benchmarks.timing import Comparison, compare
from mechlist.metrics.answers import LogitDifference
from mechlist.runner import Runner
from mechlist.sae.load import Place, hooks_of, load_sae, places
from mechlist.sae.sae import Sae
from mechlist.sae.stream import Asked, stream_attribution
from mechlist.sae.traces import Question
from mechlist.types import format_bytes

LAYERS, WIDTH, PROMPTS, TOKENS, LOOPED = 6, 24_576, 64, 16, 4
ANSWER, WRONG, TOP = 5, 6, 20


def run() -> Iterator[str]:
    """One line a measurement."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        peaks = [_apart(folder, count) for count in (1, LAYERS)]
        name = f"attribution to {LAYERS} SAEs of {WIDTH:,} features, {PROMPTS} x {TOKENS} tokens"
        more = peaks[1] / peaks[0] - 1
        yield f"{name:<66} peak {format_bytes(peaks[1])}, {more:+.0%} against 1 SAE"
        yield _times(Path(folder)).row()


def _write(folder: Path) -> None:
    """A random top-k SAE after every layer; all share one file of weights."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(WIDTH, 768, generator=generator), dim=1)
    weights = {
        "W_dec": decoder,
        "W_enc": decoder.T.contiguous(),
        "b_enc": torch.zeros(WIDTH),
        "b_dec": torch.zeros(768),
    }
    save_file(weights, folder / "weights.safetensors")
    for layer in range(LAYERS):
        own = folder / f"layer_{layer}"
        own.mkdir()
        (own / "sae_weights.safetensors").symlink_to(folder / "weights.safetensors")
        metadata = {"hook_name": f"blocks.{layer}.hook_resid_post", "model_name": "", "sae_lens_version": "6.0.0"}
        about = {"architecture": "topk", "k": 64, "d_in": 768, "d_sae": WIDTH, "dtype": "float32", "device": "cpu"}
        about |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
        (own / "cfg.json").write_text(json.dumps(about | {"metadata": metadata}))


def _asked(prompts: int) -> tuple[Runner, Asked]:
    runner = Runner(gpt2_small_shape(LAYERS), progress=False)
    tokens = torch.randint(9, 50257, (prompts, TOKENS), generator=torch.Generator().manual_seed(1))
    metric = LogitDifference(answer=ANSWER, wrong=WRONG, position=TOKENS - 1)
    question = Question(tokens=tokens, lengths=torch.full((prompts,), TOKENS), metric=metric)
    counted = torch.ones(prompts, TOKENS, dtype=torch.bool)
    return runner, Asked(question=question, counted=counted, names=[str(i) for i in range(prompts)], top=TOP)


def _streamed(runner: Runner, where: list[Place], asked: Asked) -> Tensor:
    found, _ = stream_attribution(runner, where, hooks_of(runner, where), asked)
    return torch.stack([one.features for one in found])


def _apart(folder: str, count: int) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, folder, count).result()


def _peak(folder: str, count: int) -> int:
    where = places([folder])[:count]
    # The libraries' own first-time allocations are not the run's.
    _streamed(*_few(where))
    runner, asked = _asked(PROMPTS)
    return measured(lambda: _streamed(runner, where, asked))[0]


def _few(where: list[Place]) -> tuple[Runner, list[Place], Asked]:
    runner, asked = _asked(1)
    return runner, where, asked


def _times(folder: Path) -> Comparison:
    """Ours on all prompts, the loop on some of them: its time for all follows."""
    where = places([str(folder)])
    runner, asked = _asked(PROMPTS)
    saes, some = [load_sae(place) for place in where], asked.question.tokens[:LOOPED]
    ours, theirs = _streamed(runner, where, asked), _loop(runner, saes, some)
    torch.testing.assert_close(ours[:, :LOOPED].float(), theirs, atol=1e-3, rtol=1e-3)
    pair = compare("", lambda: _streamed(runner, where, asked), lambda: _loop(runner, saes, some), pairs=3)
    name = f"attribution to {LAYERS} SAEs, {PROMPTS} prompts, against SAEs spliced in one by one"
    return Comparison(name, pair.ours, tuple(seconds * PROMPTS / LOOPED for seconds in pair.alternative))


def _loop(runner: Runner, saes: list[Sae], tokens: Tensor) -> Tensor:
    """Each prompt through the model with each SAE spliced in, its error passed on; the sum over features."""
    model = runner.model
    out = torch.zeros(len(saes), len(tokens))
    for i, sae in enumerate(saes):
        for row, prompt in enumerate(tokens):
            kept: list[Tensor] = []

            def splice(activation: Tensor, hook: Any, sae: Sae = sae, kept: list[Tensor] = kept) -> Tensor:  # noqa: ARG001
                features = sae.encode(activation).requires_grad_()
                kept.append(features)
                made = features @ sae.decoder + sae.bias
                return made + (activation - made).detach()

            with torch.enable_grad():
                logits = model.run_with_hooks(prompt[None], fwd_hooks=[(sae.hook, splice)])
                (logits[0, -1, ANSWER] - logits[0, -1, WRONG]).backward()
            features = kept[0]
            assert features.grad is not None
            out[i, row] = (features.detach() * features.grad).sum()
            model.zero_grad()
    return out
