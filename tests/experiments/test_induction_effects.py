"""Intervals and tests of the induction experiment's interventions, on made-up sequences and on the built-in model."""

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.experiments.induction.effects import (
    ablation_effects,
    ablation_table,
    ablation_words,
    mlp_effects,
    mlp_words,
)
from mechlist.experiments.induction.experiment import Induction
from mechlist.experiments.induction.scores import mlp
from mechlist.patching.mlp import SOURCES, mlp_loss_increase
from mechlist.runner import Runner


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made(sequences: int) -> xr.Dataset:
    """The first set of heads matters and the second does not."""
    noise = rng(1).standard_normal((2, 2, 2, sequences)) * 0.01
    intact = np.full((2, sequences), 0.9)
    without = noise + np.array([0.2, 0.9])[:, None, None, None]
    found = ablation_effects(intact, without, rng())
    found = found.assign_coords(head_set=["induction heads", "random 1"], ablation=["zero", "mean"])
    return found.assign(ablated_heads=("head_set", ["L1H1", "L1H2"]))


def test_the_set_that_matters_survives_and_the_other_does_not():
    found = made(12)
    p = found["ablated_accuracy_p_corrected"]
    assert (p.sel(head_set="induction heads") <= 0.05).all()
    assert (p.sel(head_set="random 1") > 0.05).all()
    low, mean, high = (found[f"ablated_accuracy{end}"] for end in ("_low", "", "_high"))
    assert ((low < mean) & (mean < high)).all()
    assert float(high.sel(head_set="induction heads").max()) < 0.3
    words = ablation_words(found)
    assert words.endswith("accuracy changes without induction heads.")
    table = ablation_table(found)
    assert {"ablated_accuracy_low", "ablated_accuracy_high", "n", "ablated_accuracy_p_corrected"} <= set(table)
    assert set(table["n"]) == {12}


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        (1, "There is no test: one sequence says nothing about others."),
        (2, "No cell can be significant at 0.05: 2 sequences give no p value below 0.5."),
    ],
)
def test_few_sequences_say_why_nothing_can_be_claimed(sequences: int, words: str):
    assert ablation_words(made(sequences)) == f" {words}"
    increase = np.ones((sequences, 2, 3)) * np.arange(1, sequences + 1)[:, None, None]
    assert mlp_effects("loss", increase, rng())["loss"].attrs["reason"] == words


def test_cells_of_the_loss_that_rise_beyond_chance_are_counted():
    increase = rng(2).standard_normal((10, 2, 3)) * 0.1
    increase[:, 1, 2] += 1
    increase[:, 0, 0] = np.nan
    found = mlp_effects("loss", increase, rng())
    np.testing.assert_allclose(found["loss"], increase.mean(axis=0))
    assert mlp_words(found, "loss").endswith("(layer 1; 1 of 5 cells beyond chance)")
    low, high = float(found["loss_low"][1, 2]), float(found["loss_high"][1, 2])
    assert f"{increase[:, 1, 2].mean():.3f} nats [{low:.3f}, {high:.3f}]" in mlp_words(found, "loss")
    old = xr.Dataset({"loss": found["loss"].assign_attrs(reason="")})
    assert mlp_words(old, "loss").endswith("(layer 1)")


def test_sequences_one_by_one_are_those_of_all_together(shared):
    runner = Runner.load(str(shared / "models" / "stories260K"), device="cpu", progress=False)
    tokens = torch.randint(4, 500, (4, 5), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    found = mlp(runner, tokens, 5, 3)
    for source in SOURCES:
        name = "mlp_loss_increase" + ("" if source == "same_token" else f"_{source}")
        expected = mlp_loss_increase(runner, tokens, 5, source, 3)
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_ablation_means_are_those_of_their_sequences(tiny_runner: Runner):
    results = Induction(period=8, batch=7, twins=0, mlp_sequences=0, random_sets=1).run(tiny_runner)
    low, mean, high = (results[f"ablated_accuracy{end}"].values for end in ("_low", "", "_high"))
    assert ((low <= mean + 1e-9) & (mean <= high + 1e-9)).all()
    assert (results["ablated_accuracy_p_corrected"].sel(head_set="induction heads") == 2 / 2**7).all()
    assert any("Beyond chance" in sentence for sentence in Induction().findings(results))
    assert "ablations" in Induction().tables(results)
