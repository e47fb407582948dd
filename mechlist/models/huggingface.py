"""A Hugging Face directory: HookedTransformer where the conversion is exact, TransformerBridge for anything else."""

from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mechlist.errors import ModelError
from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.outline import Outline, read_outline
from mechlist.models.parity import LENGTH, compare, random_tokens, reference_logits
from mechlist.models.quiet import quiet
from mechlist.models.sources.files import first_line
from mechlist.models.sources.source import Source
from mechlist.models.tl import HAS_HOOKED
from mechlist.models.tokenizer import attach, check_tokenizer, find_bos, load_tokenizer, stand_in
from mechlist.types import Processing


def load_huggingface(
    source: Source,
    device: str,
    dtype: torch.dtype,
    processing: Processing,
    *,
    bos: bool | None = None,
    context: int | None = None,
) -> LanguageModel:
    """Convert in float32, compare with Hugging Face's own forward pass, and only then round to `dtype`.

    What configuration and tokenizer tell is looked at before the weights are read. Memory: the weights once, and while
    TransformerLens processes them a copy of the largest beside it.

    Raises:
        ModelError: files that do not fit together, or an architecture that cannot be run exactly.
    """
    outline = read_outline(source.directory)
    outline.check(context)
    tokenizer = load_tokenizer(source.directory)
    check_tokenizer(tokenizer, outline.config.vocab_size)
    first = find_bos(source.directory, tokenizer, bos)
    length = context or outline.context
    hf_model = _load(outline, torch.float32)
    info = {
        "name": source.name,
        "kind": "Hugging Face",
        "directory": str(source.directory),
        "architecture": type(hf_model).__name__,
    }
    tokens = random_tokens(outline.config.vocab_size, min(LENGTH, length))
    reference = reference_logits(hf_model, tokens)
    converted = _convert(hf_model, source.directory, processing, length, tokens, reference)
    if isinstance(converted, str):
        # A conversion that was begun has taken the weights.
        hf_model = hf_model if next(hf_model.parameters()).numel() else _load(outline, torch.float32)
        module, found = _bridge(hf_model, outline, device, dtype, tokens)
        found |= {"because": converted}
    else:
        module, found = converted
        # TransformerLens announces each move on stdout unless told not to.
        module = module.to(dtype, print_details=False).to(device, print_details=False)
    attach(module, tokenizer, first)
    return wrap(module, info | found, first, tokenizer, length)


def _convert(
    hf_model: Any,
    directory: Path,
    processing: Processing,
    context: int,
    tokens: Int[Tensor, "1 position"],
    reference: Float[Tensor, "1 position vocab"],
) -> tuple[Any, dict[str, Any]] | str:
    """The converted model and what to record of it; or the reason why not, without the weights of the attempt."""
    if not HAS_HOOKED:
        return "this version of TransformerLens has no HookedTransformer"
    from mechlist.models.convert import NotConvertibleError, to_hooked_transformer

    try:
        module, done = to_hooked_transformer(
            hf_model, directory, processing=processing, device="cpu", dtype=torch.float32, context=context, consume=True
        )
    except NotConvertibleError as error:
        return str(error)
    check = compare(wrap(module, {}), tokens, reference)
    if not check.passed:
        return f"the conversion is not exact: {check.detail} is {check.measured:.2g}"
    return module, {"class": "HookedTransformer", "processing": vars(done), "parity": vars(check)}


def _bridge(
    hf_model: Any, outline: Outline, device: str, dtype: torch.dtype, tokens: Int[Tensor, "1 position"]
) -> tuple[TransformerBridge, dict[str, Any]]:
    # The bridge wraps this very module.
    hf_model.to(device, dtype)
    architecture = type(hf_model).__name__
    # The bridge goes by it, and the text half of a larger model says nothing of itself.
    hf_model.config.architectures = hf_model.config.architectures or [architecture]
    reference = reference_logits(hf_model, tokens)
    try:
        with torch.random.fork_rng(devices=[]):
            bridge = TransformerBridge.boot_transformers(
                str(outline.directory), hf_model=hf_model, tokenizer=stand_in(), device=device, dtype=dtype
            ).eval()
        _rotate_neighbours(bridge)
        check = compare(wrap(bridge, {}), tokens, reference)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"Neither HookedTransformer nor TransformerBridge can run {architecture} "
            f"({type(error).__name__}: {first_line(error)}); choose another model."
        ) from error
    if not check.passed:
        _check_finite(hf_model, outline.directory)
        raise ModelError(
            f"TransformerBridge does not run {architecture} exactly ({check.detail} is {check.measured:.2g}); "
            "choose another model."
        )
    return bridge, {"class": "TransformerBridge", "processing": "none", "parity": vars(check)}


