"""attribution_grid: against finite differences, exact patching and single pieces worked out by hand."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference, LogProb, Probability, Rank
from mechlist.metrics.distributions import Entropy, KLFromBase, Loss
from mechlist.metrics.measure import Logits
from mechlist.patching.attribution import attribution_grid
from mechlist.patching.gradients.cost import gradient_bytes, weight_copies
from mechlist.patching.gradients.softmax import keys_replaced, queries_replaced
from mechlist.patching.gradients.work import Attribution
from mechlist.patching.grid import patch_grid
from mechlist.patching.replacements import Given, Mean, Resample, Zero
from mechlist.patching.sweep.cells import HEAD_SITES, hook_name
from mechlist.patching.sweep.cost import Sizes
from mechlist.runner import Runner, add, replace
from mechlist.runner.memory import MemoryShares
from tests.hooked import HookedTransformer, HookedTransformerConfig, needs_hooked
from tests.patching.live_bytes import LiveBytes

SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "attn_scores"]
QUERY_SITES = ("pattern", "attn_scores")
PROMPTS, LENGTH = 2, 11
"""Longer than the window of 8 that Gemma 2's local layers have here."""
ANSWER, WRONG = 5, 6
METRIC = LogitDifference(answer=ANSWER, wrong=WRONG)


def tokens(runner: Runner, prompts: int = PROMPTS, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (prompts, length)
    base, source = (torch.randint(9, runner.shape.d_vocab, shape, generator=generator) for _ in range(2))
    return base, source


def finest(site: str) -> str:
    return "head_position" if site in HEAD_SITES else "position"


def attribute(runner: Runner, **changes: Any) -> xr.Dataset:
    base, source = tokens(runner)
    asked = {"base": base, "source": source, "site": "z", "per": "head_position", "metric": METRIC}
    return attribution_grid(runner, **(asked | changes))


def patch(runner: Runner, **changes: Any) -> xr.DataArray:
    """Patched - base, exactly."""
    base, source = tokens(runner)
    asked = {"base": base, "source": source, "site": "z", "per": "head_position", "metric": METRIC}
    found = patch_grid(runner, **(asked | changes))
    return found["patched"] - found["base"]


def in_double(runner: Runner) -> Runner:
    module = copy.deepcopy(runner.model).double()
    module.cfg.dtype = torch.float64
    return Runner(module, progress=False)


def kept_at(runner: Runner, prompts: Tensor, site: str) -> list[Tensor]:
    """Activations of every layer, one prompt a pass."""
    names = [hook_name(site, layer) for layer in range(runner.shape.n_layers)]
    with torch.no_grad():
        each = [runner.model.run_with_cache(row[None], names_filter=names)[1] for row in prompts]
    return [torch.cat([one[name] for one in each]) for name in names]


def attention_only() -> Runner:
    """One layer without norms: logits at the last position are linear in its attention pattern."""
    config = {"n_layers": 1, "d_model": 16, "n_heads": 4, "d_head": 4, "d_vocab": 97, "n_ctx": 32, "attn_only": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**config, normalization_type=None, device="cpu"))
        for parameter in model.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return Runner(model.eval(), progress=False)


# against finite differences


def central_difference(
    runner: Runner, base: Tensor, site: str, layer: int, change: Tensor, places: list[tuple[int, ...]], eps: float
) -> np.ndarray:
    """Derivative of the logit difference of one prompt as each place of `change` is added, all places in one batch."""
    index = (slice(None),) if site not in QUERY_SITES else ()

    def moved(share: float) -> Tensor:
        def add_change(activation: Tensor, hook: Any) -> Tensor:
            out = activation.clone()
            for row, place in enumerate(places):
                # (head, position) is [head, query] in patterns and [position, head] elsewhere.
                where = (row, *place) if not index else (row, *reversed(place))
                out[where] += share * change[where[1:]]
            return out

        with torch.no_grad():
            hooks = [(hook_name(site, layer), add_change)]
            logits = runner.model.run_with_hooks(base.expand(len(places), -1), fwd_hooks=hooks)
        return logits[:, -1, ANSWER] - logits[:, -1, WRONG]

    return ((moved(eps) - moved(-eps)) / (2 * eps)).numpy()


