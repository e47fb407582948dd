"""Labels of token axes."""

from collections.abc import Sequence

from mechlist.figures.style import plot_text
from mechlist.text import shortened, visible


def token_labels(texts: Sequence[str], *, longest: int = 24) -> list[str]:
    """Axis labels 'position text', one a token, safe for plotly.

    The position keeps equal tokens apart: plotly draws equal categories on top of each other.

    Args:
        texts: token texts, in order of position.
        longest: visible characters shown of a token before it is cut with '…'.
    """
    labels = []
    for position, text in enumerate(texts):
        labels.append(plot_text(f"{position} {shortened(visible(text), longest)}"))
    return labels


MIXED = "•"
"""Behind the token of a position at which prompts differ."""
MIXED_SAID = f"{MIXED} behind a token: it is the first prompt's, and others have another there."
"""What captions say of it."""


def tokens_of_all(prompts: Sequence[Sequence[str]]) -> list[str]:
    """The token of several prompts at each position: that of the first that has one, marked where others differ.

    Args:
        prompts: token texts of each, all as long as the longest; empty beyond a prompt's end.
    """
    columns = zip(*prompts, strict=True)
    return [next(filter(None, column), "") + MIXED * (len(set(column)) > 1) for column in columns]
