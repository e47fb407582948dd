"""What is put in: zero, means, other prompts, activations by hand; by role; each against single forward passes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference, LogProb
from mechlist.metrics.distributions import KLFromBase, Loss
from mechlist.metrics.measure import Metric
from mechlist.patching.grid import patch_grid
from mechlist.patching.replacements import Given, Mean, Resample, Zero
from mechlist.patching.sweep.cells import hook_name
from mechlist.runner import Runner, replace
from mechlist.runner.memory import MemoryShares
from tests.hooked import needs_hooked

PROMPTS, LENGTH = 2, 10
METRIC = LogitDifference(answer=5, wrong=6)


def prompts(runner: Runner, number: int = PROMPTS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(9, runner.shape.d_vocab, (number, LENGTH), generator=generator)


def single(
    runner: Runner, tokens: Tensor, site: str, put: Callable[[int, Tensor], Tensor], at: dict[str, int]
) -> Tensor:
    """Logits [position, vocab] of one prompt with `put(layer, activation)` at one cell."""
    heads, where = at.get("head", slice(None)), at.get("position", slice(None))
    index = (0, heads, where) if site in ("pattern", "attn_scores") else (0, where, heads)

    def change(activation: Tensor, hook: Any) -> Tensor:
        out = activation.clone()
        place = index[: activation.ndim - 1]
        out[place] = put(at["layer"], activation)[place]
        return out

    with torch.no_grad():
        return runner.model.run_with_hooks(tokens[None], fwd_hooks=[(hook_name(site, at["layer"]), change)])[0]


def compare(found: xr.Dataset, slow: Callable[[int, dict[str, int]], float], prompt_count: int = PROMPTS) -> None:
    patched = found["patched"]
    dims = [str(d) for d in patched.dims[1:]]
    for i in range(prompt_count):
        for cell in np.ndindex(*patched.shape[1:]):
            expected = slow(i, dict(zip(dims, cell, strict=True)))
            assert float(patched[(i, *cell)]) == pytest.approx(expected, abs=1e-4)
    assert float(np.abs(patched - found["base"]).max()) > 1e-3


def difference(logits: Tensor) -> float:
    return float(logits[-1, 5] - logits[-1, 6])


PLACES = [
    ("resid_pre", "position"),
    ("z", "head"),
    ("v", "head_position"),
    ("mlp_out", "position"),
    ("pattern", "head"),
]


@pytest.mark.parametrize("architecture", ["gemma2", "llama", "stablelm"])
@pytest.mark.parametrize(("site", "per"), [*PLACES, ("attn_scores", "head_position")])
def test_zero(loaded: Callable[[str], Runner], architecture: str, site: str, per: str):
    runner = loaded(architecture)
    base = prompts(runner)
    found = patch_grid(runner, base=base, source=Zero(), site=site, per=per, metric=METRIC)
    assert set(found) == {"patched", "base"}

    def zero(_: int, activation: Tensor) -> Tensor:
        # A score of minus infinity, or next to it, is that of a key the query may not see.
        return torch.where(activation < -1e30, activation, 0.0)

    compare(found, lambda i, at: difference(single(runner, base[i], site, zero, at)))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
@pytest.mark.parametrize(("site", "per"), [*PLACES, ("attn_scores", "head")])
def test_mean_over_a_data_set(
    loaded: Callable[[str], Runner], architecture: str, site: str, per: str, monkeypatch: pytest.MonkeyPatch
):
    runner = loaded(architecture)
    base, data = prompts(runner), prompts(runner, 5, seed=1)
    lengths = torch.tensor([10, 4, 10, 7, 9])
    monkeypatch.setattr(runner, "shares", MemoryShares(2**20))
    found = patch_grid(runner, base=base, source=Mean(data, lengths), site=site, per=per, metric=METRIC)

    kept: dict[int, list[Tensor]] = {}
    for layer in range(runner.shape.n_layers):
        name = hook_name(site, layer)
        for row, length in zip(data, lengths.tolist(), strict=True):
            with torch.no_grad():
                kept.setdefault(layer, []).append(runner.model.run_with_cache(row[None, :length])[1][name][0])

    def mean(layer: int, activation: Tensor) -> Tensor:
        out = torch.zeros_like(activation)
        for p in range(LENGTH):
            if site in ("pattern", "attn_scores"):
                rows = [value[:, p] for value in kept[layer] if value.shape[1] > p]
                masked = activation[0, :, p]
                padded = [torch.cat([r, masked[:, r.shape[-1] :]], dim=-1) for r in rows]
                out[0, :, p] = torch.stack(padded).mean(dim=0)
            else:
                out[0, p] = torch.stack([value[p] for value in kept[layer] if len(value) > p]).mean(dim=0)
        return out

    compare(found, lambda i, at: difference(single(runner, base[i], site, mean, at)))


@needs_hooked
def test_one_mean_over_all_positions(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, data, lengths = prompts(runner), prompts(runner, 3, seed=1), torch.tensor([2, 3, 10])
    found = patch_grid(
        runner, base=base, source=Mean(data, lengths, pooled=True), site="resid_mid", per="position", metric=METRIC
    )
    pooled = []
    for layer in range(runner.shape.n_layers):
        rows = [
            runner.model.run_with_cache(row[None, :n])[1][hook_name("resid_mid", layer)][0]
            for row, n in zip(data, lengths.tolist(), strict=True)
        ]
        pooled.append(torch.cat(rows).mean(dim=0).detach())
    slow = lambda i, at: difference(  # noqa: E731
        single(runner, base[i], "resid_mid", lambda layer, x: pooled[layer].expand_as(x), at)
    )
    compare(found, slow)


def test_resampling_takes_another_prompt_by_the_seed(loaded: Callable[[str], Runner]):
    runner = loaded("llama")
    base = prompts(runner)
    found = patch_grid(runner, base=base, source=Resample(base), site="z", per="head", metric=METRIC)
    swapped = patch_grid(runner, base=base, source=base.flip(0), site="z", per="head", metric=METRIC)
    xr.testing.assert_identical(found, swapped)
    data = prompts(runner, 40, seed=2)
    first, again = (
        patch_grid(runner, base=base, source=Resample(data), site="z", per="head", metric=METRIC) for _ in range(2)
    )
    xr.testing.assert_identical(first, again)


@pytest.mark.parametrize("architecture", ["gpt2", "stablelm"])
def test_activations_given_by_hand(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    base = prompts(runner)
    generator = torch.Generator().manual_seed(3)
    values = [
        torch.randn(PROMPTS, LENGTH, runner.shape.d_model, generator=generator) for _ in range(runner.shape.n_layers)
    ]
    found = patch_grid(runner, base=base, source=Given(values), site="attn_out", per="position", metric=METRIC)
    compare(
        found,
        lambda i, at: difference(single(runner, base[i], "attn_out", lambda layer, _: values[layer][i : i + 1], at)),
    )
    with pytest.raises(InputError, match="must have the shape"):
        patch_grid(runner, base=base[:1], source=Given(values), site="attn_out", per="position", metric=METRIC)


@pytest.mark.parametrize("metric", [LogProb(answer=5), KLFromBase(position=[[2, 9], [4]]), Loss()])
@pytest.mark.parametrize(("site", "per"), [("resid_pre", "position"), ("mlp_out", "position"), ("q", "head_position")])
def test_metrics_of_several_positions_and_of_the_whole_vocabulary(
    loaded: Callable[[str], Runner], metric: Metric, site: str, per: str
):
    runner = loaded("gemma2")
    base, source = prompts(runner), prompts(runner, seed=1)
    found = patch_grid(runner, base=base, source=source, site=site, per=per, metric=metric)
    assert found["patched"].attrs["units"] == "nats"

    def slow(i: int, at: dict[str, int]) -> float:
        kept = runner.model.run_with_cache(source[i][None])[1]
        after = single(runner, base[i], site, lambda layer, _: kept[hook_name(site, layer)], at).log_softmax(-1)
        if isinstance(metric, LogProb):
            return float(after[-1, 5])
        if isinstance(metric, Loss):
            return -float(after[torch.arange(LENGTH - 1), base[i, 1:]].mean())
        before = runner.model(base[i][None])[0].log_softmax(-1)
        gap = (before.exp() * (before - after)).sum(-1)
        return float(gap[[2, 9]].mean() if i == 0 else gap[4])

    with torch.no_grad():
        compare(found, slow)


# cells by role


@pytest.mark.parametrize("architecture", ["gemma2", "stablelm"])
@pytest.mark.parametrize(
    ("site", "per"), [("resid_pre", "position"), ("z", "head_position"), ("resid_post", "position")]
)
def test_roles_replace_each_prompts_own_positions(
    loaded: Callable[[str], Runner], architecture: str, site: str, per: str
):
    runner = loaded(architecture)
    base, source = prompts(runner), prompts(runner, seed=1)
    roles: dict[str, list[list[int]]] = {"early": [[1], [0, 2]], "late": [[8, 5], [9]], "only one has": [[], [3]]}
    found = patch_grid(
        runner, base=base, source=source, site=site, per=per, metric=METRIC, roles=roles, lengths=torch.tensor([9, 10])
    )
    assert found["patched"].dims == ("prompt", "layer", *(["head"] if per != "position" else []), "role")
    assert found["role"].values.tolist() == list(roles)
    assert np.isnan(found["patched"].sel(prompt=0, role="only one has")).all() if "prompt" in found.coords else True
    for i, length in enumerate((9, 10)):
        alone = patch_grid(
            runner,
            base=base[i : i + 1, :length],
            source=source[i : i + 1, :length],
            site=site,
            per=per,
            metric=METRIC,
            cells=_cells(runner, roles, i, per),
        )
        for name in alone["cell"].values:
            layer, *head, role = name.split("/")
            at: dict[str, Any] = {"layer": int(layer), "role": role} | ({"head": int(head[0])} if head else {})
            expected = float(alone["patched"].sel(cell=name)[0])
            assert float(found["patched"].isel(prompt=i).sel(at)) == pytest.approx(expected, abs=2e-5)
    assert np.isnan(found["patched"].isel(prompt=0).sel(role="only one has")).all()


def _cells(
    runner: Runner, roles: dict[str, list[list[int]]], prompt: int, per: str
) -> dict[str, list[tuple[int, ...]]]:
    cells: dict[str, list[tuple[int, ...]]] = {}
    for layer in range(runner.shape.n_layers):
        for role, positions in roles.items():
            for head in range(runner.shape.n_heads if per != "position" else 1):
                middle = (head,) if per != "position" else ()
                if positions[prompt]:
                    name = "/".join(map(str, (layer, *middle, role)))
                    cells[name] = [(layer, *middle, p) for p in positions[prompt]]
    return cells


def test_a_role_after_the_metric_is_said_to_have_no_effect(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = prompts(runner), prompts(runner, seed=1)
    metric = LogitDifference(answer=5, wrong=6, position=3)
    roles = {"late": [[5], [4]], "early": [[1], [7]]}
    with pytest.warns(UserWarning, match=r"The roles \['late'\] change only what comes after"):
        found = patch_grid(runner, base=base, source=source, site="z", per="position", metric=metric, roles=roles)
    assert (found["patched"].sel(role="late") == found["base"]).all()


# interventions and hooks of the user's own


def test_interventions_hold_in_every_run(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = prompts(runner), prompts(runner, seed=1)
    plain = patch_grid(runner, base=base, source=source, site="resid_pre", per="position", metric=METRIC)
    name = "blocks.1.attn.hook_z"
    with runner.intervene(replace(name, 0.0, heads=[1])):
        found = patch_grid(runner, base=base, source=source, site="resid_pre", per="position", metric=METRIC)
    assert found.attrs["path"] == "whole forward passes, because interventions are in place"

    def ablate(activation: Tensor, hook: Any) -> Tensor:
        activation[:, :, 1] = 0
        return activation

    runner.model.add_hook(name, ablate)
    try:
        again = patch_grid(runner, base=base, source=source, site="resid_pre", per="position", metric=METRIC)
    finally:
        runner.model.reset_hooks()
    assert again.attrs["path"] == "whole forward passes, because the model has hooks of its own"
    for variable in ("patched", "base", "source"):
        np.testing.assert_allclose(found[variable], again[variable], atol=1e-5)
    assert np.abs(found["patched"] - plain["patched"]).max() > 1e-3


@pytest.mark.parametrize("architecture", ["gpt2", "stablelm"])
def test_interventions_that_differ_between_prompts_go_with_their_prompt(
    loaded: Callable[[str], Runner], architecture: str
):
    runner = loaded(architecture)
    base, source = prompts(runner), prompts(runner, seed=1)
    name = "blocks.1.attn.hook_z"
    values = torch.randn(PROMPTS, LENGTH, runner.shape.n_heads, runner.shape.d_head)

    def patched(chosen: slice) -> xr.Dataset:
        with runner.intervene(replace(name, values[chosen])):
            return patch_grid(
                runner, base=base[chosen], source=source[chosen], site="resid_pre", per="position", metric=METRIC
            )

    together = patched(slice(0, PROMPTS))
    for i in range(PROMPTS):
        np.testing.assert_allclose(together["patched"][i], patched(slice(i, i + 1))["patched"][0], atol=1e-5)
    assert np.abs(together["patched"][0] - together["base"][0]).max() > 1e-4


def test_a_site_that_the_bridge_changes_in_part_is_refused(loaded: Callable[[str], Runner]):
    runner = loaded("mpt")
    with pytest.raises(InputError, match="Through TransformerBridge a change of resid_mid reaches the MLP alone"):
        patch_grid(runner, base=prompts(runner), source=Zero(), site="resid_mid", per="position", metric=METRIC)


@pytest.mark.parametrize("grain", [4, 16])
@pytest.mark.parametrize(("site", "per"), [("k", "head_position"), ("z", "head_position"), ("pattern", "position")])
def test_rows_that_begin_earlier_than_they_must_give_the_same(
    loaded: Callable[[str], Runner], site: str, per: str, grain: int, monkeypatch: pytest.MonkeyPatch
):
    runner = loaded("gemma2")
    base, source = prompts(runner), prompts(runner, seed=1)
    metric = LogitDifference(answer=5, wrong=6, position=[[3, 9], [5]])
    plain = patch_grid(runner, base=base, source=source, site=site, per=per, metric=metric)
    monkeypatch.setattr("mechlist.patching.sweep.task.CPU_GRAIN", grain)
    coarse = patch_grid(runner, base=base, source=source, site=site, per=per, metric=metric)
    np.testing.assert_allclose(coarse["patched"], plain["patched"], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": Mean(torch.ones(2, 4, dtype=torch.long))}, "longest prompt has 4 tokens, so there is no mean"),
        (
            {"source": Mean(torch.ones(2, 10, dtype=torch.long), pooled=True), "site": "pattern"},
            "their mean cannot be pooled",
        ),
        ({"source": Mean(torch.ones(2, dtype=torch.long))}, r"A data set must be tokens \[prompt, position\]"),
        ({"source": Mean(torch.ones(2, 9, dtype=torch.long), torch.tensor([9]))}, "lengths of a data set must be"),
        (
            {"source": Resample(torch.ones(2, 4, dtype=torch.long))},
            "another prompt of 10 tokens or more; it has 2 of 4",
        ),
        ({"source": Given([torch.zeros(1)])}, "one tensor for each of the 3 layers"),
        ({"roles": {}}, "one role at least"),
        ({"roles": {"a": [[1]]}}, "a list of positions for each of the 2 prompts, not 1"),
        ({"roles": {"a": [[1], [10]]}}, "has the position 10 in prompt 1, which has 10 tokens"),
        ({"roles": {"a": [[], []]}}, "No prompt has any of the roles"),
        ({"roles": {"a": [[1], [1]]}, "site": "z", "per": "head"}, "Roles are sets of positions"),
        ({"roles": {"a": [[1], [1]]}, "cells": {"b": [(0, 1)]}}, "cells and roles exclude each other"),
    ],
)
def test_bad_input_is_refused(loaded: Callable[[str], Runner], changes: dict[str, Any], words: str):
    runner = loaded("gpt2")
    asked: dict[str, Any] = {"source": Zero(), "site": "resid_pre", "per": "position", "metric": METRIC} | changes
    with pytest.raises(InputError, match=words):
        patch_grid(runner, base=prompts(runner), **asked)
