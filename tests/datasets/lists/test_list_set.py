"""Lists with what is known of each: columns, positions by role and item, conditions, and the swap of the adjective."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.conditions import conditions, membership
from mechlist.datasets.lists.list_set import ListSet, Provenance, list_set
from mechlist.datasets.lists.made import well_known_lists
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.lists.read import read_lists
from mechlist.errors import InputError
from mechlist.runner import Runner
from tests.datasets.lists.recorded_for_tests import recorded_file
from tests.datasets.tokenizers_for_tests import gemma_like

SPECIAL = ListTokens(hyphen=235290, line_break=108, end_of_turn=107, blank=235248, bos=2, eos=1)
HYPHEN, BREAK, BLANK, END = 235290, 108, 235248, 107
A, B, C = 501, 502, 503


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def made(runner: Runner) -> ListSet:
    return well_known_lists(runner.tokenizer, ("Fruits", "Colors"), at_most=2, items=3)


@pytest.fixture
def recorded(runner: Runner, tmp_path: Path) -> Path:
    short = {"Fruits": ["Apple\n-Pear", "Apple\n-Pear\n$\n#", "Kiwi$", "Fig\n$"], "Colors": ["Red\n-Blue \n$"]}
    recorded_file(runner.tokenizer, tmp_path, "short", short)
    recorded_file(runner.tokenizer, tmp_path, "", {"Fruits": ["Apple\n$"], "Colors": ["$", "Red\n-Blue\n-Green\n$"]})
    return tmp_path


def lists_of(*completions: tuple[int, ...], adjective: str = "short", **changes: Any) -> ListSet:
    """Lists about animals, by what follows the prefilled hyphen, which stands at 30."""
    prompt = list_prompt(gemma_like(), "Animals", adjective)
    provenance = Provenance(origin="made", special=SPECIAL, **changes)
    return list_set([prompt] * len(completions), completions, provenance)


FOUR = (
    (A, B, C, BREAK, HYPHEN, A, BLANK, BREAK, HYPHEN, B, END, A),  # ended in the third item
    (A, BREAK, HYPHEN, B, BREAK, B, BREAK, HYPHEN),  # cut off behind a hyphen
    (A, BREAK, HYPHEN, B, C),  # cut off in the second item
    (END,),  # no item
)


def test_columns_say_what_lists_hold():
    lists = lists_of(*FOUR)
    assert len(lists) == 4
    assert lists.n_items.tolist() == [3, 2, 2, 0]
    assert lists.n_filler.tolist() == [1, 0, 0, 0]
    assert lists.ended.tolist() == [True, False, False, True]
    assert lists.time.tolist() == [3, 2, 1, 0]
    assert lists.number == (1, 2, 3, 4)
    # What stands behind the end is cut; what comes after the last token kept belongs to the list where it did not end.
    assert lists.lengths.tolist() == [42, 39, 36, 32]
    assert lists.stops.tolist() == [41, 39, 36, 31]
    assert lists.tokens.shape == (4, 42)
    assert lists.tokens[3, 32:].tolist() == [0] * 10
    assert lists.whole.tolist() == [[True] * 3, [True, True, False], [True, False, False], [False] * 3]
    np.testing.assert_array_equal(lists.fillers[:3], [[0, 1, np.nan], [0, 0, np.nan], [0, np.nan, np.nan]])
    assert lists.item_tokens.tolist() == [[3, 1, 1], [1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert (lists.origin, lists.special) == ("made", SPECIAL)
    assert lists.coords("n_items") == {
        "topic": ("list", ["Animals"] * 4),
        "adjective": ("list", ["short"] * 4),
        "n_items": ("list", [3, 2, 2, 0]),
    }


def test_items_have_positions_of_the_whole_sequence():
    lists = lists_of(*FOUR)
    first = lists.parsed[0]
    assert (first.items[1].hyphen, first.items[1].content, first.items[1].filler) == (35, range(36, 37), 37)
    assert first.ended == 41
    for row, one in zip(lists.rows, lists.parsed, strict=True):
        assert all(row[item.hyphen] == HYPHEN for item in one.items)
        assert one.ended is None or row[one.ended] == END


def test_values_by_item_stop_where_a_line_was_cut_off():
    lists = lists_of(*FOUR)
    values = np.arange(4 * 42, dtype=float).reshape(4, 42)
    breaks, last = (lists.by_item(values, role) for role in ("line_break", "item_last"))
    np.testing.assert_array_equal(breaks[0], [values[0, 34], values[0, 38], np.nan])
    np.testing.assert_array_equal(last[0], [values[0, 33], values[0, 36], values[0, 40]])
    # The second item of the third list might have gone on.
    np.testing.assert_array_equal(last[2], [values[2, 31], np.nan, np.nan])
    assert lists.positions("item_last")[2].tolist() == [31, 35, -1]
    assert np.isnan(last[3]).all()
    cells = lists.by_item(np.stack([values, -values], axis=2), "line_break")
    np.testing.assert_array_equal(cells[..., 1], -breaks)
    # An axis of items has one place at least.
    none = lists.of([3])
    assert (none.width, none.by_item(values[3:], "line_break").shape) == (1, (1, 1))


def test_chosen_lists_keep_their_columns():
    lists = lists_of(*FOUR)
    chosen = lists.of([2, 0])
    assert [row.tolist() for row in chosen.rows] == [lists.rows[2].tolist(), lists.rows[0].tolist()]
    assert (chosen.number, chosen.n_items.tolist(), chosen.width) == ((3, 1), [2, 3], 3)
    assert chosen.roles[1].n_items == 3
    assert len(lists.of(np.array([], dtype=int))) == 0
    assert lists.most_items() == {lists.prompts[0].tokens: 3}
    assert lists.each_prompt == [lists.prompts[0]]


def test_lists_of_several_tokenizers_have_no_special_tokens_together():
    one, other = lists_of((A,)), lists_of((A,))
    foreign = dataclasses.replace(other.provenance[0], special=dataclasses.replace(SPECIAL, eos=9), model="m")
    both = dataclasses.replace(one.of([0, 0]), provenance=(one.provenance[0], foreign))
    with pytest.raises(InputError, match="must be of one tokenizer: those of m have other special tokens"):
        _ = both.special


def test_conditions_are_adjectives_with_temperatures():
    nan = float("nan")
    words = ["none", "long", "good", "short", "long", "short", "long"]
    found = conditions(words, np.array([nan, 0.7, nan, 1.0, nan, 0.5, nan]))
    assert [(one.adjective, one.rows.tolist()) for one in found] == [
        ("short", [5]),
        ("short", [3]),
        ("long", [1]),
        ("long", [4, 6]),
        ("good", [2]),
        ("none", [0]),
    ]
    np.testing.assert_array_equal([one.temperature for one in found], [0.5, 1.0, 0.7, nan, nan, nan])
    member = membership([one.rows for one in found], 7)
    assert member.sum(axis=1).tolist() == [1] * 7
    assert member[:, 3].tolist() == [False, False, False, False, True, False, True]
    lists = lists_of(*FOUR[:2], temperature=0.5, top_p=0.8)
    assert [(one.adjective, one.temperature, one.rows.tolist()) for one in lists.by_condition()] == [
        ("short", 0.5, [0, 1])
    ]
    assert lists.top_p.tolist() == [0.8, 0.8]


def test_recorded_lists_that_ended_are_cut_at_their_end(runner: Runner, recorded: Path):
    lists = read_lists([recorded], tokenizer=runner.tokenizer).ordered()
    assert lists.origin == "recorded"
    assert lists.adjective == ("short",) * 4 + ("none",) * 2
    assert lists.topic == ("Fruits", "Fruits", "Fruits", "Colors", "Fruits", "Colors")
    texts = [runner.tokenizer.decode(row[start:]) for row, start in zip(lists.rows, lists.starts, strict=True)]
    assert texts == [
        "-Apple\n-Pear\n<end_of_turn>",
        "-Kiwi<end_of_turn>",
        "-Fig\n<end_of_turn>",
        "-Red\n-Blue \n<end_of_turn>",
        "-Apple\n<end_of_turn>",
        "-Red\n-Blue\n-Green\n<end_of_turn>",
    ]
    assert lists.n_items.tolist() == [2, 1, 1, 2, 1, 3]
    assert lists.coords("n_items")["topic"] == ("list", list(lists.topic))


def test_positions_go_by_role_and_item(runner: Runner, recorded: Path):
    lists = read_lists([recorded], at_most=2, tokenizer=runner.tokenizer).ordered()
    breaks, last = lists.positions("line_break"), lists.positions("item_last", "end")
    assert (breaks >= 0).sum(axis=1).tolist() == [2, 0, 2, 1, 3]
    assert (last >= 0).sum(axis=1).tolist() == [2, 1, 2, 1, 3]
    for i, row in enumerate(lists.rows):
        assert set(row[breaks[i][breaks[i] >= 0]].tolist()) <= {lists.special.line_break}
    assert [runner.token_texts([int(row[p])])[0] for row, p in zip(lists.rows, last[:, 0], strict=True)] == [
        "Pear",
        "Kiwi",
        "Blue",
        "Apple",
        "Green",
    ]
    # The filler stands between the last token and the line break.
    assert breaks[2, 1] - last[2, 0] == 2


def test_the_swap_changes_the_adjective_and_nothing_else(runner: Runner, made: ListSet):
    clean, swapped = made.select("short", "long"), made.swapped()
    assert clean.adjective == ("short",) * 4 + ("long",) * 4
    assert swapped.adjective == ("long",) * 4 + ("short",) * 4
    assert made.swappable == list(range(8))
    differs = clean.tokens != swapped.tokens
    assert differs.sum(dim=1).tolist() == [1] * 8
    for i, prompt in enumerate(clean.prompts):
        assert differs[i, prompt.adjective_index]
        assert swapped.prompts[i].tokens == list_prompt(runner.tokenizer, prompt.topic, swapped.adjective[i]).tokens
    assert swapped.swapped().tokens.equal(clean.tokens)
    for one, other in zip(clean.roles, swapped.roles, strict=True):
        np.testing.assert_array_equal(one.masks, other.masks)


def test_lists_stand_behind_other_prompts(made: ListSet):
    # A prompt of another length moves every position of the list.
    plain = made.select("none")
    moved = made.select("short").with_prompts(plain.prompts)
    assert moved.adjective == ("none",) * 4
    assert [row.tolist() for row in moved.rows] == [row.tolist() for row in plain.rows]
    assert moved.parsed == plain.parsed


def test_a_pair_keeps_its_list_and_differs_in_the_adjective():
    # The second item has the token of " long" in it.
    completion = (3922, BLANK, BREAK, HYPHEN, 1497, BREAK, END, 1)
    prompts = [list_prompt(gemma_like(), topic, "short") for topic in ("Animals", "Animals", "City Names")]
    ids = {"short": 3309, "long": 1497}
    lists = list_set(prompts, [completion] * 3, Provenance(origin="made", special=SPECIAL), adjective_tokens=ids)
    swapped = lists.swapped()
    assert lists.topic == swapped.topic == ("Animals", "Animals", "City Names")
    for own, other, prompt in zip(lists.rows, swapped.rows, prompts, strict=True):
        assert own.tolist() == [*prompt.tokens, *completion[:-1]]
        assert other.tolist() == [*list_prompt(gemma_like(), prompt.topic, "long").tokens, *completion[:-1]]
        assert (own != other).nonzero()[:, 0].tolist() == [8]


def test_the_other_adjective_is_known_from_files_alone(runner: Runner, recorded: Path):
    lists = {"Fruits": ["Fig\n-Apple\n$"], "Colors": ["Red\n$"]}
    recorded_file(runner.tokenizer, recorded, "long", lists)
    swapped = read_lists([recorded], at_most=2).ordered().swapped()
    texts = runner.token_texts([prompt.tokens[prompt.adjective_index or 0] for prompt in swapped.prompts])
    assert texts == [" long"] * 3 + [" short"] * 2


def test_an_unknown_adjective_cannot_be_swapped(made: ListSet):
    known = dataclasses.replace(made, adjective_tokens={})
    with pytest.raises(InputError, match="To swap 'short' for 'long', the recorded lists must hold both"):
        known.swapped()
    with pytest.raises(InputError, match=r"adjective must be one that the lists have \(none\), not short or long"):
        made.select("none").swapped()


def test_roles_fit_the_rows(made: ListSet):
    assert [len(one.item_from_start) for one in made.roles] == made.lengths.tolist()
    assert np.all(made.lengths.numpy() <= made.tokens.shape[1])


def test_recorded_lists_of_the_study(shared: Path, runner: Runner):
    file = shared / "recorded" / "lists" / "gemma2_short.json"
    lists = read_lists([file], at_most=9)
    # The study's: 23 topics of 5 lists, 962 items, a filler on the last item of 107 lists.
    assert (len(lists), len(set(lists.topic)), lists.n_items.sum()) == (115, 23, 962)
    assert (lists.positions("filler", "end")[:, 0] >= 0).sum() == 107
    with pytest.raises(InputError, match="the recorded lists must hold both, or the model have a tokenizer"):
        lists.swapped()
    with pytest.raises(InputError, match="must be in the model's own tokens: the hyphen is 235290 in those of"):
        read_lists([file], tokenizer=runner.tokenizer)
    assert list_tokens(runner.tokenizer) != lists.special
    assert torch.equal(lists.tokens[0, : lists.lengths[0]], lists.rows[0])
