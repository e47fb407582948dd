"""Ways of choosing tokens, side by side: beam search, and how far each way moves the next-token distribution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.decode.generation import Completion, generate
from mechlist.decode.rules import LogitRule, ruled
from mechlist.decode.sampling import Sampling
from mechlist.decode.tree import TokenPath
from mechlist.decode.tree_model import PathReader
from mechlist.errors import InputError
from mechlist.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way of choosing tokens."""

    sampling: Sampling = field(default_factory=lambda: Sampling(greedy=True))
    beams: int = 1
    """Paths that are kept by beam search; with more than one, nothing is drawn."""
    rule: LogitRule | None = None
    """Changes the logits first."""

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise InputError(f"beams must be at least 1, not {self.beams}.")
        if self.beams > 1 and self.rule is not None:
            raise InputError("Beam search takes no rule: it compares paths by the model's own probabilities.")

    @property
    def is_drawn(self) -> bool:
        """Whether texts differ from sample to sample."""
        return self.beams == 1 and not self.sampling.greedy

    def write(
        self,
        runner: Runner,
        prompt: Sequence[int],
        *,
        samples: int,
        max_new_tokens: int,
        stop_tokens: Sequence[int],
    ) -> list[Completion]:
        """Texts behind the prompt: as many as `samples`, or one where nothing is drawn, or the best beams."""
        if self.beams > 1:
            found = beam_search(
                runner, prompt, beams=self.beams, max_new_tokens=max_new_tokens, stop_tokens=stop_tokens
            )
            return found[:samples]
        return generate(
            runner,
            [list(prompt)],
            max_new_tokens=max_new_tokens,
            samples=samples if self.is_drawn else 1,
            sampling=self.sampling,
            stop_tokens=stop_tokens,
            rule=self.rule,
        )[0]

    def distribution(self, logits: Float[Tensor, "token vocab"], answer: Sequence[int]) -> Float[Tensor, "token vocab"]:
        """What each token of an answer was chosen from.

        Raises:
            InputError: beam search, which compares whole paths and has no such distribution.
        """
        if self.beams > 1:
            raise InputError("Beam search has no distribution of the next token: it compares whole paths.")
        if self.rule is None:
            return self.sampling.probabilities(logits)
        written = torch.tensor(list(answer), dtype=torch.long)[None]
        changed = [ruled(self.rule, row[None], written[:, :step]) for step, row in enumerate(logits)]
        return self.sampling.probabilities(torch.cat(changed))


def beam_search(
    runner: Runner,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    stop_tokens: Sequence[int] = (),
    length_penalty: float | int = 1.0,
) -> list[Completion]:
    """The `beams` best completions found by keeping as many paths at every step, the best first.

    Finished paths are compared by log-probability / tokens ** length_penalty, as in Hugging Face's `generate` without
    early stopping: the search ends when no path that goes on is better, as it stands, than the worst finished one.

    Raises:
        InputError: a prompt that leaves no room for `max_new_tokens`; no beam.
    """
    if beams < 1 or max_new_tokens < 1:
        raise InputError(f"beams and max_new_tokens must be at least 1, not {beams} and {max_new_tokens}.")
    if len(prompt) + max_new_tokens > runner.shape.n_ctx:
        raise InputError(
            f"A prompt of {len(prompt)} tokens leaves room for {runner.shape.n_ctx - len(prompt)} new ones in the "
            f"model's context of {runner.shape.n_ctx}, not for max_new_tokens {max_new_tokens}."
        )
    search = _Beams(beams, frozenset(stop_tokens), length_penalty)
    reader = PathReader(runner, prompt)
    while search.goes_on and search.length < max_new_tokens:
        search.step(reader.log_probs([path for path, _ in search.live]))
    return search.best()


Told = tuple[TokenPath, tuple[float, ...]]
"""A path and the log-probabilities of its tokens."""


class _Beams:
    """Paths that go on, and those that are finished."""

    def __init__(self, beams: int, stop: frozenset[int], length_penalty: float | int) -> None:
        self._beams, self._stop, self._penalty = beams, stop, length_penalty
        self.live: list[Told] = [((), ())]
        self._finished: list[Told] = []

    @property
    def length(self) -> int:
        return len(self.live[0][0]) if self.live else 0

    @property
    def goes_on(self) -> bool:
        if not self.live:
            return False
        if len(self._finished) < self._beams or self.length == 0:
            return True
        return self._score(self.live[0]) > min(map(self._score, self._finished))

    def step(self, log_probs: Float[Tensor, "path vocab"]) -> None:
        """One token more."""
        sums = torch.tensor([math.fsum(told) for _, told in self.live], dtype=torch.float64)
        total = (sums[:, None] + log_probs.double()).flatten()
        vocab = log_probs.shape[1]
        # Twice as many, so that enough are left where some end.
        ordered = total.topk(min(2 * self._beams, len(total)))
        going: list[Told] = []
        for place, (value, number) in enumerate(zip(*map(Tensor.tolist, ordered), strict=True)):
            row, token = divmod(number, vocab)
            path, told = self.live[row]
            longer = (*path, token), (*told, float(log_probs[row, token]))
            if value == -math.inf:
                continue
            if token in self._stop:
                # As in Hugging Face's: an end counts among the best `beams` only.
                self._finished += [longer] if place < self._beams else []
            elif len(going) < self._beams:
                going.append(longer)
        self.live = going
        self._finished = sorted(self._finished, key=self._score, reverse=True)[: self._beams]

    def best(self) -> list[Completion]:
        """The best of both; a path that was cut off counts as it stands."""
        both = sorted([*self._finished, *self.live], key=self._score, reverse=True)[: self._beams]
        return [Completion(path, told, bool(path) and path[-1] in self._stop) for path, told in both]

    def _score(self, one: Told) -> float:
        return math.fsum(one[1]) / max(1, len(one[0])) ** self._penalty


def shifts(
    runner: Runner, strategy: Strategy, prompt: Sequence[int], answer: Sequence[int], steered: Sequence[int] = ()
) -> Float[Tensor, " token"]:
    """KL(strategy || plain model) of the next token, in nats, at each token of an answer.

    Args:
        runner: with the model.
        strategy: with which the answer was written.
        prompt: whose next token the plain model is asked for.
        answer: at least one token.
        steered: the prompt with a steering text in front, which the strategy saw instead.
    """
    plain = _logits(runner, prompt, answer)
    seen = _logits(runner, steered, answer) if len(steered) else plain
    chosen = strategy.distribution(seen, answer).double()
    gap = chosen.log() - plain.double().log_softmax(dim=1)
    return torch.where(chosen > 0, chosen * gap, 0.0).sum(dim=1)


def answer_log_prob(runner: Runner, prompt: Sequence[int], answer: Sequence[int]) -> Float[Tensor, " token"]:
    """Log-probability in nats of each token of an answer under the plain model."""
    return runner.log_probs([[*prompt, *answer]])[0, len(prompt) - 1 :]


def _logits(runner: Runner, prompt: Sequence[int], answer: Sequence[int]) -> Float[Tensor, "token vocab"]:
    positions = list(range(len(prompt) - 1, len(prompt) - 1 + len(answer)))
    return runner.logits([[*prompt, *answer]], positions=positions)[0].float()
