"""Reconstruction and splice: an SAE that is perfect keeps everything, one without features loses it all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mechlist.runner import Runner
from mechlist.sae.load import load_sae, places
from mechlist.sae.sae import Sae
from mechlist.sae.transfer import cross_entropy, reconstruction, spliced
from tests.sae.saes_for_tests import write_lens

pytest.importorskip("sae_lens")
HOOK = "blocks.1.hook_resid_post"
ROWS = [torch.arange(10, 19), torch.tensor([3, 9, 4, 9, 5, 9])]
COUNTED = (torch.arange(9) > 0) & (torch.arange(9) < torch.tensor([9, 6])[:, None])
SCORED = COUNTED[:, 1:]


@pytest.fixture
def perfect(tmp_path: Path) -> Sae:
    """A feature each way along every dimension."""
    sae = load_sae(places([str(write_lens(tmp_path / "sae", 32, 64, HOOK))])[0])
    both = torch.cat([torch.eye(32), -torch.eye(32)])
    with torch.no_grad():
        sae.module.W_dec[:], sae.module.W_enc[:] = both, both.T
        sae.module.b_enc[:], sae.module.b_dec[:] = 0, 0
    return sae


def test_a_perfect_sae_keeps_everything(loaded: Callable[[str], Runner], perfect: Sae):
    runner = loaded("gemma2")
    made = reconstruction(runner, perfect, ROWS, COUNTED)
    assert made.explained_variance == pytest.approx(1)
    assert made.l0 == pytest.approx(32)
    loss = cross_entropy(runner, perfect, ROWS, COUNTED, SCORED)
    assert loss.spliced == pytest.approx(loss.clean, abs=1e-4)
    assert loss.zero != pytest.approx(loss.clean, abs=1e-3)
    assert loss.recovered == pytest.approx(1, abs=1e-2)


def test_without_features_the_mean_explains_nothing(loaded: Callable[[str], Runner], perfect: Sae):
    runner = loaded("gemma2")
    x = runner.capture(ROWS, HOOK)[HOOK][COUNTED]
    with torch.no_grad():
        perfect.module.W_enc[:], perfect.module.b_dec[:] = 0, x.mean(0)
    made = reconstruction(runner, perfect, ROWS, COUNTED)
    assert made.explained_variance == pytest.approx(0, abs=1e-5)
    assert (made.l0, bool(made.active.any())) == (0, False)


def test_the_splice_leaves_other_positions_alone(loaded: Callable[[str], Runner], perfect: Sae):
    runner = loaded("gemma2")
    with torch.no_grad():
        perfect.module.W_dec *= 0.5
    before = runner.capture(ROWS, HOOK)[HOOK]
    with runner.intervene(spliced(perfect, COUNTED)):
        after = runner.capture(ROWS, HOOK)[HOOK]
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[COUNTED], 0.5 * before[COUNTED])
