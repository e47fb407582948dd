"""The tokenizer that lies beside a model, and the token that begins its sequences."""

from pathlib import Path
from typing import Any

import transformers

from mechlist.errors import InputError, ModelError
from mechlist.models.quiet import quiet
from mechlist.models.sources.files import first_line, read_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def load_tokenizer(directory: Path) -> Any:
    """The directory's tokenizer, or None if it has no tokenizer files.

    transformers would invent an empty tokenizer for some model types, so the files are looked for first.

    Raises:
        ModelError: files that transformers cannot make a tokenizer of.
    """
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"The tokenizer in {directory} cannot be loaded ({first_line(error)}); fetch its files again, "
            "or remove them to run on token ids."
        ) from error


def check_tokenizer(tokenizer: Any, d_vocab: int) -> None:
    """Every token id must have a row of the embedding; the embedding may have rows to spare.

    Tokens that were added to the vocabulary may lie beyond it (Gemma 3's text models have one for images): prompts that
    use them are refused.

    Raises:
        ModelError: the tokenizer belongs to another model.
    """
    if tokenizer is None:
        return
    ids = tokenizer.get_vocab().values()
    largest = max(ids, default=-1)
    # Asked once: the tokenizer makes this table anew each time, of thousands of tokens in Gemma 3's.
    added = set(tokenizer.added_tokens_decoder)
    if max((token for token in ids if token not in added), default=-1) >= d_vocab:
        raise ModelError(
            f"The tokenizer does not fit the model: it has token ids up to {largest}, "
            f"the model's vocabulary ends at {d_vocab - 1}; put the model's own tokenizer files there, or none."
        )


def find_bos(directory: Path, tokenizer: Any, bos: bool | None = None) -> int | None:
    """The token that begins every prompt: the tokenizer's own BOS, and no other token in its place.

    A model without tokenizer takes that of generation_config.json, else of config.json, else none.

    Args:
        directory: of the model.
        tokenizer: or None.
        bos: whether prompts begin with it; None for those that have one.

    Raises:
        ModelError: `bos` is wanted and there is none.
    """
    found = _own_bos(directory) if tokenizer is None else bos_of(tokenizer)
    if bos and found is None:
        whose = "The model's configuration" if tokenizer is None else "The model's tokenizer"
        raise ModelError(f"{whose} has no BOS token, so prompts cannot begin with one: leave --bos out.")
    return None if bos is False else found


def bos_of(tokenizer: Any) -> int | None:
    """A tokenizer's own BOS, if it has one: not what TransformerLens puts in its place."""
    if tokenizer is None or tokenizer.init_kwargs.get("bos_token") is None:
        return None
    return tokenizer.convert_tokens_to_ids(str(tokenizer.init_kwargs["bos_token"]))


def _own_bos(directory: Path) -> int | None:
    for file in (directory / "generation_config.json", directory / "config.json"):
        bos = read_json(file).get("bos_token_id") if file.is_file() else None
        if isinstance(bos, int):
            return bos
    return None


def encode(tokenizer: Any, text: str, bos: int | None) -> list[int]:
    """Token ids of a text behind `bos`, once: a text that begins with it already gets no second.

    Raises:
        InputError: there is no tokenizer.
    """
    if tokenizer is None:
        raise InputError("The model has no tokenizer: give token ids instead of text.")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def attach(module: Any, tokenizer: Any, bos: int | None) -> None:
    """Let a model's own methods for text use the tokenizer as it is.

    TransformerLens would read it a second time, and put EOS in the place of a BOS that is not there.
    """
    # A bridge that has a tokenizer takes its vocabulary for the model's when it gets another.
    module.tokenizer = None
    module.tokenizer = tokenizer
    if tokenizer is None:
        return
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    module.cfg.tokenizer_prepends_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    module.cfg.default_prepend_bos = bos is not None


def stand_in() -> Any:
    """A tokenizer of one token, for TransformerBridge, which insists on having one."""
    from tokenizers import Tokenizer, models

    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), unk_token="a", eos_token="a"
    )
