"""The same patching sweeps as an nnsight user would batch them, on Hugging Face's GPT-2 small with random weights.

One trace a layer, in it one invoke a cell, so that the cells share a forward pass; only the logits of the last token
are made. nnsight is no dependency: `pip install nnsight==0.8.1`. `python -m experiments.benchmarks.patching_nnsight`
prints this part alone.
"""

import importlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.benchmarks.shapes import gpt2_small_shape
from mechlist import LogitDifference, Runner, patch_grid
from mechlist.models.quiet import quiet

ANSWER, WRONG = 11, 12
TRACE_TOKENS = 512
"""Tokens of a trace; larger ones were slower on a CPU, up to 1.8 times at 64 x 64 and 128 x 128 tokens."""
ATTENTION = "eager"
"""Hugging Face's implementation; "sdpa" was as fast at 16 tokens."""
CHECKED = 4
"""Cells of a layer that are compared with whole passes."""
TOLERANCE = 1e-4
"""Logits."""

Index = tuple[Any, ...]
Site = Callable[[Any], Any]
"""From a block, nnsight's or Hugging Face's own, to the module whose input is patched."""


def run() -> Iterator[str]:
    """One line a sweep; one that says so where nnsight is missing."""
    try:
        for length in (16, 64, 128):
            yield _line("resid_pre", "position", length, resid_pre_seconds(length, (1, 6)))
        for length in (16, 64, 128):
            yield _line("z", "head", length, z_seconds(length, (1, 6)))
    except ImportError as error:
        yield str(error)


def resid_pre_seconds(length: int, layers: Sequence[int], trace_tokens: int = TRACE_TOKENS) -> float:
    """Seconds of patching the residual stream before each layer at each position, all layers, with nnsight.

    Args:
        length: tokens of the prompt.
        layers: those that are timed; every layer costs the same, since every cell is a whole forward pass, so the
            fastest of them stands for each.
        trace_tokens: a trace gets as many cells as have this many tokens.

    Raises:
        ImportError: nnsight is not installed.
        RuntimeError: its logit differences are not those of forward passes with PyTorch's own hooks.
    """
    return _apart(_block, [(slice(None), position) for position in range(length)], length, layers, trace_tokens)


def z_seconds(length: int, layers: Sequence[int], trace_tokens: int = TRACE_TOKENS) -> float:
    """Seconds of patching each head's output at all positions, all layers; otherwise as `resid_pre_seconds`."""
    width = GPT2Config().n_embd // GPT2Config().n_head
    heads = [(..., slice(start, start + width)) for start in range(0, GPT2Config().n_embd, width)]
    return _apart(_projection, heads, length, layers, trace_tokens)


def _line(site: str, per: str, length: int, theirs: float) -> str:
    runner = Runner(gpt2_small_shape(), progress=False)
    base, source = _prompts(length)

    def ours() -> None:
        metric = LogitDifference(answer=ANSWER, wrong=WRONG)
        patch_grid(runner, base=base, source=source, site=site, per=per, metric=metric)

    with quiet():
        ours()
        seconds = min(_timed(ours) for _ in range(3))
    name = f"{site} by {per}, {length} tokens"
    return f"{name:<52} ours {seconds:7.2f} s, nnsight {theirs:7.2f} s, {theirs / seconds:5.1f}x"


def _prompts(length: int) -> list[Int[Tensor, "1 position"]]:
    """Base and source."""
    generator = torch.Generator().manual_seed(length)
    return [torch.randint(0, 50257, (1, length), generator=generator) for _ in range(2)]


def _block(block: Any) -> Any:
    return block


def _projection(block: Any) -> Any:
    """What reads the heads' outputs, one after the other."""
    return block.attn.c_proj


