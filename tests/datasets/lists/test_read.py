"""The one reader of recorded lists: which lists count, in which order, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.lists.read import read_lists, recorded_prompts
from mechlist.errors import InputError
from mechlist.runner import Runner
from tests.datasets.lists.recorded_for_tests import recorded_file
from tests.datasets.tokenizers_for_tests import gemma_like
from tests.experiments.lists_for_tests import write_recorded

END, A = 107, 501


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture
def recorded(runner: Runner, tmp_path: Path) -> Path:
    """Short lists and lists without adjective; some did not end, one has no item."""
    short = {"Fruits": ["Apple\n-Pear", "Apple\n-Pear\n$\n#", "Kiwi$", "Fig\n$"], "Colors": ["Red\n-Blue \n$"]}
    recorded_file(runner.tokenizer, tmp_path, "short", short)
    recorded_file(runner.tokenizer, tmp_path, "", {"Fruits": ["Apple\n$"], "Colors": ["$", "Red\n-Blue\n-Green\n$"]})
    return tmp_path


def texts(runner: Runner, lists: ListSet) -> list[str]:
    """What follows the prefilled hyphens."""
    rows = zip(lists.rows, lists.starts, strict=True)
    return [runner.tokenizer.decode(row[start + 1 :]).replace("<end_of_turn>", "$") for row, start in rows]


def test_limits_and_choices(runner: Runner, recorded: Path):
    read: Any = {"tokenizer": runner.tokenizer}
    assert read_lists([recorded], at_most=1, **read).ordered().topic == ("Fruits", "Colors") * 2
    assert read_lists([recorded], topics=["Colors"], **read).topic == ("Colors",) * 2
    assert len(read_lists([recorded], temperature=0.7, at_most=2, **read)) == 5
    assert read_lists([recorded], adjectives=["none", "long"], **read).adjective == ("none",) * 2
    with pytest.raises(InputError, match=r"temperature must be one of the recorded lists' \(0.7\), not 0.5"):
        read_lists([recorded], temperature=0.5, **read)
    with pytest.raises(InputError, match=r"no topic 'Fruit' among the 2 of the recorded lists. Did you mean Fruits"):
        read_lists([recorded], topics=["Fruit"], **read)
    with pytest.raises(InputError, match=r"adjectives must be among those .* \(short, none\), not long, good\.$"):
        read_lists([recorded], adjectives=["long", "good"], **read)


def test_lists_that_were_cut_off_are_kept_where_they_count(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    lists = read_lists([folder], keep_cut_off=True, tokenizer=runner.tokenizer).ordered()
    assert list(zip(lists.adjective, lists.topic, lists.n_items, lists.time, strict=True))[:4] == [
        ("short", "Fruits", 3, 3),
        ("short", "Fruits", 2, 2),
        ("short", "Ocean", 2, 2),
        ("short", "Ocean", 1, 0),
    ]
    assert lists.ended[:4].tolist() == [True, False, True, False]
    assert set(zip(lists.temperature, lists.top_p, strict=True)) == {(0.7, 0.8)}
    assert {(one.origin, one.model, one.max_new_tokens) for one in lists.provenance} == {("recorded", "list-tiny", 100)}
    assert len(read_lists([folder], keep_cut_off=True, at_most=1, tokenizer=runner.tokenizer)) == 4
    # Only those that ended count otherwise.
    assert len(read_lists([folder], tokenizer=runner.tokenizer)) == 4


def test_the_limit_may_be_for_each_temperature(runner: Runner, tmp_path: Path):
    for temperature, fruit in ((0.5, "Fig"), (1.0, "Kiwi"), (None, "Lime")):
        lists = {"Fruits": [f"{fruit}\n$", f"{fruit}\n$"], "Colors": ["Red\n$"]}
        recorded_file(runner.tokenizer, tmp_path, "short", lists, temperature=temperature)
    read: Any = {"tokenizer": runner.tokenizer, "topics": ["Fruits"], "at_most": 1}
    assert texts(runner, read_lists([tmp_path], **read)) == ["Fig\n$"]
    every = read_lists([tmp_path], per_temperature=True, **read)
    assert texts(runner, every) == ["Fig\n$", "Kiwi\n$", "Lime\n$"]
    assert [one.path.name for one in every.provenance if one.path] == ["short_0.json", "short_1.json", "short_2.json"]
    assert len(read_lists([tmp_path], temperature=1, tokenizer=runner.tokenizer)) == 3
    with pytest.raises(InputError, match=r"temperature must be one of .* \(0\.5, 1, unknown\), not 0\.7"):
        read_lists([tmp_path], temperature=0.7, tokenizer=runner.tokenizer)


@pytest.mark.parametrize("keep", [True, False])
def test_other_adjectives_stand_between_long_and_none(runner: Runner, tmp_path: Path, keep: bool):
    for adjective in ("", "other", "long", "short"):
        recorded_file(runner.tokenizer, tmp_path, adjective, {"Fruits": ["Fig\n$"], "Colors": ["Red\n$"]})
    lists = read_lists([tmp_path], keep_cut_off=keep, tokenizer=runner.tokenizer).ordered()
    assert lists.adjectives == ["short", "long", "other", "none"]
    assert lists.adjective == ("short", "short", "long", "long", "other", "other", "none", "none")
    # A swap is of short and long alone.
    assert lists.swappable == [0, 1, 2, 3]
    assert lists.swapped().adjective == ("long", "long", "short", "short")


def test_one_topic_has_its_place_by_the_tokenizer(runner: Runner, tmp_path: Path):
    file = recorded_file(runner.tokenizer, tmp_path, "short", {"Types of Trees": ["Oak\n$"]})
    prompt = read_lists([file], tokenizer=runner.tokenizer).prompts[0]
    assert prompt.topic_span == list_prompt(runner.tokenizer, "Types of Trees", "short").topic_span


def test_lists_of_another_tokenizer_are_refused(runner: Runner, tmp_path: Path):
    special = list_tokens(runner.tokenizer)
    other = {name: getattr(special, name) for name in special.__dataclass_fields__} | {"blank": 999}
    file = recorded_file(runner.tokenizer, tmp_path, "short", {"Fruits": ["Fig\n$"]}, token_ids_of_interest=other)
    with pytest.raises(InputError, match=r"the blank is 999 in those of list-tiny and \d+ for the model"):
        read_lists([file], tokenizer=runner.tokenizer)
    own = recorded_file(runner.tokenizer, tmp_path, "long", {"Fruits": ["Fig\n$"]})
    with pytest.raises(InputError, match="must be of one tokenizer: those of list-tiny have other special tokens"):
        read_lists([own, file])


def test_no_list_that_ended_is_an_error(runner: Runner, tmp_path: Path):
    file = recorded_file(runner.tokenizer, tmp_path, "long", {"Fruits": ["Apple\n-Pear", "$"]})
    with pytest.raises(InputError, match="one list at least that ended after an item"):
        read_lists([file], tokenizer=runner.tokenizer)
    assert len(read_lists([file], keep_cut_off=True, tokenizer=runner.tokenizer)) == 2


def test_a_topic_that_stands_at_another_temperature_only(runner: Runner, tmp_path: Path):
    recorded_file(runner.tokenizer, tmp_path, "long", {"Fruits": ["Apple\n-"]}, temperature=0.5)
    recorded_file(runner.tokenizer, tmp_path, "long", {"Colors": ["Red\n$"]}, temperature=1.0)
    read: Any = {"temperature": 0.5, "tokenizer": runner.tokenizer}
    with pytest.raises(InputError, match=r"^There is no topic 'Colors' among the 1 of the recorded lists\.$"):
        read_lists([tmp_path], topics=["Colors"], **read)
    words = (
        r"^recorded must hold one list at least of Fruits at temperature 0\.5 that ended after an item, and holds none"
    )
    with pytest.raises(InputError, match=words):
        read_lists([tmp_path], topics=["Fruits"], **read)


def test_lists_are_read_without_the_places_of_their_prompts(runner: Runner, tmp_path: Path):
    """Files of several tokenizers, of a single topic without tokenizer, and lists without the prefilled hyphen."""
    special = list_tokens(runner.tokenizer)
    ids = {name: getattr(special, name) for name in special.__dataclass_fields__}
    one = recorded_file(runner.tokenizer, tmp_path, "short", {"Fruits": ["Fig\n-Kiwi\n$", "Fig"]})
    headless = [8, 7, special.blank, special.end_of_turn, 9]
    other = recorded_file(
        runner.tokenizer,
        tmp_path,
        "",
        {},
        topics={"Teas": [[5, 8, 7, special.hyphen, 20], headless, [8, 7]]},
        model_header=[8, 7],
        model="other",
        token_ids_of_interest=ids | {"eos": 4000},
    )
    lists = read_lists([one, other], keep_cut_off=True, located=False)
    assert lists.prompts == ()
    assert lists.topic == ("Fruits", "Fruits", "Teas", "Teas", "Teas")
    assert lists.number == (1, 2, 1, 2, 3)
    assert [one.model for one in lists.provenance] == ["list-tiny"] * 2 + ["other"] * 3
    assert lists.n_items.tolist() == [2, 1, 1, 0, 0]
    assert lists.ended.tolist() == [True, False, False, True, False]
    assert lists.time.tolist() == [2, 0, 0, 0, -1]
    assert (lists.rows[3].tolist(), lists.starts[3]) == (headless[:-1], 2)
    assert len(lists.of([4, 0]).parsed) == 2
    with pytest.raises(InputError, match="of one tokenizer"):
        read_lists([one, other], keep_cut_off=True)


# Prompts from token ids alone.


def prompt(adjective="short", topic="Animals"):
    return list_prompt(gemma_like(), topic, adjective)


def prompts_from(sequences, **known):
    return recorded_prompts(
        sequences, adjective="short", adjective_index=8, header=(106, 2516, 108), hyphen=235290, **known
    )


def test_recorded_prompts_are_those_the_tokenizer_writes(shared: Path):
    file = shared / "recorded" / "lists" / "gemma2_short.json"
    if not file.is_file():
        pytest.skip("the recorded lists are not at hand")
    lists = read_lists([file], keep_cut_off=True)
    known = dict(zip(lists.topic, lists.prompts, strict=True))
    assert len(known) == 23
    for topic in ("Animals", "Countries", "City Names"):
        assert known[topic] == prompt(topic=topic)
    assert {known[topic].topic_span for topic in ("Types of Trees", "Types of Flowers")} == {range(11, 14)}


def test_recorded_lists_of_one_topic_need_to_know_its_place():
    sequences = {"Animals": [prompt().with_completion((A, END)), prompt().tokens], "Empty": []}
    with pytest.raises(InputError, match="must be of two topics at least"):
        prompts_from(sequences)
    assert prompts_from(sequences, before=11, after=19) == {"Animals": prompt()}


def test_malformed_recordings_are_refused():
    good = prompt().tokens
    headless = {"Animals": [good, good[:20]]}
    with pytest.raises(InputError, match="list 1 of 'Animals' has no model header"):
        prompts_from(headless)
    for tail in ((), (A,)):
        with pytest.raises(InputError, match="list 0 of 'Animals' has no hyphen after the model header"):
            prompts_from({"Animals": [(*good[:-1], *tail)]})
    with pytest.raises(InputError, match="must have one prompt; list 1 of 'Animals' has another than list 0"):
        prompts_from({"Animals": [good, prompt(topic="Countries").tokens]})
    with pytest.raises(InputError, match="prompts must hold one prompt at least, not none"):
        prompts_from({"Animals": []})
