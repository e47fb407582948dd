"""Several processes on one store, and what one of them leaves behind when it is killed."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from mechlist.runner.store import ActivationStore
from mechlist.runner.store import disk as store_disk
from mechlist.runner.store.shard import Shard, read_header
from tests.runner.store.store_entries import disk, shards
from tests.runner.store.store_worker import KEYS, activation, share


def worker(action: str, directory: Path, seed: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "tests/runner/store/store_worker.py", action, str(directory), str(seed)]
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        command, cwd=root, env={"PYTHONPATH": str(root)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_four_processes_read_what_they_wrote_or_nothing(tmp_path):
    workers = [worker("share", tmp_path, seed) for seed in range(4)]
    ended = [process.communicate(timeout=100) for process in workers]
    assert [process.returncode for process in workers] == [0] * 4, ended
    assert [errors for _, errors in ended] == [""] * 4
    assert min(int(hits) for text, _ in ended for hits in text.split()) > 0
    for name in ("free", "bounded"):
        assert set((tmp_path / name).iterdir()) == set(shards(tmp_path / name))
        assert disk(tmp_path / name).verify().bad == ()
    for number, tensor in enumerate(disk(tmp_path / "free").get(KEYS)):
        assert tensor is not None
        assert torch.equal(tensor, activation(number))


def test_eight_threads_share_one_store_within_its_bounds(tmp_path):
    messages: list[str] = []
    store = ActivationStore(tmp_path, ram_bytes=1000, disk_bytes=30_000, warn=messages.append)
    with ThreadPoolExecutor(8) as pool:
        assert min(pool.map(lambda seed: share(store, seed), range(8))) > 0
    assert messages == []
    assert set(tmp_path.iterdir()) == set(shards(tmp_path))


def test_a_shard_that_is_evicted_as_soon_as_it_is_written_is_no_trouble(tmp_path, monkeypatch):
    messages: list[str] = []
    store = disk(tmp_path, messages)

    def evicted(file: Path) -> Shard:
        file.unlink(missing_ok=True)
        return read_header(file)

    monkeypatch.setattr(store_disk, "read_header", evicted)
    store.put({KEYS[0]: activation(0)})
    monkeypatch.undo()
    assert store.get(KEYS[:1]) == [None]
    store.put({KEYS[0]: activation(0)})
    assert store.get(KEYS[:1]) != [None]
    assert messages == []


def test_a_writer_that_is_killed_leaves_nothing_that_counts(tmp_path):
    process = worker("hang", tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    other = disk(tmp_path)
    other.put({KEYS[1]: activation(1)})
    # The part of a living process is its own.
    assert len(list(tmp_path.glob("*.part"))) == 1
    process.kill()
    process.communicate(timeout=100)
    assert len(list(tmp_path.glob("*.part"))) == 1
    assert disk(tmp_path).get([KEYS[0]]) == [None]
    assert len(disk(tmp_path).ls()) == 1
    ActivationStore(tmp_path, ram_bytes=0).put({KEYS[0]: activation(0)})
    assert list(tmp_path.glob("*.part")) == []
    assert all(tensor is not None for tensor in disk(tmp_path).get(KEYS[:2]))
