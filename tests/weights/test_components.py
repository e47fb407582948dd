"""Cumulative curves against one unembedding a step, and bases that must not change the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.weights import components
from mechlist.weights.components import (
    Basis,
    Curves,
    crossings,
    cumulative_curves,
    neurons,
    random_rotation,
    scaled,
    singular_vectors,
)
from mechlist.weights.output import OutputWeights, final_states, output_weights
from tests.models.tiny import random_sequences, save_hooked

WIDTH, VOCAB = 12, 53


@pytest.fixture
def output() -> OutputWeights:
    """With everything that can happen to logits."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(WIDTH, VOCAB, generator=generator), torch.randn(VOCAB, generator=generator)
    gain = torch.rand(WIDTH, generator=generator) + 0.5
    return OutputWeights(weight, bias, True, 0.5, 3.0, gain, torch.zeros(WIDTH), None)


@pytest.fixture
def states() -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))


ANSWERS = torch.tensor([5, 0, VOCAB - 1])


def slow(output: OutputWeights, basis: Basis, states: Tensor, answers: Int[Tensor, " prompt"]) -> Curves:
    """One unembedding for each prompt and number of components."""
    out = [np.zeros((len(states), 0)) for _ in range(4)]
    directions = torch.eye(WIDTH) if basis.directions is None else basis.directions
    coefficients = basis.read(states)
    rest = basis.remainder(states, coefficients)
    columns = []
    for kept in range(1, len(directions) + 1):
        rows = []
        for prompt, own in enumerate(coefficients):
            order = (own.abs() * directions.norm(dim=1)).argsort(descending=True, stable=True)[:kept]
            partial = own[order] @ directions[order] + rest[prompt]
            cell = []
            for state in (partial, partial * states[prompt].norm() / partial.norm()):
                logits = output.logits(state[None].double().float())[0].double()
                answer = int(answers[prompt])
                cell += [float(logits.softmax(-1)[answer]), float((logits > logits[answer] + 1e-6).sum())]
            rows.append(cell)
        columns.append(rows)
    out = np.array(columns).transpose(2, 1, 0)
    return Curves(out[0], out[2], out[1].astype(int), out[3].astype(int))


def bases(output: OutputWeights) -> list[Basis]:
    generator = torch.Generator().manual_seed(2)
    loose: Float[Tensor, "direction d_model"] = torch.randn(20, WIDTH, generator=generator)
    rotation = random_rotation(WIDTH, generator)
    assert rotation.directions is not None
    return [
        neurons(),
        rotation,
        singular_vectors(output.weight),
        scaled("behind a gain", rotation.directions, output.gain),
        # As a sparse autoencoder's: more directions than dimensions, some of them off, and an error that is kept.
        Basis("features", loose, lambda given: (given @ loose.mT - 1).relu() * 0.2, complete=False),
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("entries", [1, 40, 2**18])
def test_curves_are_those_of_one_unembedding_a_step(
    output: OutputWeights, states: Tensor, number: int, entries: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(components, "TILE_ENTRIES", entries)
    basis = bases(output)[number]
    found, expected = cumulative_curves(output, basis, states, ANSWERS), slow(output, basis, states, ANSWERS)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)
    np.testing.assert_allclose(found.probability_norm_restored, expected.probability_norm_restored, atol=1e-5)
    assert np.array_equal(found.rank, expected.rank)
    assert np.array_equal(found.rank_norm_restored, expected.rank_norm_restored)


def test_the_last_point_is_the_whole_state_in_every_basis(output: OutputWeights, states: Tensor):
    whole = output.logits(states).double().softmax(-1)[torch.arange(3), ANSWERS]
    for basis in bases(output):
        found = cumulative_curves(output, basis, states, ANSWERS)
        np.testing.assert_allclose(found.probability[:, -1], whole, rtol=1e-4)
        np.testing.assert_allclose(found.probability_norm_restored[:, -1], whole, rtol=1e-4)


def test_the_last_point_is_the_models_own_probability(tmp_path: Path):
    runner = Runner(save_hooked(tmp_path / "tiny"))
    rows = random_sequences(97, rows=4, length=9)
    states, weights = final_states(runner, rows, -1)[:, 0], output_weights(runner)
    logits = runner.logits(rows, positions=-1)[:, 0]
    answers = logits.argmax(-1)
    own = logits.double().softmax(-1).gather(1, answers[:, None])[:, 0]
    for basis in (neurons(), random_rotation(16, torch.Generator().manual_seed(0)), singular_vectors(weights.weight)):
        found = cumulative_curves(weights, basis, states, answers)
        np.testing.assert_allclose(found.probability[:, -1], own, rtol=1e-4)
        assert (found.rank[:, -1] == 0).all()


def test_a_random_rotation_is_orthonormal_and_uniform():
    basis = random_rotation(40, torch.Generator().manual_seed(0))
    assert basis.directions is not None
    torch.testing.assert_close(basis.directions @ basis.directions.mT, torch.eye(40), atol=1e-5, rtol=0)
    # Without the signs of QR's triangle, the diagonal would be of one sign.
    drawn = [random_rotation(3, torch.Generator().manual_seed(n)).directions for n in range(300)]
    first = torch.stack([d[0, 0] for d in drawn if d is not None])
    assert abs(float(first.mean())) < 0.12


def test_singular_vectors_are_torchs():
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 3, 6)[:, None]
    found = singular_vectors(weight).directions
    assert found is not None
    expected = torch.linalg.svd(weight).U.mT
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-4, rtol=1e-3)


def test_a_token_like_the_answer_does_not_outrank_it(states: Tensor):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(WIDTH, VOCAB, generator=generator)
    weight[:, 9] = weight[:, 5]
    ones = torch.ones(WIDTH)
    output = OutputWeights(weight, torch.zeros(VOCAB), False, 1.0, None, ones, 0 * ones, None)
    answer = torch.full((3,), 5)
    found = cumulative_curves(output, random_rotation(WIDTH, generator), states, answer)
    logits = output.logits(states)
    assert found.rank[:, -1].tolist() == [(row > row[5]).sum().item() for row in logits]


def test_crossings_of_a_curve_that_falls_back():
    curve = np.array([[0.0, 0.95, 0.2, 0.85, 0.91, 0.99, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0]])
    first, last = crossings(curve)
    assert first.tolist() == [2, 7]
    assert last.tolist() == [5, 7]
    assert [ends.tolist() for ends in crossings(np.array([[0.95, 0.9, 1.0]]))] == [[1], [1]]
    assert [ends.tolist() for ends in crossings(np.array([[1.2, 0.5, 1.0]]), share=1.0)] == [[1], [3]]


def test_bad_input(output: OutputWeights, states: Tensor):
    with pytest.raises(InputError, match=f"answers must be token ids from 0 to {VOCAB - 1}, not {VOCAB}"):
        cumulative_curves(output, neurons(), states, torch.tensor([1, VOCAB, 2]))
    broken = states.clone()
    broken[1, 3] = torch.nan
    with pytest.raises(InputError, match="states must be finite; that of prompt 1 holds NaN or infinity"):
        cumulative_curves(output, neurons(), broken, ANSWERS)
    with pytest.raises(InputError, match="share must be above 0 and at most 1, not 0"):
        crossings(np.ones((1, 2)), share=0)
    with pytest.raises(InputError, match="behind must be read before the final norm's gain, and some of it is 0"):
        scaled("behind", torch.eye(WIDTH), torch.zeros(WIDTH))
