"""The training of SAEs on a few steps: what it writes can be used, and one that was stopped goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mechlist.errors import InputError
from mechlist.runner import Intervention, Rows, Runner
from mechlist.runner.raw import raw_activations
from mechlist.sae.load import load_sae, places
from mechlist.training import list_saes, list_saes_card, list_saes_tuning
from mechlist.training.list_saes import train_list_saes
from mechlist.training.list_saes_card import meets_targets
from mechlist.training.list_saes_tuning import rate_of, tune

pytest.importorskip("sae_lens")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "layer_0" / "sae_weights.safetensors")


def test_what_is_written_can_be_used_and_a_stopped_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(list_saes, "TOKENS_PER_STEP", 400)
    monkeypatch.setattr(list_saes, "POOL", 3)
    monkeypatch.setattr(list_saes_card, "ADJECTIVES", ("short",))
    monkeypatch.setattr(list_saes_card, "HELD_OUT", ("Herbs",))
    size: dict[str, Any] = {"steps": 2, "layers": 1, "width": 64}
    scores = train_list_saes(tmp_path / "whole", **size)
    assert set(scores) == {"l0", "explained_variance", "ce_recovered", "dead"}
    assert {file.name for file in (tmp_path / "whole").iterdir()} == {"README.md", "training.json", "layer_0"}
    (place,) = places([str(tmp_path / "whole")])
    sae = load_sae(place)
    assert (sae.hook, sae.model, sae.d_sae) == ("blocks.0.hook_resid_post", "list-tiny", 64)
    assert all(value.dtype == torch.bfloat16 for value in weights(tmp_path / "whole").values())
    about = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert (about["steps"], about["saes"][0]["hook"]) == (2, sae.hook)

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_list_saes(tmp_path / "stopped", **size, progress=stop)
    with pytest.raises(InputError, match="holds a training with width 64, not 32; go on with that, or remove it"):
        train_list_saes(tmp_path / "stopped", steps=2, layers=1, width=32)
    done: list[int] = []
    train_list_saes(tmp_path / "stopped", **size, progress=lambda step, steps, loss: done.append(step))
    assert done == [2]
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "stopped")[name], value, atol=1e-2, rtol=1e-2)
    assert not list(tmp_path.glob(".*"))


def test_targets():
    good = {"l0": 30.0, "ce_recovered": 0.96, "dead": 0.1}
    assert meets_targets(good)
    for name, bad in {"l0": 33.0, "ce_recovered": 0.9, "dead": 0.3}.items():
        assert not meets_targets(good | {name: bad})


def test_bad_arguments(tmp_path: Path):
    with pytest.raises(InputError, match="layers must be at most the 6 of list-tiny, not 7"):
        train_list_saes(tmp_path / "a", layers=7)
    with pytest.raises(InputError, match="steps must be at least 1, not 0"):
        train_list_saes(tmp_path / "a", steps=0)


def test_tuning_goes_down_on_divergence_and_error():
    runner = Runner.load("list-tiny", device="cpu", progress=False)
    runner = raw_activations(runner, ["blocks.1.hook_resid_post", "blocks.5.hook_resid_post"])
    hooks = ["blocks.1.hook_resid_post", "blocks.5.hook_resid_post"]
    rows = [torch.randint(3, 400, (length,), generator=torch.Generator().manual_seed(length)) for length in (6, 9, 14)]
    trainers = [list_saes._trainer(list_saes.ListSaesConfig(width=256), runner, hook) for hook in hooks]
    for trainer in trainers:
        trainer.activation_scaler.scaling_factor = 0.5
    before = tune(runner, trainers, hooks, rows, updates=1, rate=0.0)
    # The same by the Runner: the SAEs in the place of their activations, all tokens but BOS.
    counted = torch.arange(14) < torch.tensor([len(row) for row in rows])[:, None]
    real, expected = counted.clone(), []
    counted[:, 0] = False
    clean = runner.logits(rows)[real].log_softmax(-1)
    for trainer, hook in zip(trainers, hooks, strict=True):

        def splice(x: torch.Tensor, rows: Rows, sae: Any = trainer.sae) -> torch.Tensor:
            out, here = x.clone(), counted[rows.index][:, : x.shape[1]]
            out[here] = sae.decode(sae.encode(0.5 * x[here])) / 0.5
            return out

        with torch.no_grad(), runner.intervene(Intervention(hook, splice)):
            found = runner.logits(rows)[real].log_softmax(-1)
        x = runner.capture(rows, hook)[hook][counted]
        with torch.no_grad():
            missed = trainer.sae.decode(trainer.sae.encode(0.5 * x)) / 0.5 - x
        share = float(missed.square().sum() / (x - x.mean(0)).square().sum())
        expected.append(float((clean.exp() * (clean - found)).sum(-1).mean()) + 0.3 * share)
    assert before == pytest.approx(sum(expected) / 2, rel=1e-4)
    losses = [tune(runner, trainers, hooks, rows, updates=1, rate=1e-3) for _ in range(8)]
    assert losses[0] == pytest.approx(before, rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]


def test_the_learning_rate_of_tuning():
    rates = [rate_of(step, 100) / list_saes_tuning.LEARNING_RATE for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[50] == 1.0
    assert rates[75] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.03
