from typing import Any

import numpy as np
import pytest

from mechlist.datasets.lists.parse import ListTokens, parse_list
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.lists.read import read_lists
from mechlist.datasets.lists.role_positions import named_roles, role_positions
from mechlist.datasets.lists.roles import list_roles
from mechlist.errors import InputError
from tests.datasets.tokenizers_for_tests import gemma_like

SPECIAL = ListTokens(hyphen=235290, line_break=108, end_of_turn=107, blank=235248, bos=2, eos=1)
HYPHEN, BREAK, BLANK, END, EOS = 235290, 108, 235248, 107, 1
A, B, C, D = 501, 502, 503, 504
TOKENIZER = gemma_like()
PROMPTS = {adjective: list_prompt(TOKENIZER, "Animals", adjective) for adjective in ("short", "")}
START = {"short": 30, "": 29}
"""Index of the prefilled hyphen."""
PROMPT_NAMES = ["bos", "prompt", "adjective", "topic", "header"]
REST = ["hyphen outside items", "text outside items", "line break outside items", "end of turn"]

LONG = (A, B, C, D, BREAK, HYPHEN, A, BLANK, BREAK, HYPHEN, A, B, BREAK, END, EOS)
"""Items of 4, 1 and 2 tokens, the second with a filler; then two tokens of which the last is after the end."""
SHORT = (A, BREAK, END)


def roles_of(*completion, adjective="short", length=None):
    return list_roles(PROMPTS[adjective], completion, SPECIAL, length=length)


def random_lists(number):
    """Lists of all kinds, well-formed or not, with and without adjective, padding and end."""
    generator = np.random.default_rng(0)
    pieces = ((HYPHEN,), (BREAK,), (BREAK, HYPHEN), (BLANK,), (BLANK, BREAK, HYPHEN), (A,), (B,), (END,), (EOS,))
    chance = (0.05, 0.05, 0.25, 0.1, 0.1, 0.2, 0.2, 0.03, 0.02)
    for _ in range(number):
        drawn = generator.choice(len(pieces), size=int(generator.integers(0, 24)), p=chance)
        completion = [token for piece in drawn for token in pieces[piece]]
        adjective = str(generator.choice(["short", ""]))
        length = START[adjective] + 1 + len(completion) + int(generator.integers(0, 5))
        yield adjective, completion, length


def test_every_name_of_two_lists_in_the_order_of_the_text():
    assert role_positions([roles_of(*LONG, length=48), roles_of(*SHORT, adjective="")]) == {
        "bos": [[0], [0]],
        "prompt": [[*range(1, 8), 9, 10, *range(12, 27)], [*range(1, 10), *range(11, 26)]],
        "adjective": [[8], []],
        "topic": [[11], [10]],
        "header": [[27, 28, 29], [26, 27, 28]],
        "item 1 hyphen": [[30], [29]],
        "item 1 first token": [[31], []],
        "item 1 inner tokens": [[32, 33], []],
        "item 1 last token": [[34], [30]],
        "item 1 line break": [[35], [31]],
        "item 2 hyphen": [[36], []],
        "item 2 last token": [[37], []],
        "item 2 filler": [[38], []],
        "item 2 line break": [[39], []],
        "item 3 hyphen": [[40], []],
        "item 3 first token": [[41], []],
        "item 3 last token": [[42], []],
        "item 3 line break": [[43], []],
        "end of turn": [[44], [32]],
    }


def test_the_names_come_in_the_order_of_the_text():
    for count_from in ("start", "end"):
        found = role_positions([roles_of(*LONG, length=48)], count_from=count_from)
        assert list(found)[:5] == PROMPT_NAMES
        places = [lists[0] for name, lists in found.items() if name != "prompt"]
        assert [one for place in places for one in place] == sorted(one for place in places for one in place)


def test_items_counted_from_the_end_line_up_at_the_end():
    found = role_positions([roles_of(*LONG), roles_of(*SHORT)], count_from="end")
    assert list(found)[5:] == [
        *("last - 2 item hyphen", "last - 2 item first token", "last - 2 item inner tokens"),
        *("last - 2 item last token", "last - 2 item line break"),
        *("last - 1 item hyphen", "last - 1 item last token", "last - 1 item filler", "last - 1 item line break"),
        *("last item hyphen", "last item first token", "last item last token", "last item line break", "end of turn"),
    ]
    assert found["last item hyphen"] == [[40], [30]]
    assert found["last item first token"] == [[41], []]
    assert found["last item last token"] == [[42], [31]]
    assert found["last - 1 item filler"] == [[38], []]
    assert found["last - 2 item inner tokens"] == [[32, 33], []]


@pytest.mark.parametrize(
    ("count_from", "items", "numbers"),
    [
        *(("start", 0, []), ("start", 1, ["item 1"]), ("start", 2, ["item 1", "item 2"])),
        *(("end", 0, []), ("end", 1, ["last item"]), ("end", 2, ["last - 1 item", "last item"])),
    ],
)
def test_the_nearest_items_alone_have_names(count_from, items, numbers):
    lists = [roles_of(*LONG), roles_of(*SHORT)]
    everything = role_positions(lists, count_from=count_from)
    found = role_positions(lists, count_from=count_from, items=items)
    expected = [name for name in everything if "item" not in name or any(name.startswith(f"{one} ") for one in numbers)]
    assert list(found) == expected
    assert found == {name: everything[name] for name in expected}
    assert role_positions(lists, count_from=count_from, items=99) == everything


