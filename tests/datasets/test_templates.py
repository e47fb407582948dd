"""Prompts by a template: where their parts stand, what ends a list, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from mechlist.datasets.chat import list_tokens, model_header
from mechlist.datasets.lists.made import made_lists
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.templates import Templated, list_tokenizer
from mechlist.errors import InputError
from mechlist.experiments.generate_lists.experiment import GenerateLists
from mechlist.experiments.list_heads.experiment import ListHeads
from mechlist.results import write_text
from mechlist.runner import Runner
from tests.datasets.tokenizers_for_tests import byte_level

TEXT = "Provide me with a list of Animals:\n-names\n=\nProvide me with a {adjective} list of {topic}. Just provide:\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level(None)


def end(tokenizer: Any) -> int:
    return tokenizer.encode("=", add_special_tokens=False)[0]


def test_parts_of_the_prompt_are_found(tokenizer: Any):
    templated = Templated(tokenizer, TEXT, (end(tokenizer),))
    for topic, adjective in (("Countries", "short"), ("Animals", "long"), ("Countries", "")):
        prompt = list_prompt(templated, topic, adjective)
        words = f"a {adjective} list" if adjective else "a list"
        expected = TEXT.replace("a {adjective} list", words).replace("{topic}", topic) + "-"
        assert tokenizer.decode(prompt.tokens) == expected
        assert tokenizer.decode(prompt.tokens[prompt.topic_span.start : prompt.topic_span.stop]) == f" {topic}"
        assert tokenizer.decode(prompt.tokens[prompt.header.start : prompt.header.stop]) == ". Just provide:\n"
        assert prompt.tokens[prompt.header.start : prompt.header.stop] == model_header(templated)
        if adjective:
            assert tokenizer.decode([prompt.tokens[prompt.adjective_index or 0]]) == f" {adjective}"
    special = list_tokens(templated)
    assert [tokenizer.decode([one]) for one in (special.hyphen, special.line_break, special.blank)] == ["-", "\n", " "]
    assert (special.end_of_turn, special.eos) == (end(tokenizer), tokenizer.eos_token_id)
    made = made_lists(templated, [list_prompt(templated, "Animals", "short")], [("names", "list")], filler=True)
    assert tokenizer.decode(made.rows[0][made.starts[0] :]) == "-names\n-list \n="
    assert Templated(tokenizer, TEXT, (end(tokenizer), 3)).eos_token_id == 3


def test_lists_asked_for_by_a_template_are_read_without_it(tmp_path: Path):
    """Files of recorded lists keep what is needed."""
    runner = Runner.load("list-tiny", device="cpu", progress=False)
    special = list_tokens(runner.tokenizer)
    text = "<bos>Provide me with a {adjective} list of {topic}.\n"
    write_text(tmp_path / "prompt.txt", text)
    asked = GenerateLists(
        topics=("Fruits", "Colors"),
        adjectives=("short", "long"),
        samples=1,
        max_new_tokens=200,
        template=tmp_path / "prompt.txt",
        end_tokens=(special.hyphen + 1, special.end_of_turn),
    )
    results = asked.run(runner)
    assert results.attrs["special_tokens"]["end_of_turn"] == special.hyphen + 1
    for name, content in asked.files(results).items():
        write_text(tmp_path / "out" / name, content)
    read = ListHeads(recorded=(tmp_path / "out" / "lists",)).data(runner)
    assert set(read.adjective) == {"short", "long"}
    assert read.special.end_of_turn == special.hyphen + 1
    written = runner.tokenizer.decode(read.prompts[0].tokens)
    assert written.endswith(text.format(adjective=read.adjective[0], topic=read.topic[0]) + "-")
    made = ListHeads(
        topics=("Fruits",), items=2, lists=1, template=tmp_path / "prompt.txt", end_tokens=(special.end_of_turn,)
    ).data(runner)
    assert runner.tokenizer.decode(made.rows[0]).endswith(f"{runner.tokenizer.decode([special.end_of_turn])}")
    assert made.rows[0][: len(read.prompts[0].tokens) - 3].tolist() == [*read.prompts[0].tokens[:-3]]


@pytest.mark.parametrize(
    ("text", "ends", "words"),
    [
        ("A list of {topic}:\n", (5,), r"template must hold \{adjective\} once, and holds it 0 times"),
        ("A {adjective} list:\n", (5,), r"template must hold \{topic\} once, and holds it 0 times"),
        ("{topic} {adjective} {topic}\n", (5,), r"template must hold \{topic\} once, and holds it 2 times"),
        (TEXT, (), r"end_tokens must be one token or two different ones that end a list after a line break, not \[\]"),
        (TEXT, (4, 4), "two different ones"),
        (TEXT, (100_000,), r"end_tokens must be in the vocabulary, from 0 to \d+, not 100000"),
    ],
)
def test_templates_and_tokens_that_make_no_sense_are_refused(
    tokenizer: Any, tmp_path: Path, text: str, ends: tuple[int, ...], words: str
):
    write_text(tmp_path / "prompt.txt", text)
    with pytest.raises(InputError, match=words):
        list_tokenizer(tokenizer, tmp_path / "prompt.txt", ends)


def test_where_a_list_begins_must_be_told(tokenizer: Any, tmp_path: Path):
    for text, words in (
        ("a {adjective} list of {topic}", r"must hold text behind \{topic\}, such as a colon"),
        (
            "list:\n-names\n\na {adjective} list of {topic}:\n",
            r"stands nowhere before it, .* ':\\n' stands there already",
        ),
    ):
        with pytest.raises(InputError, match=words):
            list_prompt(Templated(tokenizer, text, (5,)), "Animals", "short")
    with pytest.raises(InputError, match=r"template must be a file of text: .* cannot be read"):
        list_tokenizer(tokenizer, tmp_path / "none.txt", (5,))
    with pytest.raises(InputError, match="end_tokens are for prompts by a template"):
        list_tokenizer(tokenizer, None, (5,))
    assert list_tokenizer(tokenizer, None, ()) is tokenizer
