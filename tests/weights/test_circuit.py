"""Circuits against hand-built models and against the full vocab x vocab matrix."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.load import load
from mechlist.runner import Runner
from mechlist.weights.circuit import (
    EXACT_FLOPS,
    SAMPLE,
    Axis,
    circuit_ranks,
    circuit_top_k_accuracy,
    copying_accuracy,
    copying_circuit,
    diagonal_ranks,
    k_composition_circuit,
    sampled_tokens,
    top_k_share,
)
from tests.models.tiny import save_hooked

VOCAB = 6
AXES: tuple[Axis, Axis] = ("query", "key")


@pytest.fixture
def one_hot(tmp_path: Path) -> Any:
    """Every token has a dimension, and every head of both layers passes it on as it is."""
    sizes = {"d_model": VOCAB, "d_head": VOCAB, "n_heads": 2, "d_vocab": VOCAB, "attn_only": True, "d_mlp": None}
    model = save_hooked(tmp_path / "one-hot", **sizes, normalization_type=None)
    with torch.no_grad():
        for weight in (model.embed.W_E, model.unembed.W_U):
            weight.copy_(torch.eye(VOCAB))
        for block in model.blocks:
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                getattr(block.attn, name).copy_(torch.eye(VOCAB))
    return model


def sides(scores: Float[Tensor, "query key"]) -> tuple[Tensor, Tensor]:
    """Factors of any matrix of scores."""
    return scores, torch.eye(len(scores))


def random_sides(vocab: int = 53, rank: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, noise = torch.randn(2, vocab, rank, generator=generator)
    return query, query + noise


def accuracies(model: Any, k: int = 1) -> list[float]:
    circuit = k_composition_circuit(model, (0, 0), (1, 1))
    return [circuit_top_k_accuracy(*circuit, axis=axis, k=k) for axis in AXES]


def test_a_perfect_diagonal_and_a_permuted_one(one_hot: Any):
    assert accuracies(one_hot) == [1.0, 1.0]
    with torch.no_grad():
        one_hot.blocks[0].attn.W_V[0].copy_(torch.eye(VOCAB).roll(1, dims=0))
    assert accuracies(one_hot) == [0.0, 0.0]
    # The other previous head is as it was.
    assert circuit_top_k_accuracy(*k_composition_circuit(one_hot, (0, 1), (1, 1)), axis="key") == 1.0


def test_the_earlier_of_equal_scores_wins_as_in_argmax(one_hot: Any):
    with torch.no_grad():
        one_hot.blocks[1].attn.W_Q.zero_()
    assert accuracies(one_hot) == [1 / VOCAB, 1 / VOCAB]
    assert accuracies(one_hot, k=5) == [5 / VOCAB, 5 / VOCAB]
    tied = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [2.0, 3.0, 2.0]])
    assert diagonal_ranks(*sides(tied)).tolist() == [0, 1, 2]
    assert (tied.argmax(1) == torch.arange(3)).tolist() == [True, False, False]


def test_the_two_axes_differ():
    # Rows are queries. Each query's own key is its largest; to key 0, query 1 scores higher than query 0.
    scores = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    assert circuit_top_k_accuracy(*sides(scores), axis="key") == 1.0
    assert circuit_top_k_accuracy(*sides(scores), axis="query") == 0.5


def test_arenas_page_seeks_over_keys_and_its_solutions_over_queries():
    query, key = random_sides()
    transpose, token = (query @ key.T).T, torch.arange(len(query))
    page = (transpose.argmax(dim=0) == token).double().mean().item()
    solutions = (transpose.argmax(dim=1) == token).double().mean().item()
    assert page != solutions
    assert circuit_top_k_accuracy(query, key, axis="key") == page
    assert circuit_top_k_accuracy(query, key, axis="query") == solutions


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("axis", AXES)
def test_the_full_matrix_gives_the_same_whatever_the_chunks(axis: Axis, k: int):
    query, key = random_sides()
    scores = query @ key.T if axis == "key" else key @ query.T
    expected = (scores.topk(k).indices == torch.arange(len(scores))[:, None]).any(1).double().mean().item()
    assert 0.1 < expected < 0.9
    for tile_bytes in (1, 5000, 2**20):
        assert circuit_top_k_accuracy(query, key, axis=axis, k=k, tile_bytes=tile_bytes) == expected


@pytest.mark.parametrize("tile_bytes", [1, 64, 5000, 2**24])
@pytest.mark.parametrize("axis", AXES)
def test_ranks_of_some_tokens_are_those_of_all(axis: Axis, tile_bytes: int):
    query, key = random_sides()
    every = circuit_ranks(query, key, axis=axis)
    tokens = torch.tensor([0, 3, 4, 30, 52])
    assert torch.equal(circuit_ranks(query, key, axis=axis, tokens=tokens, tile_bytes=tile_bytes), every[tokens])
    assert top_k_share(every[tokens], 50, vocab=53) == (every[tokens] < 50).sum().item() / 5


def test_ties_go_to_the_earlier_column_in_every_tile():
    # All scores are equal: each token's rank is the number of tokens before it.
    ones = torch.ones(29, 2)
    for tile_bytes in (1, 100, 1000, 2**20):
        assert diagonal_ranks(ones, ones, tile_bytes=tile_bytes).tolist() == list(range(29))
        own = torch.tensor([2, 7, 28])
        assert diagonal_ranks(ones[own], ones, own=own, tile_bytes=tile_bytes).tolist() == [2, 7, 28]


def test_progress_counts_every_score():
    done: list[int] = []
    query, key = random_sides()
    circuit_ranks(query, key, axis="key", tokens=torch.tensor([1, 5]), tile_bytes=400, progress=done.append)
    assert sum(done) == 2 * 53
    assert len(done) > 3


def test_which_tokens_are_read():
    def drawn(vocab: int, rank: int, count: int | None) -> torch.Tensor | None:
        return sampled_tokens(vocab, rank, count, torch.Generator().manual_seed(0))

    assert drawn(50_257, 64, None) is None, "GPT-2 small is read whole"
    assert 4.0 * 50_257**2 * 64 < EXACT_FLOPS < 4.0 * 262_144**2 * 256
    sample = drawn(262_144, 256, None)
    assert sample is not None
    assert len(sample) == len(sample.unique()) == SAMPLE
    assert (sample.diff() > 0).all()
    assert drawn(262_144, 256, 0) is None
    assert drawn(100, 4, 100) is None
    few = drawn(100, 4, 10)
    assert few is not None
    assert len(few) == 10
    with pytest.raises(InputError, match=re.escape("circuit_tokens must be 0 (all tokens) or more, not -1.")):
        drawn(100, 4, -1)


def test_own_columns_must_rise():
    query, key = random_sides()
    with pytest.raises(InputError, match="own columns must be in rising order, each once"):
        diagonal_ranks(query[:2], key, own=torch.tensor([4, 4]))


def test_the_scores_are_those_of_the_whole_product(tmp_path: Path):
    model = save_hooked(tmp_path / "grouped", n_key_value_heads=2, n_layers=3)
    circuit = k_composition_circuit(model, (0, 1), (2, 3))
    W_E, W_OV = model.W_E, model.W_V[0, 1] @ model.W_O[0, 1]
    expected = W_E @ model.W_Q[2, 3] @ (W_E @ W_OV @ model.W_K[2, 3]).T
    torch.testing.assert_close(circuit.query_side @ circuit.key_side.T, expected.detach(), atol=1e-7, rtol=1e-5)


def test_copying_is_the_diagonal_of_the_sum_of_heads(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny")
    heads = [(0, 2), (1, 0), (1, 3)]
    logits = sum(model.W_E @ model.W_V[h] @ model.W_O[h] @ model.W_U for h in heads)
    assert isinstance(logits, Tensor)
    source, output = copying_circuit(model, heads)
    assert source.shape == (97, 12)
    torch.testing.assert_close(source @ output.T, logits.detach(), atol=1e-6, rtol=1e-5)
    best = logits.topk(5).indices == torch.arange(97)[:, None]
    assert copying_accuracy(model, heads, k=5) == best.sum().item() / 97
    assert copying_accuracy(model, heads) == best[:, 0].sum().item() / 97


def test_a_one_hot_head_copies_and_a_permuting_one_does_not(one_hot: Any):
    with torch.no_grad():
        one_hot.blocks[0].attn.W_O[1].copy_(0.5 * torch.eye(VOCAB).roll(1, dims=0))
    assert copying_accuracy(one_hot, [(0, 0)]) == 1.0
    assert copying_accuracy(one_hot, [(0, 1)]) == 0.0
    assert copying_accuracy(one_hot, [(0, 0), (0, 1)]) == 1.0


def test_half_precision_is_computed_in_single(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny").to(torch.bfloat16, print_details=False)
    circuit = k_composition_circuit(model, (0, 0), (1, 0))
    again = k_composition_circuit(model.to(torch.float32, print_details=False), (0, 0), (1, 0))
    assert circuit.key_side.dtype == torch.float32
    assert torch.equal(circuit.key_side, again.key_side)


def test_the_builtin_model_composes_its_previous_token_head_and_copies(tiny_runner: Runner):
    module = tiny_runner.model
    for axis in AXES:
        for head in range(4):
            found = circuit_top_k_accuracy(*k_composition_circuit(module, (0, 0), (1, head)), axis=axis)
            other = circuit_top_k_accuracy(*k_composition_circuit(module, (0, 3), (1, head)), axis=axis)
            # All but BOS, which never comes twice.
            assert found == 511 / 512
            assert other < 0.05
    assert copying_accuracy(module, [(1, head) for head in range(4)]) == 511 / 512


def test_a_model_found_elsewhere_composes_on_both_axes(shared: Path):
    module = load(str(shared / "models" / "induction-2l"), device="cpu").module
    for head in (1, 2, 3):
        circuit = k_composition_circuit(module, (0, 2), (1, head))
        assert all(circuit_top_k_accuracy(*circuit, axis=axis, k=5) > 0.9 for axis in AXES)


@pytest.mark.parametrize(
    ("previous", "induction", "text"),
    [
        ((2, 0), (1, 0), "previous head L2H0: layer must be from 0 to 1 in this model, not 2."),
        ((0, 0), (1, 9), "induction head L1H9: head must be from 0 to 1 in this model, not 9."),
        ((1, 0), (1, 1), "previous head L1H0 must be in an earlier layer than the induction head L1H1."),
    ],
)
def test_heads_that_cannot_compose(one_hot: Any, previous: tuple[int, int], induction: tuple[int, int], text: str):
    with pytest.raises(InputError, match=re.escape(text)):
        k_composition_circuit(one_hot, previous, induction)


def test_bad_arguments(one_hot: Any):
    query, key = random_sides()
    with pytest.raises(InputError, match="k must be from 1 to 53, the vocabulary, not 54"):
        circuit_top_k_accuracy(query, key, axis="key", k=54)
    with pytest.raises(InputError, match="tile_bytes must be at least 1, not 0"):
        circuit_top_k_accuracy(query, key, axis="key", tile_bytes=0)
    with pytest.raises(InputError, match="not finite"):
        circuit_top_k_accuracy(query, key / 0 * 0, axis="key")
    with pytest.raises(InputError, match=re.escape("at least one head, and none twice, not []")):
        copying_accuracy(one_hot, [])
    with pytest.raises(InputError, match=re.escape("none twice, not ['L0H1', 'L0H1']")):
        copying_accuracy(one_hot, [(0, 1), (0, 1)])
    # The checks of the tests refuse it first; a notebook has no such checks.
    plain: Any = getattr(circuit_ranks, "__wrapped__", circuit_ranks)
    with pytest.raises(InputError, match="axis must be 'query' or 'key', not 'rows'"):
        plain(query, key, axis="rows")


def test_outputs_that_are_not_the_inputs_cannot_be_copied_to(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny", d_vocab_out=5)
    with pytest.raises(InputError, match="reads 97 tokens and writes 5"):
        copying_accuracy(model, [(0, 0)])
