"""Rules on logits: words that are banned, less or more likely; against hand-made logits and in generation."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mechlist.decode import Sampling, generate
from mechlist.decode.rules import WordRule, ruled, spellings, word_rule
from mechlist.errors import InputError
from mechlist.runner import Runner
from tests.datasets.tokenizers_for_tests import byte_level, gemma_like

NOTHING = torch.zeros(1, 0, dtype=torch.long)


def test_a_word_of_several_tokens_is_changed_at_its_end():
    rule = WordRule({(3,): -1.0, (4, 5): -math.inf, (6, 7, 8): 2.0})
    logits, written = torch.zeros(3, 9), torch.tensor([[1, 4], [6, 7], [7, 6]])
    found = rule.change(logits, written)
    assert found[:, 3].tolist() == [-1, -1, -1]
    assert found[:, 5].tolist() == [-math.inf, 0, 0]
    assert found[:, 8].tolist() == [0, 2, 0]
    assert logits.eq(0).all()
    # Before anything is written, only words of one token count.
    assert rule.change(logits[:1], NOTHING)[0].nonzero()[:, 0].tolist() == [3]


def test_banned_words_are_not_written(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    given = [[5, 6, 7], [8, 9, 10, 11]]
    greedy = Sampling(greedy=True)
    free = generate(runner, given, max_new_tokens=8, sampling=greedy)
    banned = WordRule({tuple(free[0][0].tokens[:2]): -math.inf, (free[1][0].tokens[0],): -math.inf})
    found = generate(runner, given, max_new_tokens=8, sampling=greedy, rule=banned)
    for prompt, (completion,) in zip(given, found, strict=True):
        tokens = list(prompt)
        for token, log_prob in zip(completion.tokens, completion.log_probs, strict=True):
            logits = runner.logits([tokens])[0, -1]
            allowed = ruled(banned, logits[None], torch.tensor([tokens[len(prompt) :]], dtype=torch.long))[0]
            assert token == int(allowed.argmax())
            # Log-probabilities are those of the model itself.
            assert log_prob == pytest.approx(float(logits.log_softmax(0)[token]), abs=1e-4)
            tokens.append(token)
    assert found[0][0].tokens[:2] != free[0][0].tokens[:2]
    assert found[1][0].tokens[0] != free[1][0].tokens[0]


def test_a_rule_does_not_depend_on_the_batch(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    given = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
    rule = WordRule({(n,): -math.inf for n in range(0, 97, 2)} | {(1, 3): 5.0})
    asked: dict[str, Any] = {"max_new_tokens": 6, "samples": 2, "rule": rule, "stop_tokens": (7,)}
    together = generate(runner, given, **asked)
    alone = [generate(runner, [prompt], **asked)[0] for prompt in given]
    assert [[c.tokens for c in of_prompt] for of_prompt in together] == [[c.tokens for c in one] for one in alone]
    assert all(token % 2 for of_prompt in together for one in of_prompt for token in one.tokens)


def test_a_rule_must_leave_a_token(loaded: Callable[[str], Runner]):
    rule = WordRule(dict.fromkeys([(n,) for n in range(97)], -math.inf))
    with pytest.raises(InputError, match="The rule leaves no token to choose after 0 new ones"):
        generate(loaded("gpt2"), [[5, 6]], max_new_tokens=2, rule=rule)


@pytest.mark.parametrize("changes", [{}, {(): 1.0}])
def test_a_rule_needs_words(changes: dict[tuple[int, ...], float]):
    with pytest.raises(InputError, match="one word at least, each of one token or more"):
        WordRule(changes)


@pytest.mark.parametrize("change", [math.nan, math.inf])
def test_changes_are_numbers(change: float):
    with pytest.raises(InputError, match="or minus infinity for a ban"):
        WordRule({(1,): change})


def test_words_are_meant_at_the_start_of_a_line_and_behind_a_blank():
    for tokenizer in (byte_level(None), gemma_like("list")):
        found = spellings(tokenizer, "list")
        assert [tokenizer.decode(tokens) for tokens in found] == ["list", " list"]
        assert spellings(tokenizer, " list ") == found
    rule = word_rule(byte_level(None), 500, banned=["list"], penalised=["short"], penalty=1.5, bias={" of": 3.0})
    assert rule is not None
    assert sorted(rule.changes.values()) == [-math.inf, -math.inf, -1.5, -1.5, 3.0]
    assert word_rule(byte_level(None), 500) is None


def test_words_must_be_known():
    with pytest.raises(InputError, match="Words must be text with more than blanks, not '  '"):
        word_rule(gemma_like(), 100, banned=["  "])
    with pytest.raises(InputError, match="Words must be text that the tokenizer knows, not 'Elephant'"):
        word_rule(gemma_like(), 100, banned=["Elephant"])
    with pytest.raises(InputError, match="banned must leave a token to choose, and covers all 2 of the vocabulary"):
        word_rule(byte_level(None), 2, banned=["a", "list"])
