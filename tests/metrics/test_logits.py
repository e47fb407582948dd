import math

import pytest
import torch

from mechlist.metrics.logits import next_token, prediction


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_next_token_is_log_softmax_at_the_target(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(*shape, 11, generator=generator)
    target = torch.randint(0, 11, shape, generator=generator)
    log_prob, correct = next_token(logits, target)
    assert log_prob.shape == correct.shape == shape
    expected = logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_prob, expected)
    assert torch.equal(correct, logits.argmax(-1) == target)


def test_equal_logits_give_minus_the_log_of_the_vocabulary() -> None:
    log_prob, _ = next_token(torch.full((2, 8), 3.0), torch.tensor([0, 7]))
    assert log_prob.tolist() == pytest.approx([-math.log(8)] * 2)


def test_large_logits_do_not_overflow() -> None:
    log_prob, correct = next_token(torch.tensor([[1e4, 0.0]]), torch.tensor([0]))
    assert log_prob.item() == 0.0
    assert correct.item()


def test_half_precision_logits_are_normalised_in_float32() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    target = torch.tensor([0, 1, 2, 3])
    log_prob, _ = next_token(logits, target)
    assert log_prob.dtype == torch.float32
    assert torch.equal(log_prob, next_token(logits.float(), target).log_prob)


def test_a_prediction_tells_what_else_might_have_come() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]).log()
    found = prediction(logits, torch.tensor([2, 3, 0]), 2)
    torch.testing.assert_close(found.log_prob.exp(), torch.tensor([0.2, 0.25, 1.0]))
    # Equals share a rank.
    assert found.rank.tolist() == [2, 0, 0]
    expected = -sum(p * math.log(p) for p in (0.4, 0.3, 0.2, 0.1))
    torch.testing.assert_close(found.entropy, torch.tensor([expected, math.log(4), 0.0]))
    assert found.top[0].tolist() == [0, 1]
    torch.testing.assert_close(found.top_log_prob[0].exp(), torch.tensor([0.4, 0.3]))
