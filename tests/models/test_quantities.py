import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.models import attributions, quantities
from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.load import load
from mechlist.models.recipes import Ablation, Blocks, Pair, rows_of
from mechlist.models.tl import HAS_HOOKED
from tests.models.gpt2_like import random_view

PROMPT = "When John and Mary went to the shops, John gave the bag to"
PAIRS = [
    Pair(prompt=PROMPT, answer=" Mary", wrong=" John"),
    Pair(prompt="The cat sat on the mat.", answer=" The", wrong=" the"),
]
BLOCKS = Blocks(period=5, rows=3, seed=4, low=7, high=90)


@pytest.fixture(scope="module")
def view(shared: Path) -> LanguageModel:
    return random_view(shared)


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    if not HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer, which the built-in model is")
    return load("induction-tiny", device="cpu")


def same(measured: Tensor, expected: Any) -> None:
    torch.testing.assert_close(measured, torch.as_tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-5)


def last_logits(model: Any, prompt: str, bos: bool = True, hooks: Any = ()) -> Float[Tensor, " vocab"]:
    return model.run_with_hooks(prompt, prepend_bos=bos, fwd_hooks=list(hooks))[0, -1]


def difference(model: Any, pair: Pair, **more: Any) -> float:
    logits = last_logits(model, pair.prompt, **more)
    return (logits[model.to_single_token(pair.answer)] - logits[model.to_single_token(pair.wrong)]).item()


@pytest.mark.parametrize("bos", [True, False])
def test_loss_is_transformer_lens_s(view: LanguageModel, bos: bool) -> None:
    expected = view.module(PROMPT, return_type="loss", prepend_bos=bos)
    same(quantities.loss(view, text=PROMPT, bos=bos), [expected])


@pytest.mark.parametrize("site", ["v", "z"])
def test_an_ablated_head_is_one_without_values(view: LanguageModel, site: Any) -> None:
    without = copy.deepcopy(view.module)
    without.blocks[1].attn.W_V[2] = 0
    without.blocks[1].attn.b_V[2] = 0
    measured = quantities.loss_ablated(view, text=PROMPT, ablate=Ablation(head=(1, 2), site=site))
    same(measured, [without(PROMPT, return_type="loss")])
    assert (measured - quantities.loss(view, text=PROMPT)).abs() > 1e-4


@pytest.mark.parametrize("bos", [True, False])
def test_logit_differences(view: LanguageModel, bos: bool) -> None:
    each = [difference(view.module, pair, bos=bos) for pair in PAIRS]
    same(quantities.logit_difference(view, pairs=PAIRS, bos=bos, reduce="each"), each)
    same(quantities.logit_difference(view, pairs=PAIRS, bos=bos), [sum(each) / 2])


def test_logit_difference_with_a_head_ablated_at_the_end(view: LanguageModel) -> None:
    def ablate(z: Tensor, hook: Any) -> None:
        z[:, -1, 3] = 0

    expected = difference(view.module, PAIRS[0], hooks=[("blocks.0.attn.hook_z", ablate)])
    same(quantities.logit_difference(view, pairs=PAIRS[:1], ablate=Ablation(head=(0, 3), position=-1)), [expected])


def test_tokens_of_a_prompt(view: LanguageModel) -> None:
    logits, names = last_logits(view.module, PROMPT), [" Mary", " the", " his"]
    ids = [view.module.to_single_token(name) for name in names]
    order = logits.argsort(descending=True).tolist()
    same(quantities.probability(view, prompt=PROMPT, tokens=names), logits.softmax(-1)[ids])
    same(quantities.top_tokens(view, prompt=PROMPT, tokens=names, value="logit"), logits[ids])
    same(quantities.top_tokens(view, prompt=PROMPT, tokens=names, value="rank"), [float(order.index(i)) for i in ids])
    same(quantities.unembed_bias(view, tokens=names), view.module.unembed.b_U[ids])


@pytest.mark.parametrize("normalization", ["LN", "LNPre", "RMS"])
def test_attribution_is_the_effect_of_removal_under_a_frozen_norm(shared: Path, normalization: str) -> None:
    view = random_view(shared, normalization)
    model = view.module
    model.set_use_attn_result(True)
    _, cache = model.run_with_cache(PROMPT)
    final, scale = cache["resid_post", 1][0, -1], cache["ln_final.hook_scale"][0, -1]

    def logits(residual: Tensor) -> Tensor:
        centred = residual - residual.mean() if normalization.startswith("LN") else residual
        gain = getattr(model.ln_final, "w", 1)
        return (centred / scale * gain) @ model.W_U

    mary, john = model.to_single_token(" Mary"), model.to_single_token(" John")
    head = logits(final) - logits(final - cache["blocks.1.attn.hook_result"][0, -1, 2])
    measured = attributions.direct_logit_attribution(view, pairs=PAIRS[:1], heads=[(1, 2)])
    same(measured, [head[mary] - head[john]])
    written = cache["blocks.0.mlp.hook_post"][0, -1, 5] * model.W_out[0, 5]
    neuron = logits(final) - logits(final - written)
    measured = attributions.neuron_attribution(view, prompt=PROMPT, token=" Mary", neuron=(0, 5))
    same(measured, [neuron[mary]])


