"""What experiments on pairs of prompts share: the flags that name the pairs, the pairs as tokens, and the metrics."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.pairs.pair import KEYS, Pair, Pairs, list_pairs, name_pairs, own_pairs, read_pairs
from mechlist.errors import InputError
from mechlist.experiment import Experiment, Option
from mechlist.experiments.pair_look import CAPTION
from mechlist.metrics.answers import LogitDifference, LogProb, Probability, Rank
from mechlist.metrics.distributions import Entropy, KLFromBase, Loss
from mechlist.metrics.measure import Metric
from mechlist.runner import Runner
from mechlist.runner.batching import pad_right
from mechlist.text import joined, visible

TOPICS = ("Fruits", "Vegetables", "Animals", "Countries", "Sports", "Languages", "Colors", "Rivers")
PROMPT_GROUP = {"prompts": ("clean", "corrupt", "answer", "wrong", "pairs", "data", "topics", "examples")}
METRICS = {
    "logit_difference": "logit difference",
    "log_prob": "log-probability of the answer",
    "probability": "probability of the answer",
    "rank": "rank of the answer",
    "kl": "KL divergence from the unchanged run",
    "entropy": "entropy",
    "loss": "loss",
}
"""As sentences name them."""


def only_with(*data: str) -> Any:
    """Of an experiment on pairs: where an option of these data sets does not count; see `Option`."""
    return lambda experiment: "" if experiment.origin in data else f"with {experiment.origin_words}"


def pair_options(*, data: str, topics: tuple[str, ...] = TOPICS, examples: int = 32) -> dict[str, Option]:
    """Options of the pairs, with their defaults."""
    return {
        "data": Option(lambda experiment: f"with {experiment.origin_words}" if experiment.own else "", data),
        "topics": Option(only_with("list"), topics),
        "examples": Option(only_with("ioi", "induction"), examples),
    }


@dataclass(frozen=True, kw_only=True)
class PairExperiment(Experiment):
    """Base of experiments on pairs of a clean and a corrupt prompt."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"
    options: ClassVar[Mapping[str, Option]] = pair_options(data="list")
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = PROMPT_GROUP
    captions: ClassVar[Mapping[str, str]] = CAPTION

    clean: str = ""
    """Prompt that has the answer as its continuation; without, the pairs of --data."""
    corrupt: str = ""
    """Prompt of as many tokens that has the wrong answer as its continuation."""
    answer: str = ""
    """Continuation of the clean prompt: one token, with its leading blank."""
    wrong: str = ""
    """Continuation of the corrupt prompt: one token, with its leading blank."""
    pairs: Path | None = None
    """File of pairs, in place of the four: lines of JSON with clean, corrupt, answer and wrong."""
    data: str | None = None
    """Pairs that are built in."""
    topics: tuple[str, ...] | None = None
    """Topics of the lists, one pair each; by default eight."""
    examples: int | None = None
    """Pairs of prompts with two people's names; by default 32."""

    def __post_init__(self) -> None:
        given = [name for name in KEYS if getattr(self, name)]
        if given and (len(given) < len(KEYS) or self.pairs is not None):
            raise InputError("clean, corrupt, answer and wrong must be given together, and without pairs.")
        if self.examples is not None and self.examples < 1:
            raise InputError(f"examples must be at least 1, not {self.examples}.")
        if self.topics == ():
            raise InputError("topics must hold one topic at least, not none.")
        self.check_options()

    @property
    def own(self) -> bool:
        """Whether the pairs are one's own, and not built in."""
        return bool(self.clean) or self.pairs is not None

    @property
    def origin(self) -> str:
        """Where the pairs come from: the name of built-in data, or `pairs`."""
        return "pairs" if self.own else self.value_of("data")

    @property
    def origin_words(self) -> str:
        """The same in a sentence."""
        return "pairs of one's own" if self.own else f"data {self.origin}"

    def found_pairs(self, runner: Runner) -> Pairs:
        """The pairs that the flags name.

        Raises:
            InputError: pairs that are none; topics or names that the tokenizer has not.
        """
        if self.own:
            given = read_pairs(self.pairs) if self.pairs is not None else [{name: getattr(self, name) for name in KEYS}]
            return pairs_of_texts(runner, given)
        if self.origin == "list":
            return list_pairs(runner.tokenizer, self.value_of("topics"))
        return named_pairs(runner, self.value_of("examples"))


def pairs_of_texts(runner: Runner, texts: Sequence[Mapping[str, str]]) -> Pairs:
    """Pairs of one's own; a warning where the model itself would rather go on with the wrong answer.

    Raises:
        InputError: as `own_pairs`.
    """
    found = own_pairs(runner, texts, vocabulary=runner.shape.d_vocab_out)
    logits = runner.logits([pair.clean for pair in found.pairs], positions=-1)[:, 0].float()
    for number, (pair, own) in enumerate(zip(found.pairs, logits, strict=True), start=1):
        if int(own.argmax()) == pair.wrong:
            best = own.softmax(dim=0).topk(min(5, len(own)))
            names = [visible(text) for text in runner.token_texts(best.indices.tolist())]
            shown = [f"“{name}” {p:.1%}" for name, p in zip(names, best.values.tolist(), strict=True)]
            warnings.warn(
                f"The clean prompt of pair {number} is continued with its wrong answer by the model itself; it "
                f"predicts {joined(shown)}.",
                stacklevel=2,
            )
    return found


def named_pairs(runner: Runner, examples: int) -> Pairs:
    """Prompts with two people's names, with BOS as is the model's habit.

    Raises:
        InputError: a tokenizer that does not write names as one token.
    """
    bos = runner.bos_token_id if runner.to_tokens("a") != runner.to_tokens("a", prepend_bos=False) else None
    return name_pairs(runner.tokenizer, examples, bos=bos, generator=runner.numpy_generator("ioi pairs"))


def padded_pairs(
    pairs: Sequence[Pair],
) -> tuple[Int[Tensor, "prompt position"], Int[Tensor, "prompt position"], Int[Tensor, " prompt"]]:
    """Clean and corrupt prompts, padded on the right, and their lengths."""
    clean, corrupt = (pad_right([torch.tensor(getattr(pair, name)) for pair in pairs]) for name in ("clean", "corrupt"))
    return clean, corrupt, torch.tensor([len(pair.clean) for pair in pairs])


def metric_of(name: str, pairs: Sequence[Pair]) -> Metric:
    """A metric by the name of its flag, at the end of each pair's prompts."""
    answer, wrong = [pair.answer for pair in pairs], [pair.wrong for pair in pairs]
    made: dict[str, Metric] = {
        "logit_difference": LogitDifference(answer=answer, wrong=wrong),
        "log_prob": LogProb(answer=answer),
        "probability": Probability(answer=answer),
        "rank": Rank(answer=answer),
        "kl": KLFromBase(),
        "entropy": Entropy(),
        "loss": Loss(),
    }
    return made[name]