def against_central_differences(runner: Runner, site: str, found: xr.Dataset, rtol: float, eps: float) -> None:
    base, source = tokens(runner)
    there, put = kept_at(runner, base, site), kept_at(runner, source, site)
    for prompt in range(PROMPTS):
        for layer in range(runner.shape.n_layers):
            effect = found["effect"][prompt, layer].values
            change = put[layer][prompt] - there[layer][prompt]
            change = change.nan_to_num(nan=0.0)  # minus infinity less itself, behind the mask
            places = list(np.ndindex(effect.shape))
            expected = central_difference(runner, base[prompt], site, layer, change, places, eps)
            np.testing.assert_allclose(effect.ravel(), expected, rtol=rtol, atol=rtol * np.abs(expected).max())
            assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "llama"])
@needs_hooked
def test_every_cell_is_the_derivative_along_the_change(loaded: Callable[[str], Runner], architecture: str, site: str):
    runner = in_double(loaded(architecture))
    # The metric reads logits in float32.
    against_central_differences(runner, site, attribute(runner, site=site, per=finest(site)), rtol=1e-5, eps=1e-5)


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "z", "q", "k", "v", "pattern"])
def test_through_the_bridge(loaded: Callable[[str], Runner], site: str):
    runner = loaded("stablelm")
    against_central_differences(runner, site, attribute(runner, site=site, per=finest(site)), rtol=1e-2, eps=1e-2)


@pytest.mark.parametrize("site", ["resid_pre", "k", "attn_scores"])
@pytest.mark.parametrize(
    "metric",
    [
        LogProb(answer=[[5, 7], [8]], position=[[-1, 4], [-2]]),
        Probability(answer=9, position=[[3, 7, 10], [10]]),
        Entropy(position=[[-1, 2]] * PROMPTS),
        Loss(),
        LogitDifference(answer=[[5, 7, 9], [8]], wrong=[[6], [10, 11]], sets="logsumexp", position=[[-1], [-3, 5]]),
    ],
)
def test_a_small_change_has_the_effect_that_exact_patching_finds(
    loaded: Callable[[str], Runner], site: str, metric: Any
):
    """In proportion: what is left of the difference is of second order."""
    runner = in_double(loaded("gemma2"))
    base, source = tokens(runner)
    there, put = kept_at(runner, base, site), kept_at(runner, source, site)
    errors, eps = [], (0.02, 0.01)
    for share in eps:
        moved = [torch.where(a == b, a, a + share * (b - a)) for a, b in zip(there, put, strict=True)]
        asked = {"base": base, "source": Given(moved), "site": site, "per": finest(site), "metric": metric}
        effect = attribution_grid(runner, **asked)["effect"].values
        exact = by_hooks(runner, base, moved, site, metric, effect.shape)
        errors.append(np.abs(effect - exact).max() / np.abs(exact).max())
    assert errors[0] < 0.1
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)


