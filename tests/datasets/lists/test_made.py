"""Lists of given items, and the example of a completion that planning takes."""

import pytest

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.made import example_completion, made_completion, made_lists, well_known_lists
from mechlist.datasets.lists.parse import parse_list
from mechlist.datasets.lists.prompts import list_prompt, list_prompts
from mechlist.datasets.topics import load_topics
from mechlist.errors import InputError
from mechlist.runner import Runner


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def made(runner: Runner) -> ListSet:
    return well_known_lists(runner.tokenizer, ("Fruits", "Colors"), at_most=2, items=3)


def test_lists_have_the_items_of_their_topic(runner: Runner, made: ListSet):
    assert made.origin == "made"
    assert made.adjective == ("short",) * 4 + ("long",) * 4 + ("none",) * 4
    assert made.topic == ("Fruits", "Fruits", "Colors", "Colors") * 3
    fruits = load_topics("study")["Fruits"]
    for number, row in enumerate(made.rows[:2]):
        text = runner.tokenizer.decode(row[made.starts[number] :])
        items = fruits[3 * number : 3 * number + 3]
        assert text == "".join(f"-{item}\n" for item in items)[:-1] + " \n<end_of_turn>"
    assert (made.positions("filler", "end")[:, 0] >= 0).all()
    assert (made.positions("filler", "end")[:, 1:] == -1).all()


def test_a_short_topic_makes_fewer_lists(runner: Runner):
    size = len(load_topics("study")["Ocean"])
    assert len(well_known_lists(runner.tokenizer, ("Ocean",), at_most=2, items=size + 5)) == 3
    assert len(well_known_lists(runner.tokenizer, ("Ocean",), at_most=9, items=size - 1)) == 3


def test_each_prompt_gets_its_items(runner: Runner):
    prompts = list_prompts(runner.tokenizer, ["Fruits", "Colors"], ["long"])
    lists = made_lists(runner.tokenizer, prompts, [["Apple", "Fig"], ["Red"]], filler=False)
    texts = [runner.tokenizer.decode(row[start:]) for row, start in zip(lists.rows, lists.starts, strict=True)]
    assert texts == ["-Apple\n-Fig\n<end_of_turn>", "-Red\n<end_of_turn>"]
    assert lists.swapped().prompts[0] == list_prompt(runner.tokenizer, "Fruits", "short")


def test_items_that_are_no_lines_are_refused(runner: Runner):
    prompt = list_prompt(runner.tokenizer, "Fruits", "short")
    with pytest.raises(InputError, match="does not write the items of 'Fruits' as lines of their own"):
        made_completion(runner.tokenizer, prompt, ["Apple\nPear"], list_tokens(runner.tokenizer))


@pytest.mark.parametrize("limit", [5, 30, 31, 32, 100])
def test_the_example_ends_just_before_the_limit(runner: Runner, limit: int):
    special = list_tokens(runner.tokenizer)
    tokens = example_completion(runner.tokenizer, limit)
    parsed = parse_list((special.hyphen, *tokens), special)
    assert parsed.ended == len(tokens) <= limit
    assert len(tokens) > limit - 8
    assert parsed.filler_on_last
