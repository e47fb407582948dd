"""Texts of every strategy, and how far each moves what the model would say."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mechlist.decode import Completion, Sampling, generate
from mechlist.decode.rules import WordRule
from mechlist.decode.strategies import Strategy, answer_log_prob, shifts
from mechlist.metrics.diversity import distinct, mean_distance
from mechlist.runner import Runner

MEASURES = ("log_prob", "log_prob_per_token", "kl_first", "kl", "tokens", "distinct_1", "distinct_2", "distance")
GREEDY, STEERED = "greedy", "steered"


@dataclass(frozen=True)
class Told:
    """What one strategy makes of one prompt."""

    texts: tuple[tuple[int, ...], ...]
    measures: Mapping[str, float]


def first_word(runner: Runner, prompt: Sequence[int], stop_tokens: Sequence[int]) -> int:
    """The token that greedy decoding begins with."""
    ((one,),) = generate(
        runner, [list(prompt)], max_new_tokens=1, sampling=Sampling(greedy=True), stop_tokens=stop_tokens
    )
    return one.tokens[0]


def against_first(word: int, penalty: float | int) -> dict[str, Strategy]:
    """Greedy decoding that may not begin with a token, and that is held from it by a penalty."""
    return {
        "banned": Strategy(rule=WordRule({(word,): -math.inf})),
        "penalised": Strategy(rule=WordRule({(word,): -penalty})),
    }


def tell(
    runner: Runner,
    strategy: Strategy,
    prompt: Sequence[int],
    steered: Sequence[int],
    *,
    samples: int,
    max_new_tokens: int,
    stop_tokens: Sequence[int],
) -> Told:
    """Texts of a strategy behind a prompt, measured against the plain model behind the same prompt.

    Args:
        runner: with the model.
        strategy: how tokens are chosen.
        prompt: token ids.
        steered: the prompt with a steering text in front, which is read in its place; or nothing.
        samples: texts, where they are drawn, and beams that are kept.
        max_new_tokens: limit of each text.
        stop_tokens: any of them ends a text.
    """
    found = strategy.write(
        runner, steered or prompt, samples=samples, max_new_tokens=max_new_tokens, stop_tokens=stop_tokens
    )
    texts = tuple(one.tokens for one in found)
    log_probs = [_log_probs(runner, one, prompt, steered) for one in found]
    measures = {
        "log_prob": float(np.mean([told.sum() for told in log_probs])),
        "log_prob_per_token": float(np.mean([told.mean() for told in log_probs])),
        "tokens": float(np.mean([len(text) for text in texts])),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "distance": mean_distance(texts),
        "kl_first": math.nan,
        "kl": math.nan,
    }
    if strategy.beams == 1:
        # Greedy decoding would put all on one token, whatever a rule or a steering text changes.
        changed = strategy.rule is not None or len(steered) > 0
        of = dataclasses.replace(strategy, sampling=Sampling()) if changed else strategy
        moved = [shifts(runner, of, prompt, text, steered).numpy() for text in texts]
        measures |= {"kl_first": float(moved[0][0]), "kl": float(np.concatenate(moved).mean())}
    return Told(texts, measures)


def _log_probs(runner: Runner, one: Completion, prompt: Sequence[int], steered: Sequence[int]) -> np.ndarray:
    """Under the plain model behind the plain prompt."""
    if steered:
        return answer_log_prob(runner, prompt, one.tokens).double().numpy()
    return np.array(one.log_probs)
