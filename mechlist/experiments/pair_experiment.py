"""What experiments on pairs of prompts share: the flags that name the pairs, and the pairs as tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.patch_pairs import KEYS, Pair, Pairs, list_pairs, name_pairs, own_pairs, read_pairs
from mechlist.metrics.answers import LogitDifference, LogProb, Probability, Rank
from mechlist.metrics.distributions import Entropy, KLFromBase, Loss
from mechlist.metrics.measure import Metric
from mechlist.runner import Runner
from mechlist.runner.batching import pad_right
from mechlist.text import visible

TOPICS = ("Fruits", "Vegetables", "Animals", "Countries", "Sports", "Languages", "Colors", "Rivers")


@dataclass(frozen=True, kw_only=True)
class PairExperiment(Experiment):
    """Base of experiments on pairs of a clean and a corrupt prompt."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

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
    data: str = "list"
    """Pairs that are built in."""
    topics: tuple[str, ...] = TOPICS
    """Topics of the lists, one pair each."""
    examples: int = 32
    """Pairs of prompts with two people's names."""

    def __post_init__(self) -> None:
        given = [name for name in KEYS if getattr(self, name)]
        if given and (len(given) < len(KEYS) or self.pairs is not None):
            raise InputError("clean, corrupt, answer and wrong must be given together, and without pairs.")
        if self.examples < 1:
            raise InputError(f"examples must be at least 1, not {self.examples}.")
        if not self.topics:
            raise InputError("topics must hold one topic at least, not none.")

    @property
    def own(self) -> bool:
        """Whether the pairs are one's own, and not built in."""
        return bool(self.clean) or self.pairs is not None

    def found_pairs(self, runner: Runner) -> Pairs:
        """The pairs that the flags name.

        Raises:
            InputError: pairs that are none; topics or names that the tokenizer has not.
        """
        if self.pairs is not None:
            return own_pairs(runner, read_pairs(self.pairs))
        if self.clean:
            return own_pairs(runner, [{name: getattr(self, name) for name in KEYS}])
        return list_pairs(runner, self.topics) if self.data == "list" else name_pairs(runner, self.examples)


def padded_pairs(
    pairs: Sequence[Pair],
) -> tuple[Int[Tensor, "prompt position"], Int[Tensor, "prompt position"], Int[Tensor, " prompt"]]:
    """Clean and corrupt prompts, padded on the right, and their lengths."""
    clean, corrupt = (pad_right([torch.tensor(getattr(pair, name)) for pair in pairs]) for name in ("clean", "corrupt"))
    return clean, corrupt, torch.tensor([len(pair.clean) for pair in pairs])


def token_labels_of(
    runner: Runner, tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"]
) -> np.ndarray:
    """What each token is, as labels show it; empty beyond a prompt's end."""
    texts = [runner.token_texts(row[:n].tolist()) for row, n in zip(tokens, lengths.tolist(), strict=True)]
    return np.array([[*map(visible, row), *[""] * (tokens.shape[1] - len(row))] for row in texts])


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
