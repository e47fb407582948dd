"""`path_patch` against the usual loop of two TransformerLens passes a sender, all prompts in one batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.shapes import gpt2_small_shape
from mechlist import LogitDifference, Runner
from mechlist.models.quiet import quiet
from mechlist.patching.circuits.nodes import LOGITS, Nodes
from mechlist.patching.path import path_patch

PROMPTS, LENGTH, VOCABULARY = 8, 16, 50257
CHANGED = (3, 8, 12)
"""Positions whose tokens differ between base and source."""
ANSWER, WRONG = 11, 12
SETS = {"the logits": [LOGITS], "three heads' queries": ["a9.h6<q>", "a9.h9<q>", "a10.h0<q>"]}
LOOPED = 6
"""Senders, drawn at random, with which the loop is timed; its time for all follows from theirs."""

Result = TypeVar("Result")
Hooks = list[tuple[Any, Callable[..., Any]]]


def run() -> Iterator[str]:
    """One line a set of receivers and definition."""
    runner = Runner(gpt2_small_shape(), progress=False)
    base, source = _prompts()
    nodes = Nodes(runner.shape)
    yield f"path patching from every head, MLP and the embedding, {PROMPTS} prompts of {LENGTH} tokens"
    with quiet():
        for name, receivers in SETS.items():
            for frozen in ("all", "heads"):
                yield _line(runner, nodes, base, source, name, receivers, frozen)


def _line(
    runner: Runner, nodes: Nodes, base: Tensor, source: Tensor, name: str, receivers: list[str], frozen: str
) -> str:
    numbers = [nodes.receiver(one) for one in receivers]
    reaching = [one.name for one, reads in zip(nodes.senders, nodes.reads[:, numbers].any(dim=1), strict=True) if reads]
    drawn = np.random.default_rng(0).choice(len(reaching), LOOPED, replace=False)
    metric = LogitDifference(answer=ANSWER, wrong=WRONG)
    asked: dict[str, Any] = {"receivers": {name: receivers}, "frozen": frozen, "metric": metric}
    path_patch(runner, base=base[:1], source=source[:1], senders=reaching[:1], **asked)
    ours, found = _timed(lambda: path_patch(runner, base=base, source=source, senders=reaching, **asked))
    _loop(runner.model, base, source, [reaching[drawn[0]]], receivers, frozen)
    few, looped = _timed(lambda: _loop(runner.model, base, source, [reaching[i] for i in drawn], receivers, frozen))
    whole = few * len(reaching) / LOOPED
    error = np.abs(found["patched"].values[:, 0, drawn] - looped).max()
    return (
        f"to {name:<20} frozen={frozen:<5} {len(reaching)} senders {ours:7.1f} s, loop {whole:7.1f} s (from {LOOPED} "
        f"senders, {few:.1f} s): {whole / ours:.1f} times as fast, largest difference {error:.1e}"
    )


@torch.no_grad()
def _loop(
    model: Any, base: Tensor, source: Tensor, senders: Sequence[str], receivers: Sequence[str], frozen: str
) -> np.ndarray:
    """The metric, [prompt sender], as it is usually done: heads and MLPs frozen by hooks, then receivers put in."""
    _, there = model.run_with_cache(base, names_filter=_kept)
    _, other = model.run_with_cache(source, names_filter=_kept)
    out = []
    for sender in senders:
        read: dict[str, Tensor] = {}
        logits = model.run_with_hooks(base, fwd_hooks=[*_first(model, there, other, sender, frozen), *_reads(read)])
        if receivers[0] != LOGITS:
            logits = model.run_with_hooks(base, fwd_hooks=_second(read, receivers))
        out.append((logits[:, -1, ANSWER] - logits[:, -1, WRONG]).numpy())
    return np.stack(out, axis=1)


def _kept(name: str) -> bool:
    return name.endswith(("hook_z", "hook_mlp_out", "hook_embed"))


def _first(model: Any, there: Any, other: Any, sender: str, frozen: str) -> Hooks:
    hooks: Hooks = [("hook_embed", partial(_put, other["hook_embed"]))] if sender == "input" else []
    for layer in range(model.cfg.n_layers):
        z, mlp = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.hook_mlp_out"
        value = there[z]
        if sender.startswith(f"a{layer}."):
            head = int(sender.split(".h")[1])
            value = value.clone()
            value[:, :, head] = other[z][:, :, head]
        hooks.append((z, partial(_put, value)))
        if sender == f"m{layer}":
            hooks.append((mlp, partial(_put, other[mlp])))
        elif frozen == "all":
            hooks.append((mlp, partial(_put, there[mlp])))
    return hooks


def _reads(read: dict[str, Tensor]) -> Hooks:
    def keep(activation: Tensor, hook: Any) -> None:
        read[hook.name] = activation

    return [(lambda name: name.endswith("hook_q"), keep)]


def _second(read: dict[str, Tensor], receivers: Sequence[str]) -> Hooks:
    hooks: Hooks = []
    for receiver in receivers:
        layer, head = receiver[1:].removesuffix("<q>").split(".h")
        name = f"blocks.{layer}.attn.hook_q"
        hooks.append((name, partial(_put_head, read[name], int(head))))
    return hooks


def _put(value: Tensor, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens passes them)
    return value


def _put_head(value: Tensor, head: int, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    activation[:, :, head] = value[:, :, head]
    return activation


def _prompts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, other = (torch.randint(0, VOCABULARY, (PROMPTS, LENGTH), generator=generator) for _ in range(2))
    source = base.clone()
    source[:, CHANGED] = other[:, CHANGED]
    return base, source


def _timed(function: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
