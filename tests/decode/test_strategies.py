"""Ways of choosing tokens: beams against Hugging Face and against all paths, and how far distributions move."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from mechlist.decode import Sampling
from mechlist.decode.rules import WordRule
from mechlist.decode.strategies import Strategy, answer_log_prob, beam_search, shifts
from mechlist.errors import InputError
from mechlist.models.quiet import quiet
from mechlist.runner import Runner
from tests.conftest import HfDirectory

PROMPT = [5, 17, 4, 33, 8]


def test_as_many_beams_as_paths_find_the_best(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    found = beam_search(runner, PROMPT, beams=97, max_new_tokens=2)
    pairs = list(itertools.product(range(97), repeat=2))
    first = runner.logits([PROMPT])[0, -1].log_softmax(0)
    second = runner.logits([[*PROMPT, i] for i in range(97)], positions=-1)[:, 0].log_softmax(1)
    best = sorted(pairs, key=lambda pair: -float(first[pair[0]] + second[pair]))
    assert found[0].tokens == best[0]
    assert sum(found[0].log_probs) == pytest.approx(float(first[best[0][0]] + second[best[0]]), abs=1e-4)
    assert [sum(c.log_probs) for c in found] == sorted((sum(c.log_probs) for c in found), reverse=True)


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_beams_are_those_of_hugging_face(
    loaded: Callable[[str], Runner], hf_directory: HfDirectory, architecture: str, beams: int
):
    runner = loaded(architecture)
    stop = int(runner.logits([PROMPT])[0, -1].topk(3).indices[2])
    with quiet():
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(hf_directory(architecture))
        told = model.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=stop,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
    found = beam_search(runner, PROMPT, beams=beams, max_new_tokens=8, stop_tokens=(stop,))
    scores = [sum(one.log_probs) / len(one.tokens) for one in found]
    assert scores == pytest.approx(told.sequences_scores.tolist(), abs=1e-4)
    for one, expected in zip(found, told.sequences[:, len(PROMPT) :].tolist(), strict=True):
        assert list(one.tokens) == expected[: len(one.tokens)]
        assert one.stopped == (one.tokens[-1] == stop)


def test_log_probabilities_of_beams_are_the_models(loaded: Callable[[str], Runner]):
    runner = loaded("stablelm")
    for one in beam_search(runner, PROMPT, beams=3, max_new_tokens=5):
        assert one.log_probs == pytest.approx(answer_log_prob(runner, PROMPT, one.tokens).tolist(), abs=1e-4)


def test_strategies_write(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    asked = {"samples": 3, "max_new_tokens": 4, "stop_tokens": ()}
    assert len(Strategy().write(runner, PROMPT, **asked)) == 1
    assert len(Strategy(beams=5).write(runner, PROMPT, **asked)) == 3
    assert len(Strategy(beams=2).write(runner, PROMPT, **asked)) == 2
    assert len({c.tokens for c in Strategy(sampling=Sampling()).write(runner, PROMPT, **asked)}) == 3


def test_distributions_move_as_far_as_they_are_narrowed(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    answer = [9, 10, 11]
    log_probs = runner.logits([[*PROMPT, *answer]])[0, len(PROMPT) - 1 : -1].double().log_softmax(1)
    # All tokens allowed: nothing moved. Greedy: all on one token. Top k: minus the log of what the k had.
    assert shifts(runner, Strategy(sampling=Sampling()), PROMPT, answer).tolist() == pytest.approx([0] * 3, abs=1e-6)
    greedy = shifts(runner, Strategy(), PROMPT, answer)
    torch.testing.assert_close(greedy, -log_probs.max(1).values, atol=1e-5, rtol=0)
    top = shifts(runner, Strategy(sampling=Sampling(top_k=4)), PROMPT, answer)
    torch.testing.assert_close(top, -log_probs.topk(4).values.logsumexp(1), atol=1e-5, rtol=0)
    banned = Strategy(sampling=Sampling(), rule=WordRule({(9, 3): -math.inf}))
    expected = -torch.log1p(-log_probs[1, 3].exp())
    assert shifts(runner, banned, PROMPT, answer).tolist() == pytest.approx([0, float(expected), 0], abs=1e-6)


def test_a_steering_text_moves_the_distribution(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    steered, answer = [1, 2, *PROMPT], [9, 10]
    found = shifts(runner, Strategy(sampling=Sampling()), PROMPT, answer, steered)
    for step, value in enumerate(found.tolist()):
        texts = [[*before, *answer[:step]] for before in (PROMPT, steered)]
        p, q = (runner.logits([text])[0, -1].double().log_softmax(0) for text in texts)
        assert value == pytest.approx(float((q.exp() * (q - p)).sum()), abs=1e-5)
        assert value > 0.01


def test_what_cannot_be_is_refused(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    with pytest.raises(InputError, match="beams must be at least 1, not 0"):
        Strategy(beams=0)
    with pytest.raises(InputError, match="Beam search takes no rule"):
        Strategy(beams=2, rule=WordRule({(1,): -1.0}))
    with pytest.raises(InputError, match="Beam search has no distribution of the next token"):
        shifts(runner, Strategy(beams=2), PROMPT, [1])
    with pytest.raises(InputError, match="leaves room for 59 new ones in the model's context of 64"):
        beam_search(runner, PROMPT, beams=2, max_new_tokens=60)
    with pytest.raises(InputError, match="beams and max_new_tokens must be at least 1, not 0 and 3"):
        beam_search(runner, PROMPT, beams=0, max_new_tokens=3)
