"""What config.json says of a Hugging Face model: all that can be known, or refused, before its weights are read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from mechlist.errors import ModelError
from mechlist.models.quiet import quiet
from mechlist.models.sources.files import first_line, read_json

LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "max_sequence_length")
"""What configurations call the context."""
UNSAID = 2048
"""Context of a model whose configuration names none, and which needs none: its positions are no table."""


@dataclass(frozen=True, eq=False)
class Outline:
    """A Hugging Face directory without its weights."""

    directory: Path
    whole: Any
    """The configuration as it stands."""
    config: Any
    """That of the language model, where there is more (images, sound)."""

    @property
    def is_multimodal(self) -> bool:
        """Whether the language model is a part of what the directory holds."""
        return self.config is not self.whole

    @cached_property
    def language_class(self) -> Any:
        """Hugging Face's class of the language model.

        Raises:
            ModelError: there is none that predicts the next token.
        """
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(self.config), None)
        if isinstance(kind, list | tuple):
            kind = kind[0]
        if kind is None:
            raise ModelError(
                f"{self.directory} cannot be loaded as a causal language model (transformers has none for "
                f"model_type {self.config.model_type!r}); check config.json and the weights."
            )
        return kind

    @cached_property
    def skeleton(self) -> Any:
        """The language model without numbers."""
        with quiet(), torch.device("meta"):
            return self.language_class._from_config(self.config)

    @cached_property
    def learned_positions(self) -> int | None:
        """Positions for which there is a table; None where any may be computed."""
        tokens = self.skeleton.get_input_embeddings()
        for name, module in self.skeleton.named_modules():
            last = name.rpartition(".")[2]
            if isinstance(module, torch.nn.Embedding) and module is not tokens and ("pos" in last or last == "wpe"):
                return module.num_embeddings - int(getattr(module, "offset", 0))
        return None

    @cached_property
    def context(self) -> int:
        """Tokens that a prompt may have."""
        said = next((int(v) for name in LENGTHS if isinstance(v := getattr(self.config, name, None), int)), UNSAID)
        learned = self.learned_positions
        return said if learned is None else min(said, learned)

    def check(self, context: int | None) -> None:
        """Refuse what cannot be run exactly, whatever the weights are.

        Raises:
            ModelError: an encoder, attention that looks ahead, a narrow embedding, a context that is too long.
        """
        self._check_causal()
        tokens, width = self.skeleton.get_input_embeddings(), getattr(self.config, "hidden_size", None)
        if width and tokens.embedding_dim != width:
            raise ModelError(
                f"{self.directory} has an embedding of {tokens.embedding_dim} numbers a token in a residual stream of "
                f"{width}, and what is read off that stream here would not fit it; choose another model."
            )
        if self.config.model_type == "falcon" and getattr(self.config, "new_decoder_architecture", False):
            raise ModelError(
                f"{self.directory} is a Falcon whose keys and values are shared by groups of heads "
                "(new_decoder_architecture), which TransformerBridge takes apart wrongly; choose another model."
            )
        if context is not None:
            check_context(context, self.learned_positions)

    def _check_causal(self) -> None:
        config, name = self.config, (self.whole.architectures or [self.config.model_type])[0]
        # transformers puts a causal head on an encoder without asking, and leaves its attention looking both ways.
        if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
            raise ModelError(
                f"{self.directory} holds a {name}, which is not a causal language model; "
                "choose a model that predicts the next token."
            )
        if getattr(config, "use_bidirectional_attention", False) is True or getattr(config, "is_causal", True) is False:
            raise ModelError(
                f"{self.directory} holds a {name} whose attention looks ahead; "
                "choose a model that predicts the next token."
            )


def read_outline(directory: Path) -> Outline:
    """The outline of a directory.

    Raises:
        ModelError: no configuration that transformers knows; an adapter that is not merged; remote code.
    """
    settings = read_json(directory / "config.json")
    if "auto_map" in settings and settings.get("model_type") not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{directory} needs code of its own to run, and remote code is off in mechlist; choose another model."
        )
    if (directory / "adapter_config.json").is_file():
        raise ModelError(
            f"{directory} holds an adapter (adapter_config.json) beside its model, which would be left out; merge it "
            "into the weights (merge_and_unload of peft), or remove its files."
        )
    try:
        with quiet():
            whole = transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            found = Outline(directory, whole, whole.get_text_config())
            assert found.skeleton is not None
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{directory} cannot be loaded as a causal language model ({first_line(error)}); "
            "check config.json and the weights."
        ) from error
    return found


def check_context(context: int, longest: int | None) -> None:
    """A context that is asked for.

    Raises:
        ModelError: no token, or more than the positions that there are.
    """
    if context < 1:
        raise ModelError(f"context must be at least 1 token, not {context}.")
    if longest is not None and context > longest:
        raise ModelError(f"context must be at most {longest}, the positions that the model has learned, not {context}.")
