"""Lists read by hand, and the counts of the recorded study."""

import json
from pathlib import Path

import pytest

from mechlist.datasets.lists.parse import Item, ListTokens, parse_list, survival_time, until_end, well_formed
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


def test_special_tokens_must_differ():
    with pytest.raises(InputError, match="hyphen and blank must be different tokens; both are 1"):
        ListTokens(hyphen=1, line_break=2, end_of_turn=3, blank=1, bos=None, eos=3)


def test_tokens_that_end_a_list():
    assert TOKENS.ends == (END, EOS)
    same = ListTokens(hyphen=HYPHEN, line_break=BREAK, end_of_turn=END, blank=BLANK, bos=None, eos=END)
    assert same.ends == (END,)


LISTS = [
    [HYPHEN, A, BREAK, HYPHEN, B, C, BLANK, BREAK, END, EOS],
    [HYPHEN, A, BREAK, B, BREAK, HYPHEN, B],
    [HYPHEN, END, A],
    [HYPHEN],
    [],
]


@pytest.mark.parametrize("completion", LISTS)
def test_positions_are_those_of_the_whole_sequence(completion: list[int]):
    # What stands before the list is no part of it, an end of turn and a hyphen included.
    prompt = [5, HYPHEN, A, BREAK, END, 9]
    alone, whole = parse_list(completion, TOKENS), parse_list([*prompt, *completion], TOKENS, start=6)
    assert whole.ended == (None if alone.ended is None else alone.ended + 6)
    moved = [
        Item(
            item.hyphen + 6,
            range(item.content.start + 6, item.content.stop + 6),
            None if item.filler is None else item.filler + 6,
            None if item.line_break is None else item.line_break + 6,
        )
        for item in alone.items
    ]
    assert list(whole.items) == moved
    times = [survival_time(completion, alone, TOKENS), survival_time([*prompt, *completion], whole, TOKENS, start=6)]
    assert times[0] == times[1]
    assert until_end([*prompt, *completion], TOKENS, start=6) == [*prompt, *until_end(completion, TOKENS)]
    assert well_formed([*prompt, *completion], TOKENS, start=6) == well_formed(completion, TOKENS)


def test_items_whose_line_was_seen_to_its_end():
    assert [parse_list(completion, TOKENS).n_whole_items for completion in LISTS] == [2, 1, 0, 0, 0]
    assert parse_list([HYPHEN, A, EOS], TOKENS).n_whole_items == 1


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ([], -1),
        ([HYPHEN], -1),
        ([HYPHEN, A], 0),
        ([HYPHEN, BLANK], 0),
        ([HYPHEN, A, BREAK], 0),
        ([HYPHEN, A, BREAK, HYPHEN], 1),
        ([HYPHEN, A, BREAK, HYPHEN, B], 1),
        ([HYPHEN, A, BREAK, HYPHEN, B, BREAK], 1),
        ([HYPHEN, A, BREAK, B, B], 0),
        ([HYPHEN, A, BREAK, HYPHEN, B, BREAK, BREAK], 1),
        ([HYPHEN, A, BREAK, END], 1),
        ([HYPHEN, A, BREAK, HYPHEN, B, EOS], 2),
        ([HYPHEN, A, BREAK, END, HYPHEN, B], 1),
    ],
)
def test_when_a_list_is_censored(completion: list[int], expected: int):
    assert survival_time(completion, parse_list(completion, TOKENS), TOKENS) == expected


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
