"""The trainer on a few steps, and the induction heads of the weights that are shipped."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mechlist.errors import InputError
from mechlist.training.induction_tiny import (
    ARCHITECTURE,
    learning_rate_at,
    pairs_at,
    repeated_blocks,
    repetition_loss,
    train_induction_tiny,
    training_batch,
    window_at,
)
from tests.hooked import HookedTransformer, HookedTransformerConfig

SHIPPED = Path(str(files("mechlist.models"))) / "builtin" / "induction-tiny"
WRITTEN = {"hooked_transformer_config.json", "generation_config.json", "model.safetensors"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rows_are_bos_and_a_block_that_repeats_to_the_end():
    tokens, predictable = repeated_blocks(generator(), torch.tensor([5, 7]), torch.tensor([100, 100]), 20)
    assert tokens.shape == (2, 20)
    for row, mask, period in zip(tokens, predictable, (5, 7), strict=True):
        assert row[0] == 0
        assert row[1:].min() >= 1
        assert row[1:].max() <= 511
        assert torch.equal(row[1 + period :], row[1:-period])
        # targets are tokens 1..19; target `period` opens the second block and cannot be known
        assert mask.tolist() == [target > period for target in range(19)]


def test_pairs_are_followed_by_fresh_blocks():
    tokens, predictable = repeated_blocks(generator(), torch.tensor([4]), torch.tensor([2]), 17)
    first, again, fresh, fresh_again = tokens[0, 1:].split(4)
    assert torch.equal(first, again)
    assert torch.equal(fresh, fresh_again)
    assert not torch.equal(first, fresh)
    assert predictable[0].tolist() == ([False] * 5 + [True] * 3) * 2


def test_batches_follow_the_generator_and_vary_the_period():
    tokens, predictable = training_batch(generator(3), 64, pairs=0.5)
    again, _ = training_batch(generator(3), 64, pairs=0.5)
    other, _ = training_batch(generator(4), 64, pairs=0.5)
    assert tokens.shape == (64, 64)
    assert torch.equal(tokens, again)
    assert not torch.equal(tokens, other)
    assert len({mask.int().argmax().item() for mask in predictable}) > 10


def test_loss_weighs_what_can_be_predicted():
    tokens = torch.tensor([[0, 1, 2]])
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 2] = 100.0
    known, unknown = torch.tensor([[False, True]]), torch.tensor([[True, False]])
    log4 = torch.tensor(4.0).log()
    torch.testing.assert_close(repetition_loss(logits, tokens, known), log4 * 0.05 / 1.05)
    torch.testing.assert_close(repetition_loss(logits, tokens, unknown), log4 * 1 / 1.05)


def test_schedules_start_and_end_where_they_say():
    assert (window_at(0, 1200), window_at(1199, 1200)) == (64, 256)
    assert (pairs_at(0, 1200), pairs_at(1199, 1200)) == (0.0, 0.5)
    assert learning_rate_at(0, 1200) == pytest.approx(4e-3 / 50)
    assert learning_rate_at(1200, 1200) == pytest.approx(4e-3 * 0.02)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float], dict[str, float]]:
    out, losses = tmp_path_factory.mktemp("trained") / "new" / "model", []
    result = train_induction_tiny(out, steps=6, progress=lambda step, steps, loss: losses.append(loss))
    return out, losses, result


def test_a_few_steps_lower_the_loss(trained: tuple[Path, list[float], dict[str, float]]):
    _, losses, result = trained
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.05
    assert result["loss"] == pytest.approx(sum(losses) / 6)
    assert result["seconds"] > 0


def test_directory_holds_exactly_the_files(trained: tuple[Path, list[float], dict[str, float]]):
    out = trained[0]
    assert {path.name for path in out.iterdir()} == WRITTEN
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert json.loads((out / "generation_config.json").read_text()) == {"bos_token_id": 0}
    names = set(load_file(out / "model.safetensors"))
    model = HookedTransformer(HookedTransformerConfig(**ARCHITECTURE, device="cpu"))
    assert names == {name for name, _ in model.named_parameters()}


def test_seed_decides_the_weights(trained: tuple[Path, list[float], dict[str, float]], tmp_path: Path):
    before = (torch.get_rng_state(), torch.get_num_threads())
    train_induction_tiny(tmp_path / "same", steps=6)
    train_induction_tiny(tmp_path / "other", steps=6, seed=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()
    first, same, other = (
        (folder / "model.safetensors").read_bytes() for folder in (trained[0], tmp_path / "same", tmp_path / "other")
    )
    assert first == same
    assert first != other


def test_full_directory_is_refused(tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    message = f"out must be an empty or a new directory, but {tmp_path} already holds files."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        train_induction_tiny(tmp_path, steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_file_and_no_steps_are_refused(tmp_path: Path):
    note = tmp_path / "note.txt"
    note.write_text("mine")
    message = f"out must be an empty or a new directory, but {note} is a file."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        train_induction_tiny(note, steps=1)
    with pytest.raises(InputError, match=r"^steps must be at least 1, got 0\.$"):
        train_induction_tiny(tmp_path / "new", steps=0)
    sizes: list[dict[str, Any]] = [{"layers": 0}, {"width": 40}, {"width": 0}]
    for size in sizes:
        with pytest.raises(InputError, match="layers must be at least 1 and width a multiple of 32"):
            train_induction_tiny(tmp_path / "new", **size)


def test_another_size(tmp_path: Path):
    train_induction_tiny(tmp_path / "small", steps=1, layers=3, width=64)
    config = json.loads((tmp_path / "small" / "hooked_transformer_config.json").read_text())
    assert {name: config[name] for name in ("n_layers", "d_model", "n_heads")} == {
        "n_layers": 3,
        "d_model": 64,
        "n_heads": 2,
    }
    model = HookedTransformer(HookedTransformerConfig(**config, device="cpu"))
    model.load_state_dict(load_file(tmp_path / "small" / "model.safetensors"), strict=False)


def test_shipped_directory_is_what_the_trainer_writes():
    assert {path.name for path in SHIPPED.iterdir()} == {*WRITTEN, "README.md"}
    assert json.loads((SHIPPED / "hooked_transformer_config.json").read_text()) == ARCHITECTURE
    assert json.loads((SHIPPED / "generation_config.json").read_text()) == {"bos_token_id": 0}
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_000_000


@pytest.fixture(scope="module")
def shipped() -> HookedTransformer:
    config = json.loads((SHIPPED / "hooked_transformer_config.json").read_text())
    model = HookedTransformer(HookedTransformerConfig(**config, device="cpu"))
    weights = load_file(SHIPPED / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    return model.eval()


@pytest.mark.parametrize(("period", "previous_floor"), [(20, 0.8), (50, 0.8), (100, 0.5)])
def test_shipped_weights_have_induction_heads(shipped: HookedTransformer, period: int, previous_floor: float):
    # the previous-token head works up to position 110 or so: half of the queries at period 100
    block = torch.randint(1, 512, (30, period), generator=generator(100 + period))
    tokens = torch.cat([torch.zeros(30, 1, dtype=torch.long), block, block], dim=1)
    with torch.no_grad():
        output, cache = shipped.run_with_cache(tokens)
    logits = torch.as_tensor(output)
    induction = cache["pattern", 1].diagonal(1 - period, -2, -1)[..., -period:].mean(dim=(0, -1))
    previous = cache["pattern", 0].diagonal(-1, -2, -1).mean(dim=(0, -1))
    correct = (logits[:, :-1].argmax(dim=-1) == tokens[:, 1:])[:, period:]
    assert induction.max() > 0.8
    assert previous.max() > previous_floor
    assert correct.float().mean() > 0.9
