"""Where the answer moves, told from a grid of shares."""

import numpy as np
import pytest
import xarray as xr

from mechlist.experiments.grid_report import findings, way

LAYERS, PLACES = [0, 1, 2, 3], ["' Italy' (position 4)", "' is' (position 5)"]


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        (
            [[1.0, 0], [0.934, 0.02], [0.1, 0.8], [0, 1]],
            "at ' Italy' (position 4) up to layer 1 (93% to 100%) and at ' is' (position 5) from layer 2 on (80% to "
            "100%).",
        ),
        # Between, no one place has it.
        (
            [[1, 0], [0.4, 0.3], [0.3, 0.4], [0, 1]],
            "at ' Italy' (position 4) in layer 0 (100%) and at ' is' (position 5) in layer 3 (100%).",
        ),
        ([[1, 0]] * 4, "at ' Italy' (position 4) in every layer (100%)."),
        ([[0, 0], [0, 0.5], [0, 0], [0, 0]], "at ' is' (position 5) in layer 1 (50%)."),
        ([[0, 0], [0.6, 0], [0.7, np.nan], [0, 0]], "at ' Italy' (position 4) from layer 1 to 2 (60% to 70%)."),
    ],
)
def test_the_way_of_the_answer(shares: list[list[float]], told: str):
    found = way(np.array(shares, dtype=float), LAYERS, PLACES)
    assert found == f"Put in alone, it recovers at least half of the difference {told}"


def test_where_no_place_has_it_that_is_said():
    assert way(np.full((4, 2), 0.4), LAYERS, PLACES) == (
        "No single place recovers half of the difference in any layer."
    )
    assert "No single place" in way(np.full((4, 2), np.nan), LAYERS, PLACES)


def test_what_holds_by_construction_is_no_finding(ioi_results: xr.Dataset):
    said = findings(ioi_results)
    assert not any("largest effect" in sentence for sentence in said)
    assert sum("at least half of the difference" in sentence for sentence in said) == 1


def test_a_place_that_few_prompts_have_says_so(ioi_results: xr.Dataset):
    assert not any("prompts of unequal length" in sentence for sentence in findings(ioi_results))
    both = xr.concat([ioi_results, ioi_results], "prompt", data_vars="minimal")
    tokens, length = both["token"].values.copy(), both.sizes["token_position"]
    tokens[1, -1] = ""
    shares = both["recovered"].transpose("prompt", "layer", "position").values.copy()
    shares[1, :, -1] = np.nan
    both = both.assign(
        token=(("prompt", "token_position"), tokens), recovered=(("prompt", "layer", "position"), shares)
    )
    (said,) = (sentence for sentence in findings(both) if "at least half of the difference" in sentence)
    assert f"(position {length - 1}, in 1 of 2 prompts)" in said
    assert said.endswith("--roles, where roles are known, compares like with like.")


@pytest.fixture(scope="module")
def ioi_results() -> xr.Dataset:
    from mechlist.experiments.patch.experiment import Patch
    from mechlist.runner import Runner

    runner = Runner.load("list-tiny", device="cpu", progress=False)
    return Patch(topics=("Fruits",), noise_repeats=0).run(runner)
