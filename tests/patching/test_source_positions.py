"""Runs of unequal length, put in where their positions correspond: against one full pass a cell with a hook."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mechlist import LogitDifference, patch_grid
from mechlist.errors import InputError
from mechlist.patching.arguments import PatchArguments, prepare
from mechlist.patching.attribution import attribution_grid, estimate_cells
from mechlist.patching.noise import exact_effects
from mechlist.patching.replacements import Zero
from mechlist.patching.sweep.cells import hook_name
from mechlist.patching.sweep.sweep import ATTENTION_SITES
from mechlist.runner import Runner

ANSWER, WRONG = 5, 6
WIDTH = 12
BASE, SOURCE = (9, 12), (11, 10)
"""Tokens of the two prompts, and of the runs that are put in."""


def given(runner: Runner) -> dict[str, Any]:
    """The first three tokens correspond, and the last four; of those between, the nearest to the end that there are."""
    generator = torch.Generator().manual_seed(1)
    base, source = (torch.randint(9, runner.shape.d_vocab, (2, WIDTH), generator=generator) for _ in range(2))
    aligned = torch.full((2, WIDTH), -1)
    for row, (n, m) in enumerate(zip(BASE, SOURCE, strict=True)):
        aligned[row, :3] = torch.arange(3)
        both = min(n, m) - 4
        aligned[row, n - both : n] = torch.arange(m - both, m)
    metric = LogitDifference(answer=ANSWER, wrong=WRONG, position=[n - 1 for n in BASE])
    lengths = torch.tensor(BASE)
    return {"base": base, "source": source, "metric": metric, "lengths": lengths, "source_positions": aligned}


def put(site: str, there: Tensor, source: Tensor, aligned: list[int], head: int | None, position: int) -> Tensor:
    """One cell of one prompt, written out."""
    out, heads = there.clone(), slice(None) if head is None else slice(head, head + 1)
    if aligned[position] < 0:
        return out
    if site in ATTENTION_SITES:
        for key in range(len(aligned)):
            if aligned[key] >= 0 and key < there.shape[-1]:
                out[0, heads, position, key] = source[0, heads, aligned[position], aligned[key]]
    elif head is None:
        out[0, position] = source[0, aligned[position]]
    else:
        out[0, position, head] = source[0, aligned[position], head]
    return out


def slow(runner: Runner, asked: dict[str, Any], site: str, sizes: dict[str, int]) -> np.ndarray:
    """One full forward pass a prompt and cell; NaN beyond a prompt's end."""
    found = np.full((2, *sizes.values()), np.nan)
    for row, (n, m) in enumerate(zip(BASE, SOURCE, strict=True)):
        with torch.no_grad():
            _, kept = runner.model.run_with_cache(asked["source"][row, :m][None])
        aligned = asked["source_positions"][row, :n].tolist()
        for cell in np.ndindex(*sizes.values()):
            at = dict(zip(sizes, cell, strict=True))
            if at["position"] >= n:
                continue
            name = hook_name(site, at["layer"])

            def change(activation: Tensor, hook: Any, name: str, at: dict[str, int], own: list[int]) -> Tensor:
                return put(site, activation, kept[name], own, at.get("head"), at["position"])  # noqa: B023

            hook = partial(change, name=name, at=at, own=aligned)
            with torch.no_grad():
                logits = runner.model.run_with_hooks(asked["base"][row, :n][None], fwd_hooks=[(name, hook)])[0, -1]
            found[(row, *cell)] = float(logits[ANSWER] - logits[WRONG])
    return found


