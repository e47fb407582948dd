"""The lists that experiments run on: recorded, written, and the same with the adjective swapped."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.topics import load_topics
from mechlist.errors import InputError
from mechlist.experiments.list_directions import Direction, list_directions, text_direction
from mechlist.experiments.list_runs import ListData, ListExperiment, list_data
from mechlist.experiments.list_sources import read_lists, written_list
from mechlist.runner import Runner


class Lists(ListExperiment):
    """Only its lists are of interest."""

    def run(self, runner: Runner) -> Any:
        raise NotImplementedError

    def figures(self, results: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def written(runner: Runner) -> ListData:
    return Lists(topics=("Fruits", "Colors"), lists=2, items=3).data(runner)


def _recorded(runner: Runner, folder: Path, adjective: str, lists: dict[str, list[str]], **changes: Any) -> Path:
    """A file of lists, each given by what follows the prefilled hyphen; `$` is the end of turn, `#` eos."""
    marks = list_tokens(runner.tokenizer)
    topics, prompt = {}, list_prompt(runner.tokenizer, "Fruits", adjective)
    for topic, texts in lists.items():
        prompt = list_prompt(runner.tokenizer, topic, adjective)
        named = [t.replace("$", "<end_of_turn>").replace("#", "<eos>") for t in texts]
        topics[topic] = [[*prompt.tokens, *runner.tokenizer.encode(text, add_special_tokens=False)] for text in named]
    value = {
        "model": "list-tiny",
        "adjective": adjective or None,
        "adjective_index": prompt.adjective_index,
        "temperature": 0.7,
        "token_ids_of_interest": {name: getattr(marks, name) for name in marks.__dataclass_fields__},
        "model_header": prompt.tokens[prompt.header.start : prompt.header.stop],
        "topics": topics,
    }
    file = folder / f"{adjective or 'none'}_{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps(value | changes))
    return file


@pytest.fixture
def recorded(runner: Runner, tmp_path: Path) -> Path:
    short = {"Fruits": ["Apple\n-Pear", "Apple\n-Pear\n$\n#", "Kiwi$", "Fig\n$"], "Colors": ["Red\n-Blue \n$"]}
    _recorded(runner, tmp_path, "short", short)
    _recorded(runner, tmp_path, "", {"Fruits": ["Apple\n$"], "Colors": ["$", "Red\n-Blue\n-Green\n$"]})
    return tmp_path


def test_recorded_lists_that_ended_are_cut_at_their_end(runner: Runner, recorded: Path):
    data = Lists(recorded=(recorded,)).data(runner)
    assert data.source == "recorded"
    assert data.adjective == ["short"] * 3 + ["none"] * 2
    assert data.topic == ["Fruits", "Fruits", "Colors", "Fruits", "Colors"]
    texts = [runner.tokenizer.decode(row[prompt.hyphen :]) for row, prompt in zip(data.rows, data.prompts, strict=True)]
    assert texts == [
        "-Apple\n-Pear\n<end_of_turn>",
        "-Kiwi<end_of_turn>",
        "-Red\n-Blue \n<end_of_turn>",
        "-Apple\n<end_of_turn>",
        "-Red\n-Blue\n-Green\n<end_of_turn>",
    ]
    assert data.n_items.tolist() == [2, 1, 2, 1, 3]
    assert data.coords["topic"] == ("list", data.topic)


def test_positions_go_by_role_and_item(runner: Runner, recorded: Path):
    data = Lists(recorded=(recorded,)).data(runner)
    breaks, last = data.positions("line_break"), data.positions("item_last", "end")
    assert (breaks >= 0).sum(axis=1).tolist() == [2, 0, 2, 1, 3]
    assert (last >= 0).sum(axis=1).tolist() == [2, 1, 2, 1, 3]
    for i, row in enumerate(data.rows):
        assert set(row[breaks[i][breaks[i] >= 0]].tolist()) <= {data.marks.line_break}
    assert [runner.token_texts([int(row[p])])[0] for row, p in zip(data.rows, last[:, 0], strict=True)] == [
        "Pear",
        "Kiwi",
        "Blue",
        "Apple",
        "Green",
    ]
    # The filler stands between the last token and the line break.
    assert breaks[2, 1] - last[2, 0] == 2


def test_limits_and_choices(runner: Runner, recorded: Path):
    assert Lists(recorded=(recorded,), lists=1).data(runner).topic == ["Fruits", "Colors"] * 2
    assert Lists(recorded=(recorded,), topics=("Colors",)).data(runner).topic == ["Colors"] * 2
    assert len(Lists(recorded=(recorded,), temperature=0.7).data(runner).rows) == 5
    with pytest.raises(InputError, match=r"temperature must be one of the recorded lists' \(0.7\), not 0.5"):
        Lists(recorded=(recorded,), temperature=0.5).data(runner)
    with pytest.raises(InputError, match=r"no topic 'Fruit' among the 2 of the recorded lists. Did you mean Fruits"):
        Lists(recorded=(recorded,), topics=("Fruit",)).data(runner)


def test_one_topic_has_its_place_by_the_tokenizer(runner: Runner, tmp_path: Path):
    file = _recorded(runner, tmp_path, "short", {"Types of Trees": ["Oak\n$"]})
    prompt = Lists(recorded=(file,)).data(runner).prompts[0]
    assert prompt.topic_span == list_prompt(runner.tokenizer, "Types of Trees", "short").topic_span


def test_lists_of_another_tokenizer_are_refused(runner: Runner, tmp_path: Path):
    marks = list_tokens(runner.tokenizer)
    other = {name: getattr(marks, name) for name in marks.__dataclass_fields__} | {"blank": 999}
    file = _recorded(runner, tmp_path, "short", {"Fruits": ["Fig\n$"]}, token_ids_of_interest=other)
    with pytest.raises(InputError, match=r"the blank is 999 in those of list-tiny and \d+ for the model"):
        Lists(recorded=(file,)).data(runner)


def test_no_list_that_ended_is_an_error(runner: Runner, tmp_path: Path):
    file = _recorded(runner, tmp_path, "long", {"Fruits": ["Apple\n-Pear", "$"]})
    with pytest.raises(InputError, match="one list at least that ended after an item"):
        Lists(recorded=(file,)).data(runner)


def test_written_lists_have_the_items_of_their_topic(runner: Runner, written: ListData):
    assert written.source == "written"
    assert written.adjective == ["short"] * 4 + ["long"] * 4 + ["none"] * 4
    assert written.topic == ["Fruits", "Fruits", "Colors", "Colors"] * 3
    fruits = load_topics("study")["Fruits"]
    for number, row in enumerate(written.rows[:2]):
        text = runner.tokenizer.decode(row[written.prompts[number].hyphen :])
        items = fruits[3 * number : 3 * number + 3]
        assert text == "".join(f"-{item}\n" for item in items)[:-1] + " \n<end_of_turn>"
    assert (written.positions("filler", "end")[:, 0] >= 0).all()
    assert (written.positions("filler", "end")[:, 1:] == -1).all()


def test_a_short_topic_makes_fewer_lists(runner: Runner):
    topics = load_topics("study")
    size = len(topics["Ocean"])
    assert len(Lists(topics=("Ocean",), items=size + 5).data(runner).rows) == 3
    assert len(Lists(topics=("Ocean",), items=size - 1, lists=9).data(runner).rows) == 3


def test_the_swap_changes_the_adjective_and_nothing_else(runner: Runner, written: ListData):
    clean, swapped = written.select("short", "long"), written.swapped()
    assert clean.adjective == ["short"] * 4 + ["long"] * 4
    assert swapped.adjective == ["long"] * 4 + ["short"] * 4
    differs = clean.tokens != swapped.tokens
    assert differs.sum(dim=1).tolist() == [1] * 8
    for i, prompt in enumerate(clean.prompts):
        assert differs[i, prompt.adjective_index]
        assert swapped.prompts[i].tokens == list_prompt(runner.tokenizer, prompt.topic, swapped.adjective[i]).tokens
    assert swapped.swapped().tokens.equal(clean.tokens)


def test_the_other_adjective_is_known_from_files_alone(runner: Runner, recorded: Path):
    _recorded(runner, recorded, "long", {"Fruits": ["Fig\n-Apple\n$"], "Colors": ["Red\n$"]})
    lists, marks = read_lists([recorded], topics=(), temperature=None, at_most=9, tokenizer=None)
    swapped = list_data(lists, marks, source="recorded").swapped()
    texts = runner.token_texts([prompt.tokens[prompt.adjective_index or 0] for prompt in swapped.prompts])
    assert texts == [" long"] * 4 + [" short"] * 2


def test_an_unknown_adjective_cannot_be_swapped(written: ListData):
    known = dataclasses.replace(written, adjective_tokens={})
    with pytest.raises(InputError, match="To swap 'short' for 'long', the recorded lists must hold both"):
        known.swapped()
    with pytest.raises(InputError, match=r"adjective must be one that the lists have \(none\), not short or long"):
        written.select("none").swapped()


def test_items_that_are_no_lines_are_refused(runner: Runner):
    prompt = list_prompt(runner.tokenizer, "Fruits", "short")
    with pytest.raises(InputError, match="does not write the items of 'Fruits' as lines of their own"):
        written_list(runner.tokenizer, prompt, ["Apple\nPear"], list_tokens(runner.tokenizer))


def test_directions(runner: Runner):
    a, b = list_directions(list_tokens(runner.tokenizer))
    assert runner.token_texts([*a.answer, *a.wrong, *b.answer, *b.wrong]) == ["<end_of_turn>", "-", " ", "\n"]
    assert (a.role, b.role) == ("line_break", "item_last")
    own = text_direction(runner, ["\n"], ["-", " "], "item_last")
    assert (own.answer, own.wrong, own.name) == (b.wrong, (*a.wrong, *b.answer), r"'\n' - '-'/' '")
    with pytest.raises(InputError, match="answer must be made of single tokens; 'Buenos Aires' is"):
        text_direction(runner, ["Buenos Aires"], ["-"], "item_last")
    with pytest.raises(InputError, match="answer and wrong must be different tokens; both have"):
        text_direction(runner, ["-", "\n"], ["-"], "item_last")
    with pytest.raises(InputError, match="wrong must hold one token at least"):
        Direction(name="x", answer=(1,), wrong=(), role="item_last")
    with pytest.raises(InputError, match=r"role must be one of hyphen, .*, not 'topic'"):
        Direction(name="x", answer=(1,), wrong=(2,), role="topic")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lists": 0}, "lists must be at least 1, not 0"),
        ({"items": 0}, "items must be at least 1, not 0"),
        ({"temperature": 0.7}, "give them with recorded"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Lists(**changes)


def test_roles_fit_the_rows(written: ListData):
    assert [len(one.item_from_start) for one in written.roles] == written.lengths.tolist()
    assert np.all(written.lengths.numpy() <= written.tokens.shape[1])


def test_recorded_lists_of_the_study(shared: Path, runner: Runner):
    file = shared / "recorded" / "lists" / "gemma2_short.json"
    lists, marks = read_lists([file], topics=(), temperature=None, at_most=9, tokenizer=None)
    data = list_data(lists, marks, source="recorded")
    # SOURCES.md S1: 23 topics of 5 lists, 962 items, a filler on the last item of 107 lists.
    assert (len(data.rows), len(set(data.topic)), data.n_items.sum()) == (115, 23, 962)
    assert (data.positions("filler", "end")[:, 0] >= 0).sum() == 107
    with pytest.raises(InputError, match="the recorded lists must hold both, or the model have a tokenizer"):
        data.swapped()
    with pytest.raises(InputError, match="must be in the model's own tokens: the hyphen is 235290 in those of"):
        Lists(recorded=(file,)).data(runner)
