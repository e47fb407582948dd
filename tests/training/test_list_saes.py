"""The training of SAEs on a few steps: what it writes can be used, and one that was stopped goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mechlist.errors import InputError
from mechlist.sae.load import load_sae, places
from mechlist.training import list_saes, list_saes_card
from mechlist.training.list_saes import train_list_saes
from mechlist.training.list_saes_card import meets_targets

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
