"""Train `list-tiny`: a small Gemma 2 that writes lists, whose ends and fillers follow a known process."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mechlist.errors import InputError
from mechlist.training.directory import Progress, new_directory, require_empty, write_json
from mechlist.training.list_card import card, evaluate
from mechlist.training.list_data import Batch, Material, step_batches
from mechlist.training.list_topics import material, tokenizer_for_lists

STEPS = 3000
TOKENS_PER_STEP = 6144
LONGEST_BLOCK = 192
PEAK_LEARNING_RATE = 2e-3
CHECKPOINT_SECONDS = 120.0
QUIET_GAIN = 0.25
"""First gain of the norms after a layer's attention and MLP."""


@dataclass(frozen=True, kw_only=True)
class ListTinyConfig:
    """What a training depends on; the same gives the same model on the same machine."""

    seed: int = 0
    steps: int = STEPS
    layers: int = 6
    width: int = 256
    """Size of the residual stream; heads have 32 dimensions each, and half as many key/value heads."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.layers < 1:
            raise InputError(f"steps and layers must be at least 1, not {self.steps} and {self.layers}.")
        if self.width < 64 or self.width % 64:
            raise InputError(f"width must be a multiple of 64, not {self.width}.")

    def architecture(self, vocabulary: int) -> dict[str, Any]:
        """Arguments of transformers' Gemma2Config."""
        return {
            "vocab_size": vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.width * 11 // 4,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // 32,
            "num_key_value_heads": self.width // 64,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "max_position_embeddings": 512,
            "sliding_window": 64,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "attn_implementation": "eager",  # the only one that has the softcap of attention
        }


def block_share(step: int, steps: int) -> float:
    """Share of a step's tokens in blocks that repeat: more at first, when induction has to form."""
    return 0.5 if step < 0.4 * steps else 0.25


def longest_block_at(step: int, steps: int) -> int:
    """Tokens of the longest row of blocks: short at first, because induction forms sooner there."""
    return 64 if step < 0.2 * steps else LONGEST_BLOCK


def learning_rate_at(step: int, steps: int) -> float:
    """Linear warmup over 3 % of the steps, the peak, and a linear way down to 1 % over the last half."""
    warmup = min(1.0, (step + 1) / max(1.0, 0.03 * steps))
    return PEAK_LEARNING_RATE * warmup * min(1.0, max(0.01, 2 * (1 - step / steps)))


