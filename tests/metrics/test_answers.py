"""Metrics of logits: every one against the obvious computation on whole logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference, LogProb, Probability, Rank
from mechlist.metrics.distributions import Entropy, KLFromBase, Loss
from mechlist.metrics.measure import Metric

PROMPTS, LENGTH, WIDTH, VOCAB = 3, 6, 4, 11
LENGTHS = torch.tensor([6, 4, 5])
generator = torch.Generator().manual_seed(0)
TOKENS = torch.randint(VOCAB, (PROMPTS, LENGTH), generator=generator)
UNEMBED = torch.randn(WIDTH, VOCAB, generator=generator)
BASE = torch.randn(PROMPTS, LENGTH, WIDTH, generator=generator)
ROWS = torch.tensor([0, 2, 2, 1, 0])
FINAL = torch.randn(len(ROWS), LENGTH, WIDTH, generator=generator)
"""Five rows on three prompts."""


def unembed(stream: Tensor, columns: Tensor | None) -> Tensor:
    return stream @ (UNEMBED if columns is None else UNEMBED[:, columns])


def measured(metric: Metric, most_bytes: int = 2**20) -> Tensor:
    measure = metric.prepare(TOKENS, LENGTHS, VOCAB)
    read = measure.read
    finals = FINAL[torch.arange(len(ROWS))[:, None], read[ROWS]]
    base = BASE[torch.arange(PROMPTS)[:, None], read]
    return measure(finals, ROWS, base, unembed, VOCAB, most_bytes)


def expected(value: Callable[[Tensor, Tensor, int, int], Tensor], positions: list[list[int]]) -> Tensor:
    """The mean over each prompt's positions of `value(logits, base logits, prompt, position)`."""
    out = []
    for row, prompt in enumerate(ROWS.tolist()):
        each = [
            value(FINAL[row, p] @ UNEMBED, BASE[prompt, p] @ UNEMBED, prompt, p).double() for p in positions[prompt]
        ]
        out.append(torch.stack(each).mean())
    return torch.stack(out).float()