def by_hooks(
    runner: Runner, base: Tensor, put: list[Tensor], site: str, metric: Any, shape: tuple[int, ...]
) -> np.ndarray:
    """Patched - base, each cell a row with a hook, in the model's own precision."""
    lengths = torch.full((len(base),), base.shape[1])
    out = np.zeros(shape)
    for prompt in range(len(base)):
        for layer in range(shape[1]):
            places = list(np.ndindex(shape[2:]))

            def change(activation: Tensor, hook: Any) -> Tensor:
                new = activation.clone()
                for row, place in enumerate(places):  # noqa: B023 (called within the loop)
                    where = place if site in QUERY_SITES else tuple(reversed(place))
                    new[(row, *where)] = put[layer][(prompt, *where)]  # noqa: B023
                return new

            rows = base[prompt].expand(len(places) + 1, -1)
            measure = metric.prepare(base, lengths, runner.shape.d_vocab)
            values = torch.zeros(len(rows), dtype=torch.float64)
            with torch.no_grad():
                logits = runner.model.run_with_hooks(rows, fwd_hooks=[(hook_name(site, layer), change)])
            logits = logits if measure.columns is None else logits[..., measure.columns]
            for slot, position in enumerate(measure.read[prompt].tolist()):
                index = torch.full((len(rows),), prompt), torch.full((len(rows),), slot)
                number = measure.of(Logits(logits[:, position], *index, None))
                values += measure.weight[prompt, slot] * number
            out[prompt, layer] = (values[:-1] - values[-1]).numpy().reshape(shape[2:])
    return out


# axes


@pytest.mark.parametrize("site", HEAD_SITES)
def test_positions_and_heads_are_sums_of_cells(loaded: Callable[[str], Runner], site: str):
    runner = loaded("gemma2")
    cells = attribute(runner, site=site)["effect"]
    assert cells.dims == ("prompt", "layer", "head", "position")
    assert cells.sizes["head"] == (2 if site in ("k", "v") else 4)
    for per, axis in (("position", "head"), ("head", "position")):
        found = attribute(runner, site=site, per=per)["effect"]
        expected = cells.sum(axis)
        assert found.dims == expected.dims
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("per", "axes"), [("position", ("layer", "role")), ("head_position", ("layer", "head", "role"))]
)
@pytest.mark.parametrize("fix_qk", [False, True])
def test_roles_hold_their_positions_once(
    loaded: Callable[[str], Runner], per: str, axes: tuple[str, ...], fix_qk: bool
):
    runner = loaded("llama")
    roles = {"two": [[1, 6, 6], [2, 3]], "one": [[4], []]}
    cells = attribute(runner, site="q", per=per, fix_qk=fix_qk)["effect"]
    found = attribute(runner, site="q", per=per, roles=roles, fix_qk=fix_qk)["effect"]
    assert found.dims == ("prompt", *axes)
    assert found["role"].values.tolist() == ["two", "one"]
    for prompt, positions in enumerate(([1, 6], [2, 3])):
        expected = cells[prompt].sel(position=positions).sum("position")
        np.testing.assert_allclose(found[prompt].sel(role="two"), expected, atol=1e-6)
    np.testing.assert_allclose(found[0].sel(role="one"), cells[0].sel(position=4), atol=1e-6)
    assert np.isnan(found[1].sel(role="one")).all()


PLAIN = [("resid_pre", "position", {}), ("z", "head", {}), ("pattern", "head_position", {})]
INTEGRATED = [("attn_scores", "head", {"steps": 3}), ("v", "head_position", {"steps": 3})]
EXACT_SOFTMAX = [(site, per, {"fix_qk": True}) for site in ("q", "k") for per in ("head", "head_position")]


@pytest.mark.parametrize(
    ("architecture", "site", "per", "options"),
    [
        *(("stablelm", *case) for case in PLAIN + INTEGRATED),
        *((name, *case) for name in ("gpt2", "gemma2") for case in PLAIN + INTEGRATED + EXACT_SOFTMAX),
    ],
)
def test_padded_prompts_of_unequal_length(
    loaded: Callable[[str], Runner], architecture: str, site: str, per: str, options: dict[str, Any]
):
    runner = loaded(architecture)
    base, source = tokens(runner, 3)
    lengths = torch.tensor([11, 6, 9])
    asked = {"site": site, "per": per, "metric": METRIC, **options}
    found = attribution_grid(runner, base=base, source=source, lengths=lengths, **asked)
    for i, length in enumerate(lengths.tolist()):
        alone = attribution_grid(runner, base=base[i : i + 1, :length], source=source[i : i + 1, :length], **asked)
        for name in ("base", "source"):
            assert float(found[name][i]) == pytest.approx(float(alone[name][0]), abs=1e-5)
        effect = found["effect"][i]
        if "position" in effect.dims:
            assert np.isnan(effect.isel(position=slice(length, None))).all()
            effect = effect.isel(position=slice(0, length))
        np.testing.assert_allclose(effect, alone["effect"][0], atol=1e-5)
        assert np.abs(effect).max() > 1e-3


