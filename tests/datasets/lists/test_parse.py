"""Lists read by hand, and the counts of the recorded study."""

import json
from pathlib import Path

import pytest

from mechlist.datasets.lists.parse import Item, ListTokens, parse_list
from mechlist.errors import InputError

HYPHEN, BREAK, END, BLANK, EOS = 1, 2, 3, 4, 6
TOKENS = ListTokens(hyphen=HYPHEN, line_break=BREAK, end_of_turn=END, blank=BLANK, bos=5, eos=EOS)
A, B, C = 20, 21, 22


def items(*completion: int) -> list[Item]:
    return list(parse_list(completion, TOKENS).items)


def test_a_list_of_three_with_a_filler_on_the_last():
    parsed = parse_list([HYPHEN, A, BREAK, HYPHEN, B, C, BREAK, HYPHEN, A, BLANK, BREAK, END, EOS], TOKENS)
    assert parsed.items == (
        Item(0, range(1, 2), None, 2),
        Item(3, range(4, 6), None, 6),
        Item(7, range(8, 9), 9, 10),
    )
    assert parsed.ended == 11
    assert (parsed.n_filler, parsed.filler_on_last, parsed.n_single_token_items) == (1, True, 2)


def test_a_hyphen_inside_a_line_belongs_to_the_item():
    assert items(HYPHEN, A, HYPHEN, B, BREAK) == [Item(0, range(1, 4), None, 4)]


def test_a_line_without_hyphen_is_no_item():
    assert items(HYPHEN, A, BREAK, B, C, BREAK, BREAK, HYPHEN, B, BREAK) == [
        Item(0, range(1, 2), None, 2),
        Item(7, range(8, 9), None, 9),
    ]
    assert items(A, B, BREAK) == []


def test_blanks_alone_are_no_item():
    assert items(HYPHEN, BLANK, BREAK, HYPHEN, BLANK, BLANK, BREAK, HYPHEN, BREAK, HYPHEN) == []


def test_only_the_blank_right_before_the_line_break_is_a_filler():
    assert items(HYPHEN, BLANK, A, BREAK) == [Item(0, range(1, 3), None, 3)]
    assert items(HYPHEN, A, BLANK, BLANK, BREAK) == [Item(0, range(1, 3), 3, 4)]


@pytest.mark.parametrize("rest", [(), (END,), (EOS,)])
def test_a_line_that_is_cut_off_is_an_item_without_filler(rest: tuple[int, ...]):
    assert items(HYPHEN, A, B, *rest) == [Item(0, range(1, 3), None, None)]
    assert items(HYPHEN, A, BLANK, *rest)[0].filler is None
    assert (parse_list([HYPHEN, A, *rest], TOKENS).ended is None) == (rest == ())


def test_nothing_is_read_after_the_end():
    parsed = parse_list([HYPHEN, A, BREAK, END, BREAK, HYPHEN, B, BREAK], TOKENS)
    assert len(parsed.items) == 1
    assert parsed.ended == 3


def test_an_empty_completion_is_an_empty_list_that_did_not_end():
    parsed = parse_list([], TOKENS)
    assert parsed.items == ()
    assert parsed.ended is None
    assert not parsed.filler_on_last


def test_a_model_without_eos_ends_at_the_end_of_turn_only():
    tokens = ListTokens(hyphen=HYPHEN, line_break=BREAK, end_of_turn=END, blank=BLANK, bos=None, eos=None)
    assert parse_list([HYPHEN, A, EOS, BREAK, END], tokens).ended == 4


def test_marks_must_differ():
    with pytest.raises(InputError, match="hyphen and blank must be different tokens; both are 1"):
        ListTokens(hyphen=1, line_break=2, end_of_turn=3, blank=1, bos=None, eos=3)


def test_the_recorded_lists_have_the_study_s_counts(shared: Path):
    recorded = json.loads((shared / "recorded" / "lists" / "gemma2_short.json").read_text())
    tokens = ListTokens(**recorded["token_ids_of_interest"])
    header = recorded["model_header"]
    lists = []
    for ids in (ids for topic in recorded["topics"].values() for ids in topic):
        start = next(i for i in range(len(ids)) if ids[i : i + len(header)] == header) + len(header)
        lists.append(parse_list(ids[start:], tokens))
    assert len(lists) == 115
    assert sum(len(parsed.items) for parsed in lists) == 962
    assert sum(parsed.n_single_token_items for parsed in lists) == 593
    assert all(parsed.ended is not None for parsed in lists)
    assert sum(parsed.n_filler > 0 for parsed in lists) == 115
    assert sum(parsed.filler_on_last for parsed in lists) == 107
    assert sum(parsed.filler_on_last and parsed.n_filler == 1 for parsed in lists) == 39
