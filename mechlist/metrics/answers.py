"""How much a run favours certain tokens."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Each, Logits, Measure, Words, positions, selected, token_sets


@dataclass(frozen=True, eq=False)
class LogitDifference:
    """Logit of the answer minus logit of a wrong answer, after any softcap.

    Sets of tokens are averaged, so that sets of one size give the mean over pairs of an answer and a wrong answer; or
    combined by log-sum-exp, which gives the log-odds of the one set against the other.
    """

    answer: Each | Words
    """Token id or text, one for each prompt, or sets."""
    wrong: Each | Words
    """Token id or text, one for each prompt, or sets."""
    _: KW_ONLY
    position: Each = -1
    """Of the prediction; negative ones count from the last real token. Several are averaged."""
    sets: Literal["mean", "logsumexp"] = "mean"
    """How the logits of a set become one."""
    unit: str = "logits"

    def prepare(self, tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"], d_vocab: int) -> Measure:
        """See Metric; no token may be answer and wrong answer of one prompt."""
        sides = [token_sets(getattr(self, name), name, len(tokens), d_vocab) for name in ("answer", "wrong")]
        (answer, is_answer), (wrong, is_wrong) = sides
        same = (answer[:, :, None] == wrong[:, None]) & is_answer[:, :, None] & is_wrong[:, None]
        if same.any():
            i, j, _ = same.nonzero()[0].tolist()
            words = "both are" if answer.shape[1] == wrong.shape[1] == 1 else "both have"
            raise InputError(f"answer and wrong must be different tokens; for prompt {i} {words} {int(answer[i, j])}.")
        columns = torch.cat([answer.flatten(), wrong.flatten()]).unique()
        up, down = ((torch.searchsorted(columns, ids), there) for ids, there in sides)

        def of(logits: Logits) -> Float[Tensor, " token"]:
            at = logits.prompt
            first, second = (_combined(logits.values, ids[at], there[at], self.sets) for ids, there in (up, down))
            return first - second

        return Measure(*positions(self.position, lengths), columns, of)

    def select(self, prompts: Sequence[int]) -> "LogitDifference":
        """See Metric."""
        return replace(
            self,
            answer=selected(self.answer, prompts),
            wrong=selected(self.wrong, prompts),
            position=selected(self.position, prompts),
        )


@dataclass(frozen=True, eq=False)
class LogProb:
    """Log-probability of the answer; of a set, that any of its tokens comes."""

    answer: Each | Words
    """Token id or text, one for each prompt, or sets."""
    _: KW_ONLY
    position: Each = -1
    """Of the prediction; negative ones count from the last real token. Several are averaged."""
    unit: str = "nats"

    def prepare(self, tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"], d_vocab: int) -> Measure:
        """See Metric."""
        answer, there = token_sets(self.answer, "answer", len(tokens), d_vocab)

        def of(logits: Logits) -> Float[Tensor, " token"]:
            chosen = _combined(logits.values, answer[logits.prompt], there[logits.prompt], "logsumexp")
            return chosen - logits.values.logsumexp(dim=1)

        return Measure(*positions(self.position, lengths), None, of)

    def select(self, prompts: Sequence[int]) -> "LogProb":
        """See Metric."""
        return replace(self, answer=selected(self.answer, prompts), position=selected(self.position, prompts))


@dataclass(frozen=True, eq=False)
class Probability:
    """Probability of the answer; of a set, that any of its tokens comes: of ending, with the tokens that end a turn."""

    answer: Each | Words
    """Token id or text, one for each prompt, or sets."""
    _: KW_ONLY
    position: Each = -1
    """Of the prediction; negative ones count from the last real token. Several are averaged."""
    unit: str = "probability"

    def prepare(self, tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"], d_vocab: int) -> Measure:
        """See Metric."""
        inner = LogProb(answer=self.answer, position=self.position).prepare(tokens, lengths, d_vocab)
        return Measure(inner.read, inner.weight, None, lambda logits: inner.of(logits).exp())

    def select(self, prompts: Sequence[int]) -> "Probability":
        """See Metric."""
        return replace(self, answer=selected(self.answer, prompts), position=selected(self.position, prompts))


@dataclass(frozen=True, eq=False)
class Rank:
    """Tokens with a larger logit than the answer: 0 where it comes first; of a set, the rank of its best."""

    answer: Each | Words
    """Token id or text, one for each prompt, or sets."""
    _: KW_ONLY
    position: Each = -1
    """Of the prediction; negative ones count from the last real token. Several are averaged."""
    unit: str = "rank"

    def prepare(self, tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"], d_vocab: int) -> Measure:
        """See Metric."""
        answer, there = token_sets(self.answer, "answer", len(tokens), d_vocab)

        def of(logits: Logits) -> Float[Tensor, " token"]:
            chosen = _gathered(logits.values, answer[logits.prompt], there[logits.prompt]).max(dim=1, keepdim=True)
            return (logits.values > chosen.values).sum(dim=1).float()

        return Measure(*positions(self.position, lengths), None, of)

    def select(self, prompts: Sequence[int]) -> "Rank":
        """See Metric."""
        return replace(self, answer=selected(self.answer, prompts), position=selected(self.position, prompts))


def _gathered(
    logits: Float[Tensor, "token column"], ids: Int[Tensor, "token k"], there: Bool[Tensor, "token k"]
) -> Float[Tensor, "token k"]:
    """Logits of each token's set; minus infinity where the set is smaller."""
    return logits.gather(1, ids.to(logits.device)).masked_fill(~there.to(logits.device), -torch.inf)


def _combined(logits: Tensor, ids: Tensor, there: Tensor, sets: str) -> Float[Tensor, " token"]:
    chosen = _gathered(logits, ids, there)
    if chosen.shape[1] == 1:
        return chosen[:, 0]
    if sets == "logsumexp":
        return chosen.logsumexp(dim=1)
    present = there.to(logits.device)
    return chosen.masked_fill(~present, 0.0).sum(dim=1) / present.sum(dim=1)
