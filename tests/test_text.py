import math

import pytest

from mechlist.errors import InputError
from mechlist.text import (
    adjective_rank,
    between,
    escaped,
    from_last,
    joined,
    lists_named,
    number,
    number_of,
    shortened,
    unescaped,
    visible,
    with_ends,
    with_interval,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the", "the"),
        (" the", "·the"),
        ("a b ", "a b·"),
        ("   ", "···"),
        ("", ""),
        ("\n", "⏎"),
        (" \n\t", "·⏎⇥"),
        ("\x00", r"\x00"),
        ("\xa0", r"\xa0"),
        ("\ufeffa", r"\ufeffa"),
        ("\u202ertl", r"\u202ertl"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
        ("日本", "日本"),
        ("<b>", "<b>"),
    ],
)
def test_visible_shows_what_a_plot_would_swallow(text, shown):
    assert visible(text) == shown


def test_visible_always_encodes():
    every = "".join(map(chr, range(0x3000))) + "".join(map(chr, range(0xD7F0, 0xE010)))
    assert visible(every).encode()


def test_counts_have_their_unit():
    assert [number_of(n, "lists") for n in (0, 1, 2)] == ["0 lists", "1 list", "2 lists"]


def test_items_from_the_last():
    assert [from_last(back) for back in range(3)] == ["last", "last - 1", "last - 2"]


def test_intervals_stand_behind_their_value():
    assert with_interval(1.234, 1.1, 1.35, ".2f", "nats") == "1.23 nats [1.10, 1.35]"
    assert with_interval(0.5, 0.25, 1, ".0%") == "50% [25%, 100%]"
    assert with_interval(-1.234, math.nan, math.nan) == "-1.23"
    assert between(0.2, 0.2) == ""
    assert between(-1, 2) == " [-1.00, +2.00]"


def test_labels_have_three_digits_of_a_value_and_its_ends():
    assert with_ends(0.94, 0.84, 1.14) == "0.940 [0.840, 1.140]"
    assert with_ends(0.94, math.nan, 1.14) == with_ends(0.94, 0.84, math.nan) == "0.940"


def test_long_texts_are_cut_with_a_mark():
    assert [shortened(text, 4) for text in ("", "abcd", "abcde")] == ["", "abcd", "abc…"]


def test_adjectives_have_an_order():
    assert sorted(["all", "none", "good", "long", "short"], key=adjective_rank) == [
        "short", "long", "good", "none", "all",
    ]  # fmt: skip


def test_numbers_keep_three_digits():
    assert [number(x) for x in (0.0, 0.5, 1e-5, 12345.6, math.nan)] == [
        "0.000",
        "0.500",
        "1e-05",
        "1.23e+04",
        "not measured",
    ]


def test_names_are_joined():
    assert [joined(list("abc"[:n])) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    with pytest.raises(InputError, match="texts must hold one text at least"):
        joined([])


def test_lists_are_named_by_their_adjective():
    assert [lists_named(a) for a in ("short", "none", "all", "good")] == [
        "short lists",
        "lists without adjective",
        "all lists",
        "good lists",
    ]


@pytest.mark.parametrize("text", ["<b>", '"', "\0", "\u202e", "\ud83d", "\U0001f600", "", "\\n", "ä"])
def test_any_text_can_be_a_label(text: str):
    assert escaped(text).isascii()
    assert unescaped(escaped(text)) == text
