"""Texts of the design: their factors, and that they are what the tokenizer writes."""

import dataclasses
from typing import Any

import pytest

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.design import KINDS, Levels, Text, design_texts, shared_rows
from mechlist.datasets.lists.parse import parse_list
from mechlist.errors import InputError
from mechlist.runner import Runner

TOPICS = {"Fruits": ("Apple", "Banana", "Cherry", "Mango"), "Ocean": ("Pacific", "Atlantic", "Indian Ocean")}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Runner.load("list-tiny", device="cpu", progress=False).tokenizer


@pytest.fixture(scope="module")
def texts(tokenizer: Any) -> list[Text]:
    levels = [Levels(KINDS[0], range(2, 4), (False, True), ("none", "half", "all"))]
    levels += [Levels(kind, range(2, 4)) for kind in KINDS[1:]]
    return design_texts(tokenizer, TOPICS, ("short", "none"), levels)


def test_factors_are_those_of_the_text(texts: list[Text], tokenizer: Any):
    special = list_tokens(tokenizer)
    assert len(texts) == 2 * 2 * (2 * 2 * 3 + 4 * 2)
    for text in texts:
        parsed = parse_list(text.tokens, special, start=text.prompt.hyphen)
        items = parsed.items
        assert len(items) == text.items
        assert sum(len(item.content) for item in items) == text.content
        assert parsed.n_filler == text.earlier_fillers + text.filler
        assert parsed.filler_on_last == text.filler
        assert items[-1].line_break == text.line_break == len(text.tokens) - 1
        assert items[-1].content[-1] == text.item_last
        words = [tuple(text.tokens[i] for i in item.content) for item in items]
        assert len(words) - len(set(words)) == text.repeats
        if text.earlier == "half":
            assert [item.filler is not None for item in items[:-1]] == [i % 2 == 0 for i in range(text.items - 1)]


def test_kinds_have_the_items_that_they_say(texts: list[Text]):
    said = {t.kind: t for t in texts if t.prompt.topic == "Ocean" and t.items == 3 and t.earlier == "none"}
    assert said["first again"].words == "-Pacific\n-Atlantic\n-Pacific\n"
    assert said["one item"].words == "-Pacific\n-Pacific\n-Pacific\n"
    two = {t.kind: t for t in texts if t.prompt.topic == "Ocean" and t.items == 2 and t.earlier == "none"}
    assert two["few tokens"].content < two["many tokens"].content
    assert two["many tokens"].words.startswith("-Indian Ocean\n")


def test_a_text_is_read_in_a_longer_one_that_begins_with_it(texts: list[Text]):
    rows, held = shared_rows(texts)
    assert len(rows) < len({text.tokens for text in texts})
    for text, row in zip(texts, held.tolist(), strict=True):
        assert tuple(rows[row][: len(text.tokens)].tolist()) == text.tokens
    whole = {tuple(row.tolist()) for row in rows}
    assert not any(a != b and b[: len(a)] == a for a in whole for b in whole)


def test_topics_with_too_few_items_lack_the_texts(tokenizer: Any):
    found = design_texts(tokenizer, TOPICS, ("short",), [Levels("best known", range(3, 5))])
    assert [(text.prompt.topic, text.items) for text in found] == [("Fruits", 3), ("Fruits", 4), ("Ocean", 3)]


def test_an_item_that_merges_with_its_neighbour_is_refused(tokenizer: Any):
    @dataclasses.dataclass
    class Merging:
        """Writes the last line break as part of the item."""

        inner: Any

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def encode(self, text: str, **options: Any) -> list[int]:
            ids = self.inner.encode(text, **options)
            return ids[:-1] if text.endswith("Apple\n") else ids

    with pytest.raises(InputError, match="The item 'Apple' of 'Fruits' merges with the hyphen or the line break"):
        design_texts(Merging(tokenizer), TOPICS, ("short",), [Levels("best known", range(2, 3))])

    class Joining(Merging):
        def encode(self, text: str, **options: Any) -> list[int]:
            ids = self.inner.encode(text, **options)
            return ids[:-1] if "Banana \n" in text else ids

    with pytest.raises(InputError, match="of 'Fruits' it merges an item or a filler"):
        design_texts(Joining(tokenizer), TOPICS, ("short",), [Levels("best known", range(2, 3), (True,))])
