"""Decoders that fork: against decoders of their own, on every kind of model."""

from collections.abc import Callable

import pytest
import torch

from mechlist.decode import HeadEdit
from mechlist.decode.heads import edited_decoder
from mechlist.models.decoding import Decoder
from mechlist.runner import Runner

FIRST, NEXT = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]]), torch.tensor([[11], [12], [13]])
ROWS = [1, 0, 1]


def fed(decoder: Decoder, *parts: torch.Tensor) -> torch.Tensor:
    final = torch.empty(0)
    with torch.no_grad():
        for part in parts:
            final = decoder.feed(part)
    return final


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_a_fork_goes_on_alone(loaded: Callable[[str], Runner], architecture: str):
    model = loaded(architecture).language_model
    decoder = model.decoder(2, 5)
    fed(decoder, FIRST)
    fork = decoder.fork(torch.tensor(ROWS), 12)
    # Longer than the first decoder may get, and two rows that go on differently from one.
    found = fed(fork, NEXT, NEXT.flip(0), NEXT)
    expected = fed(model.decoder(3, 12), FIRST[ROWS], NEXT, NEXT.flip(0), NEXT)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fed(decoder, NEXT[:2]), fed(model.decoder(2, 5), FIRST, NEXT[:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["zero", "swap"])
@pytest.mark.parametrize("architecture", ["gpt2", "stablelm"])
def test_a_fork_is_changed_as_its_decoder_is(loaded: Callable[[str], Runner], architecture: str, mode: str):
    model = loaded(architecture).language_model
    donors = ((20, 21, 22, 23), (24, 25, 26, 27)) if mode == "swap" else None
    edit = HeadEdit(heads=((0, 1), (2, 3)), mode=mode, donors=donors)  # pyright: ignore[reportArgumentType]
    given = FIRST if donors is None else torch.cat([FIRST, torch.tensor(donors)])

    def fresh() -> Decoder:
        decoder = edited_decoder(model, len(given), 8, edit)
        fed(decoder, given)
        return decoder

    kept = fresh()
    kept.keep(torch.tensor(ROWS))
    expected = fed(kept, NEXT, NEXT.flip(0))
    decoder = fresh()
    fork = decoder.fork(torch.tensor(ROWS), 8)
    torch.testing.assert_close(fed(fork, NEXT, NEXT.flip(0)), expected, atol=1e-5, rtol=1e-4)
    # The first goes on as if nothing had been forked.
    torch.testing.assert_close(fed(decoder, NEXT[:2]), fed(fresh(), NEXT[:2]), atol=1e-5, rtol=1e-4)