def test_heads_found_by_attribution(view: LanguageModel) -> None:
    every = [(layer, head) for layer in range(2) for head in range(4)]
    values = attributions.direct_logit_attribution(view, pairs=PAIRS, heads=every).tolist()
    order = [every[i] for i in sorted(range(8), key=lambda i: values[i])]
    low = attributions.heads_found(view, pairs=PAIRS, heads=order[:3], count=2, by="negative_attribution")
    high = attributions.heads_found(view, pairs=PAIRS, heads=order[-2:], count=2, by="attribution")
    same(torch.cat([low, high]), [2 / 3, 1.0])


def test_heads_found_by_patching_one_at_a_time(view: LanguageModel) -> None:
    corrupted = "When John and Mary went to the shops, Mary gave the bag to"
    _, clean = view.module.run_with_cache(PROMPT)
    base, effects = difference(view.module, replace(PAIRS[0], prompt=corrupted)), {}
    for layer in range(2):
        for head in range(4):

            def patch(z: Tensor, hook: Any, head: int = head) -> None:
                z[:, :, head] = clean[hook.name][:, :, head]

            hooks = [(f"blocks.{layer}.attn.hook_z", patch)]
            effects[layer, head] = abs(difference(view.module, replace(PAIRS[0], prompt=corrupted), hooks=hooks) - base)
    order = sorted(effects, key=lambda head: -effects[head])
    found = [
        attributions.heads_found(
            view, pairs=PAIRS[:1], heads=[head], count=3, by="patching", corrupted=[corrupted]
        ).item()
        for head in order
    ]
    assert found == [1, 1, 1, 0, 0, 0, 0, 0]


def test_scale_of_the_last_norm(view: LanguageModel) -> None:
    def scale(model: Any, prompt: str) -> float:
        residual = model.run_with_cache(prompt)[1]["resid_post", 1][0, -1]
        return (residual.var(correction=0) + model.cfg.eps).sqrt().item()

    prompts = [pair.prompt for pair in PAIRS]
    same(quantities.final_scale(view, prompts=prompts), [scale(view.module, p) for p in prompts])
    without = copy.deepcopy(view.module)
    without.blocks[1].attn.W_V[2] = 0
    without.blocks[1].attn.b_V[2] = 0
    ratios = [scale(view.module, p) / scale(without, p) for p in prompts]
    same(quantities.final_scale_ratio(view, prompts=prompts, ablate=Ablation(head=(1, 2))), [sum(ratios) / 2])


def test_blocks_are_the_tokens_that_a_global_seed_draws(view: LanguageModel) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        drawn = torch.randint(7, 90, (3, 5))
    assert torch.equal(torch.cat(list(rows_of(view, replace(BLOCKS, bos=False)))), torch.cat([drawn, drawn], 1))
    assert [row[0, 0].item() for row in rows_of(view, BLOCKS)] == [50256] * 3


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(("kind", "back"), [("previous", 1), ("duplicate", 5), ("induction", 4)])
def test_head_scores_entry_by_entry(tiny: LanguageModel, kind: Any, back: int, bos: bool) -> None:
    blocks = replace(BLOCKS, bos=bos)
    patterns = [tiny.module.run_with_cache(row)[1]["pattern", 1][0, 2] for row in rows_of(tiny, blocks)]
    entries = [[float(p[query, query - back]) for query in range(back, len(p))] for p in patterns]
    every = [x for row in entries for x in row]
    second = [x for row in entries for x in row[-5:]]
    same(quantities.head_scores(tiny, kind=kind, heads=[(1, 2)], blocks=blocks), [sum(every) / len(every)])
    measured = quantities.head_scores(tiny, kind=kind, heads=[(1, 2)], blocks=blocks, queries="second")
    same(measured, [sum(second) / len(second)])


def test_repeated_tokens_one_by_one(tiny: LanguageModel) -> None:
    log_probs: list[list[float]] = [[], []]
    right: list[list[float]] = [[], []]
    for row in rows_of(tiny, BLOCKS):
        table = tiny.module(row)[0].log_softmax(-1)
        for place in range(10):
            target = int(row[0, place + 1])
            log_probs[place // 5].append(table[place, target].item())
            right[place // 5].append(float(table[place].argmax() == target))
    same(quantities.repeated_tokens(tiny, blocks=BLOCKS, value="log_prob"), [sum(x) / 15 for x in log_probs])
    same(quantities.repeated_tokens(tiny, blocks=BLOCKS, value="accuracy"), [sum(x) / 15 for x in right])
    second = quantities.repeated_tokens(tiny, blocks=BLOCKS, value="accuracy", half="second")
    same(second, [sum(right[1]) / 15])


def test_k_composition_on_the_whole_matrix(tiny: LanguageModel) -> None:
    model = copy.deepcopy(tiny.module)
    model.W_E.data = torch.randn(model.W_E.shape, generator=torch.Generator().manual_seed(0))
    keys = model.W_E @ model.W_V[0, 0] @ model.W_O[0, 0] @ model.W_K[1, 3]
    scores = (model.W_E @ model.W_Q[1, 3]) @ keys.T
    diagonal = torch.arange(512)
    for over, dim in (("query", 0), ("key", 1)):
        share = (scores.argmax(dim) == diagonal).float().mean()
        assert 0 < share < 1
        measured = quantities.k_composition_accuracy(wrap(model), previous=(0, 0), induction=(1, 3), over=over)  # type: ignore[arg-type]
        same(measured, [share])
