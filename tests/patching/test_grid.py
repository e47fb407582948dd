"""patch_grid: every cell against one full TransformerLens forward pass with a hook."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist import LogitDifference, patch_grid
from mechlist.errors import InputError
from mechlist.patching.sweep.cells import HEAD_SITES, hook_name
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig, needs_hooked

SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "attn_scores"]
ARCHITECTURES = ["gpt2", "llama", "gemma", "gemma2", "pythia", "qwen2"]
PROMPTS, LENGTH = 3, 11
"""Longer than the window of 8 that Gemma 2's local layers have here."""
ANSWER, WRONG = 5, torch.tensor([6, 7, 8])


def attention_only() -> Runner:
    config = {"n_layers": 2, "d_model": 16, "n_heads": 4, "d_head": 4, "d_vocab": 97, "n_ctx": 32, "attn_only": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**config, normalization_type=None, device="cpu"))
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return Runner(model.eval(), progress=False)


def tokens(runner: Runner, prompts: int = PROMPTS, length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(9, runner.shape.d_vocab, (prompts, length), generator=generator) for _ in range(2))  # type: ignore[return-value]


def pers(site: str) -> list[str]:
    return ["position", "head", "head_position"] if site in HEAD_SITES else ["position"]


def one_pass(
    runner: Runner, base: torch.Tensor, kept: Any, site: str, parts: list[tuple[int, int | None, int | None]]
) -> torch.Tensor:
    """Logits at the last position of one prompt, with (layer, head, position) parts of the source's run put in."""

    def change(name: str, activation: torch.Tensor, hook: Any) -> torch.Tensor:
        out, value = activation.clone(), kept[name]
        for layer, head, position in parts:
            if name != hook_name(site, layer):
                continue
            where = slice(None) if position is None else position
            if site in ("pattern", "attn_scores"):
                out[:, slice(None) if head is None else head, where] = value[
                    :, slice(None) if head is None else head, where
                ]
            elif head is None:
                out[:, where] = value[:, where]
            else:
                out[:, where, head] = value[:, where, head]
        return out

    names = sorted({hook_name(site, layer) for layer, _, _ in parts})
    with torch.no_grad():
        return runner.model.run_with_hooks(base[None], fwd_hooks=[(name, partial(change, name)) for name in names])[
            0, -1
        ]


def slow(runner: Runner, base: torch.Tensor, source: torch.Tensor, site: str, dims: dict[str, int]) -> np.ndarray:
    """One full forward pass a prompt and cell."""
    out = np.zeros((len(base), *dims.values()))
    for i in range(len(base)):
        with torch.no_grad():
            _, kept = runner.model.run_with_cache(source[i][None])
        for cell in np.ndindex(*dims.values()):
            at = dict(zip(dims, cell, strict=True))
            logits = one_pass(runner, base[i], kept, site, [(at["layer"], at.get("head"), at.get("position"))])
            out[(i, *cell)] = float(logits[ANSWER] - logits[WRONG[i]])
    return out


def run(runner: Runner, base: torch.Tensor, source: torch.Tensor, **changes: Any) -> xr.Dataset:
    asked = {"site": "resid_pre", "per": "position", "metric": LogitDifference(answer=ANSWER, wrong=WRONG[: len(base)])}
    return patch_grid(runner, base=base, source=source, **(asked | changes))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "attention-only"])
@needs_hooked
def test_every_cell_equals_one_full_forward_pass(loaded: Callable[[str], Runner], architecture: str, site: str):
    runner = attention_only() if architecture == "attention-only" else loaded(architecture)
    parallel = architecture == "pythia" and site == "resid_mid"
    if parallel or (architecture == "attention-only" and site in ("resid_mid", "mlp_out")):
        with pytest.raises(InputError, match="side by side" if parallel else "so there is no"):
            run(runner, *tokens(runner), site=site)
        return
    base, source = tokens(runner)
    for per in pers(site):
        found = run(runner, base, source, site=site, per=per)
        assert found.attrs["path"] == "layer by layer"
        dims = {str(name): found.sizes[name] for name in found["patched"].dims[1:]}
        expected = slow(runner, base, source, site, dims)
        np.testing.assert_allclose(found["patched"].values, expected, atol=1e-4)
        assert np.abs(found["patched"].values - found["base"].values.reshape(-1, *[1] * len(dims))).max() > 1e-3


