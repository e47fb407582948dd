"""The repeat of a sweep in other batches: another plan, small noise, the same cells."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist import LogitDifference
from mechlist.patching import noise as patch_noise
from mechlist.patching.arguments import PatchArguments
from mechlist.patching.attribution import estimate_cells
from mechlist.patching.grid import patch_cells
from mechlist.patching.noise import exact_effects, noise, sampled
from mechlist.runner import Intervention, Runner

PROMPTS, LENGTH = 7, 12
ANSWER, WRONG = list(range(3, 3 + PROMPTS)), list(range(40, 40 + PROMPTS))
LENGTHS = [12, 9, 12, 7, 11, 12, 8]


@pytest.fixture
def runner(loaded: Any) -> Runner:
    return loaded("gpt2")


def arguments(site: str = "z", per: str = "head") -> PatchArguments:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(97, (2, PROMPTS, LENGTH), generator=generator)
    roles = {"end": [[n - 1] for n in LENGTHS], "start": [[0, 1]] + [[]] * (PROMPTS - 1)}
    return PatchArguments(
        base=tokens[0],
        source=tokens[1],
        site=site,
        per=per,
        metric=LogitDifference(answer=ANSWER, wrong=WRONG),
        lengths=torch.tensor(LENGTHS),
        roles=roles if per == "position" else None,
    )


def numbered(prompts: int) -> PatchArguments:
    """Arguments whose prompts say which they are."""
    tokens = torch.arange(prompts)[:, None]
    return PatchArguments(base=tokens, source=tokens, site="z", per="head", metric=LogitDifference(answer=3, wrong=4))


def spied(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> list[list[int]]:
    """The sizes of the batches of every call that comes."""
    sizes, execute = [], runner.execute

    def spy(work: Any, plan: Any, *rest: Any) -> Any:
        sizes.append([sum(len(work.prompts[i]) for i in members) for members in plan])
        return execute(work, plan, *rest)

    monkeypatch.setattr(runner, "execute", spy)
    return sizes


@pytest.mark.parametrize("per", ["head", "position"])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.1])
def test_effects_in_any_batches_are_those_of_the_grid(runner: Runner, per: str, share: float):
    whole = arguments(per=per)
    results = patch_cells(runner, whole)
    effects = exact_effects(runner, whole, share)
    expected = results["patched"] - results["base"]
    assert effects.dims == expected.dims
    np.testing.assert_allclose(effects, expected, atol=1e-5)
    assert effects.coords.equals(expected.coords)


@pytest.mark.parametrize("per", ["head", "position"])
def test_prompts_in_another_order_have_their_own_metric_roles_and_lengths(runner: Runner, per: str):
    order = [5, 0, 3]
    whole = arguments(per=per)
    again = exact_effects(runner, whole.select(order))
    np.testing.assert_allclose(again, exact_effects(runner, whole)[order], atol=1e-5)


def changed(activation: torch.Tensor, rows: Any) -> torch.Tensor:
    return activation * 1.01


@pytest.mark.parametrize("path", ["layer by layer", "whole passes", "one prompt"])
def test_a_repeat_goes_through_other_batches_and_its_noise_is_small(
    monkeypatch: pytest.MonkeyPatch, runner: Runner, path: str
):
    whole = arguments(per="head" if path == "whole passes" else "head_position")
    if path == "one prompt":
        whole = whole.select([0])
    changes = [Intervention("blocks.0.hook_resid_pre", changed)] if path == "whole passes" else []
    with runner.intervene(*changes):
        first = exact_effects(runner, whole)
        plain, sizes = spied(monkeypatch, runner), []
        exact_effects(runner, whole)
        once, many = [n for call in plain for n in call], len(plain)
        memory = runner.memory
        found = noise(runner, lambda of, share: exact_effects(runner, of, share), whole, first, repeats=2)
        sizes = [n for call in plain[many:] for n in call]
    assert runner.memory == memory
    assert sizes
    assert max(sizes) < max(once), "all batches are smaller than the largest of before"
    assert found.dims == first.dims[1:]
    assert found.attrs["prompts"] == len(first)
    largest = float(found.max())
    assert largest < 1e-4
    assert path == "one prompt" or largest > 0


def test_of_a_large_grid_a_few_prompts_are_swept_again(monkeypatch: pytest.MonkeyPatch, runner: Runner):
    assert [sampled(*case) for case in ((8, 100), (100, 100), (8, 5000), (1, 5000), (3, 0))] == [8, 40, 2, 1, 3]
    monkeypatch.setattr(patch_noise, "RUNS", 3)
    monkeypatch.setattr(patch_noise, "LEAST", 3)
    effects = xr.DataArray(np.arange(10.0)[:, None] * [1, 2], dims=("prompt", "layer"))
    seen: list[int] = []

    def sweep(of: PatchArguments, share: float) -> xr.DataArray:
        assert share < 1
        order = of.base[:, 0].tolist()
        seen.extend(order)
        return effects[order] + 0.125 * (np.array(order)[:, None] == seen[0])

    found = noise(runner, sweep, numbered(len(effects)), effects, repeats=1)
    assert len(seen) == len(set(seen)) == found.attrs["prompts"] == 3
    assert found.values.tolist() == [0.125, 0.125]


def test_nothing_stored_is_used_again_and_the_store_comes_back(monkeypatch: pytest.MonkeyPatch, runner: Runner):
    store: Any = object()
    monkeypatch.setattr(runner, "store", store)
    effects = xr.DataArray(np.ones((3, 2)), dims=("prompt", "layer"))

    def sweep(of: PatchArguments, share: float) -> xr.DataArray:
        assert runner.store is None
        return effects[of.base[:, 0].tolist()]

    noise(runner, sweep, numbered(len(effects)), effects, repeats=2)
    assert runner.store is store


def test_estimates_of_prompts_in_another_order(runner: Runner):
    whole = arguments()
    first = estimate_cells(runner, whole)["effect"]
    found = noise(runner, lambda of, _: estimate_cells(runner, of)["effect"], whole, first, repeats=1)
    assert float(found.max()) < 1e-4
