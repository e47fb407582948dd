"""A token tree whose paths wait together and samples drawn together, against one at a time; both sides with caches."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.benchmarks.timing import Comparison, compare
from mechlist.datasets.chat import chat_tokens
from mechlist.decode import Sampling, generate
from mechlist.decode.tree import TreeConfig
from mechlist.decode.tree_model import grow_model_tree
from mechlist.runner import Runner

NODES = 500
SAMPLES = 64
NEW_TOKENS = 32
RULE = Sampling(temperature=0.7, top_p=0.8)


def run() -> list[Comparison]:
    """On the built-in list model. No token stops a sample, so that both sides write as much."""
    runner = Runner.load("list-tiny", progress=False)
    prompt = list(chat_tokens(runner.tokenizer, "Write a short list of fruits.", "-"))
    config = TreeConfig(
        min_branch_threshold=0.02, max_branch_threshold=0.02, max_nodes=NODES, max_completed_paths=NODES
    )

    def one_by_one() -> None:
        for _ in range(SAMPLES):
            generate(runner, [prompt], max_new_tokens=NEW_TOKENS)

    return [
        compare(
            f"token tree of {NODES} nodes, paths together, against one cached forward each",
            lambda: grow_model_tree(runner, prompt, config),
            lambda: grow_model_tree(runner, prompt, config, batch=1),
            pairs=3,
        ),
        compare(
            f"{SAMPLES} samples of {NEW_TOKENS} tokens together, against one after the other",
            lambda: generate(runner, [prompt], samples=SAMPLES, max_new_tokens=NEW_TOKENS),
            one_by_one,
            pairs=3,
        ),
        *(of_vocabulary(rows, size) for rows, size in ((128, 4096), (32, 262144))),
    ]


def of_vocabulary(rows: int, size: int) -> Comparison:
    """Drawing from the nucleus of distributions from peaked ones, as a model's mostly are, to flat ones."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, size, generator=generator) * torch.linspace(2, 12, rows)[:, None]
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    ours, other = (partial(one, logits, uniform) for one in (RULE.choose, sorted_all))
    if not torch.equal(ours(), other()):
        raise AssertionError("the two ways draw different tokens")
    return compare(f"{rows} tokens drawn of {size:,}, the first ones sorted, against all", ours, other)


def sorted_all(logits: Float[Tensor, "row vocab"], uniform: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """As it is mostly written."""
    values, tokens = logits.sort(dim=1, descending=True, stable=True)
    p = (values.double() / RULE.temperature).softmax(1)
    p[p.cumsum(1) - p >= RULE.top_p] = 0.0
    place = (p.cumsum(1) > (uniform * p.sum(1))[:, None]).int().argmax(1)
    return tokens.gather(1, place[:, None])[:, 0]