@pytest.mark.parametrize(
    ("architecture", "sites"),
    [
        ("gpt2", ("resid_pre", "mlp_out", "z", "q", "k", "v", "attn_scores")),
        ("gemma2", ("z", "k", "attn_scores")),
        ("stablelm", ("resid_pre", "z", "v", "pattern")),
        ("mpt", ("resid_pre", "z")),
    ],
)
def test_every_cell_equals_one_pass_with_a_hook(
    loaded: Callable[[str], Runner], architecture: str, sites: tuple[str, ...]
):
    runner = loaded(architecture)
    asked = given(runner)
    for site in sites:
        per = "head_position" if site == "z" and architecture in ("gpt2", "stablelm") else "position"
        found = patch_grid(runner, **asked, site=site, per=per)
        assert found.attrs["path"].startswith("whole" if architecture == "mpt" else "layer by layer")
        sizes = {str(name): found.sizes[name] for name in found["patched"].dims[1:]}
        expected = slow(runner, asked, site, sizes)
        np.testing.assert_allclose(found["patched"].values, expected, atol=1e-4)
        assert np.nanmax(np.abs(expected - found["base"].values.reshape(-1, *[1] * len(sizes)))) > 1e-3
        with torch.no_grad():
            for row, m in enumerate(SOURCE):
                logits = runner.model(asked["source"][row, :m][None])[0, -1]
                assert float(found["source"][row]) == pytest.approx(float(logits[ANSWER] - logits[WRONG]), abs=1e-4)


def test_estimates_are_gradients_times_the_aligned_difference(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    asked = given(runner)
    found = attribution_grid(runner, **asked, site="mlp_out", per="position", steps=40)
    exact = patch_grid(runner, **asked, site="mlp_out", per="position")
    np.testing.assert_allclose(found["base"], exact["base"], atol=1e-4)
    np.testing.assert_allclose(found["source"], exact["source"], atol=1e-4)
    # In the last layer all that follows is a norm: positions that are not read do nothing, the last one nearly all.
    effect = exact["patched"] - exact["base"]
    np.testing.assert_allclose(found["effect"].isel(layer=-1), effect.isel(layer=-1), atol=1e-3)
    np.testing.assert_array_equal(found["effect"].isnull(), effect.isnull())
    nothing = asked["source_positions"] < 0
    for row, n in enumerate(BASE):
        assert not found["effect"].values[row][:, nothing[row].numpy() & (np.arange(WIDTH) < n)].any()


def test_the_same_positions_are_as_without(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    asked: dict[str, Any] = given(runner) | {"source_positions": None}
    same = torch.arange(WIDTH).expand(2, -1)
    for site in ("z", "attn_scores"):
        expected = patch_grid(runner, **asked, site=site, per="head_position")
        found = patch_grid(runner, **{**asked, "source_positions": same}, site=site, per="head_position")
        np.testing.assert_array_equal(found["patched"], expected["patched"])
        np.testing.assert_array_equal(found["source"], expected["source"])


def test_prompts_that_are_chosen_keep_their_positions(loaded: Callable[[str], Runner]):
    runner = loaded("mpt")
    arguments = PatchArguments(**given(runner), site="z", per="head")
    whole = exact_effects(runner, arguments)
    np.testing.assert_allclose(exact_effects(runner, arguments.select([1]))[0], whole[1], atol=1e-5)
    # In blocks of prompts, as a long sweep goes.
    task = prepare(runner, arguments)
    second = task.compute([1])
    np.testing.assert_allclose(
        (second["patched"] - second["base"][:, None]).view(-1), whole[1].values.ravel(), atol=1e-5
    )
    assert arguments.with_source(Zero()).source_positions is None
    one, other = (
        estimate_cells(runner, dataclasses.replace(arguments, source_positions=where))["effect"].values
        for where in (arguments.source_positions, arguments.source_positions.clamp(max=8))  # pyright: ignore[reportOptionalMemberAccess]
    )
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": Zero()}, r"source_positions are of source runs, and Zero\(\) takes none"),
        (
            {"source_positions": torch.zeros(2, 3, dtype=torch.long)},
            r"of the shape \[2, 12\], as base is, not .*\[2, 3",
        ),
        (
            {"source_positions": torch.full((2, WIDTH), 12)},
            r"from -1 \(nothing is put in\) to 11, and reach from 12 to 12",
        ),
        ({"source_positions": torch.full((2, WIDTH), -1)}, r"have no counterpart in the prompts \[0, 1\]"),
    ],
)
def test_positions_that_make_no_sense_are_refused(loaded: Callable[[str], Runner], changes: dict[str, Any], words: str):
    runner = loaded("gpt2")
    with pytest.raises(InputError, match=words):
        patch_grid(runner, **(given(runner) | changes), site="z", per="head")
