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
