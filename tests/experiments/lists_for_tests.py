"""Lists, and a model that writes none, for the tests of the experiments on lists."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
import transformers

from mechlist.datasets.chat import list_tokens, model_header
from mechlist.datasets.lists.prompts import list_prompts
from mechlist.datasets.lists.recorded import RecordedLists, recorded_json
from mechlist.models.quiet import quiet
from mechlist.runner import Runner

TEXTS = {
    "Fruits": ["Apple\n-Banana \n-Cherry\n<end_of_turn>", "Apple\n-Banana\n-"],
    "Ocean": ["Pacific\n-Atlantic \n<end_of_turn>", "Pacific"],
}
"""Behind the prefilled hyphen; two of the four lists ended."""


def write_recorded(runner: Runner, folder: Path, temperature: float | None = 0.7) -> Path:
    """Recorded files of short and long lists."""
    folder.mkdir(exist_ok=True)
    special = list_tokens(runner.tokenizer)
    for adjective in ("short", "long"):
        index: int | None = None
        topics: dict[str, list[list[int]]] = {}
        for topic, texts in TEXTS.items():
            (prompt,) = list_prompts(runner.tokenizer, [topic], [adjective])
            index = prompt.adjective_index
            encoded = [runner.tokenizer.encode(text, add_special_tokens=False) for text in texts]
            topics[topic] = [list(prompt.with_completion(ids)) for ids in encoded]
        recorded = RecordedLists(
            model="list-tiny",
            adjective=adjective,
            adjective_index=index,
            temperature=temperature,
            tokens=special,
            model_header=model_header(runner.tokenizer),
            topics=topics,
            top_p=0.8,
            max_new_tokens=100,
        )
        text = recorded_json(recorded)
        assert json.loads(text)["adjective"] == adjective
        (folder / f"{adjective}.json").write_text(text)
    return folder


def random_gemma2(folder: Path) -> Path:
    """A directory with a tiny random Gemma 2 that has list-tiny's tokenizer and writes nonsense."""
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.Gemma2Config(
            vocab_size=4096,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            sliding_window=8,
        )
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return add_tokenizer(folder)


def add_tokenizer(folder: Path) -> Path:
    """Put list-tiny's tokenizer, of 4,096 tokens, into a model's directory."""
    for pattern in ("*token*", "*template*"):
        for file in Path(str(files("mechlist.models"))).joinpath("builtin", "list-tiny").glob(pattern):
            shutil.copy(file, folder)
    return folder
