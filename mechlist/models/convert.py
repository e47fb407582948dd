"""Hugging Face model -> HookedTransformer, with TransformerLens's own weight conversions.

TransformerLens reads the architecture off the *name* it is given (any path with "gemma" or "llama" in it takes the
settings of a released model), so it is shown the configuration under a neutral name, and Gemma 1 and 2 are configured
here from their own `config.json`.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as tl
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from mechlist.errors import ModelError
from mechlist.models.exhaustion import is_out_of_memory
from mechlist.models.files import first_line
from mechlist.models.quiet import quiet
from mechlist.types import Processing

_NAMES_TL_INTERPRETS = re.compile("llama|gemma|wav2vec|hubert|bert|t5|santacoder|olmo", re.IGNORECASE)


class NotConvertibleError(Exception):
    """TransformerLens has no conversion for the architecture; TransformerBridge may still run it."""


def to_hooked_transformer(
    hf_model: Any, directory: Path, tokenizer: Any, *, processing: Processing, device: str, dtype: torch.dtype
) -> tuple[HookedTransformer, Processing]:
    """Convert a loaded Hugging Face model, and say which processing was possible for its architecture.

    Raises:
        NotConvertibleError: TransformerLens cannot convert the architecture, or an option of it.
    """
    architecture = (hf_model.config.architectures or [type(hf_model).__name__])[0]
    with quiet():
        settings = _settings(architecture, hf_model.config)
        done = _possible(processing, architecture, settings)
        with _refusals(architecture):
            cfg = _config(settings, architecture, hf_model.config, directory.name)
            return _convert(hf_model, cfg, directory, tokenizer, done, device, dtype), done


@contextmanager
def _refusals(architecture: str) -> Iterator[None]:
    """TransformerLens refuses what it does not know in many ways: assertions, wrong shapes, missing attributes."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"Memory ran out while TransformerLens converted the model ({first_line(error)}): converting takes up "
                "to three times the weights in float32. Close other programs, or take a machine with more memory."
            ) from error
        raise NotConvertibleError(f"{architecture}: {type(error).__name__}: {first_line(error)}") from error


def _config(settings: dict[str, Any], architecture: str, config: Any, name: str) -> HookedTransformerConfig:
    return HookedTransformerConfig.from_dict(
        settings
        | {
            "model_name": name,
            "original_architecture": architecture,
            "tokenizer_name": None,
            "init_weights": False,
            "device": "cpu",
            "d_vocab": config.vocab_size,
        }
    )


def _convert(
    hf_model: Any,
    cfg: HookedTransformerConfig,
    directory: Path,
    tokenizer: Any,
    processing: Processing,
    device: str,
    dtype: torch.dtype,
) -> HookedTransformer:
    cfg.dtype = next(hf_model.parameters()).dtype
    state = tl.get_pretrained_state_dict(str(directory), cfg, hf_model, dtype=cfg.dtype)
    cfg.dtype = dtype
    model = HookedTransformer(cfg, tokenizer, move_to_device=False)
    model.load_and_process_state_dict(state, **vars(processing))
    # TransformerLens announces each move on stdout unless told not to.
    return model.to(device, print_details=False).eval()


def _settings(architecture: str, config: Any) -> dict[str, Any]:
    _check_rope(architecture, config)
    if architecture in ("GemmaForCausalLM", "Gemma2ForCausalLM"):
        return _gemma(architecture, config)
    with _neutral_name(config) as neutral, _refusals(architecture):
        settings = tl.convert_hf_model_config(neutral, local_files_only=True)
    return settings | _corrections(config, settings)


def _check_rope(architecture: str, config: Any) -> None:
    """Refuse the scalings that TransformerLens ignores and that parity on a few tokens could not notice."""
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind in ("dynamic", "longrope") or (kind == "llama3" and architecture != "LlamaForCausalLM"):
        raise NotConvertibleError(f"{architecture}: TransformerLens does not convert its rope scaling {kind!r}")


def _corrections(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What the conversion takes for granted and a configuration may say otherwise."""
    head = getattr(config, "head_dim", None)
    changes: dict[str, Any] = {}
    if head and head != settings["d_head"]:
        changes |= {"d_head": head, "rotary_dim": head}
    if settings.get("positional_embedding_type") == "rotary":
        changes["rotary_base"] = _rope_theta(config, settings.get("rotary_base", 10000))
    # TransformerLens's conversion of Qwen2 writes grouped names always, its others only where heads are shared.
    if settings.get("n_key_value_heads") == settings["n_heads"] and "Qwen2" not in settings["original_architecture"]:
        changes["n_key_value_heads"] = None
    if getattr(config, "n_inner", None):
        changes["d_mlp"] = config.n_inner
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        changes |= _sliding(config)
    return changes


def _sliding(config: Any) -> dict[str, Any]:
    """Which layers slide is read, never assumed: a wrong order shows only beyond the window."""
    kinds = {"sliding_attention": "local", "full_attention": "global"}
    return {
        "use_local_attn": True,
        "window_size": config.sliding_window,
        "attn_types": [kinds[kind] for kind in config.layer_types],
    }


def _rope_theta(config: Any, default: float | int) -> float | int:
    parameters = getattr(config, "rope_parameters", None) or {}
    return getattr(config, "rope_theta", None) or parameters.get("rope_theta", default)


def _gemma(architecture: str, config: Any) -> dict[str, Any]:
    settings = {
        "d_model": config.hidden_size,
        "d_head": config.head_dim,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.rms_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act if architecture == "GemmaForCausalLM" else config.hidden_activation,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_base": _rope_theta(config, 10000.0),
        "rotary_dim": config.head_dim,
        "use_attn_scale": True,
        "gated_mlp": True,
        "final_rms": True,
    }
    if architecture == "GemmaForCausalLM":
        return settings
    return settings | {
        **_sliding(config),
        "attn_scale": math.sqrt(config.query_pre_attn_scalar),
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
    }


def _possible(wanted: Processing, architecture: str, settings: dict[str, Any]) -> Processing:
    post_norm = architecture in POST_NORM_ARCHITECTURES
    layer_norm = settings.get("normalization_type") in ("LN", "LNPre")
    softcapped = settings.get("output_logits_soft_cap", -1.0) > 0
    return Processing(
        fold_ln=wanted.fold_ln and not post_norm,
        center_writing_weights=wanted.center_writing_weights and layer_norm and not post_norm,
        center_unembed=wanted.center_unembed and not softcapped,
        fold_value_biases=wanted.fold_value_biases,
    )


@contextmanager
def _neutral_name(config: Any) -> Iterator[str]:
    """A directory whose name says nothing, with the configuration in the words that TransformerLens reads."""
    values = config.to_dict()
    values.setdefault("n_ctx", values.get("n_positions"))
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        for _ in range(8):
            with tempfile.TemporaryDirectory(dir=parent if Path(parent).is_dir() else None) as made:
                if _NAMES_TL_INTERPRETS.search(made):
                    continue
                file = Path(made) / "config.json"
                known = {k: v for k, v in values.items() if v is not None}
                file.write_text(json.dumps(known, default=str))
                yield made
                return
    raise ModelError(f"TMPDIR must not contain the name of a model family, not {tempfile.gettempdir()}.")
