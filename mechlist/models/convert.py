"""Hugging Face model -> HookedTransformer, with TransformerLens's own weight conversions.

TransformerLens reads the architecture off the *name* it is given (any path with "gemma" or "llama" in it takes the
settings of a released model), so it is shown the configuration under a neutral name, and Gemmas are configured here
from their own `config.json`.
"""

import copy
import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as tl
from transformer_lens.components.layer_norm_pre import LayerNormPre
from transformer_lens.components.rms_norm_pre import RMSNormPre
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES
from transformer_lens.weight_processing import ProcessWeights

from mechlist.errors import ModelError
from mechlist.models.exhaustion import is_out_of_memory
from mechlist.models.quiet import quiet
from mechlist.models.sites import FOLDED
from mechlist.models.sources.files import first_line
from mechlist.types import Processing

_NAMES_TL_INTERPRETS = re.compile("llama|gemma|wav2vec|hubert|bert|t5|santacoder|olmo", re.IGNORECASE)


class NotConvertibleError(Exception):
    """TransformerLens has no conversion for the architecture; TransformerBridge may still run it."""


def to_hooked_transformer(
    hf_model: Any,
    directory: Path,
    *,
    processing: Processing,
    device: str,
    dtype: torch.dtype,
    context: int | None = None,
    consume: bool = False,
) -> tuple[HookedTransformer, Processing]:
    """Convert a loaded Hugging Face model, and say which processing was possible for its architecture.

    Args:
        hf_model: the language model.
        directory: where it was loaded from.
        processing: that is wanted.
        device: where the converted model goes.
        dtype: its type.
        context: tokens that a prompt may have; None for what TransformerLens makes of the configuration.
        consume: let go of the Hugging Face model's weights on the way, so that none is held twice.

    Raises:
        NotConvertibleError: TransformerLens cannot convert the architecture, or an option of it.
    """
    architecture = (hf_model.config.architectures or [type(hf_model).__name__])[0]
    with quiet():
        settings = _settings(architecture, hf_model.config)
        done = _possible(processing, architecture, settings)
        with _refusals(architecture):
            cfg = _config(settings, architecture, hf_model.config, directory.name, context)
            return _convert(hf_model, cfg, directory, done, device, dtype, consume), done


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


def _config(
    settings: dict[str, Any], architecture: str, config: Any, name: str, context: int | None = None
) -> HookedTransformerConfig:
    # Learned positions are a table, all of which is converted; others are computed as far as they are needed.
    learned = settings.get("positional_embedding_type", "standard") == "standard"
    return HookedTransformerConfig.from_dict(
        settings
        | ({} if context is None or learned else {"n_ctx": context})
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
    processing: Processing,
    device: str,
    dtype: torch.dtype,
    consume: bool,
) -> HookedTransformer:
    cfg.dtype = next(hf_model.parameters()).dtype
    # Some are the model's own parameters: what becomes of these must not change them.
    state = {
        name: weight.detach()
        for name, weight in tl.get_pretrained_state_dict(str(directory), cfg, hf_model, dtype=cfg.dtype).items()
    }
    if consume:
        for weight in hf_model.parameters():
            weight.data = weight.new_empty(0)
    cfg.dtype = dtype
    model = HookedTransformer(cfg, move_to_device=False)
    folded = _value_biases(state, cfg.n_layers, processing) if processing.fold_value_biases else {}
    processed = _processed(model.fill_missing_keys(state), cfg, processing)
    if processing.fold_ln:
        _without_gains(model)
    torch.nn.Module.load_state_dict(model, processed, strict=False, assign=True)
    for name, weight in model.named_parameters():
        # What has no counterpart is never used (positions beside ALiBi), and TransformerLens leaves it undefined.
        weight.data = weight.data.contiguous() if name in processed else torch.zeros_like(weight.data)
        processed.pop(name, None)
    for layer, bias in folded.items():
        model.blocks[layer].attn.register_buffer(FOLDED, bias.to(dtype), persistent=False)
    # TransformerLens announces each move on stdout unless told not to.
    return model.to(device, print_details=False).eval()


def _value_biases(state: dict[str, Tensor], n_layers: int, processing: Processing) -> dict[int, Tensor]:
    """Of each layer, what processing takes out of the values: a head that writes nothing has minus that as its z."""
    found: dict[int, Tensor] = {}
    for layer in range(n_layers):
        names = ("_W_V", "_b_V") if f"blocks.{layer}.attn._W_V" in state else ("W_V", "b_V")
        weight, bias = (state.get(f"blocks.{layer}.attn.{name}") for name in names)
        shift = state.get(f"blocks.{layer}.ln1.b")
        if weight is None or bias is None:
            continue
        own = bias.clone()
        if processing.fold_ln and shift is not None:
            own += torch.einsum("hmd,m->hd", weight, shift)
        if own.any():
            found[layer] = own
    return found


