"""Arguments as one value: other prompts, sources and sites; and tasks that know their axes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist import LogitDifference
from mechlist.patching.arguments import PatchArguments, prepare
from mechlist.patching.attribution import attribution_grid, estimate_cells
from mechlist.patching.grid import patch_cells, patch_grid
from mechlist.patching.replacements import Given, Mean, Replacement, Resample, Source, Zero
from mechlist.runner import Runner
from tests.hooked import needs_hooked

PROMPTS, LENGTH = 4, 9
LENGTHS = torch.tensor([9, 6, 9, 8])
ORDER = [3, 0]


def given(runner: Runner, **changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    base, source = torch.randint(9, runner.shape.d_vocab, (2, PROMPTS, LENGTH), generator=generator)
    metric = LogitDifference(answer=[3, 4, 5, 6], wrong=7, position=torch.tensor([-1, -2, -1, 0]))
    return {"base": base, "source": source, "site": "z", "per": "head", "metric": metric, "lengths": LENGTHS} | changes


def replacements(runner: Runner) -> dict[str, Replacement]:
    generator = torch.Generator().manual_seed(3)
    data = torch.randint(9, runner.shape.d_vocab, (6, LENGTH), generator=generator)
    sizes = (PROMPTS, LENGTH, runner.shape.n_heads, runner.shape.d_head)
    values = [torch.randn(sizes, generator=generator) for _ in range(runner.shape.n_layers)]
    return {"zero": Zero(), "mean": Mean(data), "given": Given(values), "resample": Resample(data)}


@pytest.mark.parametrize("source", ["runs", "zero", "mean", "given", "resample"])
@pytest.mark.parametrize("roles", [False, True])
def test_some_prompts_in_another_order_are_those_of_all(loaded: Callable[[str], Runner], source: str, roles: bool):
    runner = loaded("gpt2")
    named = {"end": [[n - 1] for n in LENGTHS.tolist()], "start": [[0, 1], [], [0], [1]]}
    changes: dict[str, Any] = {"per": "head_position", "roles": named} if roles else {}
    changes |= {} if source == "runs" else {"source": replacements(runner)[source]}
    whole = PatchArguments(**given(runner, **changes)).drawn(runner)
    every, some = patch_cells(runner, whole), patch_cells(runner, whole.select(ORDER))
    for name in ("patched", "base"):
        np.testing.assert_allclose(some[name], every[name][ORDER], atol=1e-5)
    assert ("source" in every) == (source in ("runs", "resample"))


def test_what_chance_decides_is_decided_once(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    chosen = replacements(runner)["resample"]
    drawn = PatchArguments(**given(runner, source=chosen)).drawn(runner)
    assert isinstance(drawn.source, torch.Tensor)
    assert drawn.drawn(runner) is drawn
    xr.testing.assert_identical(patch_cells(runner, drawn), patch_grid(runner, **given(runner, source=chosen)))


def test_another_source_and_another_site(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    arguments = PatchArguments(**given(runner))
    other = arguments.with_source(Zero()).at("mlp_out", "position")
    expected = patch_grid(runner, **given(runner, source=Zero(), site="mlp_out", per="position"))
    xr.testing.assert_identical(patch_cells(runner, other), expected)
    estimated = attribution_grid(runner, **given(runner, source=Zero(), site="mlp_out", per="position"))
    xr.testing.assert_identical(estimate_cells(runner, other), estimated)
    assert (arguments.site, arguments.per) == ("z", "head")


@pytest.mark.parametrize(
    ("changes", "axes"),
    [
        ({}, {"layer": range(3), "head": range(4)}),
        ({"per": "head_position"}, {"layer": range(3), "head": range(4), "position": range(LENGTH)}),
        ({"site": "k", "per": "head"}, {"layer": range(3), "head": range(4)}),
        ({"roles": {"a": [[0]] * 4, "b": [[1]] * 4}, "per": "position"}, {"layer": range(3), "role": ["a", "b"]}),
        ({"cells": {"one": [(0, 1)], "two": [(1, 1), (2, 0)]}}, {"cell": ["one", "two"]}),
    ],
)
def test_a_task_knows_its_axes_and_labels(
    loaded: Callable[[str], Runner], changes: dict[str, Any], axes: dict[str, Any]
):
    runner = loaded("gpt2")
    task = prepare(runner, PatchArguments(**given(runner, **changes)))
    assert {name: list(labels) for name, labels in task.labels.items()} == {n: list(of) for n, of in axes.items()}
    numbers = torch.arange(float(PROMPTS * task.parts.n_cells)).view(PROMPTS, -1)
    found = task.of_cells(numbers)
    assert found.dims == ("prompt", *axes)
    assert found.values.ravel().tolist() == numbers.flatten().tolist()
    assert [found[name].values.tolist() for name in axes] == [list(of) for of in axes.values()]


@needs_hooked
def test_what_is_ready_puts_in_what_it_says(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    arguments = PatchArguments(**given(runner))
    target, there = arguments.target(runner), torch.randn(2, LENGTH, runner.shape.n_heads, runner.shape.d_head)
    source, block = torch.randn_like(there), slice(1, 3)
    tokens = arguments.source
    assert isinstance(tokens, torch.Tensor)
    assert Source(tokens).put(1, there, source, block) is source
    # Zero in the model as published; see tests/models/test_zero.py.
    nothing = runner.language_model.nothing("z", 1)
    assert nothing is not None
    assert torch.equal(Zero().ready(target).put(1, there, None, block), nothing.expand_as(there))
    outside = arguments.at("attn_out", "position").target(runner)
    assert not Zero().ready(outside).put(1, there, None, block).any()
    scores = torch.tensor([[0.5, -torch.inf]])
    looks = arguments.at("attn_scores", "head").target(runner)
    assert Zero().ready(looks).put(0, scores, None, block).tolist() == [[0.0, -torch.inf]]
    own, made = replacements(runner)["given"], replacements(runner)["mean"]
    assert isinstance(own, Given)
    torch.testing.assert_close(own.ready(target).put(1, there, None, block), own.values[1][block])
    mean = made.ready(target).put(1, there, None, block)  # pyright: ignore[reportAttributeAccessIssue] (a Mean)
    assert mean.shape == there.shape
    torch.testing.assert_close(mean[0], mean[1])
