from dataclasses import replace

import pytest

from mechlist.datasets.lists.prompts import PromptedList, list_prompt
from mechlist.datasets.pairs.contrastive import (
    ContrastivePair,
    contrastive_pair,
    contrastive_pairs,
    swap_adjective,
    swapped_prompt,
)
from mechlist.errors import InputError
from tests.datasets.tokenizers_for_tests import gemma_like

COMPLETION = (3922, 235248, 108, 235290, 1497, 108, 107, 1)
"""Two items, the second with the token of " long" in it."""


def prompt(adjective="short", topic="Animals"):
    return list_prompt(gemma_like(), topic, adjective)


def pair(**fields):
    good = {"topic": "Animals", "clean_adjective": "short", "corrupt_adjective": "long", "hyphen": 1}
    return ContrastivePair(**(good | fields))


def test_a_swap_changes_the_adjectives_token_alone():
    sequence = prompt().with_completion(COMPLETION)
    swapped = swap_adjective(gemma_like(), sequence, prompt(), "long")
    assert swapped == (*sequence[:8], 1497, *sequence[9:])
    assert swap_adjective(gemma_like(), swapped, prompt("long"), "short") == sequence


@pytest.mark.parametrize(
    ("adjective", "to", "numbers"),
    [
        ("short", "", "31 with 'short' and 30 with no adjective"),
        ("", "long", "30 with no adjective and 31 with 'long'"),
        ("short", "very long", "31 with 'short' and 32 with 'very long'"),
    ],
)
def test_a_swap_that_changes_the_number_of_tokens_is_refused_with_both(adjective, to, numbers):
    with pytest.raises(InputError, match=rf"must keep the number of tokens: the prompt for 'Animals' has {numbers}\.$"):
        swap_adjective(gemma_like(), prompt(adjective).tokens, prompt(adjective), to)


def test_a_swap_that_merges_with_its_neighbour_is_refused():
    merging = gemma_like("▁long▁list", pieces="▁long▁list")
    with pytest.raises(InputError, match="31 with 'short' and 30 with 'long'"):
        swapped_prompt(merging, list_prompt(merging, "Animals", "short"), "long")


def test_a_swap_that_changes_another_token_is_refused():
    with pytest.raises(InputError, match=r"index 8 and no other; from 'short' to 'long' it changes those at \[8, 9\]"):
        contrastive_pair(
            PromptedList(prompt(), COMPLETION),
            replace(prompt("long"), tokens=(*prompt("long").tokens[:9], 682, *prompt("long").tokens[10:])),
        )


def test_a_prompt_of_another_tokenizer_is_refused():
    with pytest.raises(
        InputError, match=r"prompt must be what the tokenizer writes for 'Provide me .*, and has other tokens"
    ):
        swapped_prompt(gemma_like(), replace(prompt(), tokens=(2, 106, 682, *prompt().tokens[3:])), "long")


def test_the_sequence_must_begin_with_the_prompt():
    with pytest.raises(InputError, match="leaves it at index 8"):
        swap_adjective(gemma_like(), prompt("long").tokens, prompt(), "long")


def test_pairs_keep_the_list_and_differ_in_the_adjective():
    lists = [PromptedList(prompt(topic=topic), COMPLETION) for topic in ("Animals", "Animals", "City Names")]
    pairs = contrastive_pairs(gemma_like(), lists)
    assert [one.topic for one in pairs] == ["Animals", "Animals", "City Names"]
    for one, source in zip(pairs, lists, strict=True):
        assert one.clean == source.tokens
        assert one.corrupt == prompt("long", one.topic).with_completion(COMPLETION)
        assert one.differing == (8,)
        assert one.clean[one.hyphen] == one.corrupt[one.hyphen] == 235290
        assert one.clean[one.hyphen + 1 :] == COMPLETION
        assert (one.clean_adjective, one.corrupt_adjective) == ("short", "long")


def test_a_pair_without_a_tokenizer_is_the_same():
    one = PromptedList(prompt(), COMPLETION)
    assert contrastive_pair(one, prompt().with_adjective("long", 1497)) == contrastive_pairs(gemma_like(), [one])[0]


def test_a_list_that_has_the_adjective_already_is_refused():
    with pytest.raises(InputError, match="another adjective than 'long', which the prompt has"):
        contrastive_pairs(gemma_like(), [PromptedList(prompt("long"), COMPLETION)])


def test_a_pair_is_of_equal_length_and_differs():
    assert pair(clean=(1, 2, 3), corrupt=(1, 4, 3)).differing == (1,)
    with pytest.raises(InputError, match="same number of tokens, not 3 and 2"):
        pair(clean=(1, 2, 3), corrupt=(1, 2))
    with pytest.raises(InputError, match="must differ in a token, and are the same"):
        pair(clean=(1, 2), corrupt=(1, 2))
    with pytest.raises(InputError, match="hyphen must be an index of the 2 tokens, not 2"):
        pair(clean=(1, 2), corrupt=(1, 3), hyphen=2)
