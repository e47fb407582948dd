"""A process beside others on one store: `store_worker.py share|hang DIRECTORY SEED`."""

import random
import sys
import time
import types
from pathlib import Path
from unittest import mock

import torch

if __name__ == "__main__":
    # The package itself imports TransformerLens, which takes longer than the whole test.
    package = types.ModuleType("mechlist.runner")
    package.__path__ = [str(Path(__file__).parents[3] / "mechlist" / "runner")]
    sys.modules["mechlist.runner"] = package

from mechlist.runner.store.store import ActivationStore, entry_key

KEYS = [entry_key("model", torch.tensor([n]), "hook", None, "float32") for n in range(60)]


def activation(number: int) -> torch.Tensor:
    """What the model would compute under `KEYS[number]`."""
    return torch.arange(40.0 * (1 + number % 3)).reshape(-1, 8) + 1000 * number


def share(store: ActivationStore, seed: int) -> int:
    """Read random entries and write those that are missing; returns how many were there."""
    chance, hits = random.Random(seed), 0
    for _ in range(150):
        numbers = chance.sample(range(60), chance.randrange(1, 12))
        found = store.get([KEYS[n] for n in numbers])
        for number, tensor in zip(numbers, found, strict=True):
            assert tensor is None or torch.equal(tensor, activation(number)), number
        hits += sum(tensor is not None for tensor in found)
        store.put({KEYS[n]: activation(n) for n, tensor in zip(numbers, found, strict=True) if tensor is None})
    return hits


def hang(store: ActivationStore) -> None:
    """Stop between writing a shard and giving it its name."""

    def wait(*_: object) -> Path:
        print("written", flush=True)
        time.sleep(600)
        raise AssertionError

    with mock.patch.object(Path, "replace", wait):
        store.put({KEYS[0]: activation(0)})


if __name__ == "__main__":
    action, directory, seed = sys.argv[1:]
    if action == "hang":
        hang(ActivationStore(Path(directory), ram_bytes=0))
    print(share(ActivationStore(Path(directory, "free"), ram_bytes=1000), int(seed)))
    print(share(ActivationStore(Path(directory, "bounded"), ram_bytes=1000, disk_bytes=30_000), int(seed)))
