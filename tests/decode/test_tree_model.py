"""Trees grown from models: batched over shared keys and values, against one whole forward pass a path."""

from collections.abc import Callable

import pytest
import torch

from mechlist.decode import Sampling
from mechlist.decode.importance import branchings, leaf_importance, resampled_importance
from mechlist.decode.tree import Candidate, TokenPath, Tree, TreeConfig, grow_tree
from mechlist.decode.tree_model import PathReader, grow_model_tree, likeliest
from mechlist.errors import InputError
from mechlist.runner import Runner, replace
from mechlist.runner.memory import MemoryShares

PROMPT = [5, 17, 4, 33, 8]
CONFIG = TreeConfig(
    min_branch_threshold=0.015, max_branch_threshold=0.025, max_depth=5, max_nodes=120, stop_tokens=(3, 90)
)


def slow_tree(runner: Runner, config: TreeConfig) -> Tree:
    """One whole forward pass a path."""

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        out = []
        for path in paths:
            probs = runner.logits([[*PROMPT, *path]])[0, -1].double().softmax(0)
            out.append([Candidate(i, str(i), float(p)) for i, p in enumerate(probs)])
        return out

    return grow_tree(expand, config, batch=1)


def same(found: Tree, expected: Tree) -> None:
    assert [(n.parent, n.token_id, n.is_finished) for n in found.nodes] == [
        (n.parent, n.token_id, n.is_finished) for n in expected.nodes
    ]
    assert [n.prob for n in found.nodes] == pytest.approx([n.prob for n in expected.nodes], abs=1e-5)
    for node, other in zip(found.nodes, expected.nodes, strict=True):
        assert [c.token_id for c in node.candidates] == [c.token_id for c in other.candidates]


@pytest.mark.parametrize("order", ["breadth", "best"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_batches_over_shared_keys_equal_whole_passes(loaded: Callable[[str], Runner], architecture: str, order: str):
    runner = loaded(architecture)
    config = TreeConfig(**{**vars(CONFIG), "order": order})
    expected = slow_tree(runner, config)
    assert len(expected.nodes) >= 70
    for batch in (1, 5, 64):
        same(grow_model_tree(runner, PROMPT, config, batch=batch), expected)


def test_paths_are_read_in_any_order(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    reader = PathReader(runner, PROMPT)
    # Longer than the window; children of several parents, the same again, and paths whose parents were never read.
    asked = [(), (7,), (7, 8), (9,), (7, 8), (9, 2), (1, 2, 3, 4, 5, 6, 7, 8), (7, 8, 1), (9, 2, 1), (7, 8, 2)]
    expected = torch.stack([runner.logits([[*PROMPT, *p]])[0, -1].log_softmax(0) for p in asked])
    torch.testing.assert_close(reader.log_probs(asked), expected, atol=1e-4, rtol=1e-4)
    one_by_one = torch.cat([reader.log_probs([p]) for p in reversed(asked)])
    torch.testing.assert_close(one_by_one, expected.flip(0), atol=1e-4, rtol=1e-4)


def test_little_memory_changes_nothing(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    runner = loaded("gpt2")
    wide = grow_model_tree(runner, PROMPT, CONFIG)
    monkeypatch.setattr(runner, "shares", MemoryShares(300_000))
    same(grow_model_tree(runner, PROMPT, CONFIG), wide)
    monkeypatch.setattr(runner, "shares", MemoryShares(1000))
    with pytest.raises(InputError, match="memory is too small: one path of 5 tokens needs about"):
        grow_model_tree(runner, PROMPT, CONFIG)


def test_a_full_context_is_a_leaf(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    prompt = [5] * (runner.shape.n_ctx - 2)
    tree = grow_model_tree(runner, prompt, TreeConfig(max_branch_threshold=0.1))
    assert max(node.depth for node in tree.nodes) == 2
    assert all(tree.nodes[i].is_open for i in tree.leaves)


def test_interventions_act_on_every_path(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    plain = grow_model_tree(runner, PROMPT, CONFIG)
    with runner.intervene(replace("blocks.1.attn.hook_z", 0.0, heads=[2])):
        changed = grow_model_tree(runner, PROMPT, CONFIG)
        same(changed, slow_tree(runner, CONFIG))
    assert [n.prob for n in changed.nodes] != [n.prob for n in plain.nodes]


def test_equals_stand_in_the_order_of_their_ids():
    log_probs = torch.tensor([0.1, 0.3, 0.1, 0.3, 0.2]).log()
    assert [token for token, _ in likeliest(log_probs, 0.05)] == [1, 3, 4, 0, 2]
    assert [token for token, _ in likeliest(log_probs, 0.5)] == [1]


def test_what_a_choice_parts_is_measured_on_leaves():
    # Behind <1> all is the same as behind <2>, but for the token itself; behind <3> nothing is.
    table: dict[TokenPath, dict[int, float]] = {
        (): {1: 0.5, 2: 0.5},
        (1,): {7: 1.0},
        (2,): {7: 1.0},
        (1, 7): {8: 0.5, 9: 0.5},
        (2, 7): {8: 0.5, 9: 0.5},
    }
    tree = grow_tree(
        lambda paths: [[Candidate(t, str(t), p) for t, p in table.get(path, {}).items()] for path in paths],
        TreeConfig(max_branch_threshold=0.2),
    )
    found = {tree.tokens(i.node): i for i in leaf_importance(tree)}
    assert set(found) == {(), (1, 7), (2, 7)}
    # Two of three tokens differ, or one: distances 0, 1/3, 1/3, 2/3 in total, 0 and 1/3 within a child.
    assert found[()].spread.total == pytest.approx((0 + 1 / 3 + 1 / 3 + 2 / 3) / 4)
    assert found[()].spread.between == pytest.approx(1 / 3 - 1 / 6)
    assert found[(1, 7)].spread.share == 1.0
    assert found[()].continuations == 4


def test_what_a_choice_parts_is_measured_on_draws(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    tree = grow_model_tree(runner, PROMPT, CONFIG)
    nodes = branchings(tree)[:3]
    asked = {"nodes": nodes, "samples": 5, "max_new_tokens": 4}
    found = resampled_importance(runner, tree, PROMPT, **asked)
    assert [one.node for one in found] == nodes
    assert all(one.continuations == 5 * len(tree.nodes[one.node].children) for one in found)
    assert all(-1 < one.spread.between < one.spread.total <= 1 for one in found)
    assert resampled_importance(runner, tree, PROMPT, **asked) == found
    # Greedily, a child has one continuation: all of the spread is between children.
    greedy = resampled_importance(runner, tree, PROMPT, **asked, sampling=Sampling(greedy=True))
    for one in greedy:
        share = torch.tensor([float(tree.nodes[c].prob) for c in tree.nodes[one.node].children])
        assert one.spread.share == pytest.approx(1.0), share
    with pytest.raises(InputError, match="samples must be at least 2, not 1"):
        resampled_importance(runner, tree, PROMPT, samples=1)
    with pytest.raises(InputError, match=f"and {tree.leaves[0]} has not"):
        resampled_importance(runner, tree, PROMPT, nodes=[tree.leaves[0]])