def test_a_model_whose_layers_cannot_be_run_one_by_one_takes_whole_passes(loaded: Callable[[str], Runner]):
    runner = loaded("mpt")
    base, source = tokens(runner)
    for site in ("resid_pre", "z"):
        found = run(runner, base, source, site=site)
        assert found.attrs["path"].startswith(
            "whole forward passes, because its attention favours near tokens by a bias"
        )
        dims = {"layer": runner.shape.n_layers, "position": LENGTH}
        np.testing.assert_allclose(found["patched"].values, slow(runner, base, source, site, dims), atol=1e-4)


# what must hold


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "stablelm"])
@pytest.mark.parametrize("site", ["resid_pre", "z", "v", "pattern"])
def test_patching_with_itself_changes_nothing(loaded: Callable[[str], Runner], architecture: str, site: str):
    runner = loaded(architecture)
    base, _ = tokens(runner)
    with pytest.warns(
        UserWarning, match=r"recovered is NaN for the prompts \[0, 1, 2\]: base and source measure the same"
    ):
        found = run(runner, base, base, site=site)
    assert (found["patched"] == found["base"]).all()
    assert np.isnan(found["recovered"].values).all()
    np.testing.assert_array_equal(found["base"], found["source"])


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_all_positions_at_the_first_layer_give_the_source(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    base, source = tokens(runner)
    found = run(runner, base, source, cells={"everything": [(0, p) for p in range(LENGTH)]})
    np.testing.assert_allclose(found["patched"].sel(cell="everything"), found["source"], atol=1e-5)
    np.testing.assert_allclose(found["recovered"], 1, atol=1e-4)


def test_base_and_source_are_plain_runs(loaded: Callable[[str], Runner]):
    runner = loaded("llama")
    base, source = tokens(runner)
    found = run(runner, base, source)
    for name, prompts in (("base", base), ("source", source)):
        logits = runner.logits(prompts, positions=-1)[:, 0]
        expected = logits[:, ANSWER] - logits[torch.arange(PROMPTS), WRONG]
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    recovered = (found["patched"] - found["base"]) / (found["source"] - found["base"])
    np.testing.assert_allclose(found["recovered"], recovered.transpose(*found["recovered"].dims))


@pytest.mark.parametrize("architecture", ["gemma2", "stablelm"])
def test_sets_of_cells_over_layers_heads_and_positions(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    base, source = tokens(runner)
    cells = {
        "one": [(1, 2, 4)],
        "two layers": [(2, 0, 9), (0, 1, 3)],
        "a role": [(1, 0, 2), (1, 1, 2), (1, 3, 7)],
        "the last": [(2, 3, LENGTH - 1)],
    }
    found = run(runner, base, source, site="z", per="head_position", cells=cells)
    assert found["patched"].dims == ("prompt", "cell")
    assert found["cell"].values.tolist() == list(cells)
    for i in range(PROMPTS):
        with torch.no_grad():
            _, kept = runner.model.run_with_cache(source[i][None])
        for name, parts in cells.items():
            logits = one_pass(runner, base[i], kept, "z", list(parts))
            expected = float(logits[ANSWER] - logits[WRONG[i]])
            assert float(found["patched"].sel(cell=name)[i]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
@pytest.mark.parametrize(("site", "per"), [("resid_pre", "position"), ("z", "head"), ("pattern", "head_position")])
def test_padded_prompts_of_unequal_length(loaded: Callable[[str], Runner], architecture: str, site: str, per: str):
    runner = loaded(architecture)
    base, source = tokens(runner)
    lengths = torch.tensor([11, 6, 9])
    found = run(runner, base, source, site=site, per=per, lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        metric = LogitDifference(answer=ANSWER, wrong=int(WRONG[i]))
        alone = patch_grid(
            runner, base=base[i : i + 1, :length], source=source[i : i + 1, :length], site=site, per=per, metric=metric
        )
        for name in ("base", "source"):
            assert float(found[name][i]) == pytest.approx(float(alone[name][0]), abs=1e-5)
        patched = found["patched"][i]
        if "position" in patched.dims:
            assert np.isnan(patched.isel(position=slice(length, None))).all()
            patched = patched.isel(position=slice(0, length))
        np.testing.assert_allclose(patched, alone["patched"][0], atol=1e-4)


def test_the_metric_may_read_any_position(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    base, source = tokens(runner)
    found = run(runner, base, source, metric=LogitDifference(answer=ANSWER, wrong=6, position=torch.tensor([4, -1, 0])))
    for i, position in enumerate([4, LENGTH - 1, 0]):
        short = slice(0, position + 1)
        metric = LogitDifference(answer=ANSWER, wrong=6)
        alone = patch_grid(
            runner,
            base=base[i : i + 1, short],
            source=source[i : i + 1, short],
            site="resid_pre",
            per="position",
            metric=metric,
        )
        np.testing.assert_allclose(found["patched"][i].isel(position=short), alone["patched"][0], atol=1e-4)
        after = found["patched"][i].isel(position=slice(position + 1, None))
        assert (after == found["base"][i]).all()


@pytest.mark.parametrize("architecture", ["gpt2", "stablelm"])
def test_nothing_depends_on_memory_or_order(
    loaded: Callable[[str], Runner], architecture: str, monkeypatch: pytest.MonkeyPatch
):
    runner = loaded(architecture)
    base, source = tokens(runner)
    whole = run(runner, base, source, site="z", per="head_position")
    monkeypatch.setattr("mechlist.runner.memory.CPU_PACKED_TOKENS", 17)
    monkeypatch.setattr("mechlist.patching.sweep.task.Task.blocks", lambda _: [[0, 1], [2]])
    np.testing.assert_allclose(
        run(runner, base, source, site="z", per="head_position")["patched"], whole["patched"], atol=2e-6
    )
    order = [2, 0, 1]
    metric = LogitDifference(answer=ANSWER, wrong=WRONG[order])
    shuffled = run(runner, base[order], source[order], site="z", per="head_position", metric=metric)
    np.testing.assert_allclose(shuffled["patched"], whole["patched"].isel(prompt=order), atol=2e-6)


def test_key_value_heads_are_those_there_are(loaded: Callable[[str], Runner]):
    runner = loaded("llama")
    base, source = tokens(runner)
    assert run(runner, base, source, site="k", per="head").sizes["head"] == 2
    assert run(runner, base, source, site="q", per="head").sizes["head"] == 4
    with pytest.raises(InputError, match="has the head 2; there are 2, from 0 to 1"):
        run(runner, base, source, site="v", per="head", cells={"absent": [(0, 2)]})


@needs_hooked
def test_a_real_model(shared: Path):
    runner = Runner.load(str(shared / "models" / "stories260K"), device="cpu", progress=False)
    base = torch.tensor([runner.to_tokens("Once upon a time there was a girl")])
    source = base.clone()
    source[0, 3] += 1
    metric = LogitDifference(answer=int(base[0, -1]), wrong=int(base[0, -2]))
    for site, per in (("resid_mid", "position"), ("z", "head"), ("attn_scores", "head")):
        found = patch_grid(runner, base=base, source=source, site=site, per=per, metric=metric)
        dims = {str(name): found.sizes[name] for name in found["patched"].dims[1:]}
        with torch.no_grad():
            _, kept = runner.model.run_with_cache(source)
        expected = np.zeros(tuple(dims.values()))
        for cell in np.ndindex(*dims.values()):
            at = dict(zip(dims, cell, strict=True))
            logits = one_pass(runner, base[0], kept, site, [(at["layer"], at.get("head"), at.get("position"))])
            expected[cell] = float(logits[int(base[0, -1])] - logits[int(base[0, -2])])
        np.testing.assert_allclose(found["patched"][0], expected, atol=1e-4)


def test_the_built_in_list_model_beyond_its_window():
    runner = Runner.load("list-tiny", device="cpu", progress=False)
    base, source = tokens(runner, prompts=1, length=80)
    cells = {"early": [(1, 3)], "inside": [(2, 30)], "last": [(0, 79), (4, 2)]}
    found = run(runner, base, source, site="attn_out", cells=cells)
    with torch.no_grad():
        _, kept = runner.model.run_with_cache(source)
    for name, parts in cells.items():
        logits = one_pass(runner, base[0], kept, "attn_out", [(layer, None, position) for layer, position in parts])
        expected = float(logits[ANSWER] - logits[WRONG[0]])
        assert float(found["patched"].sel(cell=name)[0]) == pytest.approx(expected, abs=1e-4)


# bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"site": "resid"}, "site must be one of resid_pre"),
        ({"per": "token"}, "per must be one of position, head, head_position"),
        ({"per": "head"}, "resid_pre has no heads"),
        (
            {"metric": LogitDifference(answer=5, wrong=5)},
            "answer and wrong must be different tokens; for prompt 0 both are 5",
        ),
        ({"metric": LogitDifference(answer=5, wrong=5000)}, "wrong must be token ids from 0 to 96"),
        (
            {"metric": LogitDifference(answer=torch.tensor([1, 2]), wrong=3)},
            "answer must be one number, or one for each of the 3",
        ),
        (
            {"metric": LogitDifference(answer=5, wrong=6, position=11)},
            "position 11 is outside prompt 0, which has 11 tokens",
        ),
        ({"metric": LogitDifference(answer=5, wrong=6, position=-12)}, "position -12 is outside prompt 0"),
        ({"lengths": torch.tensor([11, 0, 3])}, "lengths must be from 1 to 11"),
        ({"lengths": torch.tensor([11, 3])}, "one for each of the 3 prompts"),
        ({"cells": {}}, "cells must hold one named set at least"),
        ({"cells": {"none": []}}, "must hold one part at least"),
        ({"cells": {"deep": [(3, 0)]}}, "has the layer 3; there are 3, from 0 to 2"),
        ({"cells": {"far": [(0, 11)]}}, "has the position 11"),
        ({"cells": {"odd": [(0, 1, 2)]}}, r"must hold \(layer, position\)"),
    ],
)
def test_bad_input_is_refused(loaded: Callable[[str], Runner], changes: dict[str, Any], words: str):
    runner = loaded("gpt2")
    with pytest.raises(InputError, match=words):
        run(runner, *tokens(runner), **changes)


def test_shapes_that_differ_are_refused(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    with pytest.raises(InputError, match=r"received \[3, 11\] and \[3, 10\]"):
        run(runner, base, source[:, :10])
    with pytest.raises(InputError, match="outside the vocabulary"):
        run(runner, base, source + 100)


def test_layers_are_compared_with_the_model_once_for_each_longer_prompt(
    loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch
):
    # What was seen of one model says nothing of another.
    for _ in range(2):
        runner = Runner(loaded("gpt2").model, progress=False)
        model, lengths = runner.language_model, list[int]()
        residual = model.residual

        def spy(rows: torch.Tensor, hooks: Any, residual: Any = residual, lengths: list[int] = lengths) -> torch.Tensor:
            lengths.append(rows.shape[1])
            return residual(rows, hooks)

        monkeypatch.setattr(model, "residual", spy)
        for length in (7, 18, 18, 20, 19):
            base, source = tokens(runner, length=length)
            run(runner, base, source, site="z", per="head")
        # Random tokens first, whatever the prompts.
        assert min(lengths) == 16
        assert [length for length in lengths if length > 16] == [18, 20]


def test_a_cell_after_the_metric_is_said_to_have_no_effect(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    metric = LogitDifference(answer=ANSWER, wrong=6, position=3)
    with pytest.warns(UserWarning, match=r"The cells \['late'\] change only what comes after"):
        found = run(runner, base, source, metric=metric, cells={"late": [(0, 7)], "early": [(0, 1)]})
    assert (found["patched"].sel(cell="late") == found["base"]).all()
    assert (found["patched"].sel(cell="early") != found["base"]).all()


@pytest.mark.parametrize(("site", "per"), [("resid_pre", "position"), ("mlp_out", "position"), ("v", "head_position")])
def test_half_precision_is_a_whole_pass_up_to_its_rounding(site: str, per: str):
    config: dict[str, Any] = {
        "n_layers": 3,
        "d_model": 32,
        "n_heads": 4,
        "d_head": 8,
        "d_mlp": 64,
        "d_vocab": 97,
        "n_ctx": 32,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(
            HookedTransformerConfig(
                **config, act_fn="gelu_new", normalization_type="RMS", dtype=torch.bfloat16, device="cpu"
            )
        )
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    runner = Runner(model.eval(), progress=False)
    base, source = tokens(runner)
    found = run(runner, base, source, site=site, per=per)
    assert found.attrs["path"] == "layer by layer"
    dims = {str(name): found.sizes[name] for name in found["patched"].dims[1:]}
    expected = slow(runner, base, source, site, dims)
    scale = np.abs(expected).max()
    assert scale > 1
    np.testing.assert_allclose(found["patched"].values, expected, atol=0.03 * scale)
