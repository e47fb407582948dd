import pytest

from mechlist.datasets.lists.directions import Direction, list_directions
from mechlist.datasets.lists.parse import ListTokens
from mechlist.errors import InputError


def test_the_study_s_two():
    special = ListTokens(hyphen=1, line_break=2, end_of_turn=3, blank=4, bos=5, eos=6)
    a, b = list_directions(special)
    assert (a.answer, a.wrong, a.role) == ((3,), (1,), "line_break")
    assert (b.answer, b.wrong, b.role) == ((4,), (2,), "item_last")
    assert (a.name, b.name) == ("A: end of turn - hyphen", "B: blank - line break")


def test_directions_that_compare_nothing_are_refused():
    with pytest.raises(InputError, match="wrong must hold one token at least"):
        Direction(name="x", answer=(1,), wrong=(), role="item_last")
    with pytest.raises(InputError, match="answer and wrong must be different tokens; both have 2"):
        Direction(name="x", answer=(1, 2), wrong=(2,), role="item_last")
    with pytest.raises(InputError, match=r"role must be one of hyphen, .*, not 'topic'"):
        Direction(name="x", answer=(1,), wrong=(2,), role="topic")
