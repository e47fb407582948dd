"""Answers as single tokens: behind their prompt, by themselves, as pieces of words, by id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mechlist.datasets.answers import answer_token, likely_mistakes
from mechlist.errors import InputError


class Model:
    """What a Runner does with text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def to_tokens(self, text: str, *, prepend_bos: bool | None = None) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        anchor = self.tokenizer.encode("a", add_special_tokens=False)
        start = len(self.tokenizer.decode(anchor))
        return [self.tokenizer.decode([*anchor, token])[start:] for token in tokens]


@pytest.fixture(scope="module")
def pieces() -> Model:
    """As SentencePiece of Llama 2: a blank is put in front of any text, and stands with the word behind it."""
    vocabulary = [
        "<unk>",
        "▁",
        "▁a",
        "▁was",
        "▁he",
        "was",
        "ing",
        "▁go",
        ",",
        "a",
        "s",
        "w",
        "i",
        "n",
        "g",
        "e",
        "h",
        "o",
    ]
    merges = [("▁", "a"), ("w", "a"), ("wa", "s"), ("▁", "was"), ("▁", "h"), ("▁h", "e"), ("i", "n"), ("in", "g")]
    merges += [("▁", "g"), ("▁g", "o")]
    ids = {piece: number for number, piece in enumerate([*vocabulary, "wa", "▁h", "in", "▁g"])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return Model(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Model:
    return Model(AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer"))


@pytest.mark.parametrize(
    ("prompt", "text", "piece"),
    [("he", " was", "▁was"), ("he", ",", ","), ("he go", "ing", "ing"), ("", "was", "▁was"), ("he", "id:5", "was")],
)
def test_sentencepiece(pieces: Model, prompt: str, text: str, piece: str):
    expected = pieces.tokenizer.convert_tokens_to_ids(piece)
    assert answer_token(pieces, "answer", text, vocabulary=30, prompt=prompt) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            " Buenos Aires",
            r"answer must be one token; in pair 3 ' Buenos Aires' is \d: \[.*\]. .* by its id, as in id:286",
        ),
        ("", "answer must be one token; in pair 3 '' is 0"),
        (
            "id:999999",
            "answer must be a token from id:0 to id:50256, those .* can predict, not 'id:999999'",
        ),
    ],
)
def test_no_token(gpt2: Model, text: str, fault: str):
    with pytest.raises(InputError, match=fault):
        answer_token(gpt2, "answer", text, vocabulary=50257, prompt="The capital is", where="in pair 3 ")


def test_a_token_that_is_never_predicted(gpt2: Model):
    with pytest.raises(InputError, match=r"from id:0 to id:99, those .*, not ' Paris', which is id:"):
        answer_token(gpt2, "answer", " Paris", vocabulary=100)


def test_slips_are_told(gpt2: Model):
    prompt = "The capital of France is"
    assert likely_mistakes(gpt2, prompt, " Paris") == []
    (said,) = likely_mistakes(gpt2, prompt, "Paris")
    assert said.startswith("'Paris' would go on with the word at the end of")
    assert "' Paris', with a blank in front, was probably meant" in said
    (said,) = likely_mistakes(gpt2, f"{prompt} ", "Paris", where="In pair 2 ")
    assert said.startswith("In pair 2 the prompt '")
    assert likely_mistakes(gpt2, prompt, ",") == likely_mistakes(gpt2, prompt, "id:3") == []