LAST = [[5], [3], [4]]
SOME: list[list[int]] = [[0, 3, 5], [2], [1, 4]]
SETS = [[1, 2], [3, 4, 5], [6]]
OTHERS = [[7, 8], [9], [10, 0, 1]]
CASES: dict[str, tuple[Metric, Callable[..., Tensor], list[list[int]]]] = {
    "logit difference": (LogitDifference(answer=3, wrong=5), lambda logits, b, i, p: logits[3] - logits[5], LAST),
    "one for each prompt": (
        LogitDifference(answer=torch.tensor([1, 2, 3]), wrong=[4, 5, 6], position=torch.tensor([0, -1, 1])),
        lambda logits, b, i, p: logits[i + 1] - logits[i + 4],
        [[0], [3], [1]],
    ),
    "means of sets": (
        LogitDifference(answer=SETS, wrong=OTHERS, position=SOME),
        lambda logits, b, i, p: logits[SETS[i]].mean() - logits[OTHERS[i]].mean(),
        SOME,
    ),
    "log-odds of sets": (
        LogitDifference(answer=SETS, wrong=OTHERS, sets="logsumexp"),
        lambda logits, b, i, p: logits[SETS[i]].exp().sum().log() - logits[OTHERS[i]].exp().sum().log(),
        LAST,
    ),
    "one set for all": (
        LogitDifference(answer=[[1, 2]], wrong=7),
        lambda logits, b, i, p: (logits[1] + logits[2]) / 2 - logits[7],
        LAST,
    ),
    "log-probability": (LogProb(answer=4), lambda logits, b, i, p: logits.log_softmax(0)[4], LAST),
    "log-probability of a set": (
        LogProb(answer=SETS),
        lambda logits, b, i, p: logits.softmax(0)[SETS[i]].sum().log(),
        LAST,
    ),
    "probability": (
        Probability(answer=SETS, position=SOME),
        lambda logits, b, i, p: logits.softmax(0)[SETS[i]].sum(),
        SOME,
    ),
    "rank": (
        Rank(answer=torch.tensor([1, 2, 3])),
        lambda logits, b, i, p: torch.tensor(logits.argsort(descending=True).tolist().index(i + 1)),
        LAST,
    ),
    "rank of a set": (
        Rank(answer=SETS),
        lambda logits, b, i, p: torch.tensor(min(logits.argsort(descending=True).tolist().index(t) for t in SETS[i])),
        LAST,
    ),
    "entropy": (
        Entropy(position=SOME),
        lambda logits, b, i, p: -(logits.softmax(0) * logits.softmax(0).log()).sum(),
        SOME,
    ),
    "KL from base": (
        KLFromBase(position=SOME),
        lambda logits, b, i, p: (b.softmax(0) * (b.softmax(0).log() - logits.softmax(0).log())).sum(),
        SOME,
    ),
    "loss": (
        Loss(),
        lambda logits, b, i, p: -logits.softmax(0)[TOKENS[i, p + 1]].log(),
        [list(range(n - 1)) for n in LENGTHS.tolist()],
    ),
    "loss at some positions": (
        Loss(position=[[0, 3], [1], [2]]),
        lambda logits, b, i, p: -logits.softmax(0)[TOKENS[i, p + 1]].log(),
        [[0, 3], [1], [2]],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_metric_is_what_whole_logits_give(case: str):
    metric, value, positions = CASES[case]
    torch.testing.assert_close(measured(metric), expected(value, positions), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_logits_do_not_matter(case: str):
    torch.testing.assert_close(measured(CASES[case][0], most_bytes=1), measured(CASES[case][0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", [[2, 0], [1], [0, 1, 2]])
@pytest.mark.parametrize("case", CASES)
def test_some_prompts_in_another_order_keep_their_numbers(case: str, order: list[int]):
    part = CASES[case][0].select(order).prepare(TOKENS[order], LENGTHS[order], VOCAB)
    rows = [row for row, prompt in enumerate(ROWS.tolist()) if prompt in order]
    prompt = torch.tensor([order.index(int(ROWS[row])) for row in rows])
    finals = FINAL[rows][torch.arange(len(rows))[:, None], part.read[prompt]]
    base = BASE[order][torch.arange(len(order))[:, None], part.read]
    found = part(finals, prompt, base, unembed, VOCAB, 2**20)
    torch.testing.assert_close(found, measured(CASES[case][0])[rows], atol=1e-6, rtol=1e-6)


def test_only_the_columns_that_are_named_are_asked_for():
    assert LogitDifference(answer=3, wrong=5).prepare(TOKENS, LENGTHS, VOCAB).columns is not None
    assert LogProb(answer=3).prepare(TOKENS, LENGTHS, VOCAB).columns is None


def test_a_block_of_prompts_has_its_own_tokens():
    measure = LogitDifference(answer=[1, 2, 3], wrong=[4, 5, 6]).prepare(TOKENS, LENGTHS, VOCAB)
    part = measure.block(slice(1, 3))
    base = BASE[torch.arange(PROMPTS)[:, None], measure.read]
    whole = measure(base, torch.arange(3), base, unembed, VOCAB, 2**20)
    again = part(base[1:], torch.arange(2), base[1:], unembed, VOCAB, 2**20)
    torch.testing.assert_close(again, whole[1:])


def test_an_outcome_without_probability_is_no_trouble():
    logits = torch.tensor([[0.0, -torch.inf, 1.0]])
    for metric in (Entropy(position=0), KLFromBase(position=0)):
        measure = metric.prepare(torch.zeros(1, 2, dtype=torch.long), torch.tensor([2]), 3)
        found = measure(
            logits[:, None], torch.tensor([0]), logits[:, None], lambda stream, _: stream.reshape(-1, 3), 3, 2**20
        )
        assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (LogitDifference(answer=3, wrong=3), "must be different tokens; for prompt 0 both are 3"),
        (LogitDifference(answer=[[1, 2]], wrong=[[3, 2]]), "must be different tokens; for prompt 0 both have 2"),
        (LogProb(answer=11), "answer must be token ids from 0 to 10, not"),
        (Rank(answer=[1, 2]), "answer must be one number, or one for each of the 3 prompts"),
        (Probability(answer=[[1], [2]]), "answer must be one number, or one for each of the 3 prompts, not for 2"),
        (Probability(answer=[[1], [], [2]]), "one number at least for each prompt; prompt 1 has none"),
        (Entropy(position=5), "position 5 is outside prompt 1, which has 4 tokens"),
        (Entropy(position=torch.tensor(0.5)), "position must be whole numbers"),
        (KLFromBase(position=[[0], [4], [0]]), "position 4 is outside prompt 1"),
        (Loss(position=-1), "position 5 is the last of prompt 0: it has no next token"),
    ],
)
def test_bad_metrics_are_refused(metric: Metric, words: str):
    with pytest.raises(InputError, match=words):
        metric.prepare(TOKENS, LENGTHS, VOCAB)


def test_a_loss_needs_two_tokens():
    lengths: Any = torch.tensor([1])
    with pytest.raises(InputError, match="prompts of 2 tokens at least"):
        Loss().prepare(torch.zeros(1, 1, dtype=torch.long), lengths, VOCAB)
