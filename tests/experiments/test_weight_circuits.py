"""weight-circuits: scores against dense circuits, a sample with its interval, composition by hand, and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.errors import InputError
from mechlist.experiments.weight_circuits.experiment import WeightCircuits
from mechlist.models.factored import embedding, unembedding
from mechlist.results import load_dataset
from mechlist.runner import Runner
from tests.hooked import HookedTransformer
from tests.models.tiny import save_hooked

SMALL: dict[str, Any] = {"samples": 20, "pairs": 3}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("hooked") / "tiny"
    save_hooked(folder)
    return Runner.load(str(folder), device="cpu", progress=False)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return WeightCircuits(**SMALL).run(runner)


def dense_ov(model: HookedTransformer, layer: int, head: int) -> torch.Tensor:
    return embedding(model) @ model.W_V[layer, head] @ model.W_O[layer, head] @ unembedding(model)


def test_copying_is_that_of_dense_circuits(runner: Runner, results: xr.Dataset):
    for layer in range(2):
        for head in range(4):
            circuit = dense_ov(runner.model, layer, head)
            own = torch.arange(97)
            best = circuit.argsort(dim=1, descending=True)
            for k in (1, 5):
                share = float((best[:, :k] == own[:, None]).any(1).double().mean())
                assert float(results[f"copying_top{k}"][layer, head]) == pytest.approx(share)
    np.testing.assert_array_equal(results["copying_top1"], results["copying_top1_low"])
    assert results.attrs["circuit_tokens"] == 97


def test_a_sample_has_an_interval_around_the_whole(runner: Runner, results: xr.Dataset):
    some = WeightCircuits(**SMALL, circuit_tokens=40).run(runner)
    assert some.attrs["circuit_tokens"] == 40
    inside = (some["copying_top5_low"] <= results["copying_top5"]) & (
        results["copying_top5"] <= some["copying_top5_high"]
    )
    assert float(inside.mean()) >= 0.75
    assert (some["copying_top5_high"] > some["copying_top5_low"]).all()
    assert any("40" in sentence for sentence in WeightCircuits().findings(some))


@torch.no_grad()
def test_composition_is_that_of_the_products(runner: Runner, results: xr.Dataset):
    model = runner.model
    ov = model.W_V[0, 1] @ model.W_O[0, 1]
    qk = model.W_Q[1, 2] @ model.W_K[1, 2].mT
    expected = {"K": ov @ qk.mT, "Q": ov @ qk, "V": ov @ (model.W_V[1, 2] @ model.W_O[1, 2])}
    norms = {"K": qk.norm(), "Q": qk.norm(), "V": (model.W_V[1, 2] @ model.W_O[1, 2]).norm()}
    for kind, product in expected.items():
        found = results["composition"].sel(kind=kind, writer_layer=0, writer_head=1, layer=1, head=2)
        assert float(found) == pytest.approx(float(product.norm() / ov.norm() / norms[kind]), rel=1e-4)
    assert 0.1 < results.attrs["chance_mean"] < 0.5


def test_previous_positions_are_of_models_with_learned_ones(results: xr.Dataset, tmp_path: Path):
    assert results["previous_position"].sizes == {"layer": 2, "head": 4}
    save_hooked(tmp_path / "rotary", positional_embedding_type="rotary", rotary_dim=4)
    rotary = WeightCircuits(**SMALL).run(Runner.load(str(tmp_path / "rotary"), device="cpu", progress=False))
    assert "previous_position" not in rotary
    assert "cannot be read from these weights" in WeightCircuits().findings(rotary)[2]


def test_the_built_in_models_induction_circuit_is_found(tiny_runner: Runner):
    results = WeightCircuits(**SMALL).run(tiny_runner)
    assert float(results["induction_top1"].max()) > 0.5
    said = WeightCircuits().findings(results)
    assert "comes nearest to an induction circuit" in said[-1]


def test_figures_and_tables(results: xr.Dataset):
    experiment = WeightCircuits()
    assert len(experiment.figures(results)) >= 3
    tables = experiment.tables(results)
    assert set(tables) == {"heads", "composition", "induction-circuits"}
    assert len(tables["heads"]) == 8
    assert len(tables["composition"]) == 3 * 16


def test_one_layer_has_no_composition(tmp_path: Path):
    save_hooked(tmp_path / "one", n_layers=1)
    results = WeightCircuits(**SMALL).run(Runner.load(str(tmp_path / "one"), device="cpu", progress=False))
    assert "composition" not in results
    experiment = WeightCircuits()
    assert "no composition of heads" in experiment.findings(results)[-1]
    assert set(experiment.tables(results)) == {"heads"}
    assert experiment.figures(results)


def test_from_the_command_line(tmp_path: Path, runner: Runner):
    flags = ["--model", str(runner.language_model.info["name"]), "--device", "cpu", "--pairs", "0", "--samples", "5"]
    assert main(["run", "weight-circuits", *flags, "--out", str(tmp_path / "run")]) == 0
    assert "induction_top1" not in load_dataset(tmp_path / "run" / "results.nc")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"circuit_tokens": -1}, r"circuit_tokens must be 0 \(all tokens\) or more, not -1"),
        ({"pairs": -1}, r"pairs must be at least 0, not -1\."),
        ({"samples": 1}, r"samples must be at least 2, not 1\."),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        WeightCircuits(**parameters)


def test_outputs_that_are_not_the_inputs(tmp_path: Path):
    save_hooked(tmp_path / "other", d_vocab_out=5)
    with pytest.raises(InputError, match="This model reads 97 tokens and writes 5: no token to copy to"):
        WeightCircuits(**SMALL).run(Runner.load(str(tmp_path / "other"), device="cpu", progress=False, guards=False))
