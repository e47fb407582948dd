"""The tuned lens: its divergences by hand, a model whose translators are known, and its files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.errors import InputError
from mechlist.lens.logit_lens import lens_logits
from mechlist.lens.translators import Translators, identity
from mechlist.lens.tuned_lens import lens_fit, train_translators
from mechlist.models.quiet import quiet
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig

WHERE = torch.tensor([[6, 2, 0], [3, -1, -1]])
ROWS = [torch.tensor([5, 9, 33, 71, 8, 8, 2]), torch.tensor([96, 1, 14, 15])]


def _random(runner: Runner) -> Translators:
    plain, generator = identity(runner), torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(plain.weight.shape, generator=generator)
    return Translators(weight, torch.randn(plain.bias.shape, generator=generator), runner.identity())


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_divergences_by_hand(architecture: str, loaded: Callable[[str], Runner]):
    runner = loaded(architecture)
    lens = _random(runner)
    fit = lens_fit(runner, ROWS, WHERE, translate=lens)
    every = torch.arange(runner.shape.d_vocab)
    logits = lens_logits(runner, ROWS, WHERE, every, softcap=True, translate=lens)
    q = logits[WHERE >= 0].double().softmax(-1)
    p = q[:, -1:]
    expected = (p * (p / q).log()).sum(-1).T
    assert fit.prompt.tolist() == [0, 0, 0, 1]
    assert torch.allclose(fit.kl.double(), expected, atol=1e-5)
    assert (fit.kl[-1] == 0).all()
    p, q = p.mean(0), q.mean(0)
    assert torch.allclose(fit.bias.double(), (p * (p / q).log()).sum(-1), atol=1e-5)


def test_the_identity_is_the_plain_lens(loaded: Callable[[str], Runner]):
    runner, columns = loaded("llama"), torch.tensor([1, 2])
    plain = lens_logits(runner, ROWS, WHERE, columns)
    same = lens_logits(runner, ROWS, WHERE, columns, translate=identity(runner))
    assert torch.equal(plain.nan_to_num(), same.nan_to_num())
    moved = lens_logits(runner, ROWS, WHERE, columns, translate=_random(runner))
    assert not torch.allclose(plain[:, 0, :-1], moved[:, 0, :-1], atol=0.1)
    assert torch.equal(plain[:, 0, -1], moved[:, 0, -1])


@pytest.fixture(scope="module")
def shifting() -> Runner:
    """A model whose two layers add a constant each, so that a bias is the whole translator."""
    sizes: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 8, "n_ctx": 16, "attn_only": True}
    cfg = HookedTransformerConfig(**sizes, d_vocab=30, normalization_type="LN", device="cpu", seed=0)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(cfg).eval()
        model.embed.W_E.data = torch.randn_like(model.embed.W_E)
        model.unembed.W_U.data = torch.randn_like(model.unembed.W_U)
        for block in model.blocks:
            block.attn.W_O.data.zero_()  # pyright: ignore
            block.attn.b_O.data = 2 * torch.randn(16)  # pyright: ignore
    return Runner(model, progress=False)


def _prompts(seed: int) -> tuple[list[Tensor], Tensor]:
    rows = torch.randint(30, (12, 10), generator=torch.Generator().manual_seed(seed))
    return list(rows), torch.arange(10).expand(12, 10)


def test_training_finds_what_is_there_to_find(shifting: Runner):
    rows, where = _prompts(1)
    lens = train_translators(
        shifting, rows, where, steps=400, batch=64, generator=torch.Generator().manual_seed(0), trained_on=["a"]
    )
    fresh = _prompts(2)
    plain, tuned = lens_fit(shifting, *fresh), lens_fit(shifting, *fresh, translate=lens)
    assert plain.kl[:2].mean() > 1
    assert tuned.kl[:2].mean(1).max() < 0.05 * plain.kl[:2].mean()
    assert (tuned.bias[:2] < 0.05 * plain.bias[:2]).all()
    assert lens.trained_on == ("a",)
    assert all(p.grad is None for p in shifting.model.parameters())


def test_training_follows_from_its_seed_and_not_from_the_memory(shifting: Runner):
    rows, where = _prompts(1)
    small = Runner(shifting.model, progress=False, memory="300kB")

    def trained(runner: Runner, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return train_translators(runner, rows, where, steps=5, batch=64, generator=generator).weight

    assert torch.equal(trained(shifting, 0), trained(shifting, 0))
    assert not torch.equal(trained(shifting, 0), trained(shifting, 1))
    assert torch.allclose(trained(shifting, 0), trained(small, 0), atol=1e-4)


def test_files(tmp_path: Path, loaded: Callable[[str], Runner]):
    lens = _random(loaded("gpt2"))
    lens.save(tmp_path / "lens.safetensors")
    again = Translators.load(tmp_path / "lens.safetensors")
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    again.check(loaded("gpt2"))
    with pytest.raises(InputError, match="another one of 3 layers and width 32"):
        again.check(loaded("llama"))
    (tmp_path / "broken.safetensors").write_text("no tensors")
    for name in ("broken", "missing"):
        with pytest.raises(InputError, match="must be a safetensors file of translators"):
            Translators.load(tmp_path / f"{name}.safetensors")


def test_bad_input(shifting: Runner):
    rows, where = _prompts(1)
    generator = torch.Generator()
    with pytest.raises(InputError, match="steps and batch must be at least 1, not 0 and 64"):
        train_translators(shifting, rows, where, steps=0, batch=64, generator=generator)
    with pytest.raises(InputError, match="where must name one position at least"):
        train_translators(shifting, rows, torch.full_like(where, -1), generator=generator)