def train_list_tiny(
    out: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    layers: int = 6,
    width: int = 256,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train, and write the Hugging Face directory `out`: bfloat16 weights, configuration, tokenizer with chat template.

    A training that was cut off goes on where its last checkpoint stands, when it is started again with the same
    arguments. Runs on a GPU where there is one.

    Args:
        out: a directory that is empty or does not exist yet; it appears complete or not at all.
        seed: of the initial weights and of the data.
        steps: optimiser steps of 6144 tokens; the schedules stretch with it.
        layers: of the model.
        width: of its residual stream, a multiple of 64.
        progress: called after every step with the steps done, all steps and the loss in nats.

    Returns:
        `loss` (nats a target, mean of the last 50 steps), `tokens` seen and `seconds` of training.

    Raises:
        InputError: an argument out of range, an `out` that is not empty, a checkpoint of other arguments.
    """
    config = ListTinyConfig(seed=seed, steps=steps, layers=layers, width=width)
    out = require_empty(out)
    tokenizer = tokenizer_for_lists()
    training = _Training(config, out.with_name(f".{out.name}.training"), len(tokenizer))
    scores = training.run(material(tokenizer), tokenizer.pad_token_id, progress)
    with new_directory(out) as partial:
        training.model.to(dtype=torch.bfloat16).cpu().save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "model.safetensors").chmod(0o644)  # transformers writes it for its owner alone
        record = {**asdict(config), **scores}
        write_json(partial / "training.json", record)
        (partial / "README.md").write_text(card(record, evaluate(partial)), encoding="utf-8")
    training.clear()
    return scores


class _Training:
    """Model, optimiser and the checkpoint of both."""

    def __init__(self, config: ListTinyConfig, folder: Path, vocabulary: int) -> None:
        from transformers import Gemma2Config, Gemma2ForCausalLM

        self._config, self._folder = config, folder
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.model: Any = Gemma2ForCausalLM(Gemma2Config(**config.architecture(vocabulary)))
            _start_quietly(self.model, config)
        self.model.to(device=self._device).train()
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        gains = [p for p in self.model.parameters() if p.ndim < 2]
        self._optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": gains, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
            fused=True,
        )
        self._body = self._compiled()
        self._step, self._tokens, self._seconds = 0, 0, 0.0
        self._losses: list[float] = []
        self._whole = True
        """Whether weights, optimiser and counts are of one and the same step."""

    def run(self, material: Material, pad: int, progress: Progress | None) -> dict[str, float]:
        """All steps that are left; a training that is stopped saves those that are done."""
        self._resume()
        try:
            self._take_steps(material, pad, progress)
        finally:
            if self._whole and self._step:
                self._save()
        return {"loss": sum(self._losses) / len(self._losses), "tokens": self._tokens, "seconds": self._seconds}

    def _take_steps(self, material: Material, pad: int, progress: Progress | None) -> None:
        steps, saved = self._config.steps, time.monotonic()
        while self._step < steps:
            started = time.monotonic()
            batches = step_batches(
                material,
                pad,
                TOKENS_PER_STEP,
                block_share(self._step, steps),
                longest_block_at(self._step, steps),
                (self._config.seed, self._step),
            )
            self._learn(batches)
            self._seconds += time.monotonic() - started
            if progress is not None:
                progress(self._step, steps, self._losses[-1])
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()

    def clear(self) -> None:
        """Remove the checkpoint."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _learn(self, batches: Sequence[Batch]) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate_at(self._step, self._config.steps)
        total = sum(float(batch.weight.sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            part = self._nats(batch) / total
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._whole = False
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._step += 1
        self._tokens += sum(batch.tokens.numel() for batch in batches)
        self._losses = [*self._losses[-49:], loss]
        self._whole = True

    def _nats(self, batch: Batch) -> Tensor:
        """Weighted sum of cross-entropies; only the targets are unembedded."""
        with torch.autocast(self._device, dtype=torch.bfloat16):
            residual = self._body(batch.tokens.to(self._device), use_cache=False).last_hidden_state
            raw = self.model.lm_head(residual[batch.row.to(self._device), batch.position.to(self._device)])
        cap = float(self.model.config.final_logit_softcapping or 0)
        log_probs = (cap * torch.tanh(raw.float() / cap)).log_softmax(-1)
        chosen = log_probs.gather(1, batch.choices.to(self._device))
        nats = -(batch.chance.to(self._device) * chosen).sum(1)
        return (nats * batch.weight.to(self._device)).sum()

    def _compiled(self) -> Callable[..., Any]:
        """The model's body, compiled where a compiler is at hand: 1.7 times as fast on a CPU."""
        if self._device == "cpu" and shutil.which("g++") is None:
            return self.model.model
        return torch.compile(self.model.model, dynamic=True)

    def _save(self) -> None:
        """Weights and optimiser state in one file, which takes the old one's place whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        for name, p in self.model.named_parameters():
            tensors |= {f"{key}.{name}": value for key, value in self._optimiser.state[p].items()}
        state = {**asdict(self._config), "step": self._step, "tokens": self._tokens, "seconds": self._seconds}
        metadata = {"state": json.dumps({**state, "losses": self._losses})}
        part = self._folder / "checkpoint.part"
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata=metadata)
        part.replace(self._folder / "checkpoint.safetensors")

    def _resume(self) -> None:
        file = self._folder / "checkpoint.safetensors"
        if not file.is_file():
            return
        with safe_open(file, "pt") as opened:
            state = json.loads(opened.metadata()["state"])
            for name, value in asdict(self._config).items():
                if state[name] != value:
                    raise InputError(
                        f"{self._folder} holds a training with {name} {state[name]}, not {value}; go on with that, "
                        "or remove it."
                    )
            with torch.no_grad():
                for name, p in self.model.named_parameters():
                    p.copy_(opened.get_tensor(f"model.{name}"))
                    self._optimiser.state[p] = {
                        key: opened.get_tensor(f"{key}.{name}").to(p.device if key != "step" else "cpu")
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        self._step, self._tokens, self._seconds = state["step"], state["tokens"], state["seconds"]
        self._losses = state["losses"]


@torch.no_grad()
def _start_quietly(model: Any, config: ListTinyConfig) -> None:
    """Layers that at first write little into a residual stream of tokens.

    Gemma 2 norms what a layer writes, so that with transformers' initial gains of 1 every layer writes as much as all
    before it, and tokens of norm .3 are lost in it.
    """
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=config.width**-0.5)
    for layer in model.model.layers:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            norm.weight.fill_(QUIET_GAIN - 1)  # Gemma's gain is 1 + weight
