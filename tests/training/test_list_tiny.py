"""The trainer on a few steps, and what the weights that are shipped know of their process."""

import itertools
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.process import PROCESSES, length_of
from mechlist.datasets.topics import STUDY, load_topics
from mechlist.errors import InputError
from mechlist.models.sources.source import builtin_models, locate
from mechlist.runner import Runner
from mechlist.runner.guards import all_guards
from mechlist.training import TRAINERS, trainer
from mechlist.training.list_evaluation import Calibration, calibration, head_scores, swap_ratios, well_formed_share
from mechlist.training.list_tiny import ListTinyConfig, learning_rate_at, train_list_tiny
from mechlist.training.list_topics import HELD_OUT, tokenizer_for_lists

SHIPPED = Path(str(files("mechlist.models"))) / "builtin" / "list-tiny"
SMALL: dict[str, Any] = {"layers": 1, "width": 64, "steps": 4}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch):
    """Steps of a few hundred tokens, no compiler, and a short evaluation."""
    monkeypatch.setattr("mechlist.training.list_tiny.TOKENS_PER_STEP", 600)
    monkeypatch.setattr("mechlist.training.list_tiny.shutil.which", lambda name: None)
    for name in ("FORCED_LISTS", "SWAPPED_LISTS", "SAMPLES"):
        monkeypatch.setattr(f"mechlist.training.list_card.{name}", 2)


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch):
    """No evaluation, where the weights alone matter."""
    monkeypatch.setattr("mechlist.training.list_tiny.evaluate", lambda directory: {})
    monkeypatch.setattr("mechlist.training.list_tiny.card", lambda training, found: "")


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# training