def test_base_and_source_and_labels_are_those_of_exact_patching(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    base, source = tokens(runner)
    found = attribute(runner)
    exact = patch_grid(runner, base=base, source=source, site="z", per="head_position", metric=METRIC)
    for name in ("base", "source"):
        np.testing.assert_allclose(found[name], exact[name], atol=1e-5)
    assert found["effect"].dims == exact["patched"].dims
    assert {name: c.values.tolist() for name, c in found.coords.items()} == {
        name: c.values.tolist() for name, c in exact.coords.items()
    }
    assert found["effect"].attrs["units"] == "logits"
    assert found.attrs == {"site": "z", "method": "attribution patching"}
    assert attribute(runner, steps=4).attrs["method"] == "integrated gradients of each layer, 4 steps"


# what is put in


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("site", "steps"), [("mlp_out", 1), ("attn_scores", 1), ("k", 2)])
def test_other_replacements_are_the_same_as_giving_them_by_hand(
    loaded: Callable[[str], Runner], kind: str, site: str, steps: int
):
    runner = loaded("gemma2")
    base, data = tokens(runner)
    there, other = kept_at(runner, base, site), kept_at(runner, data, site)
    if kind == "zero":
        source, values = Zero(), [torch.where(x.isneginf(), x, 0.0) for x in there]
    elif kind == "mean":
        source, values = Mean(data), [x.mean(0, keepdim=True).expand_as(x) for x in other]
    else:
        # One prompt only can be drawn.
        source, values = Resample(data[:1]), [x[:1].expand_as(x) for x in other]
    asked = {"site": site, "per": finest(site), "steps": steps}
    found = attribute(runner, source=source, **asked)
    np.testing.assert_allclose(found["effect"], attribute(runner, source=Given(values), **asked)["effect"], atol=1e-6)
    assert ("source" in found) == (kind == "resample")
    assert np.abs(found["effect"]).max() > 1e-3


@pytest.mark.parametrize(("site", "fix_qk"), [("resid_pre", False), ("attn_scores", False), ("q", True), ("k", True)])
def test_putting_in_what_is_there_has_no_effect(loaded: Callable[[str], Runner], site: str, fix_qk: bool):
    runner = loaded("gemma2")
    base, _ = tokens(runner)
    found = attribute(runner, source=base, site=site, per=finest(site), fix_qk=fix_qk)
    assert (found["effect"] == 0).all()


