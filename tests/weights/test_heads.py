"""Scores of heads against dense circuits of small models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.weights import heads
from mechlist.weights.heads import (
    copying_ranks,
    eigenvalue_score,
    layer_eigenvalue_scores,
    ov_circuit,
    previous_position_attention,
    qk_circuit,
    random_eigenvalue_scores,
    token_products,
)
from tests.models.tiny import save_hooked

MODELS: dict[str, dict[str, Any]] = {"one key a head": {}, "grouped keys": {"n_key_value_heads": 2}}


@pytest.mark.parametrize("case", MODELS)
def test_circuits_are_the_products_of_the_weights(tmp_path: Path, case: str):
    model = save_hooked(tmp_path / "tiny", **MODELS[case])
    for layer, head in ((0, 1), (1, 3)):
        torch.testing.assert_close(
            qk_circuit(model, (layer, head)).AB, model.W_Q[layer, head] @ model.W_K[layer, head].T
        )
        torch.testing.assert_close(ov_circuit(model, (layer, head)).AB, model.W_V[layer, head] @ model.W_O[layer, head])


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("block", [10, 8192])
def test_eigenvalue_scores_are_those_of_the_circuits_between_tokens(
    tmp_path: Path, case: str, block: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(heads, "BLOCK_TOKENS", block)
    model = save_hooked(tmp_path / "tiny", **MODELS[case])
    W_E, W_U = (w.detach().double() for w in (model.W_E, model.W_U))
    model.requires_grad_(False)
    found = layer_eigenvalue_scores(model, 1, token_products(model))
    for head in range(4):
        dense_ov = W_E @ (model.W_V[1, head] @ model.W_O[1, head]).double() @ W_U
        dense_qk = W_E @ (model.W_Q[1, head] @ model.W_K[1, head].T).double() @ W_E.T
        for scores, dense in zip(found, (dense_ov, dense_qk), strict=True):
            values = torch.linalg.eigvals(dense)
            assert float(scores[head]) == pytest.approx(float(values.real.sum() / values.abs().sum()), abs=1e-4)


def test_a_head_that_copies_scores_one_and_one_that_denies_minus_one():
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    found = eigenvalue_score(torch.stack([torch.eye(2), -torch.eye(2), rotation]))
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64), atol=1e-12, rtol=0)
    assert eigenvalue_score(torch.zeros(2, 2)).isnan()


def test_random_heads_score_about_nothing(tiny_runner: Runner):
    sums = token_products(tiny_runner.model)
    ov, qk = random_eigenvalue_scores(sums, 32, samples=60, generator=torch.Generator().manual_seed(0))
    assert max(abs(float(ov.mean())), abs(float(qk.mean()))) < 0.1
    own = layer_eigenvalue_scores(tiny_runner.model, 1, sums)[0]
    assert (own > ov.max()).all(), "the induction heads of the built-in model copy"


def test_copying_ranks_are_those_of_the_dense_circuit(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny")
    dense = (model.W_E @ model.W_V[1, 2] @ model.W_O[1, 2] @ model.W_U).detach()
    expected = (dense > dense.diagonal()[:, None]).sum(1)
    assert torch.equal(copying_ranks(model, (1, 2)).long(), expected)
    tokens = torch.tensor([0, 5, 96])
    assert torch.equal(copying_ranks(model, (1, 2), tokens=tokens).long(), expected[tokens])


def test_the_previous_token_head_of_the_built_in_model_shows_in_its_positions(tiny_runner: Runner):
    found = previous_position_attention(tiny_runner.model, 0)
    assert found is not None
    assert int(found.argmax()) == 0
    assert float(found[0]) > 0.3
    assert (found[1:] < 0.15).all()


def test_attention_by_positions_is_that_of_the_mean_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = save_hooked(tmp_path / "tiny")
    # Of one token only, it is the attention of a prompt of that token alone.
    monkeypatch.setattr(heads, "MEAN_TOKENS", 1)
    tokens = torch.zeros(1, 48, dtype=torch.long)
    _, cache = model.run_with_cache(tokens, return_type=None)
    pattern = cache["blocks.0.attn.hook_pattern"][0]
    found = previous_position_attention(model, 0)
    assert found is not None
    torch.testing.assert_close(found, pattern.diagonal(-1, 1, 2).mean(-1).detach(), atol=1e-5, rtol=1e-4)


def test_rotated_positions_cannot_be_read(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny", positional_embedding_type="rotary", rotary_dim=4)
    assert previous_position_attention(model, 0) is None


def test_bad_input(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny", d_vocab_out=5)
    with pytest.raises(InputError, match="reads 97 tokens and writes 5: no circuit to itself"):
        token_products(model)
    with pytest.raises(InputError, match="head L0H9: head must be from 0 to 3 in this model, not 9"):
        qk_circuit(model, (0, 9))
    with pytest.raises(InputError, match="head L5H0: layer must be from 0 to 1 in this model, not 5"):
        ov_circuit(model, (5, 0))
