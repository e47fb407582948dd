"""Pairs from text, from a file and built in; with anything that turns text into tokens."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mechlist.datasets.pairs.induction import induction_pairs
from mechlist.datasets.pairs.pair import KEYS, Pair, block_pairs, name_pairs, own_pairs, read_pairs
from mechlist.errors import InputError

WORDS = ["<bos>", "a", "cat", "dog", "sat"]


class Words:
    """A model whose tokens are words."""

    def to_tokens(self, text: str, *, prepend_bos: bool | None = None) -> list[int]:
        first = [0] if prepend_bos is None or prepend_bos else []
        return [*first, *(WORDS.index(word) if word in WORDS else 99 for word in text.split())]

    tokenizer = None

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        return [WORDS[token] for token in tokens]


PAIR = {"clean": "a cat", "corrupt": "a dog", "answer": "sat", "wrong": "a"}


def test_texts_become_tokens():
    found = own_pairs(Words(), [PAIR, PAIR | {"clean": "dog a"}], vocabulary=5)
    assert found.pairs == [Pair([0, 1, 2], [0, 1, 3], 4, 1), Pair([0, 3, 1], [0, 1, 3], 4, 1)]
    assert found.roles is found.clusters is found.irrelevant is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": "a"}, "the same number of tokens; in pair 2 they have 2 and 3"),
        ({"clean": "a dog"}, "clean and corrupt must differ; in pair 2"),
        ({"answer": "a cat"}, r"answer must be one token; in pair 2 'a cat' is 2: \['a', 'cat'\]"),
    ],
)
def test_texts_that_are_no_pair_are_refused(changes: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        own_pairs(Words(), [PAIR, PAIR | changes], vocabulary=5)


def test_a_file_holds_one_pair_a_line(tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(PAIR | {"note": 1}) + "\n\n" + json.dumps(PAIR))
    assert read_pairs(file) == [PAIR, PAIR]
    assert set(PAIR) == set(KEYS)
    file.write_text(json.dumps([PAIR]))
    with pytest.raises(InputError, match="line 1, must hold clean, corrupt, answer, wrong as text"):
        read_pairs(file)


def test_files_as_other_programs_write_them(tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    lines = [json.dumps(PAIR | {"clean": f"a{mark}cat"}, ensure_ascii=False) for mark in ("\u2028", "\x85", " ")]
    file.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert [pair["clean"] for pair in read_pairs(file)] == ["a\u2028cat", "a\x85cat", "a cat"]
    file.write_text('{"clean": "a", "clean": "b", "corrupt": "c", "answer": "d", "wrong": "e"}')
    with pytest.raises(InputError, match="line 1: 'clean' stands twice"):
        read_pairs(file)


def test_one_answer_twice_is_refused():
    with pytest.raises(InputError, match="answer and wrong must be different tokens; in pair 1 both are 'sat'"):
        own_pairs(Words(), [PAIR | {"wrong": "sat"}], vocabulary=5)


def test_blocks_are_those_of_induction():
    made = block_pairs(3, 6, d_vocab=30, n_ctx=20, bos=0, generator=torch.Generator().manual_seed(1))
    expected = induction_pairs(3, 6, 30, 0, torch.Generator().manual_seed(1))
    assert [list(pair.clean) for pair in made.pairs] == expected.clean.tolist()
    assert [pair.wrong for pair in made.pairs] == expected.wrong.tolist()
    with pytest.raises(InputError, match="between 5 and 13 tokens, not 14: the model's context holds 20"):
        block_pairs(3, 14, d_vocab=30, n_ctx=20, bos=0, generator=torch.Generator())


def test_names_follow_from_the_generator(shared: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    one, again = (name_pairs(tokenizer, 4, bos=None, generator=np.random.default_rng(5)) for _ in range(2))
    assert one == again
    other = name_pairs(tokenizer, 4, bos=50256, generator=np.random.default_rng(5))
    assert [list(pair.clean) for pair in other.pairs] == [[50256, *pair.clean] for pair in one.pairs]
    assert one.clusters is not None
    assert all(name.startswith("template") for name in one.clusters)
