"""Natural text that holds a passage twice."""

from collections.abc import Sequence

from mechlist.errors import InputError

PASSAGE = (
    " The old lighthouse keeper climbed the narrow stairs every evening before sunset, carrying a lamp, a flask of tea "
    "and a notebook in which he wrote the names of passing ships. Nobody had asked him to do so, but his daughter kept "
    "the notebooks on a shelf by the door and liked to read them aloud in winter."
)
"""Written for this purpose; it opens with a blank so that both copies have the same tokens."""


def repeated_passage(tokens: Sequence[int]) -> int:
    """Length in tokens of the passage that a text shows twice in a row.

    Raises:
        InputError: the second half of the text is not the same tokens as the first.
    """
    period, odd = divmod(len(tokens), 2)
    if odd or period < 2 or list(tokens[:period]) != list(tokens[period:]):
        raise InputError(
            f"text does not repeat: its {len(tokens)} tokens must be a passage of at least 2 tokens shown twice in a "
            "row (begin the passage with a blank, so that both copies have the same tokens)."
        )
    return period
