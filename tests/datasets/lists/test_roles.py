import numpy as np
import pytest

from mechlist.datasets.lists.parse import ListTokens, parse_list
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.lists.read import read_lists
from mechlist.datasets.lists.roles import ROLES, gather, list_roles, positions
from mechlist.errors import InputError
from tests.datasets.tokenizers_for_tests import gemma_like

SPECIAL = ListTokens(hyphen=235290, line_break=108, end_of_turn=107, blank=235248, bos=2, eos=1)
HYPHEN, BREAK, BLANK, END, EOS = 235290, 108, 235248, 107, 1
A, B, C = 501, 502, 503


@pytest.fixture
def recorded(shared):
    file = shared / "recorded" / "lists" / "gemma2_short.json"
    if not file.is_file():
        pytest.skip("the recorded lists are not at hand")
    return read_lists([file], keep_cut_off=True)


def prompt(adjective="short", topic="Animals"):
    return list_prompt(gemma_like(), topic, adjective)


def roles_of(*completion, adjective="short", length=None):
    return list_roles(prompt(adjective), completion, SPECIAL, length=length)


def names(roles):
    """Roles of each position, joined."""
    return ["+".join(np.array(ROLES)[column]) for column in roles.masks.T]


def test_every_token_of_a_list_has_its_role():
    roles = roles_of(A, B, C, BREAK, HYPHEN, A, BLANK, BREAK, HYPHEN, A, B, BREAK, END, EOS, length=48)
    prompt_names = ["bos", *["prompt"] * 7, "adjective", "prompt", "prompt", "topic", *["prompt"] * 15]
    assert names(roles)[:30] == [*prompt_names, "header", "header", "header"]
    assert names(roles)[30:] == [
        *("hyphen", "item_first", "item_inner", "item_last", "line_break"),
        *("hyphen", "item_first+item_last", "filler", "line_break"),
        *("hyphen", "item_first", "item_last", "line_break"),
        *("end_of_turn", "after", "after", "after", "after"),
    ]
    assert list(roles.item_from_start) == [-1] * 30 + [0] * 5 + [1] * 4 + [2] * 4 + [-1] * 5
    assert list(roles.item_from_end) == [-1] * 30 + [2] * 5 + [1] * 4 + [0] * 4 + [-1] * 5
    assert (roles.n_items, roles.ended) == (3, True)


@pytest.mark.parametrize(
    ("completion", "expected", "n_items"),
    [
        ((), ["hyphen"], 0),
        ((END,), ["hyphen", "end_of_turn"], 0),
        ((EOS, A), ["hyphen", "end_of_turn", "after"], 0),
        ((BREAK, HYPHEN, A), ["hyphen", "line_break", "hyphen", "item_first+item_last"], 1),
        ((A, HYPHEN, B), ["hyphen", "item_first", "item_inner", "item_last"], 1),
        ((A, BLANK), ["hyphen", "item_first", "item_last"], 1),
        ((BLANK, BREAK, A, BREAK), ["hyphen", "other", "line_break", "other", "line_break"], 0),
        ((A, BREAK, BREAK, B, END), ["hyphen", "item_first+item_last", *["line_break"] * 2, "other", "end_of_turn"], 1),
    ],
)
def test_lists_cut_off_and_lines_that_are_no_items(completion, expected, n_items):
    roles = roles_of(*completion)
    assert names(roles)[30:] == expected
    assert roles.n_items == n_items == roles.item_from_start.max() + 1


def test_only_an_item_has_a_number():
    roles = roles_of(BREAK, HYPHEN, A, BREAK, B, BREAK, HYPHEN, C)
    assert list(roles.item_from_start[30:]) == [-1, -1, 0, 0, 0, -1, -1, 1, 1]


def test_random_completions_agree_with_the_parser():
    generator = np.random.default_rng(0)
    for _ in range(300):
        completion = generator.choice([HYPHEN, BREAK, BREAK, BLANK, A, A, B, END], size=20, p=[0.2, *[0.12] * 6, 0.08])
        roles = roles_of(*completion.tolist())
        parsed = parse_list([HYPHEN, *completion.tolist()], SPECIAL)
        assert roles.n_items == len(parsed.items)
        doubled = (roles.masks[ROLES.index("item_first")] & roles.masks[ROLES.index("item_last")]).astype(int)
        assert (roles.masks.sum(axis=0) == 1 + doubled).all()
        assert doubled.sum() == parsed.n_single_token_items
        assert roles.where("filler").size == parsed.n_filler
        for number, item in enumerate(parsed.items):
            expected = {"item_first": item.content[0], "item_last": item.content[-1], "hyphen": item.hyphen}
            expected |= {"filler": item.filler, "line_break": item.line_break}
            for role, place in expected.items():
                at = positions([roles], role, item_from_start=number)[0]
                assert at == (-1 if place is None else 30 + place)
                assert at == positions([roles], role, item_from_end=len(parsed.items) - 1 - number)[0]