def _apart(site: Site, cells: Sequence[Index], length: int, layers: Sequence[int], trace_tokens: int) -> float:
    """In a process of its own: importing nnsight gives every object a `save` and replaces `Tensor.backward`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_seconds, site, cells, length, layers, trace_tokens).result()


def _seconds(site: Site, cells: Sequence[Index], length: int, layers: Sequence[int], trace_tokens: int) -> float:
    """The source's run and as many times the fastest layer as there are layers."""
    nnsight = _nnsight()
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        module = GPT2LMHeadModel(GPT2Config()).eval()
        module.set_attn_implementation(ATTENTION)
        # nnsight asks for a tokenizer; it gets token ids to trace.
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"x": 0}, unk_token="x")))
        model = nnsight.TransformersModel(module, tokenizer=tokenizer, task="text-generation")
    base, source = _prompts(length)
    many = max(1, trace_tokens // length)
    batches = [cells[start : start + many] for start in range(0, len(cells), many)]

    def sweep(layer: int) -> Float[Tensor, " cell"]:
        return torch.cat([_traced(model, site, layer, base, clean[layer], batch) for batch in batches])

    with torch.no_grad():
        clean = _clean(nnsight, model, site, source)
        _traced(model, site, 0, base, clean[0], batches[0])
        once = _timed(lambda: _clean(nnsight, model, site, source))
        each = []
        for layer in layers:
            started = time.perf_counter()
            values = sweep(layer)
            each.append(time.perf_counter() - started)
            _check(module, site, layer, base, clean[layer], cells, values)
    return once + min(each) * len(module.transformer.h)


def _nnsight() -> Any:
    try:
        return importlib.import_module("nnsight")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Comparing with nnsight needs {error.name}, which is not installed: pip install nnsight==0.8.1."
        ) from error


def _clean(nnsight: Any, model: Any, site: Site, source: Int[Tensor, "1 position"]) -> list[Tensor]:
    """The site's activation in every layer of the source's run."""
    with model.trace(source, logits_to_keep=1):
        inputs = nnsight.save([])
        for block in model.transformer.h:
            inputs.append(site(block).input)
    return inputs


def _traced(
    model: Any, site: Site, layer: int, base: Int[Tensor, "1 position"], clean: Tensor, cells: Sequence[Index]
) -> Float[Tensor, " cell"]:
    """Logit differences of the cells: one forward pass, a row for each."""
    with model.trace(logits_to_keep=1) as tracer:
        for cell in cells:
            with tracer.invoke(base):
                site(model.transformer.h[layer]).input[cell] = clean[cell]
        with tracer.invoke():  # all rows
            logits = model.output.logits
            difference = (logits[:, -1, ANSWER] - logits[:, -1, WRONG]).save()
    return difference


def _check(
    module: GPT2LMHeadModel,
    site: Site,
    layer: int,
    base: Int[Tensor, "1 position"],
    clean: Tensor,
    cells: Sequence[Index],
    values: Float[Tensor, " cell"],
) -> None:
    """Some cells, the last among them, against forward passes with a hook, one by one."""
    unpatched = _hooked(module, [], base)
    moved = 0.0
    for i in range(len(cells) - 1, -1, -max(1, len(cells) // CHECKED)):
        expected = _hooked(module, [(site(module.transformer.h[layer]), cells[i], clean)], base)
        moved = max(moved, abs(expected - unpatched))
        if not abs(float(values[i]) - expected) <= TOLERANCE:
            raise RuntimeError(
                f"Cell {i} of layer {layer} is {float(values[i]):.6f} with nnsight and {expected:.6f} with a hook: "
                f"they must agree to {TOLERANCE}."
            )
    if not moved > TOLERANCE:
        raise RuntimeError(f"No cell of layer {layer} moves the logit difference by more than {TOLERANCE}.")


def _hooked(module: GPT2LMHeadModel, patches: Sequence[tuple[Any, Index, Tensor]], base: Tensor) -> float:
    handles = [where.register_forward_pre_hook(_patch(cell, clean)) for where, cell, clean in patches]
    try:
        logits = module(base, logits_to_keep=1).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return float(logits[ANSWER] - logits[WRONG])


def _patch(cell: Index, clean: Tensor) -> Callable[..., Any]:
    def hook(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = inputs[0].clone()
        changed[cell] = clean[cell]
        return (changed, *inputs[1:])

    return hook


def _timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
