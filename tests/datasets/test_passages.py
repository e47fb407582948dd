import pytest

from mechlist.datasets.passages import repeated_passage
from mechlist.errors import InputError


def test_a_text_that_repeats_has_a_period():
    assert repeated_passage([5, 6, 7, 5, 6, 7]) == 3


@pytest.mark.parametrize("tokens", [[1, 2, 3, 1, 2, 4], [1, 2, 1, 2, 1], [1, 1], []])
def test_a_text_that_does_not_repeat_is_refused(tokens):
    with pytest.raises(InputError, match=f"text does not repeat: its {len(tokens)} tokens"):
        repeated_passage(tokens)
