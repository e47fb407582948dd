"""A dozen plain texts: the default prompts of experiments that read a final hidden state."""

from pathlib import Path

FILE = Path(__file__).parents[1] / "data" / "texts" / "plain.txt"


def plain_texts() -> tuple[str, ...]:
    """Beginnings of English sentences, one a line of `data/texts/plain.txt`."""
    return tuple(line for line in FILE.read_text(encoding="utf-8").splitlines() if line)