def test_zero_leaves_hidden_scores_as_they_are_through_the_bridge(loaded: Callable[[str], Runner]):
    """There they are the least number that there is, and not minus infinity."""
    runner = loaded("stablelm")
    there = kept_at(runner, tokens(runner)[0], "attn_scores")
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    values = [torch.where(hidden, x, 0.0) for x in there]
    asked = {"site": "attn_scores", "steps": 8}
    expected = attribute(runner, source=Given(values), **asked)["effect"]
    np.testing.assert_allclose(attribute(runner, source=Zero(), **asked)["effect"], expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


def test_scores_that_become_minus_infinity_are_refused(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    values = kept_at(runner, tokens(runner)[0], "attn_scores")
    values[1][0, 2, 5, 3] = -torch.inf
    with pytest.raises(InputError, match=r"at blocks\.1\.attn\.hook_attn_scores is minus infinity"):
        attribute(runner, site="attn_scores", source=Given(values))
    values[1][0, 2, 5, 3] = 0.0
    values[1][0, 2, 5, 7] = 3.0  # behind the mask
    assert np.isfinite(attribute(runner, site="attn_scores", source=Given(values))["effect"]).all()


# integrated gradients


@pytest.mark.parametrize(
    ("architecture", "site", "steps"),
    [*(("gpt2", site, 24) for site in SITES), *(("gemma2", site, 64) for site in ("resid_mid", "v", "attn_scores"))],
)
@needs_hooked
def test_integrated_effects_of_a_layer_add_up_to_replacing_all_of_it(
    loaded: Callable[[str], Runner], architecture: str, site: str, steps: int
):
    runner = loaded(architecture)
    base, source = tokens(runner, 3)
    lengths = torch.tensor([11, 7, 10])
    asked = {"base": base, "source": source, "site": site, "metric": METRIC, "lengths": lengths}
    found = attribution_grid(runner, **asked, per=finest(site), steps=steps)["effect"]
    for layer in range(runner.shape.n_layers):
        parts = [(layer, i) for i in range(4 if site in HEAD_SITES else LENGTH)]
        per = "head" if site in HEAD_SITES else "position"
        if site in ("k", "v"):
            parts = parts[: runner.shape.n_key_value_heads]
        if per == "head":
            exact = patch(runner, **asked, per=per, cells={"all": parts})[:, 0]
        else:
            # A position beyond a prompt's end makes the cell NaN: one prompt at a time.
            exact = np.array([whole_layer(runner, asked, i, layer) for i in range(3)])
        np.testing.assert_allclose(found[:, layer].sum(found.dims[2:]), exact, atol=1e-3)
        assert np.abs(exact).max() > 3e-3


def whole_layer(runner: Runner, asked: dict[str, Any], prompt: int, layer: int) -> float:
    length = int(asked["lengths"][prompt])
    one = {name: asked[name][prompt : prompt + 1, :length] for name in ("base", "source")}
    cells = {"all": [(layer, p) for p in range(length)]}
    return float(patch(runner, **one, site=asked["site"], per="position", cells=cells)[0, 0])


def test_more_steps_come_nearer(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    cells = {"all": [(0, head) for head in range(4)]}
    exact = float(patch(runner, per="head", cells=cells)[0, 0])
    errors = [abs(float(attribute(runner, steps=steps)["effect"][0, 0].sum()) - exact) for steps in (1, 2, 8, 32)]
    assert errors[0] > 10 * errors[2]
    # The midpoint rule: four times the steps, a sixteenth of the error.
    assert errors[3] < errors[2] / 8


def test_kl_from_base_has_no_first_order_effect(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    metric = KLFromBase(position=[[-1, 3]] * PROMPTS)
    with pytest.warns(UserWarning, match="take steps=2 or more"):
        flat = attribute(runner, site="resid_post", per="position", metric=metric)
    assert np.abs(flat["effect"]).max() < 1e-6
    found = attribute(runner, site="resid_post", per="position", metric=metric, steps=64)["effect"]
    cells = {"all": [(2, p) for p in range(LENGTH)]}
    exact = patch(runner, site="resid_post", per="position", metric=metric, cells=cells)[:, 0]
    np.testing.assert_allclose(found[:, 2].sum("position"), exact, rtol=1e-3)


# the softmax kept exact


@pytest.mark.parametrize(
    ("site", "per"), [("q", "head_position"), ("k", "head_position"), ("k", "head"), ("q", "head")]
)
def test_with_one_layer_that_is_linear_in_the_pattern_it_is_exact(site: str, per: str):
    runner = attention_only()
    exact = patch(runner, site=site, per=per)
    np.testing.assert_allclose(attribute(runner, site=site, per=per, fix_qk=True)["effect"], exact, atol=1e-4)
    plain = attribute(runner, site=site, per=per)["effect"]
    assert np.abs(plain - exact).max() > 0.2 * np.abs(exact).max()


@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "llama", "pythia"])
def test_it_is_the_gradient_of_the_pattern_times_its_change(
    loaded: Callable[[str], Runner], architecture: str, site: str
):
    """Patterns come from TransformerLens's runs with one query or key replaced, the gradient from its own backward."""
    runner = loaded(architecture)
    base, source = tokens(runner)
    roles = {"pair": [[2, 7], [3, 10]]}
    found = attribute(runner, site=site, fix_qk=True)["effect"]
    together = attribute(runner, site=site, roles=roles, fix_qk=True)["effect"]
    by_head = attribute(runner, site=site, per="head", fix_qk=True)["effect"]
    put, patterns = kept_at(runner, source, site), kept_at(runner, base, "pattern")
    for prompt in range(PROMPTS):
        for layer in range(runner.shape.n_layers):
            gradient = pattern_gradient(runner, base[prompt], layer)
            for head in range(found.sizes["head"]):
                value = put[layer][prompt, :, head]

                def effect(positions: list[int]) -> float:
                    after = pattern_with(runner, base[prompt], site, layer, head, positions, value)  # noqa: B023
                    return float((gradient * (after - patterns[layer][prompt])).sum())  # noqa: B023

                each = [effect([p]) for p in range(LENGTH)]
                np.testing.assert_allclose(found[prompt, layer, head], each, atol=2e-6)
                pair = float(together[prompt, layer, head, 0])
                assert pair == pytest.approx(effect(roles["pair"][prompt]), abs=2e-6)
                assert float(by_head[prompt, layer, head]) == pytest.approx(effect(list(range(LENGTH))), abs=2e-6)
    assert np.abs(found).max() > 1e-3


def pattern_gradient(runner: Runner, prompt: Tensor, layer: int) -> Tensor:
    kept: list[Tensor] = []

    def leaf(activation: Tensor, hook: Any) -> Tensor:
        kept.append(activation.detach().requires_grad_())
        return kept[-1]

    logits = runner.model.run_with_hooks(prompt[None], fwd_hooks=[(hook_name("pattern", layer), leaf)])[0, -1]
    return torch.autograd.grad(logits[ANSWER] - logits[WRONG], kept[0])[0][0]


def pattern_with(
    runner: Runner, prompt: Tensor, site: str, layer: int, head: int, positions: list[int], value: Tensor
) -> Tensor:
    kept: list[Tensor] = []

    def change(activation: Tensor, hook: Any) -> Tensor:
        out = activation.clone()
        out[0, positions, head] = value[positions]
        return out

    hooks = [(hook_name(site, layer), change), (hook_name("pattern", layer), lambda x, hook: kept.append(x[0]))]
    with torch.no_grad():
        runner.model.run_with_hooks(prompt[None], fwd_hooks=hooks)
    return kept[0]


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_one_key_at_a_time_is_a_softmax_with_one_column_replaced(scale: float):
    """Also where a row's weight is all but one key's, which is where AtP* is for."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, 9, 9)
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    hidden |= torch.ones(9, 9, dtype=torch.bool).tril(-5)  # and a window
    before, after = (
        (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).masked_fill(hidden, -torch.inf)
        for _ in range(2)
    )
    expected = torch.zeros(2, 9, 4, dtype=torch.float64)
    for key in range(9):
        one = before.clone()
        one[..., key] = after[..., key]
        expected[:, key] = (gradient * (one.softmax(-1) - before.softmax(-1))).sum((2, 3))
    found = keys_replaced(before, after, gradient, None, kv_heads=2)
    torch.testing.assert_close(found, expected.view(2, 9, 2, 2).sum(-1), atol=1e-12, rtol=1e-12)
    each = torch.eye(9, dtype=torch.bool).expand(2, -1, -1)
    torch.testing.assert_close(keys_replaced(before, after, gradient, each, kv_heads=2), found, atol=1e-12, rtol=1e-12)


def test_a_query_replaced_by_hand():
    """Scores 0 and 0 become 0 and log 3: the weights 1/2, 1/2 become 1/4, 3/4."""
    before = torch.zeros(1, 1, 1, 2)
    after = torch.tensor([[[[0.0, 3.0]]]]).clamp(min=1).log()
    found = queries_replaced(before, after, torch.tensor([[[[2.0, 6.0]]]]))
    assert found.shape == (1, 1, 1)
    assert float(found) == pytest.approx(2 * (1 / 4 - 1 / 2) + 6 * (3 / 4 - 1 / 2))


# the model is left alone


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("architecture", ["gemma2", "stablelm"])
def test_interventions_are_in_place(loaded: Callable[[str], Runner], architecture: str, steps: int):
    runner = loaded(architecture)
    lengths = torch.tensor([7, LENGTH])
    base, source = tokens(runner)
    plain = attribute(runner, steps=steps, lengths=lengths)
    steer = torch.linspace(-1, 1, runner.shape.d_model)
    # Each prompt has its own value, which neither it nor its source changes.
    values = torch.randn(kept_at(runner, base, "z")[1].shape, generator=torch.Generator().manual_seed(0))
    frozen = replace("blocks.1.attn.hook_z", values)
    with runner.intervene(add("blocks.0.hook_resid_post", steer, positions=[-1]), frozen):
        found = attribute(runner, steps=steps, lengths=lengths)
        for name, prompts in (("base", base), ("source", source)):
            rows = [row[:n] for row, n in zip(prompts, lengths.tolist(), strict=True)]
            logits = runner.logits(rows, positions=-1)[:, 0]
            np.testing.assert_allclose(found[name], logits[:, ANSWER] - logits[:, WRONG], atol=1e-5)
    after = found["effect"][:, 1]
    assert (after.isel(prompt=1) == 0).all()
    assert (after.isel(prompt=0, position=slice(0, 7)) == 0).all()
    assert np.abs(found["effect"][:, 0] - plain["effect"][:, 0]).max() > 1e-3
    with runner.intervene(replace(hook_name("resid_post", runner.shape.n_layers - 1), 0.5)):
        cut = attribute(runner, steps=steps)
    assert (cut["effect"] == 0).all()


def test_hooks_of_the_model_itself_are_in_place(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    with runner.intervene(replace("blocks.1.hook_mlp_out", 0.0)):
        expected = attribute(runner)["effect"]
    with runner.model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: x * 0)]):
        np.testing.assert_allclose(attribute(runner)["effect"], expected, atol=1e-6)
        with pytest.raises(InputError, match="but the model has hooks of its own"):
            attribute(runner, site="q", fix_qk=True)
    assert not any(point.fwd_hooks for point in runner.model.hook_dict.values())


def test_weights_and_modes_are_as_before(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    fixed = runner.model.W_U
    fixed.requires_grad_(False)
    before = {name: p.requires_grad for name, p in runner.model.named_parameters()}
    try:
        expected = attribute(runner)["effect"]
        with torch.no_grad():
            np.testing.assert_array_equal(attribute(runner)["effect"], expected)
        with torch.inference_mode():
            np.testing.assert_array_equal(attribute(runner)["effect"], expected)
        with pytest.raises(InputError, match="The metric has no gradient"):
            attribute(runner, metric=Rank(answer=5))
        assert {name: p.requires_grad for name, p in runner.model.named_parameters()} == before
        assert all(p.grad is None for p in runner.model.parameters())
    finally:
        fixed.requires_grad_(True)


# memory


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"site": "k", "fix_qk": True}])
def test_nothing_depends_on_memory(
    loaded: Callable[[str], Runner], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    runner = loaded("llama")
    base, source = tokens(runner, 5)
    lengths = torch.tensor([11, 4, 8, 11, 6])
    metric = LogProb(answer=[[5], [6], [7, 8], [9], [10]], position=[[-1, 2]] * 5)
    asked = {"base": base, "source": source, "lengths": lengths, "metric": metric, **options}
    whole = attribute(runner, **asked)
    monkeypatch.setattr("mechlist.runner.memory.CPU_PADDED_TOKENS", 2 * LENGTH)
    np.testing.assert_allclose(attribute(runner, **asked)["effect"], whole["effect"], atol=1e-6)
    monkeypatch.setattr(runner, "shares", MemoryShares(1))
    np.testing.assert_allclose(attribute(runner, **asked)["effect"], whole["effect"], atol=1e-6)
    monkeypatch.undo()

    def compute(self: Attribution, members: list[int]) -> dict[str, Tensor]:
        if len(members) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return plain(self, members)

    plain = Attribution.compute
    monkeypatch.setattr(Attribution, "compute", compute)
    np.testing.assert_allclose(attribute(runner, **asked)["effect"], whole["effect"], atol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("length", "options"),
    [
        (16, {"site": "resid_mid", "per": "position"}),
        (120, {"site": "attn_scores"}),
        (120, {"site": "z", "steps": 2}),
        (60, {"site": "k", "fix_qk": True}),
        (60, {"site": "k", "fix_qk": True, "roles": {"pair": [[1, 2]] * 6}}),
    ],
)
def test_memory_is_counted(gated: bool, length: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    config: dict[str, Any] = {"n_layers": 4, "d_model": 64, "n_heads": 4, "d_head": 16, "d_mlp": 256, "n_ctx": 128}
    config |= {"d_vocab": 97, "act_fn": "silu", "gated_mlp": gated, "normalization_type": "RMS" if gated else "LN"}
    runner = Runner(HookedTransformer(HookedTransformerConfig(**config, device="cpu")).eval(), progress=False)
    monkeypatch.setattr("mechlist.runner.memory.CPU_PADDED_TOKENS", 10**6)
    base, source = tokens(runner, 6, length)
    with LiveBytes() as live:
        attribute(runner, base=base, source=source, **options)
    sizes = Sizes(runner.shape, 4)
    each = gradient_bytes(sizes, options["site"], length, fix_qk="fix_qk" in options)
    counted = weight_copies(sizes) + 6 * each
    assert 0.25 * counted < live.peak < counted


# bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"fix_qk": True}, "fix_qk is for the sites q and k, not z"),
        ({"site": "k", "fix_qk": True, "steps": 2}, "steps must be 1, not 2"),
        ({"site": "resid"}, "site must be one of resid_pre"),
        ({"per": "token"}, "per must be one of position, head, head_position"),
        ({"site": "mlp_out"}, "mlp_out has no heads"),
        ({"lengths": torch.tensor([11, 0])}, "lengths must be from 1 to 11"),
        ({"roles": {"far": [[11], [0]]}}, "has the position 11 in prompt 0"),
        ({"source": Given([torch.zeros(1)])}, "one tensor for each of the 3 layers"),
        ({"source": Given([torch.zeros(1)] * 3)}, r"must have the shape \[2, 11, 4, 8\]"),
    ],
)
def test_bad_input_is_refused(loaded: Callable[[str], Runner], changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        attribute(loaded("gpt2"), **changes)


@needs_hooked
def test_quantised_weights_are_refused(loaded: Callable[[str], Runner]):
    runner = Runner(copy.deepcopy(loaded("gpt2").model), progress=False)
    runner.model.cfg.load_in_4bit = True
    with pytest.raises(InputError, match="The weights are quantised, and have no gradients"):
        attribute(runner)


def test_the_exact_softmax_takes_layers_that_can_be_run_one_by_one(loaded: Callable[[str], Runner]):
    with pytest.raises(InputError, match="but its attention favours near tokens by a bias"):
        attribute(loaded("mpt"), site="q", fix_qk=True)
    runner = loaded("gpt2")
    with (
        runner.intervene(replace("blocks.0.hook_mlp_out", 0.0)),
        pytest.raises(InputError, match="but interventions are in place"),
    ):
        attribute(runner, site="q", fix_qk=True)
