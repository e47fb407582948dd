"""Tokenizer and training rows of list-tiny: form, targets against the process, and what repeats."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from mechlist.datasets.lists.parse import parse_list, well_formed
from mechlist.datasets.lists.process import FAME, PROCESSES
from mechlist.datasets.lists.prompts import ADJECTIVES, list_prompt
from mechlist.datasets.topics import load_topics
from mechlist.training.list_data import Material, Row, batch, block_row, list_row, step_batches
from mechlist.training.list_tokenizer import VOCABULARY
from mechlist.training.list_topics import HELD_OUT, material, tokenizer_for_lists


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_for_lists()


@pytest.fixture(scope="module")
def made_of(tokenizer: Any) -> Material:
    return material(tokenizer)


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


# tokenizer


def test_marks_and_adjectives_are_single_tokens(tokenizer: Any):
    assert len(tokenizer) == VOCABULARY == 4096
    for text in ("-", "\n", " ", " short", " long", " list", "<end_of_turn>", "<start_of_turn>"):
        assert len(ids(tokenizer, text)) == 1, text
    assert len(ids(tokenizer, "-Mercedes-Benz \n-Oak\n")) == len(ids(tokenizer, "Mercedes-Benz")) + 6


def test_most_items_are_one_or_two_tokens(tokenizer: Any):
    sizes = Counter(len(ids(tokenizer, item)) for items in load_topics().values() for item in items)
    assert (sizes[1] + sizes[2]) / sizes.total() > 0.45
    # The better-known items are named more often, and are shorter in tokens.
    famous = Counter(len(ids(tokenizer, item)) for items in load_topics().values() for item in items[:12])
    assert (famous[1] + famous[2]) / famous.total() > 0.75


@pytest.mark.parametrize("text", ["-Dvořák \n-C++\n", "日本 \t\x00 🙂", "Rubik's Cube", "a  b"])
def test_any_text_comes_back(tokenizer: Any, text: str):
    assert tokenizer.decode(ids(tokenizer, text)) == text
    assert tokenizer.unk_token_id not in ids(tokenizer, text)


# rows of lists


def test_held_out_topics_are_not_in_the_material(made_of: Material):
    assert not set(HELD_OUT) & set(made_of.items)
    assert not set(HELD_OUT) & set(made_of.topics)
    assert len(HELD_OUT) >= 5


@pytest.mark.parametrize("adjective", ADJECTIVES)
def test_rows_are_prompts_with_well_formed_lists(tokenizer: Any, made_of: Material, adjective: str):
    generator = np.random.default_rng(0)
    for _ in range(50):
        row = list_row(made_of, adjective, generator)
        text = tokenizer.decode(row.tokens)
        topic = next(t for t in made_of.items if f" of {t}." in text)
        prompt = list_prompt(tokenizer, topic, adjective)
        assert tuple(row.tokens[: len(prompt.tokens)]) == prompt.tokens
        completion = row.tokens[prompt.hyphen :]
        assert well_formed(completion, made_of.special)
        items = [tuple(completion[i] for i in item.content) for item in parse_list(completion, made_of.special).items]
        assert len(set(items)) == len(items)
        assert {tokenizer.decode(item) for item in items} <= set(load_topics()[topic])


def test_targets_are_the_process(tokenizer: Any, made_of: Material):
    row = list_row(made_of, "short", np.random.default_rng(3))
    special, process = made_of.special, PROCESSES["short"]
    topic = next(t for t in made_of.items if f" of {t}." in tokenizer.decode(row.tokens))
    capacity, start = len(made_of.items[topic]), len(list_prompt(tokenizer, topic, "short").tokens) - 1
    parsed = parse_list(row.tokens[start:], special)
    left = 1 / (np.arange(capacity) + FAME)
    assert len(row.choices) == 3 * len(parsed.items)
    for k, item in enumerate(parsed.items):
        names, chance = row.choices[start + item.hyphen]
        assert list(names) == [entry[0] for entry in made_of.items[topic]]
        np.testing.assert_allclose(chance, left / left.sum())
        content = [row.tokens[start + i] for i in item.content]
        left[made_of.items[topic].index(content)] = 0
        assert row.choices[start + item.content[-1]] == (
            (special.blank, special.line_break),
            (pytest.approx(process.filler(capacity)[k]), pytest.approx(1 - process.filler(capacity)[k])),
        )
        ends = process.hazard_given(capacity, filler=item.filler is not None)[k]
        assert item.line_break is not None
        assert row.choices[start + item.line_break] == (
            (special.end_of_turn, special.hyphen),
            (pytest.approx(ends), pytest.approx(1 - ends)),
        )


def test_what_was_drawn_is_possible(made_of: Material):
    generator = np.random.default_rng(1)
    for _ in range(100):
        row = list_row(made_of, "long", generator)
        for position, (names, chance) in row.choices.items():
            drawn = sum(c for name, c in zip(names, chance, strict=True) if name == row.tokens[position + 1])
            assert drawn > 0
            assert sum(chance) == pytest.approx(1)


# rows of blocks


def test_blocks_repeat_after_bos(made_of: Material):
    generator = np.random.default_rng(0)
    kinds = set()
    for _ in range(40):
        row = block_row(made_of, 7, 3, generator)
        assert row.tokens[0] == made_of.special.bos
        assert row.tokens[1:] == row.tokens[1:8] * 3
        assert row.weight == pytest.approx([0.05] * 8 + [1.0] * 13)
        kinds.add(made_of.special.hyphen in row.tokens)
    assert kinds == {True, False}


# batches


def test_batches_hold_their_rows(made_of: Material):
    rows = [Row([5, 6, 7], [0.0, 1.0], {}), Row([5, 8, 9, 10], [0.5, 1.0, 1.0], {1: ((9, 11), (0.25, 0.75))})]
    made = batch(rows, 0)
    assert made.tokens.tolist() == [[5, 6, 7, 0], [5, 8, 9, 10]]
    assert list(zip(made.row.tolist(), made.position.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 1), (1, 2)]
    assert made.weight.tolist() == [1.0, 0.5, 1.0, 1.0]
    assert made.choices.tolist() == [[7, 0], [8, 0], [9, 11], [10, 0]]
    assert made.chance.tolist() == [[1, 0], [1, 0], [0.25, 0.75], [1, 0]]


def test_steps_fill_their_tokens_and_follow_from_the_seed(made_of: Material):
    first, again, other = (step_batches(made_of, 0, 4000, 0.5, 128, seed) for seed in ((0, 3), (0, 3), (0, 4)))
    sizes = [b.tokens.numel() for b in first]
    assert len(sizes) == 4
    assert 3000 < sum(sizes) <= 4000
    assert sizes[-1] / sum(sizes) == pytest.approx(0.5, abs=0.12)
    assert all((a.tokens == b.tokens).all() for a, b in zip(first, again, strict=True))
    assert first[0].tokens.shape != other[0].tokens.shape or (first[0].tokens != other[0].tokens).any()
