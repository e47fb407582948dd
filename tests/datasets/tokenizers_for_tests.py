"""Small tokenizers with the ways of real ones: Gemma's, ChatML's, and one that is no chat model's."""

from typing import Any

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

GEMMA_IDS = {
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<start_of_turn>": 106,
    "<end_of_turn>": 107,
    "\n": 108,
    "-": 235290,
    "▁": 235248,
    ".": 235265,
    ",": 235269,
    "user": 1645,
    "model": 2516,
    "Provide": 70029,
    "▁me": 682,
    "▁with": 675,
    "▁a": 476,
    "▁short": 3309,
    "▁long": 1497,
    "▁list": 1889,
    "▁of": 576,
    "▁Just": 6372,
    "▁provide": 3658,
    "▁the": 573,
    "▁names": 4752,
    "▁no": 793,
    "▁need": 1476,
    "▁for": 604,
    "▁any": 1089,
    "▁other": 1156,
    "▁information": 2113,
    "▁Countries": 46208,
    "▁Animals": 37827,
    "▁City": 3922,
    "▁Names": 28228,
}
"""Ids of google/gemma-2-2b-it, from the recorded prompts."""
INVENTED = {name: 900000 + i for i, name in enumerate(("▁Types", "▁Trees", "▁Flowers", "▁very", "▁Oak", "▁Ash"))}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def gemma_like(*extra: str, drop: tuple[str, ...] = (), puts_bos: bool = True, pieces: str = "") -> Any:
    """Gemma's ids, turns and blanks, without a chat template of its own.

    Args:
        extra: more tokens.
        drop: tokens it lacks.
        puts_bos: whether BOS stands in front of any text.
        pieces: a regular expression of characters that stay one piece of text.
    """
    vocabulary = GEMMA_IDS | INVENTED | {name: 990000 + i for i, name in enumerate(extra)}
    vocabulary = {name: id_ for name, id_ in vocabulary.items() if name not in drop}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "▁")
    words = "▁?[A-Za-z]+|▁|\n|[^▁\nA-Za-z]"
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(f"{pieces}|{words}" if pieces else words), "isolated")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    special = [name for name in ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>") if name in vocabulary]
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    if puts_bos:
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return _wrapped(inner, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


def byte_level(template: str | None, *special: str, bos: str | None = None, merges: tuple[str, ...] = ()) -> Any:
    """A byte-level BPE tokenizer as of GPT-2, Qwen or Llama 3, which knows the words of the prompt.

    Args:
        template: its chat template, or None.
        special: special tokens beside <|end|>, its eos.
        bos: BOS, which stands in front of any text.
        merges: more tokens, built letter by letter.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [name.replace("▁", "Ġ") for name in GEMMA_IDS if name.strip("▁").isalpha()]
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    pairs: list[tuple[str, str]] = []
    for word in [*merges, *words]:
        for stop in range(2, len(word) + 1):
            if word[:stop] not in vocabulary:
                vocabulary[word[:stop]] = len(vocabulary)
                pairs.append((word[: stop - 1], word[stop - 1]))
    inner = Tokenizer(models.BPE(vocabulary, pairs))
    pieces = Regex(r" ?\p{L}+| \n| ?[^\s\p{L}]|\s" if "Ġ\u010a" in merges else r" ?\p{L}+|[^\s\p{L}]+|\s")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    names = ["<|end|>", *special, *([bos] if bos else [])]
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
        )
    tokenizer = _wrapped(inner, eos_token="<|end|>", bos_token=bos)
    tokenizer.chat_template = template
    return tokenizer


def _wrapped(inner: Tokenizer, **special: str | None) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)
