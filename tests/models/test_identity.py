"""What tells models apart, and what has no key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mechlist.models.identity import Identity, own_changes
from mechlist.models.language_model import wrap
from mechlist.models.load import load
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.tiny import edit_config, save_huggingface

SIZES: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 2,
    "d_model": 8,
    "d_head": 4,
    "d_mlp": 12,
    "n_ctx": 16,
    "d_vocab": 20,
}


def model(**settings: Any) -> Any:
    """Always the same weights, whatever the settings."""
    cfg = HookedTransformerConfig(
        **SIZES | {"act_fn": "gelu", "positional_embedding_type": "rotary", "rotary_dim": 4} | settings,
        device="cpu",
        seed=0,
    )
    built = HookedTransformer(cfg).eval()
    generator = torch.Generator().manual_seed(1)
    for _, weight in sorted(built.named_parameters()):
        weight.data = torch.randn(weight.shape, generator=generator)
    return built


@pytest.mark.parametrize(
    "settings",
    [
        {"act_fn": "relu"},
        {"eps": 1e-3},
        {"rotary_base": 500},
        {"attn_scale": 3.0, "use_attn_scale": True},
        {"scale_attn_by_inverse_layer_idx": True},
        {"normalization_type": "RMS"},
        {"window_size": 4, "use_local_attn": True, "attn_types": ["local", "local"]},
        {"output_logits_soft_cap": 2.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_same_weights_with_another_setting_have_another_key(settings: dict[str, Any]):
    assert Identity(wrap(model())).key != Identity(wrap(model(**settings))).key


def test_equal_models_have_equal_keys():
    assert Identity(wrap(model())).key == Identity(wrap(model())).key


def _in_place(built: Any) -> None:
    with torch.no_grad():
        built.blocks[0].attn.W_O[1] *= 2


def _through_data(built: Any) -> None:
    built.blocks[1].mlp.W_in.data[0, 0] = 3


def _exchanged(built: Any) -> None:
    weight = built.blocks[1].mlp.W_in.data
    weight[[0, 1]] = weight[[1, 0]].clone()


def _another_parameter(built: Any) -> None:
    built.blocks[0].attn.W_Q = torch.nn.Parameter(built.blocks[0].attn.W_Q * 1.5)


def _activation(built: Any) -> None:
    built.blocks[0].mlp.act_fn = torch.relu


def _eps(built: Any) -> None:
    built.blocks[0].ln1.eps = 0.5


def _runtime_setting(built: Any) -> None:
    built.cfg.attn_scores_soft_cap = 3.0


@pytest.mark.parametrize(
    "edit", [_in_place, _through_data, _exchanged, _another_parameter, _activation, _eps, _runtime_setting]
)
def test_an_edit_after_the_first_use_is_noticed(edit: Callable[[Any], None]):
    built = model()
    identity = Identity(wrap(built))
    before = identity.key
    assert identity.key == before
    edit(built)
    assert identity.key not in (before, None)


def _twice(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return 2 * activation


def test_a_model_with_hooks_of_ones_own_has_no_key():
    built = model()
    identity = Identity(wrap(built))
    before = identity.key
    built.add_hook("blocks.0.hook_resid_pre", _twice)
    assert identity.key is None
    assert own_changes(built) == ["blocks.0.hook_resid_pre"]
    built.reset_hooks()
    assert identity.key == before
    handle = built.blocks[0].mlp.register_forward_hook(lambda module, given, out: 2 * out)
    assert identity.key is None
    handle.remove()
    assert identity.key == before
    built.blocks[0].mlp.forward = lambda given: given
    assert identity.key is None


@pytest.mark.parametrize("changed", [{"rope_theta": 500.0}, {"rms_norm_eps": 1e-2}, {"hidden_act": "relu"}])
def test_a_directory_with_another_configuration_has_another_key(tmp_path: Path, changed: dict[str, Any]):
    save_huggingface(tmp_path, "LlamaConfig", attention_bias=True)  # biases: through the bridge
    before = load(str(tmp_path), device="cpu")
    if "rope_theta" in changed:
        changed = {"rope_parameters": {"rope_type": "default", **changed}}
    edit_config(tmp_path, **changed)
    after = load(str(tmp_path), device="cpu")
    ours, theirs = Identity(before), Identity(after)
    assert ours.weights == theirs.weights
    assert None is not ours.key != theirs.key
    assert Identity(load(str(tmp_path), device="cpu")).key == theirs.key