@pytest.mark.usefixtures("quick")
def test_training_writes_a_model_that_loads(tmp_path: Path):
    told: list[tuple[int, int, float]] = []
    scores = train_list_tiny(tmp_path / "model", **SMALL, progress=lambda *step: told.append(step))
    assert [(step, steps) for step, steps, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert scores["loss"] == pytest.approx(np.mean([loss for _, _, loss in told]))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    runner = Runner.load(str(tmp_path / "model"), device="cpu", progress=False)
    assert (runner.shape.n_layers, runner.shape.d_model, runner.shape.n_key_value_heads) == (1, 64, 1)
    assert {tensor.dtype for tensor in weights(tmp_path / "model").values()} == {torch.bfloat16}
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "4 steps" in card
    assert "| held out | short |" in card
    assert not re.search(r"[{}]", card)


@pytest.mark.usefixtures("quick", "unjudged")
@pytest.mark.parametrize("seconds", [-1.0, 1e9])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
):
    monkeypatch.setattr("mechlist.training.list_tiny.CHECKPOINT_SECONDS", seconds)
    train_list_tiny(tmp_path / "whole", **SMALL)
    steps: list[int] = []

    def stop(step: int, of: int, loss: float) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_list_tiny(tmp_path / "parts", **SMALL, progress=stop)
    assert not (tmp_path / "parts").exists()
    with pytest.raises(InputError, match="holds a training with seed 0, not 1; go on with that, or remove it"):
        train_list_tiny(tmp_path / "parts", **SMALL, seed=1)
    train_list_tiny(tmp_path / "parts", **SMALL, progress=stop)
    assert steps == [1, 2, 3, 4]
    assert equal(tmp_path / "whole", tmp_path / "parts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


@pytest.mark.usefixtures("quick", "unjudged")
@pytest.mark.parametrize(
    ("owner", "place", "call", "saved"),
    [
        # In the backward passes of the second step: the first is saved, and no part of the second.
        (torch.Tensor, "backward", 6, True),
        # When the weights have changed but the step is not counted: nothing is saved.
        (torch.optim.AdamW, "zero_grad", 2, False),
    ],
)
def test_a_step_that_was_stopped_halfway_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, place: str, call: int, saved: bool
):
    train_list_tiny(tmp_path / "whole", **SMALL)
    real, calls = getattr(owner, place), itertools.count(1)

    def stop(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(owner, place, stop)
    with pytest.raises(KeyboardInterrupt):
        train_list_tiny(tmp_path / "parts", **SMALL)
    assert (tmp_path / ".parts.training").exists() == saved
    train_list_tiny(tmp_path / "parts", **SMALL)
    assert equal(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.usefixtures("quick", "unjudged")
def test_the_seed_decides_the_weights(tmp_path: Path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        train_list_tiny(tmp_path / name, **SMALL, seed=seed)
    assert equal(tmp_path / "one", tmp_path / "again")
    assert not equal(tmp_path / "one", tmp_path / "other")


def test_the_learning_rate_warms_up_stays_and_falls():
    rates = [learning_rate_at(step, 1000) for step in range(1000)]
    assert np.argmax(rates) == 29
    assert rates[0] < rates[29] / 20
    assert rates[500] == rates[29]
    assert rates[750] == pytest.approx(rates[29] / 2)
    assert rates[-1] == pytest.approx(rates[29] / 100)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps and layers must be at least 1, not 0 and 6"),
        ({"layers": 0}, "steps and layers must be at least 1"),
        ({"width": 100}, "width must be a multiple of 64, not 100"),
        ({"width": 0}, "width must be a multiple of 64, not 0"),
    ],
)
def test_sizes_out_of_range_are_refused(changes: dict[str, int], words: str):
    with pytest.raises(InputError, match=words):
        ListTinyConfig(**changes)


def test_a_full_directory_is_refused(tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="must be an empty or a new directory"):
        train_list_tiny(tmp_path)


def test_trainers_are_the_shipped_models():
    assert sorted({*TRAINERS} - {"list-saes"}) == builtin_models()
    assert all(callable(trainer(name)) for name in TRAINERS)


# evaluation


def test_total_variation_and_filler_error_by_hand():
    made = Calibration(
        hazard=np.array([0.5, 0.5]),
        true_hazard=np.array([0.0, 0.5]),
        filler=np.array([0.1, 0.4]),
        true_filler=np.array([0.1, 0.2]),
    )
    np.testing.assert_allclose(made.length, [0.5, 0.25])
    # .5 too much at one item, .25 too little at two, .25 too little beyond.
    assert made.total_variation == pytest.approx(0.5)
    assert made.filler_error == pytest.approx(0.1)


# the weights that are shipped


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def held_out() -> dict[str, tuple[str, ...]]:
    return {topic: load_topics()[topic] for topic in HELD_OUT}


def test_shipped_directory():
    names = {path.name for path in SHIPPED.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "training.json"} <= names
    assert (SHIPPED / "model.safetensors").stat().st_size <= 18 * 10**6
    assert {tensor.dtype for tensor in weights(SHIPPED).values()} == {torch.bfloat16}
    assert 5e6 <= sum(tensor.numel() for tensor in weights(SHIPPED).values()) <= 8e6
    assert locate("list-tiny").kind == "huggingface"


def test_shipped_architecture_is_gemma_2():
    config = AutoConfig.from_pretrained(SHIPPED)
    assert config.model_type == "gemma2"
    assert config.num_hidden_layers == 6
    assert config.num_key_value_heads < config.num_attention_heads
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    recorded = json.loads((SHIPPED / "training.json").read_text())
    own = ListTinyConfig(**{name: recorded[name] for name in ("seed", "steps", "layers", "width")})
    described = own.architecture(4096)
    described.pop("attn_implementation")
    assert {name: getattr(config, name) for name in described} == described


def test_shipped_tokenizer_is_what_the_trainer_makes():
    shipped, made = AutoTokenizer.from_pretrained(SHIPPED), tokenizer_for_lists()
    assert shipped.get_vocab() == made.get_vocab()
    assert shipped.chat_template == made.chat_template
    text = "-Mercedes-Benz \n-Dvořák\n<end_of_turn>"
    assert shipped.encode(text) == made.encode(text)
    assert list_tokens(shipped) == list_tokens(made)


def test_shipped_logits_are_hugging_faces(runner: Runner):
    parity = next(guard for guard in all_guards(runner) if guard.name == "Hugging Face parity")
    assert parity.passed
    assert runner.language_model.window == 64


@pytest.mark.parametrize("adjective", list(PROCESSES))
def test_shipped_model_follows_the_process_on_topics_it_never_saw(runner: Runner, adjective: str):
    found = calibration(runner, held_out(), adjective, lists=48)
    assert found.total_variation <= 0.12
    assert found.filler_error <= 0.05
    assert found.hazard.shape == found.true_hazard.shape == (44,)
    # The measure itself can fail: another adjective's lengths are far away.
    other = PROCESSES["" if adjective else "long"].hazard(45)[:44]
    assert np.abs(found.length - length_of(other)).sum() / 2 > 0.5


def test_shipped_model_takes_the_adjective_into_account(runner: Runner):
    ratios = swap_ratios(runner, held_out(), 24)
    assert np.median(ratios) >= 5
    assert (ratios >= 5).mean() >= 0.9


def test_shipped_model_writes_well_formed_lists(runner: Runner):
    shares = well_formed_share(runner, held_out(), samples=10)
    assert shares["lists"] == 10 * 3 * len(HELD_OUT)
    assert shares["well_formed"] >= 0.98


def test_shipped_model_ends_where_its_topic_does(runner: Runner):
    found = well_formed_share(runner, {"Ocean": load_topics(STUDY)["Ocean"]}, samples=8)
    assert found["well_formed"] == 1


def test_shipped_model_has_induction_heads(runner: Runner):
    scores = head_scores(runner, batch=8)
    assert scores["induction_score"] > 0.5
    assert scores["previous_token_score"] > 0.5
