"""The activation store: a second experiment over the same prompts, and capture to disk against forward passes only."""

import shutil
import tempfile
from pathlib import Path

import torch

from experiments.benchmarks.shapes import gpt2_small_shape
from experiments.benchmarks.timing import Comparison, compare
from mechlist.runner import Batch, Runner
from mechlist.runner.store import ActivationStore

HOOK = "blocks.*.hook_resid_post"


def run() -> list[Comparison]:
    """Both in one run, on the same prompts."""
    runner = Runner(gpt2_small_shape(), progress=False)
    prompts = torch.randint(0, 50257, (64, 64), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "store"
        stored = Runner(runner.language_model, progress=False)
        stored.fingerprint()

        def cold() -> None:
            shutil.rmtree(directory, ignore_errors=True)
            stored.store = ActivationStore(directory, ram_bytes=0)
            stored.store_activations(prompts, HOOK)

        def warm() -> None:
            stored.capture(prompts, HOOK)

        def forward_only() -> None:
            runner.map(prompts, _nothing)

        return [
            compare("second experiment on stored activations, against computing them", warm, cold, pairs=3),
            compare("12 residual streams of 64 x 64 tokens to disk, against forward only", cold, forward_only),
        ]


def _nothing(batch: Batch) -> dict[str, torch.Tensor]:
    return {"done": torch.ones(len(batch.tokens))}