def _rotate_neighbours(bridge: TransformerBridge) -> None:
    """Cohere rotates neighbouring numbers together, which TransformerLens 3 does not know; version 4 does."""
    if type(bridge.original_model).__name__ not in ("CohereForCausalLM", "Cohere2ForCausalLM"):
        return
    if getattr(bridge.cfg, "rotary_interleaved_cos_sin", False):
        return
    for block in bridge.blocks:
        # Each has a configuration of its own.
        block.attn.config.rotary_adjacent_pairs = True

    def halves(module: Any, given: Any, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:  # noqa: ARG001
        # TransformerLens doubles the first half of each table for neighbours, as GLM has them.
        return tuple(table[..., ::2].repeat(*[1] * (table.ndim - 1), 2) for table in tables)

    rotary: Any = bridge.rotary_emb.original_component
    rotary.register_forward_hook(halves)


def _check_finite(hf_model: Any, directory: Path) -> None:
    for name, weight in hf_model.named_parameters():
        if not weight.isfinite().all():
            raise ModelError(
                f"{directory} has numbers that are NaN or infinite in the weight {_plain(name)}; fetch its "
                "*.safetensors again."
            )


def _plain(name: str) -> str:
    return name.replace("_original_component.", "")


def load_hf(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The Hugging Face language model itself, on the CPU, in eval mode, with eager attention.

    Raises:
        ModelError: a configuration transformers does not know; missing, misshapen or unexpected weights; remote code.
    """
    outline = read_outline(directory)
    outline.check(None)
    return _load(outline, dtype)


def _load(outline: Outline, dtype: torch.dtype) -> Any:
    auto: Any = transformers.AutoModelForCausalLM
    if outline.is_multimodal and type(outline.whole) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        auto = transformers.AutoModelForImageTextToText
    try:
        with quiet(), torch.random.fork_rng():
            loading: Any = auto.from_pretrained(
                outline.directory,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, by name
                attn_implementation="eager",  # what shows patterns; others differ where there is ALiBi
            )
    except Exception as error:
        raise ModelError(
            f"{outline.directory} cannot be loaded as a causal language model ({first_line(error)}); "
            "check config.json and the weights."
        ) from error
    hf_model, loaded = loading
    _check_weights(outline.directory, loaded)
    if outline.is_multimodal:
        hf_model = _language_half(hf_model, outline)
    _add_zero_biases(hf_model)
    return hf_model.eval().requires_grad_(False)


def _check_weights(directory: Path, loaded: dict[str, Any]) -> None:
    """Every weight must be in the files, and every weight of the files must have a place."""
    lost = [f"lacks the weight {name}" for name in sorted(loaded["missing_keys"])]
    lost += [f"has the wrong shape for the weight {name}" for name, *_ in sorted(loaded["mismatched_keys"])]
    if lost:
        raise ModelError(f"{directory} {lost[0]} ({len(lost)} such in all); fetch its *.safetensors again.")
    spare = sorted(name for name in loaded["unexpected_keys"] if not name.endswith(HARMLESS))
    if spare:
        more = f" and {len(spare) - 1} more" if len(spare) > 1 else ""
        raise ModelError(
            f"{directory} has the weight {spare[0]}{more}, for which config.json has no place and which would be left "
            "out: correct config.json (number of layers, biases, architectures), or remove what belongs to another "
            "model (an adapter, a classifier)."
        )


HARMLESS = (
    "rotary_emb.inv_freq",
    "rotary_pos_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
    "embed_positions.weights",
    "position_ids",
    "lm_head.weight",
)
"""Ends of names of what older versions of transformers saved besides weights: tables that are computed, and the
unembedding where it is the embedding."""


def _language_half(hf_model: Any, outline: Outline) -> Any:
    """The causal language model inside a model of text and images, around the same weights."""
    half = outline.skeleton
    inner = next((m for m in hf_model.modules() if type(m) is type(half.base_model)), None)
    if inner is None:
        raise ModelError(
            f"{outline.directory} holds a {type(hf_model).__name__}, and the language model in it cannot be found; "
            "choose a model of text alone."
        )
    setattr(half, half.base_model_prefix, inner)
    half.set_output_embeddings(hf_model.get_output_embeddings())
    half.config._attn_implementation = "eager"
    return half


def _add_zero_biases(hf_model: Any) -> None:
    """TransformerLens takes for granted that GPT-NeoX's attention has biases; zeros change nothing."""
    if type(hf_model).__name__ != "GPTNeoXForCausalLM":
        return
    for module in hf_model.base_model.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is None:
            module.bias = torch.nn.Parameter(module.weight.new_zeros(len(module.weight)))
