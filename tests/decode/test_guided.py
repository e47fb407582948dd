"""Guided answers: seams in tokens, and grammars by llguidance against a plain reading of the same pattern."""

import re
import sys
from typing import Any

import pytest
import torch

from mechlist.datasets.chat import stop_tokens
from mechlist.decode import Sampling, generate
from mechlist.decode.guided import GrammarRule, allowed_mass, seam
from mechlist.errors import InputError
from mechlist.runner import Runner

REQUEST = "Provide me with a short list of Fruits. Just provide the names, no need for any other information."


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def stops(runner: Runner) -> tuple[int, ...]:
    return stop_tokens(runner.tokenizer)


def rule_of(runner: Runner, kind: Any, grammar: str, stops: tuple[int, ...]) -> GrammarRule:
    pytest.importorskip("llguidance")
    return GrammarRule(runner.tokenizer, runner.shape.d_vocab, kind, grammar, stops)


def test_a_prefix_is_tokenised_both_ways(runner: Runner):
    found = seam(runner, REQUEST, "-Apple", chat=True)
    assert not found.differ
    assert found.together == found.prompt + found.prefix
    assert runner.tokenizer.decode(found.prefix) == "-Apple"


def test_a_visible_seam_is_told(runner: Runner):
    # " App" and "le" apart, " Apple" together.
    found = seam(runner, "-Pear\n-App", "le\n")
    assert found.differ
    assert runner.tokenizer.decode(found.apart) == runner.tokenizer.decode(found.together)
    assert len(found.apart) > len(found.together)


def test_a_prefix_that_contradicts_the_template_is_refused(runner: Runner):
    with pytest.raises(InputError, match=r"prefix must be plain text, .*: it holds <end_of_turn>"):
        seam(runner, REQUEST, "-Apple<end_of_turn>", chat=True)


GRAMMARS = {
    "regex": (r"(-[A-Z][a-z]+\n){3}", r"(-[A-Z][a-z]+\n){3}"),
    "lark": ('start: item~2\nitem: "-" /[A-Z][a-z]+/ "\\n"', r"(-[A-Z][a-z]+\n){2}"),
}


@pytest.mark.parametrize("kind", list(GRAMMARS))
def test_answers_follow_the_grammar(runner: Runner, stops: tuple[int, ...], kind: str):
    grammar, pattern = GRAMMARS[kind]
    rule = rule_of(runner, kind, grammar, stops)
    prompt = seam(runner, REQUEST, "", chat=True).prompt
    (found,) = generate(runner, [prompt], max_new_tokens=40, samples=4, rule=rule, stop_tokens=stops)
    for one in found:
        assert one.stopped
        assert re.fullmatch(pattern, runner.tokenizer.decode(one.tokens[:-1]))
    assert len({one.tokens for one in found}) > 1


def test_an_answer_can_follow_a_schema(runner: Runner, stops: tuple[int, ...]):
    rule = rule_of(runner, "json_schema", '{"enum": ["Apple", "Pear"]}', stops)
    prompt = seam(runner, REQUEST, "", chat=True).prompt
    ((one,),) = generate(
        runner, [prompt], max_new_tokens=20, rule=rule, stop_tokens=stops, sampling=Sampling(greedy=True)
    )
    assert runner.tokenizer.decode(one.tokens[:-1]) in ('"Apple"', '"Pear"')


def test_the_allowed_mass_is_what_the_plain_model_gave(runner: Runner, stops: tuple[int, ...]):
    rule = rule_of(runner, "regex", "-(Apple|Pear)", stops)
    prompt = seam(runner, REQUEST, "", chat=True).prompt
    ((one,),) = generate(runner, [prompt], max_new_tokens=20, rule=rule, stop_tokens=stops)
    found = allowed_mass(runner, prompt, one.tokens, rule)
    words, tokens = ("-Apple", "-Pear"), list(prompt)
    for step, token in enumerate(one.tokens):
        probs = runner.logits([tokens])[0, -1].double().softmax(0)
        written = runner.tokenizer.decode(one.tokens[:step])
        # By the text of each token: it must go on with one of the words, or end behind a whole one.
        texts = runner.token_texts(list(range(runner.shape.d_vocab)))
        allowed = [any(word.startswith(written + t) and t for word in words) for t in texts]
        for stop in stops:
            allowed[stop] = written in words
        assert float(found[step]) == pytest.approx(float(probs[torch.tensor(allowed)].sum()), abs=1e-6)
        assert allowed[token]
        tokens.append(token)


@pytest.mark.parametrize(
    ("kind", "grammar", "words"),
    [
        ("regex", "(a", "regex is not understood: .*unclosed group"),
        ("regex", "  ", "regex must hold a grammar, not '··'"),
        ("json_schema", "{", "json_schema is not understood: Expecting property name"),
        ("json_schema", '{"type": "strinx"}', "json_schema is not understood: Invalid type: strinx"),
        ("lark", "start: foo", 'lark is not understood: .*unknown name: "foo"'),
    ],
)
def test_grammars_that_are_none_are_refused(
    runner: Runner, stops: tuple[int, ...], kind: str, grammar: str, words: str
):
    with pytest.raises(InputError, match=words):
        rule_of(runner, kind, grammar, stops)


def test_a_guided_answer_has_to_end(runner: Runner):
    with pytest.raises(InputError, match="stop_tokens must hold one token at least: a guided answer has to end"):
        rule_of(runner, "regex", "a", ())


def test_without_llguidance_it_is_said_what_to_do(
    runner: Runner, stops: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InputError, match=r"needs llguidance, which is not installed: pip install 'mechlist\[guided\]'"):
        GrammarRule(runner.tokenizer, runner.shape.d_vocab, "regex", "a", stops)
