"""The tokenizer of `list-tiny`: byte-pair encoding over the topics, with Gemma's special tokens and chat template."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mechlist.datasets.chat import GEMMA_TEMPLATE

VOCABULARY = 4096
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
WORD = r"\n|-|▁?[\p{L}\p{M}\p{N}]+|[^\n▁\p{L}\p{M}\p{N}-]|▁"
"""Line breaks and hyphens stand alone, a blank belongs to the word after it, and stands alone before anything else."""
ALONE = ("\n", "-", "▁")


def train_tokenizer(prompts: Iterable[str], items: Iterable[str]) -> Any:
    """A tokenizer with the words of `prompts` as whole tokens, and most of the items as one or two.

    Args:
        prompts: user messages; their words become tokens first.
        items: each as often as it is to count.
    """
    from transformers import PreTrainedTokenizerFast

    trained = _bpe({}, [])
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL) - len(BYTES), show_progress=False)
    words = [f"user\nmodel\n{prompt}\n" for prompt in prompts] * 20
    trained.train_from_iterator([*words, *(f"-{item}\n" for item in items)], trainer)
    merges = [(left, right) for left, right in json.loads(trained.to_str())["model"]["merges"]]
    learned = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda entry: entry[1])]
    missing = [mark for mark in ALONE if mark not in learned]
    tokens = [*SPECIAL, *BYTES, *missing, *learned][:VOCABULARY]
    kept = set(tokens)
    whole = _bpe(
        {token: number for number, token in enumerate(tokens)},
        [pair for pair in merges if {*pair, "".join(pair)} <= kept],
    )
    whole.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=whole,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = GEMMA_TEMPLATE
    return fast


def _bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer
