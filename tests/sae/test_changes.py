"""Changed features: by hook, by hand and while a text is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mechlist.decode import HookEdit
from mechlist.decode.heads import edited_decoder
from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.sae.changes import FeatureChange, along, while_writing
from mechlist.sae.load import load_sae, places
from mechlist.sae.sae import Sae
from tests.sae.saes_for_tests import write_lens

pytest.importorskip("sae_lens")
FIRST, NEXT = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]]), torch.tensor([[11], [12]])


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Sae:
    folder = write_lens(tmp_path_factory.mktemp("sae") / "one", 16, 40, "blocks.1.hook_resid_post", kind="topk", k=6)
    return load_sae(places([str(folder)])[0])


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["zero", "mean", "scale", "steer"])
def test_changes_are_those_made_by_hand(sae: Sae, x: torch.Tensor, mode: Any):
    features, values = (3, 7, 20), torch.tensor([0.5, 2.0, -1.0])
    found = FeatureChange(sae=sae, features=features, mode=mode, values=None if mode == "zero" else values).changed(x)
    f = sae.encode(x)
    error = x - sae.decode(f)
    for i, value in zip(features, values.tolist(), strict=True):
        f[:, i] = {"zero": f[:, i] * 0, "mean": f[:, i] * 0 + value, "scale": f[:, i] * value}.get(
            mode, f[:, i] + value
        )
    torch.testing.assert_close(found, sae.decode(f) + error, atol=1e-5, rtol=1e-5)
    assert not torch.equal(found, x)


def test_a_splice_changes_nothing_but_rounding(sae: Sae, x: torch.Tensor):
    torch.testing.assert_close(FeatureChange(sae=sae, features=()).changed(x), x, atol=1e-5, rtol=1e-5)


def at_hook(runner: Runner, hook: str, vector: torch.Tensor, where: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    def add(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation + vector * where[None, : activation.shape[1], None]

    with torch.no_grad():
        return runner.language_model.residual(tokens, [(hook, add)])[:, -1]


@pytest.mark.parametrize("site", ["hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_resid_pre"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_a_change_while_writing_is_that_of_whole_passes(loaded: Callable[[str], Runner], architecture: str, site: str):
    runner = loaded(architecture)
    model, hook = runner.language_model, f"blocks.1.{site}"
    vector = 0.5 * torch.randn(runner.shape.d_model, generator=torch.Generator().manual_seed(0))

    def change(activation: torch.Tensor, tokens: torch.Tensor, first: int, last: int) -> torch.Tensor:
        positions = torch.arange(first, first + tokens.shape[1])
        return activation + vector * ((positions == 1) | (positions > last))[None, :, None]

    decoder = edited_decoder(model, 2, 8, HookEdit(changes={hook: change}, name="add"))
    where = torch.tensor([0.0, 1, 0, 0, 1, 1])
    with torch.no_grad():
        for given, width in ((FIRST, 4), (NEXT, 5), (NEXT.flip(0), 6)):
            found = decoder.feed(given)
            read = torch.cat([FIRST, NEXT, NEXT.flip(0)], dim=1)[:, :width]
            torch.testing.assert_close(found, at_hook(runner, hook, vector, where, read), atol=1e-4, rtol=1e-4)


def test_hooks_that_cannot_be_changed_while_writing():
    edit = HookEdit(changes={"blocks.0.attn.hook_q": lambda a, t, f, n: a}, name="q")
    with pytest.raises(InputError, match=r"hooks that are changed while a text is written must be one of attn\.hook_z"):
        edit.check((2, 2), [])


def test_positions_along_prompts(loaded: Callable[[str], Runner], tmp_path: Path):
    runner = loaded("gpt2")
    hook = "blocks.1.hook_resid_post"
    own = load_sae(places([str(write_lens(tmp_path / "s", runner.shape.d_model, 40, hook, kind="topk", k=6))])[0])
    where = torch.tensor([[False, True, False, False], [False, False, False, True]])
    change = FeatureChange(sae=own, features=tuple(range(40)))
    before = runner.capture(list(FIRST), hook)[hook]
    with runner.intervene(along(change, where)):
        after = runner.capture(list(FIRST), "blocks.1.hook_resid_post")[hook]
    moved = (after - before).abs().amax(-1) > 1e-6
    # What an intervention puts there is what a capture at the same hook sees.
    assert moved.tolist() == where.tolist()
    edit = while_writing([change, change], lambda tokens, first, last: tokens == 3, "threes")
    assert list(edit.changes) == [hook]
    assert edit.name.startswith("threes ")
