"""Edits along directions: what they leave, what they change, for one prompt and for many, at the last token only."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mechlist.errors import InputError
from mechlist.lens.jacobian import JacobianLens
from mechlist.lens.jacobian_edits import ablate, lens_directions, random_like, steer, swap
from mechlist.lens.logit_lens import stage_hooks
from mechlist.runner import Runner
from mechlist.runner.interventions import Intervention, Rows
from mechlist.runner.raw import raw_runner
from mechlist.weights.output import output_weights
from tests.models.tiny import random_sequences

Loaded = Callable[[str], Runner]
WIDTH = 6
HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture
def pairs() -> Tensor:
    """Two directions for each of three prompts."""
    return torch.randn(3, 2, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def stream() -> Tensor:
    return torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(1))


def rows(index: tuple[int, ...] = (0, 1, 2), lengths: tuple[int, ...] = (4, 2, 3)) -> Rows:
    return Rows(torch.tensor(index), torch.tensor(lengths))


def changed(intervention: Intervention, stream: Tensor, of: Rows | None = None) -> Tensor:
    before = stream.clone()
    out = intervention.change(stream, of or rows())
    assert torch.equal(stream, before), "activations are never changed in place"
    return out


def test_a_step_is_as_long_as_it_is_said_to_be(pairs: Tensor, stream: Tensor):
    out = changed(steer(HOOK, pairs[:, 0], torch.tensor([1.0, 2.0, 0.0])), stream)
    step = out - stream
    torch.testing.assert_close(step.norm(dim=-1), torch.tensor([1.0, 2.0, 0.0])[:, None].expand(3, 4))
    torch.testing.assert_close(torch.cosine_similarity(step[:2], pairs[:2, :1], dim=-1), torch.ones(2, 4))


def test_ablation_leaves_nothing_along_the_directions_and_all_else(pairs: Tensor, stream: Tensor):
    out = changed(ablate(HOOK, pairs), stream)
    torch.testing.assert_close(out @ pairs.mT, torch.zeros(3, 4, 2), atol=1e-5, rtol=0)
    basis = torch.linalg.qr(pairs.mT).Q
    torch.testing.assert_close(stream - out, (stream @ basis) @ basis.mT, atol=1e-5, rtol=1e-5)


def test_a_swap_exchanges_coordinates_and_twice_is_nothing(pairs: Tensor, stream: Tensor):
    intervention = swap(HOOK, pairs)
    out = changed(intervention, stream)
    inverse = torch.linalg.pinv(pairs)
    torch.testing.assert_close(out @ inverse, (stream @ inverse).flip(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(changed(intervention, out), stream, atol=1e-4, rtol=1e-4)
    half = changed(swap(HOOK, pairs, strength=0.5), stream)
    torch.testing.assert_close(half, (out + stream) / 2, atol=1e-4, rtol=1e-4)


def test_a_prompts_own_directions_are_found_by_its_number(pairs: Tensor, stream: Tensor):
    whole = changed(ablate(HOOK, pairs), stream)
    some = changed(ablate(HOOK, pairs), stream[[2, 0]], rows((2, 0), (3, 4)))
    torch.testing.assert_close(some, whole[[2, 0]])
    # A single one is for all.
    one = changed(ablate(HOOK, pairs[:1]), stream)
    torch.testing.assert_close(one[2], changed(ablate(HOOK, pairs[:1].expand(3, -1, -1)), stream)[2])


def test_the_last_token_is_the_last_real_one(pairs: Tensor, stream: Tensor):
    ends = torch.tensor([3, 1, 2])
    for intervention, everywhere in (
        (steer(HOOK, pairs[:, 0], torch.ones(3), last=True), steer(HOOK, pairs[:, 0], torch.ones(3))),
        (ablate(HOOK, pairs, last=True), ablate(HOOK, pairs)),
        (swap(HOOK, pairs, last=True), swap(HOOK, pairs)),
    ):
        out, all_of_them = changed(intervention, stream), changed(everywhere, stream)
        expected = stream.clone()
        expected[torch.arange(3), ends] = all_of_them[torch.arange(3), ends]
        torch.testing.assert_close(out, expected)


def test_random_directions_have_the_same_norms_and_angles(pairs: Tensor):
    other = random_like(pairs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(other @ other.mT, pairs @ pairs.mT, atol=1e-5, rtol=1e-4)
    assert (torch.cosine_similarity(other, pairs, dim=-1).abs() < 0.99).all()


def test_directions_are_what_raises_the_lenss_logit(loaded: Loaded):
    """With the gain: a step along a token's direction, under a norm held fixed, raises its logit by the product."""
    lens = JacobianLens(torch.randn(3, 32, 32), (0, 1, 2), 3, 0, "random", metadata={})
    folded, raw = (output_weights(r) for r in (loaded("gemma2"), raw_runner(loaded("gemma2"))))
    tokens = torch.tensor([3, 50])
    for stage in (1, 3):
        one, other = (lens_directions(lens, stage, w.weight[:, tokens], w.gain) for w in (folded, raw))
        # Whatever is folded, the direction is the same.
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    expected = (raw.folded_gain[:, tokens].mT @ lens.of(1)).detach()
    torch.testing.assert_close(
        lens_directions(lens, 1, raw.weight[:, tokens], raw.gain), expected, atol=1e-4, rtol=1e-3
    )


def test_ablating_the_last_stage_takes_the_logit_of_the_token_away(loaded: Loaded):
    runner = loaded("llama")
    prompts = random_sequences(97, rows=3, length=7)
    output = output_weights(runner)
    lens = JacobianLens(torch.eye(32)[None], (0,), 3, 0, "ones", metadata={})
    before = runner.logits(prompts, positions=-1)[:, 0]
    first = before.argmax(-1)
    directions = lens_directions(lens, 3, output.weight[:, first], output.gain)[:, None]
    with runner.intervene(ablate(stage_hooks(runner)[-1], directions, last=True)):
        after = runner.logits(prompts, positions=-1)[:, 0]
    own = after.gather(1, first[:, None])[:, 0]
    torch.testing.assert_close(own, torch.zeros(3), atol=1e-4, rtol=0)
    assert (before.gather(1, first[:, None])[:, 0] > 0.1).all()


def test_bad_input(pairs: Tensor):
    with pytest.raises(InputError, match="swap takes two directions that are not parallel; these are"):
        swap(HOOK, torch.stack([pairs[:, 0], -2 * pairs[:, 0]], dim=1))
    with pytest.raises(InputError, match="directions: a direction must be finite and not zero"):
        ablate(HOOK, torch.zeros(1, 2, WIDTH))
    lens = JacobianLens(torch.zeros(1, 4, 4), (0,), 2, 0, "zeros", metadata={})
    with pytest.raises(InputError, match="has no direction for one of the tokens at stage 0"):
        lens_directions(lens, 0, torch.ones(4, 1), torch.ones(4))
