"""Train SAEs for `list-tiny` with sae_lens: TopK, on the residual stream after every layer, all from one pass."""

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.quiet import quiet
from mechlist.runner import Runner
from mechlist.runner.raw import raw_activations
from mechlist.training.directory import Progress, new_directory, require_empty, write_json
from mechlist.training.list_data import Material
from mechlist.training.list_saes_card import card, evaluate
from mechlist.training.list_saes_data import Mixture, made_up, rows_of_step
from mechlist.training.list_saes_tuning import rate_of, tune
from mechlist.training.list_topics import material

MODEL = "list-tiny"
STEPS = 760
TUNED = 0.25
"""Share of the steps, the last ones, that look at what the model makes of reconstructions."""
TOKENS_PER_STEP = 4096
"""Tokens that are drawn at once, padding included: as many as make a forward pass cheap."""
UPDATES = 4
"""Parts of them: each is an update of every SAE."""
MIXTURE, TUNED_MIXTURE = Mixture(lists=0.45, prompts=0.1), Mixture(lists=0.6, prompts=0.2)
POOL = 1500
"""Lists about random names that there are."""
ACTIVE = 32
"""Features that are active at a position."""
LEARNING_RATE = 1e-3
WINDOW = 200
"""Updates after which a feature that was never active counts as dead."""
_DEAD = WINDOW * TOKENS_PER_STEP // UPDATES
CHECKPOINT_SECONDS = 120.0
WIDTH = 2048


