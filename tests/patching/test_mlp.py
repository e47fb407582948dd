"""mlp_loss_increase: every cell against one full TransformerLens forward pass with a hook."""

from collections.abc import Callable

import pytest
import torch

from mechlist.datasets.repeated import repeated_tokens
from mechlist.errors import InputError
from mechlist.patching.mlp import SOURCES, mlp_loss_increase
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig

PERIOD = 5
"""Two blocks are longer than the window of 8 that Gemma 2's local layers have here."""


def shown_twice(runner: Runner, period: int = PERIOD, bos: int | None = 0) -> torch.Tensor:
    return repeated_tokens(4, period, runner.shape.d_vocab, bos, torch.Generator().manual_seed(1))


@torch.no_grad()
def slow(runner: Runner, tokens: torch.Tensor, period: int, source: str, prompts: int) -> torch.Tensor:
    """One forward pass a cell and prompt."""
    _, cache = runner.model.run_with_cache(tokens)
    length = tokens.shape[1]
    out = torch.full((runner.shape.n_layers, length), torch.nan)
    for layer in range(runner.shape.n_layers):
        own = cache[f"blocks.{layer}.hook_mlp_out"]
        for position in range(max(period, length - period - 1), length):
            increases = []
            for i in range(prompts):
                new = {
                    "same_token": own[i, position - period],
                    "other_sequence": own[i - 1, position],
                    "mean": own[:, position].mean(dim=0),
                }[source]

                def change(mlp_out, hook, position=position, new=new):
                    out = mlp_out.clone()
                    out[:, position] = new
                    return out

                prompt = tokens[i : i + 1]
                before = runner.model(prompt, return_type="loss")
                hooks = [(f"blocks.{layer}.hook_mlp_out", change)]
                increases.append(runner.model.run_with_hooks(prompt, return_type="loss", fwd_hooks=hooks) - before)
            out[layer, position] = torch.stack(increases).mean()
    return out


def compare(runner: Runner, tokens: torch.Tensor, period: int, source: str, prompts: int) -> torch.Tensor:
    got = mlp_loss_increase(runner, tokens, period, source, prompts)  # pyright: ignore[reportArgumentType]
    expected = slow(runner, tokens, period, source, min(prompts, len(tokens)))
    assert torch.equal(got.isnan(), expected.isnan())
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0, equal_nan=True)
    return got


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "pythia", "stablelm"])
def test_every_cell_equals_a_forward_pass_of_its_own(
    loaded: Callable[[str], Runner], architecture: str, bos: int | None, source: str
):
    runner = loaded(architecture)
    got = compare(runner, shown_twice(runner, bos=bos), PERIOD, source, prompts=2)
    # Every position but the last, which predicts nothing, has an effect in some layer.
    effect = got[:, -PERIOD:-1].abs().amax(dim=0)
    assert (effect > 1e-4).all()
    assert (got[:, -1] == 0).all()


@pytest.mark.parametrize("source", SOURCES)
def test_all_prompts_are_measured_where_more_are_asked_for(loaded: Callable[[str], Runner], source: str):
    runner = loaded("gpt2")
    tokens = shown_twice(runner)
    got = compare(runner, tokens, PERIOD, source, prompts=9)
    fewer = mlp_loss_increase(runner, tokens, PERIOD, source, prompts=2)  # pyright: ignore[reportArgumentType]
    assert not torch.allclose(got, fewer, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("bos", [None, 0])
def test_blocks_of_one_token(loaded: Callable[[str], Runner], bos: int | None):
    runner = loaded("gpt2")
    for source in SOURCES:
        compare(runner, shown_twice(runner, period=1, bos=bos), 1, source, prompts=3)


def test_a_model_without_mlps_is_refused():
    config = {"n_layers": 2, "d_model": 8, "d_head": 4, "d_vocab": 9, "n_ctx": 16, "attn_only": True}
    runner = Runner(HookedTransformer(HookedTransformerConfig(**config, device="cpu")), progress=False)
    for source in SOURCES:
        with pytest.raises(InputError, match=r"The model has no MLPs, so there is no mlp_out\."):
            mlp_loss_increase(runner, shown_twice(runner), PERIOD, source, prompts=2)
