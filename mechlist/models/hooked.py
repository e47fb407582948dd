"""A HookedTransformer directory: hooked_transformer_config.json beside model.safetensors."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechlist.errors import ModelError
from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.outline import check_context
from mechlist.models.sources.files import first_line, read_json
from mechlist.models.sources.source import Source
from mechlist.models.tokenizer import attach, check_tokenizer, find_bos, load_tokenizer


def load_hooked(
    source: Source, device: str, dtype: torch.dtype, *, bos: bool | None = None, context: int | None = None
) -> LanguageModel:
    """The model as it was saved: no weight is processed.

    Raises:
        ModelError: a configuration, weights or tokenizer that do not fit together.
    """
    tokenizer = load_tokenizer(source.directory)
    first = find_bos(source.directory, tokenizer, bos)
    module = _build(source.directory, device, dtype, context)
    check_tokenizer(tokenizer, module.cfg.d_vocab)
    weights = load_file(source.directory / "model.safetensors")
    _check_names_and_shapes(source.directory, module, weights)
    # Buffers are made from the configuration: a saved one may be of another version's shape.
    module.load_state_dict({name: weights[name] for name, _ in module.named_parameters()}, strict=False)
    module.move_model_modules_to_device()
    info = {"name": source.name, "kind": "HookedTransformer directory", "processing": "as saved"}
    attach(module, tokenizer, first)
    return wrap(module.eval(), info, first, tokenizer, context)


def _build(directory: Path, device: str, dtype: torch.dtype, context: int | None) -> HookedTransformer:
    settings = read_json(directory / "hooked_transformer_config.json")
    if context is not None:
        longest = None if settings.get("positional_embedding_type") in ("rotary", "none") else settings.get("n_ctx")
        check_context(context, longest)
        # Learned positions keep the table that is saved, however few of them are used.
        settings |= {"n_ctx": context} if longest is None else {}
    here = {"device": device, "dtype": dtype, "n_devices": 1, "init_weights": False, "seed": None}
    try:
        cfg = HookedTransformerConfig.from_dict(settings | here | {"tokenizer_name": None})
        return HookedTransformer(cfg, move_to_device=False)
    except Exception as error:
        raise ModelError(
            f"{directory}/hooked_transformer_config.json does not describe a HookedTransformer: "
            f"{type(error).__name__}: {first_line(error)}; correct it."
        ) from error


def _check_names_and_shapes(directory: Path, module: HookedTransformer, weights: dict[str, Any]) -> None:
    wanted = dict(module.named_parameters())
    buffers = {name for name, _ in module.named_buffers()}
    missing = sorted(wanted.keys() - weights.keys())
    extra = sorted(weights.keys() - wanted.keys() - buffers)
    wrong = [name for name, p in wanted.items() if name in weights and weights[name].shape != p.shape]
    for problem, names in (("lacks", missing), ("has the unknown", extra), ("has the wrong shape for", wrong)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"{directory}/model.safetensors {problem} {names[0]}{more}: it does not fit "
                "hooked_transformer_config.json; save both from one model."
            )
