"""Token texts beside numbers in one file: each stands once, escaped, and numbers point to it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from mechlist.text import escaped, unescaped

NONE = -1
"""No token there, or no id known."""


@dataclass
class TokenTexts:
    """Texts with the ids of their tokens, numbered as they come."""

    _numbers: dict[tuple[str, int | None], int] = field(default_factory=dict)

    def number(self, text: str, token_id: int | None) -> int:
        """The number of a text; a new one where it is new."""
        return self._numbers.setdefault((text, token_id), len(self._numbers))

    def variables(self) -> dict[str, Any]:
        """`vocabulary_text` (escaped) and `vocabulary_id` (-1 unknown), by number."""
        return {
            "vocabulary_text": ("vocabulary", np.array([escaped(text) for text, _ in self._numbers], dtype=object)),
            "vocabulary_id": ("vocabulary", np.array([NONE if i is None else i for _, i in self._numbers], dtype=int)),
        }


def token_texts(results: xr.Dataset) -> list[tuple[str, int | None]]:
    """Texts and ids by number, as `TokenTexts` saved them."""
    texts, ids = results["vocabulary_text"].values, results["vocabulary_id"].values
    return [(unescaped(str(t)), None if i == NONE else int(i)) for t, i in zip(texts, ids, strict=True)]
