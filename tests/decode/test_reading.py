"""What a model expected at every token: against whole logits, and only the columns that are asked for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.decode.reading import read_columns, read_predictions
from mechlist.errors import InputError
from mechlist.metrics.logits import prediction
from mechlist.runner import Runner
from mechlist.runner.memory import MemoryShares

TEXTS = [[5, 6, 7, 8, 9], [10, 11], list(range(3, 24)), [12, 13, 14]]
STARTS = [2, 1, 5, 1]


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_predictions_are_those_of_whole_logits(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    tokens, found = read_predictions(runner, TEXTS, STARTS, 4)
    assert tokens.shape == (4, 16)
    for row, (text, start) in enumerate(zip(TEXTS, STARTS, strict=True)):
        size = len(text) - start
        logits = runner.logits([text])[0, start - 1 : -1]
        expected = prediction(logits, torch.tensor(text[start:]), 4)
        assert tokens[row].tolist() == text[start:] + [-1] * (16 - size)
        for name, value in expected._asdict().items():
            torch.testing.assert_close(getattr(found, name)[row, :size], value, atol=1e-4, rtol=1e-4)
        assert found.log_prob[row, size:].isnan().all()
        assert (found.rank[row, size:] == -1).all()


def test_pieces_of_logits_change_nothing(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    runner = loaded("gpt2")
    whole = read_predictions(runner, TEXTS, STARTS, 2)[1]
    monkeypatch.setattr(runner, "shares", MemoryShares(100_000))
    torch.testing.assert_close(read_predictions(runner, TEXTS, STARTS, 2)[1].log_prob, whole.log_prob, equal_nan=True)


def test_only_the_columns_that_are_asked_for_are_unembedded(
    loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch
):
    runner = loaded("gemma2")
    expected = [runner.logits([text])[0, start - 1 : -1, [7, 3]] for text, start in zip(TEXTS, STARTS, strict=True)]
    unembed, widths = runner.language_model.unembed, []

    def spied(normalized: Tensor, columns: Tensor | None = None) -> Any:
        widths.append(None if columns is None else columns.tolist())
        return unembed(normalized, columns)

    monkeypatch.setattr(runner.language_model, "unembed", spied)
    tokens, found = read_columns(runner, TEXTS, STARTS, torch.tensor([7, 3]))
    assert set(map(str, widths)) == {"[7, 3]"}
    for row, value in enumerate(expected):
        torch.testing.assert_close(found[row, : len(value)], value, atol=1e-4, rtol=1e-4)
    assert tokens.shape == (4, 16)


@pytest.mark.parametrize("starts", [[0, 1, 1, 1], [5, 1, 1, 1], [1, 1]])
def test_a_text_needs_a_token_before_it(loaded: Callable[[str], Runner], starts: list[int]):
    with pytest.raises(InputError, match="must have a token before its start and one behind it"):
        read_predictions(loaded("gpt2"), TEXTS, starts, 2)


def test_what_the_vocabulary_has_not_is_refused(loaded: Callable[[str], Runner]):
    with pytest.raises(InputError, match="alternatives must be from 1 to the 97 of the vocabulary, not 98"):
        read_predictions(loaded("gpt2"), TEXTS, STARTS, 98)
    with pytest.raises(InputError, match=r"columns must be token ids from 0 to 96, not \[97\]"):
        read_columns(loaded("gpt2"), TEXTS, STARTS, torch.tensor([97]))
