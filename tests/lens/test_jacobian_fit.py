"""Fitted Jacobians against torch's own, one position at a time, and against TransformerLens; the fast estimator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.tools.analysis import jacobian_lens as theirs

from mechlist.errors import InputError
from mechlist.lens import jacobian_fit
from mechlist.lens.jacobian import JacobianLens
from mechlist.lens.jacobian_fit import fit_jacobian_lens
from mechlist.lens.logit_lens import stage_hooks
from mechlist.runner import Runner
from mechlist.runner.memory import MemoryShares
from tests.models.tiny import random_sequences

Loaded = Callable[[str], Runner]
SKIP, LENGTH = 3, 9


def prompts(count: int, vocab: int = 97, length: int = LENGTH) -> list[Tensor]:
    return list(random_sequences(vocab, rows=count, length=length))


def fit(runner: Runner, rows: list[Tensor], **options: Any) -> JacobianLens:
    return fit_jacobian_lens(runner, rows, generator=torch.Generator().manual_seed(0), skip=SKIP, **options)


def slow(runner: Runner, row: Tensor, stage: int) -> Float[Tensor, "d_model d_model"]:
    """The whole Jacobian [target position, d, source position, d] of one prompt, and the sums of the definition."""
    hooks = stage_hooks(runner)
    given: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> None:
        given.append(activation.detach())

    runner.language_model.residual(row[None], [(hooks[stage], keep)])

    def final(stream: Tensor) -> Tensor:
        out: list[Tensor] = []

        def put(activation: Tensor, hook: Any) -> Tensor:
            return stream[None]

        def take(activation: Tensor, hook: Any) -> None:
            out.append(activation)

        runner.language_model.residual(row[None], [(hooks[stage], put), (hooks[-1], take)])
        return out[0][0]

    whole = torch.autograd.functional.jacobian(final, given[0][0])
    assert isinstance(whole, Tensor)
    valid = range(SKIP, len(row) - 1)
    return torch.stack([sum((whole[t, :, s] for t in valid if t >= s), torch.zeros(())) for s in valid]).mean(0)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_the_exact_fit_is_the_mean_of_whole_jacobians(loaded: Loaded, architecture: str):
    runner, rows = loaded(architecture), prompts(2)
    found = fit(runner, rows, dimensions=0)
    assert found.stages == tuple(range(runner.shape.n_layers))
    for stage in (0, 1, runner.shape.n_layers - 1):
        expected = torch.stack([slow(runner, row, stage) for row in rows]).mean(0)
        torch.testing.assert_close(found.of(stage), expected, atol=2e-5, rtol=1e-4)


def test_it_is_transformer_lenss(loaded: Loaded):
    runner, row = loaded("stablelm"), prompts(1)[0]
    layers = [0, 1]
    with theirs._frozen_parameters(runner.model):
        expected = theirs._jacobian_for_prompt(
            runner.model,
            row[None],
            source_layers=layers,
            dim_batch=5,
            skip_first_positions=SKIP,
            backward_provider=theirs._ordinary_vjp,
        )
    found = fit(runner, [row, row], dimensions=0)
    for layer in layers:
        torch.testing.assert_close(found.of(layer + 1), expected[layer], atol=1e-5, rtol=1e-4)


def test_rows_that_go_back_together_change_nothing(loaded: Loaded, monkeypatch: pytest.MonkeyPatch):
    runner, rows = loaded("gpt2"), prompts(3)
    expected = fit(runner, rows, dimensions=0)
    for tokens, share in ((1, 8), (5 * LENGTH, 2**40)):
        monkeypatch.setattr(jacobian_fit, "CPU_TOKENS", tokens)
        # Groups of one prompt each.
        monkeypatch.setattr(MemoryShares, "kept", property(lambda own, share=share: own.bound // share))
        found = fit(runner, rows, dimensions=0)
        torch.testing.assert_close(found.matrix, expected.matrix, atol=1e-5, rtol=1e-4)
        assert found.error is not None
        assert expected.error is not None
        torch.testing.assert_close(found.error, expected.error, atol=1e-5, rtol=1e-3)


def test_the_fast_estimator_misses_by_as_much_as_it_says(loaded: Loaded):
    """Against the mean over many more prompts: its error is the root of what two independent means are apart."""
    runner = loaded("gpt2")
    truth = fit(runner, prompts(80), dimensions=0)
    rows = list(random_sequences(97, rows=200, length=LENGTH)[80:])
    found = fit(runner, rows, dimensions=4)
    assert found.error is not None
    assert truth.error is not None
    said = (found.error.square() + truth.error.square()).sqrt()
    apart = (found.matrix - truth.matrix).norm(dim=(1, 2)) / truth.matrix.norm(dim=(1, 2))
    assert ((apart / said > 0.7) & (apart / said < 1.4)).all(), (apart, said)


def test_ten_times_the_turns_are_a_third_of_the_error(loaded: Loaded):
    runner, rows = loaded("llama"), prompts(40)
    few, all_of_them = fit(runner, rows, dimensions=3), fit(runner, rows, dimensions=0)
    assert few.error is not None
    assert all_of_them.error is not None
    ratio = few.error / all_of_them.error
    # 40 * 3 / 32 = 3.75 turns against 40.
    assert ((ratio > 2.2) & (ratio < 4.6)).all(), ratio


def test_every_dimension_has_its_turns():
    turns = jacobian_fit._turns(17, 5, 12, torch.Generator().manual_seed(0))
    assert all(len(row.unique()) == 5 for row in turns)
    counts = turns.flatten().bincount(minlength=12)
    assert set(counts.tolist()) == {7, 8}
    assert jacobian_fit._taken(None, 640, 100) == 64
    assert jacobian_fit._taken(None, 64, 3) == 64
    assert jacobian_fit._taken(0, 64, 3) == 64


def test_the_last_layer_without_attention_is_itself_plus_what_the_mlp_adds(loaded: Loaded):
    """The residual stream goes straight through: J less the identity is what layers add."""
    runner = loaded("gpt2")
    found = fit(runner, prompts(4), dimensions=0)
    gaps = [(found.of(stage) - torch.eye(32)).norm() for stage in found.stages]
    assert gaps == sorted(gaps, reverse=True)


def test_weights_want_gradients_as_before(loaded: Loaded):
    runner = loaded("gpt2")
    before = [weight.requires_grad for weight in runner.model.parameters()]
    fit(runner, prompts(2), dimensions=0)
    assert [weight.requires_grad for weight in runner.model.parameters()] == before
    assert all(weight.grad is None for weight in runner.model.parameters())


def test_bad_input(loaded: Loaded):
    runner = loaded("gpt2")
    with pytest.raises(InputError, match=r"5 tokens at least, the first 3 and the last being left out; prompt 1 has 4"):
        fit(runner, [torch.arange(9), torch.arange(4)], dimensions=0)
    with pytest.raises(InputError, match="there is no prompt"):
        fit(runner, [], dimensions=0)
    with pytest.raises(InputError, match="dimensions must be from 1 to 32, the model's width, or 0 for all, not 33"):
        fit(runner, prompts(2), dimensions=33)
    with pytest.raises(InputError, match=r"give each of 32 dimensions two turns.*with 4 prompts at least 16, not 15"):
        fit(runner, prompts(4), dimensions=15)
