"""Which positions of two sequences of unequal length correspond."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_NEVER = np.iinfo(np.int64).min // 2


@dataclass(frozen=True)
class Alignment:
    """Matches of positions that never cross."""

    to_corrupt: tuple[int, ...]
    """For each position of clean the one of corrupt, or -1."""
    to_clean: tuple[int, ...]
    """For each position of corrupt the one of clean, or -1."""
    substituted: tuple[int, ...]
    """Positions of clean that are matched with another token."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Matched positions of clean and corrupt, in order."""
        return tuple((i, j) for i, j in enumerate(self.to_corrupt) if j >= 0)


def align(clean: Sequence[int], corrupt: Sequence[int], *, substitutions: bool = False) -> Alignment:
    """Match as many identical tokens as possible without crossing (Needleman & Wunsch 1970).

    Among the matchings with the most identical tokens, one with the fewest runs of adjacent matches is taken, and among
    those the one that matches the earliest positions of clean.

    Args:
        clean: token ids; time and memory grow with the product of the two lengths.
        corrupt: token ids.
        substitutions: match the tokens between two matches, or before the first or after the last, one by one where
            there are equally many on both sides, such as an adjective with another.
    """
    pairs = _identical(clean, corrupt)
    substituted: list[tuple[int, int]] = []
    if substitutions:
        edges = [(-1, -1), *pairs, (len(clean), len(corrupt))]
        for (i, j), (next_i, next_j) in itertools.pairwise(edges):
            if next_i - i == next_j - j:
                substituted += zip(range(i + 1, next_i), range(j + 1, next_j), strict=True)
    to_corrupt, to_clean = [-1] * len(clean), [-1] * len(corrupt)
    for i, j in [*pairs, *substituted]:
        to_corrupt[i], to_clean[j] = j, i
    return Alignment(tuple(to_corrupt), tuple(to_clean), tuple(i for i, _ in substituted))


def _identical(clean: Sequence[int], corrupt: Sequence[int]) -> list[tuple[int, int]]:
    """The matches of identical tokens, read off the scores from left to right."""
    free, matched = _scores(clean, corrupt)
    pairs, i, j = [], 0, 0
    score = free[0, 0]
    while i < len(clean) and j < len(corrupt):
        best = np.flatnonzero(matched[i, j:] == score)
        if len(best) == 0:
            i += 1
            continue
        j += int(best[0])
        pairs.append((i, j))
        score -= _worth(clean, corrupt)
        i, j = i + 1, j + 1
        if matched[i, j] != score:
            score = free[i, j]
    return pairs


def _scores(
    clean: Sequence[int], corrupt: Sequence[int]
) -> tuple[Int[np.ndarray, "clean corrupt"], Int[np.ndarray, "clean corrupt"]]:
    """Best scores of what is left from each pair of positions on: in any way, and with these two matched.

    A match scores more than any number of runs costs, and a run costs 1, at its end.
    """
    a, b = np.asarray(clean, dtype=np.int64), np.asarray(corrupt, dtype=np.int64)
    free = np.zeros((len(a) + 1, len(b) + 1), dtype=np.int64)
    matched = np.full_like(free, _NEVER)
    for i in reversed(range(len(a))):
        after = np.maximum(matched[i + 1, 1:], free[i + 1, 1:] - 1)
        matched[i, :-1] = np.where(b == a[i], after + _worth(clean, corrupt), _NEVER)
        best = np.maximum(matched[i], free[i + 1])
        free[i] = np.maximum.accumulate(best[::-1])[::-1]
    return free, matched


def _worth(clean: Sequence[int], corrupt: Sequence[int]) -> int:
    """Of a match, in runs: there cannot be more runs than tokens in the shorter sequence."""
    return min(len(clean), len(corrupt)) + 1