def test_what_belongs_to_no_item_has_names_of_its_own():
    found = role_positions([roles_of(A, BREAK, HYPHEN, BREAK, B, C, BREAK, HYPHEN, D, END), roles_of()])
    assert {name: lists for name, lists in found.items() if name not in PROMPT_NAMES} == {
        "item 1 hyphen": [[30], []],
        "item 1 last token": [[31], []],
        "item 1 line break": [[32], []],
        "item 2 hyphen": [[38], []],
        "item 2 last token": [[39], []],
        "hyphen outside items": [[33], [30]],
        "text outside items": [[35, 36], []],
        "line break outside items": [[34, 37], []],
        "end of turn": [[40], []],
    }


@pytest.mark.parametrize("count_from", ["start", "end"])
def test_the_names_part_every_list_among_themselves(count_from):
    for adjective, completion, length in random_lists(300):
        found = role_positions([roles_of(*completion, adjective=adjective, length=length)], count_from=count_from)
        assert all(lists[0] for lists in found.values())
        covered = [position for lists in found.values() for position in lists[0]]
        ended = next((i for i, token in enumerate(completion) if token in (END, EOS)), len(completion) - 1)
        assert sorted(covered) == list(range(START[adjective] + 1 + ended + 1))


@pytest.mark.parametrize("count_from", ["start", "end"])
def test_the_names_of_random_lists_are_those_of_the_parser(count_from):
    many = list(random_lists(300))
    roles = [roles_of(*completion, adjective=adjective, length=length) for adjective, completion, length in many]
    found = role_positions(roles, count_from=count_from)
    expected: dict[str, list[list[int]]] = {name: [[] for _ in many] for name in found}
    for number, (adjective, completion, _) in enumerate(many):
        start, parsed = START[adjective], parse_list([HYPHEN, *completion], SPECIAL)
        for k, item in enumerate(parsed.items):
            back = len(parsed.items) - k
            name = f"item {k + 1}" if count_from == "start" else f"last - {back - 1} item".replace(" - 0", "")
            content = [start + i for i in item.content]
            parts = {"hyphen": [start + item.hyphen], "first token": content[:-1][:1], "inner tokens": content[1:-1]}
            parts["last token"] = content[-1:]
            for part, place in {"filler": item.filler, "line break": item.line_break}.items():
                parts[part] = [] if place is None else [start + place]
            for part, places in parts.items():
                if places:
                    expected[f"{name} {part}"][number] = places
        expected["end of turn"][number] = [] if parsed.ended is None else [start + parsed.ended]
    compared = [name for name in found if name not in (*PROMPT_NAMES, *REST[:3])]
    assert len(compared) > 30
    assert {name: found[name] for name in compared} == {name: expected[name] for name in compared}


def test_many_lists_give_what_each_gives_alone():
    roles = [roles_of(*completion, adjective=adjective) for adjective, completion, _ in random_lists(40)]
    together = role_positions(roles, count_from="end", items=2)
    for number, one in enumerate(roles):
        alone = role_positions([one], count_from="end", items=2)
        assert {name: lists[number] for name, lists in together.items() if lists[number]} == {
            name: lists[0] for name, lists in alone.items()
        }


def test_errors_say_what_is_allowed():
    # beartype refuses the word before the function can.
    plain: Any = getattr(role_positions, "__wrapped__", role_positions)
    with pytest.raises(InputError, match=r"^count_from must be one of start, end, not 'middle'\.$"):
        plain([roles_of(A)], count_from="middle")
    with pytest.raises(InputError, match=r"^items must be 0 or more, not -1\.$"):
        role_positions([roles_of(A)], items=-1)
    with pytest.raises(InputError, match=r"^roles must hold one list at least, not none\.$"):
        role_positions([])


def test_the_recorded_lists(shared):
    file = shared / "recorded" / "lists" / "gemma2_short.json"
    if not file.is_file():
        pytest.skip("the recorded lists are not at hand")
    lists = read_lists([file], keep_cut_off=True)
    found = role_positions(lists.roles)
    assert sum(len(at) for name, by_list in found.items() if name.endswith(" hyphen") for at in by_list) == 962
    ends = role_positions([lists.roles[lists.topic.index("Vegetables")]], count_from="end")
    assert (ends["last item last token"], ends["last item filler"]) == ([[43]], [[44]])
    assert (ends["last item line break"], ends["end of turn"]) == ([[45]], [[46]])
    for name in PROMPT_NAMES:
        assert all(found[name])


def test_items_without_roles_of_their_own_share_one():
    roles = [roles_of(*LONG), roles_of(*SHORT)]
    from_end = named_roles(roles, [44, 32], "end", 1)
    every, nearest = (role_positions(roles, count_from="end", items=items) for items in (None, 1))
    assert list(from_end) == [*PROMPT_NAMES, "earlier items", *list(nearest)[5:-1]]
    others = [where for name, where in every.items() if name not in nearest]
    assert from_end["earlier items"] == [sorted(p for where in others for p in where[0]), []]
    assert "end of turn" not in from_end, "it stands at the length"
    from_start = named_roles(roles, [45, 33], "start", 2)
    assert list(from_start)[-2:] == ["end of turn", "later items"]
    assert from_start["later items"] == [[40, 41, 42, 43], []]
    for found, lengths in ((from_end, [44, 32]), (from_start, [45, 33])):
        covered = [sorted(p for where in found.values() for p in where[i]) for i in range(2)]
        assert covered == [list(range(length)) for length in lengths]
    assert "later items" not in named_roles(roles, [45, 33], "start", 3)
    with pytest.raises(InputError, match=r"^role_items must be at least 1, not 0\.$"):
        named_roles(roles, [45, 33], "start", 0)