def _processed(state: dict[str, Tensor], cfg: HookedTransformerConfig, processing: Processing) -> dict[str, Tensor]:
    """The weights as TransformerLens processes them; `state` is emptied on the way.

    TransformerLens copies all weights at every step. It is given one layer at a time instead, and then embedding and
    unembedding, each with stand-ins for what else it looks for.
    """
    one, none = copy.copy(cfg), copy.copy(cfg)
    one.n_layers, none.n_layers = 1, 0
    width, zeros = cfg.d_model, partial(torch.zeros, dtype=torch.float32)
    stand_ins = {
        "embed.W_E": zeros(1, width),
        "pos_embed.W_pos": zeros(1, width),
        "ln_final.w": zeros(width) + 1,
        "ln_final.b": zeros(width),
        "unembed.W_U": zeros(width, 1),
        "unembed.b_U": zeros(1),
    }
    first = [name for name in state if name.startswith(("embed.", "pos_embed."))]
    last = [name for name in state if not name.startswith(("embed.", "pos_embed.", "blocks."))]
    pieces = [
        ("blocks.0.", f"blocks.{n}.", [k for k in state if k.startswith(f"blocks.{n}.")], one)
        for n in range(cfg.n_layers)
    ]
    pieces += [("", "", names, none) for names in (first, last)]
    done: dict[str, Tensor] = {}
    for standard, own, names, settings in pieces:
        piece = {standard + name.removeprefix(own): state.pop(name) for name in names}
        asked = set(piece)
        if "unembed.W_U" in asked and str(cfg.normalization_type).startswith("RMS"):
            found = _unembedding(piece, processing)
        else:
            found = ProcessWeights.process_weights(stand_ins | piece, settings, **vars(processing))
        piece.clear()
        # Folding a bias may make one that was not there.
        kept = asked if not standard else {name for name in found if name not in stand_ins}
        done |= {own + name.removeprefix(standard): found[name] for name in kept}
    return done


def _unembedding(piece: dict[str, Tensor], processing: Processing) -> dict[str, Tensor]:
    """Last norm and unembedding, which may be most of a model, as TransformerLens processes them, on one copy."""
    found = dict(piece)
    weight = found["unembed.W_U"] = piece.pop("unembed.W_U").clone()
    if processing.fold_ln and "ln_final.w" in found:
        weight.mul_(found["ln_final.w"][:, None])
        found["ln_final.w"] = torch.ones_like(found["ln_final.w"])
    if processing.center_unembed:
        weight.sub_(weight.mean(-1, keepdim=True))
        if "unembed.b_U" in found:
            found["unembed.b_U"] = found["unembed.b_U"] - found["unembed.b_U"].mean()
    return found


def _without_gains(model: HookedTransformer) -> None:
    """Norms whose gains and biases are folded into what follows."""
    kinds = {"LN": LayerNormPre, "RMS": RMSNormPre}
    kind = kinds.get(str(model.cfg.normalization_type))
    if kind is None:
        return
    model.cfg.normalization_type = f"{model.cfg.normalization_type}Pre"
    model.ln_final = kind(model.cfg)
    for block in model.blocks:
        block.ln1, block.ln2 = kind(model.cfg), kind(model.cfg)
        if model.cfg.is_layer_norm_activation():
            block.mlp.ln = kind(model.cfg)
    # Their hook points are new.
    model.setup()


def _settings(architecture: str, config: Any) -> dict[str, Any]:
    _check_known(architecture, config)
    if architecture in GEMMAS:
        return _gemma(architecture, config)
    with _neutral_name(config) as neutral, _refusals(architecture):
        settings = tl.convert_hf_model_config(neutral, local_files_only=True)
    return settings | _corrections(config, settings)


GEMMAS = ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM")


def _check_known(architecture: str, config: Any) -> None:
    """Refuse what TransformerLens ignores, some of which parity on a few tokens could not notice."""
    for kind, parameters in rope_kinds(config):
        converted = kind == "default" or (kind == "llama3" and architecture == "LlamaForCausalLM")
        # Gemma 3's layers that see everything.
        converted |= kind == "linear" and architecture == GEMMAS[2] and parameters == "full_attention"
        if not converted:
            raise NotConvertibleError(f"{architecture}: TransformerLens does not convert its rope scaling {kind!r}")
    if architecture in POST_NORM_ARCHITECTURES or architecture.startswith("Olmo"):
        raise NotConvertibleError(
            f"{architecture}: as a HookedTransformer its layers could not be run one by one, and through "
            "TransformerBridge they can"
        )
    biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False) is True]
    if biased and architecture in (*GEMMAS, "LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"):
        raise NotConvertibleError(f"{architecture}: TransformerLens does not convert its biases ({biased[0]})")


def rope_kinds(config: Any) -> list[tuple[str, str]]:
    """Kinds of rotary positions, and of the layers that have them (the empty string for all)."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        return [(of.get("rope_type", "default"), layers) for layers, of in parameters.items() if of]
    return [(parameters.get("rope_type", "default"), "")]


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
    if architecture == "Gemma3ForCausalLM":
        far, near = (config.rope_parameters[kind] for kind in ("full_attention", "sliding_attention"))
        settings |= {
            "use_qk_norm": True,
            "rotary_base": far["rope_theta"],
            "rotary_base_local": near["rope_theta"],
            "rotary_scaling_factor": far.get("factor", 1.0),
        }
    return settings | {
        **_sliding(config),
        "attn_scale": math.sqrt(config.query_pre_attn_scalar),
        # Hugging Face's Gemma 3 reads a cap of the scores, and does not use it.
        "attn_scores_soft_cap": (architecture == "Gemma2ForCausalLM" and config.attn_logit_softcapping) or -1.0,
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
