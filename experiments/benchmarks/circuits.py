"""`edge_scores` on a GPT-2-small shape: its time and memory, against patching edges one by one."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from experiments.benchmarks.attribution import prompts
from experiments.benchmarks.memory import measured
from experiments.benchmarks.shapes import gpt2_small_shape
from mechlist import LogitDifference, Runner
from mechlist.metrics.statistics import rank_correlation
from mechlist.models.quiet import quiet
from mechlist.patching.edge_attribution import edge_scores
from mechlist.patching.edges import nodes_of, run_edges

STEPS = 5
EXACT_PROMPTS, EXACT_EDGES = 4, 40
"""Prompts, and edges drawn at random, that are patched one by one; the time for all follows from theirs."""


def run() -> Iterator[str]:
    """Time, memory and agreement of EAP-IG."""
    runner = Runner(gpt2_small_shape(), progress=False)
    base, source = prompts()
    metric = LogitDifference(answer=11, wrong=12)
    nodes = nodes_of(runner)
    with quiet():
        edge_scores(runner, base=base[:1], source=source[:1], metric=metric)
        made = []
        asked = {"base": base, "source": source, "metric": metric, "steps": STEPS}
        peak, seconds = measured(lambda: made.append(edge_scores(runner, **asked).scores))
        scores = made[0]
        edges = _drawn(len(nodes.edges))
        sets = torch.zeros(len(edges), *nodes.reads.shape, dtype=torch.bool)
        sender, receiver = nodes.edges[edges].T
        sets[torch.arange(len(edges)), sender, receiver] = True
        few = {"base": base[:EXACT_PROMPTS], "source": source[:EXACT_PROMPTS], "metric": metric}
        started = time.perf_counter()
        exact = run_edges(runner, **few, patched=sets)
        exact_seconds = time.perf_counter() - started
        unchanged = run_edges(runner, **few, patched=torch.zeros_like(sets[:1]))
    whole = exact_seconds / (len(edges) * EXACT_PROMPTS) * len(nodes.edges) * len(base)
    effect = (exact - unchanged).T.double().numpy()
    found = scores[:EXACT_PROMPTS, sender, receiver].double().numpy()
    # The noise of float32 ranks edges whose effect it hides.
    moved = np.abs(effect) > 1e-5
    ranks = rank_correlation(found[moved], effect[moved])
    dense = 4 * base.numel() * (len(nodes.senders) + len(nodes.receivers)) * runner.shape.d_model
    yield (
        f"EAP-IG with {STEPS} steps, {len(base)} prompts of {base.shape[1]} tokens, {len(nodes.edges)} edges: "
        f"{seconds:.1f} s, {peak / 2**20:.0f} MiB beyond the model at most"
    )
    yield (
        f"what every sender writes and every receiver's gradient, as dense tensors of that batch, would take "
        f"{dense / 2**20:.0f} MiB"
    )
    yield (
        f"all edges one by one, exactly: {whole:.0f} s (from {len(edges)} edges on {EXACT_PROMPTS} prompts, "
        f"{exact_seconds:.1f} s), {whole / seconds:.0f} times as long; rank correlation {ranks:.3f} ({moved.sum()} of "
        f"{moved.size} effects above 1e-5 logits)"
    )


def _drawn(edges: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).choice(edges, EXACT_EDGES, replace=False))
