import itertools

import numpy as np
import pytest

from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.pairs.align import align
from tests.datasets.tokenizers_for_tests import gemma_like


def matchings(clean, corrupt):
    """Every set of identical tokens matched without crossing."""
    equal = [(i, j) for i, a in enumerate(clean) for j, b in enumerate(corrupt) if a == b]
    for size in range(min(len(clean), len(corrupt)) + 1):
        for chosen in itertools.combinations(equal, size):
            if all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(chosen)):
                yield chosen


def runs(pairs):
    return sum(n == 0 or (pairs[n - 1][0] + 1, pairs[n - 1][1] + 1) != pair for n, pair in enumerate(pairs))


def random_pairs(number, longest):
    generator = np.random.default_rng(0)
    for _ in range(number):
        lengths = generator.integers(0, longest + 1, size=2)
        yield tuple(tuple(int(t) for t in generator.integers(0, 3, size=length)) for length in lengths)


def test_as_many_identical_tokens_as_possible_in_as_few_runs_and_as_early():
    for clean, corrupt in random_pairs(300, 5):
        best = min(matchings(clean, corrupt), key=lambda pairs: (-len(pairs), runs(pairs), pairs))
        assert align(clean, corrupt).pairs == best, (clean, corrupt)


def test_both_directions_agree_and_never_cross():
    for clean, corrupt in random_pairs(200, 12):
        for substitutions in (False, True):
            found = align(clean, corrupt, substitutions=substitutions)
            assert len(found.to_corrupt) == len(clean)
            assert len(found.to_clean) == len(corrupt)
            assert {(i, j) for j, i in enumerate(found.to_clean) if i >= 0} == set(found.pairs)
            assert list(found.pairs) == sorted(found.pairs, key=lambda pair: pair[1])
            other = {i for i, j in found.pairs if clean[i] != corrupt[j]}
            assert other <= set(found.substituted)


def test_a_substitution_does_not_cost_a_match():
    for clean, corrupt in random_pairs(200, 12):
        plain, substituted = (align(clean, corrupt, substitutions=on) for on in (False, True))
        assert set(plain.pairs) <= set(substituted.pairs)
        assert {i for i, _ in set(substituted.pairs) - set(plain.pairs)} == set(substituted.substituted)


def test_an_adjective_has_no_match_in_a_prompt_without():
    clean, corrupt = (list_prompt(gemma_like(), "Animals", adjective).tokens for adjective in ("short", ""))
    found = align(clean, corrupt)
    assert found.to_corrupt == (*range(8), -1, *range(8, len(corrupt)))
    assert found.to_clean == (*range(8), *range(9, len(clean)))
    assert align(clean, corrupt, substitutions=True) == found


def test_an_adjective_is_substituted_for_another_and_a_topic_only_where_as_long():
    clean = list_prompt(gemma_like(), "Animals", "short").tokens
    same = align(clean, list_prompt(gemma_like(), "Countries", "long").tokens, substitutions=True)
    assert same.to_corrupt == tuple(range(len(clean)))
    assert same.substituted == (8, 11)
    longer = align(clean, list_prompt(gemma_like(), "City Names", "long").tokens, substitutions=True)
    assert longer.substituted == (8,)
    assert longer.to_corrupt[11] == -1
    assert align(clean, list_prompt(gemma_like(), "Countries", "long").tokens).to_corrupt[8] == -1


def test_substitutions_reach_both_ends():
    found = align([7, 1, 8], [5, 1, 6], substitutions=True)
    assert (found.to_corrupt, found.substituted) == ((0, 1, 2), (0, 2))


@pytest.mark.parametrize(
    ("clean", "corrupt", "to_corrupt"),
    [
        ((), (), ()),
        ((1, 2), (), (-1, -1)),
        ((1, 1, 2), (1, 2), (-1, 0, 1)),  # one run of two, not two of one
        ((1, 2), (2, 1), (1, -1)),  # the earliest position of clean
        ((1, 2, 3, 4), (1, 3, 4, 2), (0, -1, 1, 2)),  # where difflib's longest block first is as good
        ((1, 2, 3, 1, 4, 5), (4, 5, 6, 1, 2, 3), (3, 4, 5, -1, -1, -1)),
        ((9, 1, 9, 2, 3, 4), (2, 3, 9, 1, 9, 4), (2, 3, 4, -1, -1, 5)),
    ],
)
def test_by_hand(clean, corrupt, to_corrupt):
    assert align(clean, corrupt).to_corrupt == to_corrupt


def test_more_matches_than_longest_block_first():
    # difflib matches the block 1 2 3 first and is left with that alone.
    clean, corrupt = (1, 2, 3, 4, 5, 6, 7), (4, 8, 5, 8, 6, 8, 7, 1, 2, 3)
    assert [corrupt[j] for _, j in align(clean, corrupt).pairs] == [4, 5, 6, 7]


def test_prompts_of_hundreds_of_tokens():
    generator = np.random.default_rng(1)
    clean = tuple(int(t) for t in generator.integers(0, 50, size=400))
    corrupt = (*clean[:100], *clean[110:300], 99, *clean[300:])
    found = align(clean, corrupt)
    assert found.to_corrupt == (*range(100), *[-1] * 10, *range(100, 290), *range(291, len(corrupt)))
