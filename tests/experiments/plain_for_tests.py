"""Small random models that read text, for the tests of the experiments on a few plain prompts."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mechlist.runner import Runner
from tests.experiments.lists_for_tests import add_tokenizer
from tests.models.tiny import edit_weights, save_huggingface

VOCAB = 4096
"""Of list-tiny's tokenizer."""
PROMPTS = ("a short list of Fruits", "the", "")
"""One of them the empty one, which is BOS alone."""


def reading(folder: Path, kind: str, **values: Any) -> Path:
    """A directory of a random model of `kind` with list-tiny's tokenizer."""
    return add_tokenizer(save_huggingface(folder, kind, **{"vocab_size": VOCAB} | values))


def changed(directory: Path, to: Path, **columns: Any) -> Path:
    """A copy with other rows of the unembedding: `t7=5.0` fills the row of token 7."""
    shutil.copytree(directory, to)
    weights = load_file(to / "model.safetensors")["lm_head.weight"].clone()
    for name, value in columns.items():
        weights[int(name.removeprefix("t"))] = value
    edit_weights(to, lm_head__weight=weights)
    return to


def load(directory: Path, **arguments: Any) -> Runner:
    return Runner.load(str(directory), device="cpu", progress=False, **arguments)


def own_logits(runner: Runner, text: str) -> torch.Tensor:
    """Of the token after a prompt, by the model's plain forward pass."""
    row = torch.tensor([runner.to_tokens(text) if text else [runner.bos_token_id]])
    with torch.no_grad():
        return runner.model(row)[0, -1].float()