@dataclass(frozen=True, kw_only=True)
class ListSaesConfig:
    """What a training depends on."""

    seed: int = 0
    steps: int = STEPS
    layers: int = 6
    """SAEs are trained after the first so many layers."""
    width: int = WIDTH
    """Features of each."""

    def __post_init__(self) -> None:
        for name in ("steps", "layers", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")

    @property
    def tuned(self) -> int:
        """Steps that look at what the model makes of reconstructions: the last ones, none of a single one."""
        return min(math.ceil(self.steps * TUNED), self.steps - 1)


def train_list_saes(
    out: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    layers: int = 6,
    width: int = WIDTH,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train, and write the directory `out`: one SAE a layer in sae_lens's format, in bfloat16, with a card.

    A training that was cut off goes on where its last checkpoint stands, when it is started again with the same
    arguments.

    Args:
        out: a directory that is empty or does not exist yet; it appears complete or not at all.
        seed: of the initial weights and of the data.
        steps: of 4096 tokens, in 4 optimiser steps each; the last quarter of them is `tune`.
        layers: how many, from the first.
        width: features of each SAE.
        progress: called after every step with the steps done, all steps and the mean loss.

    Returns:
        The worst of the SAEs in each respect, on lists of topics that the model was not trained on.

    Raises:
        InputError: an argument out of range, an `out` that is not empty, a checkpoint of other arguments.
    """
    config = ListSaesConfig(seed=seed, steps=steps, layers=layers, width=width)
    out = require_empty(out)
    runner = Runner.load(MODEL, seed=seed, progress=False, guards=False)
    if layers > runner.shape.n_layers:
        raise InputError(f"layers must be at most the {runner.shape.n_layers} of {MODEL}, not {layers}.")
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(layers)]
    runner = raw_activations(runner, hooks)
    training = _Training(config, runner, hooks, out.with_name(f".{out.name}.training"))
    dead = training.run(progress)
    with new_directory(out) as partial:
        training.write(partial)
        found = evaluate(runner, partial, dead)
        write_json(partial / "training.json", {**asdict(config), "seconds": training.seconds, "saes": found})
        about = card(config.width, training.seconds, found, made=_made(config), dead=_DEAD)
        (partial / "README.md").write_text(about, encoding="utf-8")
    training.clear()
    return {
        "l0": max(one["l0"] for one in found),
        "explained_variance": min(one["explained_variance"] for one in found),
        "ce_recovered": min(one["ce_recovered"] for one in found),
        "dead": max(one["dead"] for one in found),
    }


def _made(config: ListSaesConfig) -> str:
    plain = config.steps - config.tuned
    return (
        f"{plain} steps of {TOKENS_PER_STEP} tokens ({MIXTURE}), and {config.tuned} in which the divergence of the "
        f"model's predictions counts beside the error of reconstruction ({TUNED_MIXTURE}), seed {config.seed}"
    )


class _Training:
    """One trainer of sae_lens a layer, and the checkpoint of all."""

    def __init__(self, config: ListSaesConfig, runner: Runner, hooks: list[str], folder: Path) -> None:
        self._config, self._runner, self._hooks, self._folder = config, runner, hooks, folder
        self.seconds = 0.0
        self._step = 0
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self._trainers = [_trainer(config, runner, hook) for hook in hooks]

    def run(self, progress: Progress | None) -> list[float]:
        """All steps that are left; the share of dead features of each SAE."""
        own, lists, saved = material(self._runner.tokenizer), self._resume(), time.monotonic()
        self._made_up = made_up(self._runner, own, POOL, self._config.seed, lists)
        self.seconds += time.monotonic() - saved
        try:
            while self._step < self._config.steps:
                started = time.monotonic()
                loss = self._learn(own)
                self.seconds += time.monotonic() - started
                if progress is not None:
                    progress(self._step, self._config.steps, loss)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
        finally:
            if self._step:
                self._save()
        return [float(trainer.dead_neurons.float().mean()) for trainer in self._trainers]

    def write(self, folder: Path) -> None:
        """The SAEs for use, in bfloat16, with the scale of activations folded in."""
        for trainer, hook in zip(self._trainers, self._hooks, strict=True):
            own = folder / f"layer_{hook.split('.')[1]}"
            with quiet():
                trainer.sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
                weights, about = trainer.sae.save_inference_model(own)
            halved = {name: value.to(torch.bfloat16).contiguous() for name, value in load_file(weights).items()}
            save_file(halved, weights)
            known = json.loads(about.read_text(encoding="utf-8"))
            write_json(about, {**known, "dtype": "bfloat16", "device": "cpu"})

    def clear(self) -> None:
        """Remove the checkpoint."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _learn(self, own: Material) -> float:
        plain = self._config.steps - self._config.tuned
        rows = self._rows(own, MIXTURE if self._step < plain else TUNED_MIXTURE)
        if self._step < plain:
            loss = self._reconstruct(rows)
        else:
            if self._step == plain:
                for trainer in self._trainers:
                    # Its moments are those of another loss.
                    trainer.optimizer.state.clear()
            rate = rate_of(self._step - plain, self._config.tuned)
            loss = tune(self._runner, self._trainers, self._hooks, rows, updates=UPDATES, rate=rate)
        self._step += 1
        return loss

    def _rows(self, own: Material, mixture: Mixture) -> list[Tensor]:
        seed = (self._config.seed, self._step, len(self._hooks))
        return rows_of_step(own, self._made_up, TOKENS_PER_STEP, mixture, seed)

    def _reconstruct(self, rows: list[Tensor]) -> float:
        found = self._runner.capture(rows, *self._hooks)
        losses = []
        for trainer, hook in zip(self._trainers, self._hooks, strict=True):
            x = _without_first(found[hook])
            if trainer.activation_scaler.scaling_factor is None:
                trainer.activation_scaler.scaling_factor = x.shape[1] ** 0.5 / float(x.norm(dim=1).mean())
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self._step))
            for part in order.chunk(UPDATES):
                trainer.maybe_reset_sparsity()
                with torch.inference_mode(mode=False), torch.enable_grad():
                    losses.append(float(trainer.step(x[part].clone()).loss.detach()))
                trainer.n_training_steps += 1
        return sum(losses) / len(losses)

    def _save(self) -> None:
        """All trainers in one folder, which takes the old one's place whole."""
        part = self._folder.with_name(f"{self._folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        with quiet():
            for trainer, hook in zip(self._trainers, self._hooks, strict=True):
                trainer.save_checkpoint(hook, base_path=part)
        write_json(part / "lists.json", {"lists": self._made_up.lists})
        write_json(part / "state.json", {**asdict(self._config), "step": self._step, "seconds": self.seconds})
        shutil.rmtree(self._folder, ignore_errors=True)
        part.replace(self._folder)

    def _resume(self) -> list[list[int]] | None:
        """Take up a checkpoint; the lists that were written for it, or nothing where there is none."""
        file = self._folder / "state.json"
        if not file.is_file():
            return None
        state = json.loads(file.read_text(encoding="utf-8"))
        for name, value in asdict(self._config).items():
            if state[name] != value:
                raise InputError(
                    f"{self._folder} holds a training with {name} {state[name]}, not {value}; go on with that, or "
                    "remove it."
                )
        for trainer, hook in zip(self._trainers, self._hooks, strict=True):
            trainer.sae.load_weights_from_checkpoint(self._folder / hook)
            trainer.load_trainer_state(self._folder / hook)
        self._step, self.seconds = state["step"], state["seconds"]
        return json.loads((self._folder / "lists.json").read_text(encoding="utf-8"))["lists"]


def _trainer(config: ListSaesConfig, runner: Runner, hook: str) -> Any:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    device, updates = str(runner.language_model.device), (config.steps - config.tuned) * UPDATES
    about = TopKTrainingSAEConfig(
        d_in=runner.shape.d_model,
        d_sae=config.width,
        k=min(ACTIVE, config.width // 8),
        device=device,
        normalize_activations="expected_average_only_in",
    )
    about.metadata.hook_name, about.metadata.model_name = hook, MODEL
    training = SAETrainerConfig(
        total_training_samples=updates * (TOKENS_PER_STEP // UPDATES),
        train_batch_size_samples=TOKENS_PER_STEP // UPDATES,
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE / 10,
        lr_warm_up_steps=min(100, updates // 10),
        lr_decay_steps=updates // 4,
        device=device,
        # Half the time: products of matrices in bfloat16, weights and sums in float32.
        autocast=True,
        dead_feature_window=WINDOW,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return SAETrainer(training, TopKTrainingSAE(about), iter(()))


def _without_first(activations: Float[Tensor, "row position d_model"]) -> Float[Tensor, "token d_model"]:
    """Activations of all tokens but BOS, whose activation is unlike all others."""
    rest = activations[:, 1:]
    return rest[~rest[..., 0].isnan()]
