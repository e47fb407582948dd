"""A token tree whose paths wait together and samples drawn together, against one at a time; both sides with caches."""

from experiments.benchmarks.timing import Comparison, compare
from mechlist.datasets.chat import chat_tokens
from mechlist.decode import generate
from mechlist.decode.tree import TreeConfig
from mechlist.decode.tree_model import grow_model_tree
from mechlist.runner import Runner

NODES = 500
SAMPLES = 64
NEW_TOKENS = 32


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
    ]
