"""Hugging Face's own forward pass, where it fails."""

from typing import Any

import pytest
import torch

from mechlist.errors import ModelError
from mechlist.models.parity import random_tokens, reference_logits


class Failing:
    """A model whose configuration speaks of other heads than its weights have."""

    device = torch.device("cpu")

    def __init__(self, error: str) -> None:
        self.error = error

    def __call__(self, tokens: Any) -> Any:
        raise RuntimeError(self.error)


def test_a_forward_pass_that_fails_is_one_sentence():
    message = "shape '[1, 16, -1, 9]' is invalid\nfor input of size 512"
    with pytest.raises(ModelError) as caught:
        reference_logits(Failing(message), random_tokens(97, 16))
    assert str(caught.value) == (
        "Hugging Face's own forward pass of this model fails (shape '[1, 16, -1, 9]' is invalid for input of size "
        "512): config.json may speak of other heads or sizes than the weights have."
    )


def test_memory_that_ran_out_is_no_fault_of_the_model():
    with pytest.raises(RuntimeError, match="not enough memory") as caught:
        reference_logits(Failing("DefaultCPUAllocator: not enough memory"), random_tokens(97, 16))
    assert not isinstance(caught.value, ModelError)