def test_a_prompt_without_adjective_has_no_such_position():
    roles = roles_of(A, END, adjective="")
    assert positions([roles, roles_of(A)], "adjective").tolist() == [-1, 8]


def test_positions_and_values_where_a_list_has_no_such_item():
    many = [roles_of(A, BREAK, HYPHEN, B, C, BLANK, BREAK, END), roles_of(A, BREAK, END), roles_of()]
    assert positions(many, "item_last", item_from_end=0).tolist() == [35, 31, -1]
    assert positions(many, "item_last", item_from_start=1).tolist() == [35, -1, -1]
    assert positions(many, "item_first", item_from_start=0, item_from_end=0).tolist() == [-1, 31, -1]
    assert positions(many, "filler", item_from_end=0).tolist() == [36, -1, -1]
    assert positions(many, "line_break", item_from_start=0).tolist() == [32, 32, -1]
    assert positions([], "filler").tolist() == []
    values = np.arange(3 * 39 * 2, dtype=np.float32).reshape(3, 39, 2)
    found = gather(values, many, "item_last", item_from_end=0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [values[0, 35], values[1, 31], [np.nan, np.nan]])


def test_all_hyphens_of_a_list():
    roles = roles_of(A, HYPHEN, B, BREAK, HYPHEN, C)
    assert roles.where("hyphen").tolist() == [30, 35]
    assert roles.where("hyphen", item_from_end=0).tolist() == [35]
    assert roles.mask("hyphen").sum() == 2


def test_the_arrays_cannot_be_changed():
    roles = roles_of(A)
    for array in (roles.masks, roles.item_from_start, roles.item_from_end):
        with pytest.raises(ValueError, match="read-only"):
            array[..., 0] = 0
    roles.mask("bos")[0] = False
    assert roles.mask("bos")[0]


def test_errors_say_what_is_allowed():
    roles = roles_of(A, BREAK, HYPHEN, B)
    with pytest.raises(InputError, match=r"role must be one of bos, adjective, .*, after, not 'item'"):
        roles.where("item")
    with pytest.raises(InputError, match="item_from_end must be 0 or more, not -1"):
        roles.where("hyphen", item_from_end=-1)
    with pytest.raises(InputError, match="'hyphen' stands at 2 of list 1: choose an item"):
        positions([roles_of(A), roles], "hyphen")
    with pytest.raises(InputError, match="length must be at least the 32 tokens of prompt and completion, not 31"):
        roles_of(A, length=31)
    with pytest.raises(InputError, match="values must hold the 1 lists that roles describe, not 2"):
        gather(np.zeros((2, 40)), [roles], "adjective")
    with pytest.raises(InputError, match="values must reach to position 34, and have 34 positions"):
        gather(np.zeros((1, 34)), [roles], "item_last", item_from_end=0)
    with pytest.raises(InputError, match="prompt must end with the hyphen 7, not 235290"):
        list_roles(
            prompt(), [], ListTokens(hyphen=7, line_break=108, end_of_turn=107, blank=235248, bos=None, eos=None)
        )


def test_the_first_recorded_list_of_vegetables(recorded):
    roles = recorded.roles[recorded.topic.index("Vegetables")]
    assert roles.where("end_of_turn").tolist() == [46]
    for role, place in {"line_break": 45, "filler": 44, "item_last": 43}.items():
        assert positions([roles], role, item_from_end=0).tolist() == [place]
    assert roles.where("adjective").tolist() == [8]
    assert roles.where("bos").tolist() == [0]
    assert roles.where("topic").tolist() == [11]
    assert roles.where("header").tolist() == [27, 28, 29]
    assert roles.where("hyphen")[0] == 30
    assert names(roles)[47:] == []


def test_the_studys_positions_on_all_recorded_lists(recorded):
    many = recorded.roles
    assert sum(roles.n_items for roles in many) == 962
    last, line_break = (positions(many, role, item_from_end=0) for role in ("item_last", "line_break"))
    filled = positions(many, "filler", item_from_end=0) >= 0
    assert filled.sum() == 107
    broken = line_break >= 0
    assert broken.sum() == 111
    np.testing.assert_array_equal(last[broken], (line_break - np.where(filled, 2, 1))[broken])
    for row, item, at in zip(recorded.rows, last, line_break, strict=True):
        assert row[at : at + 2].tolist() == [108, 107] if at >= 0 else row[item + 1] == 107
    single = [roles.masks[ROLES.index("item_first")] & roles.masks[ROLES.index("item_last")] for roles in many]
    assert sum(mask.sum() for mask in single) == 593
