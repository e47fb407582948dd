"""The store gives back what it was given, bit for bit."""

import os
import random
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner.store.memory import MemoryTier
from mechlist.runner.store.shard import DTYPES, VERSION
from mechlist.runner.store.store import ActivationStore, default_directory, entry_key
from tests.runner.store.store_entries import disk, entries, key, same, shards


def every_dtype() -> dict[str, Tensor]:
    found = {}
    for dtype in DTYPES:
        noise = torch.randint(0, 256, (3, 5, dtype.itemsize), dtype=torch.uint8)
        found[key(dtype)] = noise[..., 0] > 99 if dtype == torch.bool else noise.view(dtype).squeeze(-1)
    found[key("special")] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 1e-45])
    found[key("scalar")] = torch.tensor(2.5, dtype=torch.float16)
    found[key("empty")] = torch.zeros(0, 7)
    found[key("strided")] = torch.arange(12.0).reshape(3, 4).T.requires_grad_()
    return found


@pytest.mark.parametrize("where", ["ram", "disk", "another process's disk"])
def test_every_type_comes_back_bit_for_bit(tmp_path, where):
    expected = every_dtype()
    store = ActivationStore(tmp_path / "ü" / "a", ram_bytes=10**6 if where == "ram" else 0)
    store.put(expected)
    reader = disk(tmp_path / "ü" / "a") if where == "another process's disk" else store
    found = reader.get(list(expected))
    assert same(found, expected)
    assert all(tensor is not None and tensor.data_ptr() % tensor.element_size() == 0 for tensor in found)


def test_a_shard_is_a_safetensors_file(tmp_path):
    expected = every_dtype()
    disk(tmp_path).put(expected)
    with safetensors.safe_open(shards(tmp_path)[0], framework="pt") as opened:
        assert set(opened.keys()) == set(expected)
        assert same([opened.get_tensor(k) for k in expected], expected)
        assert opened.metadata()["mechlist_version"] == VERSION


def test_answers_keep_the_order_of_the_keys_and_misses_are_none(tmp_path):
    known = entries()
    store = ActivationStore(tmp_path, ram_bytes=5 * 7 * 4 * 2)
    assert store.get(list(known)) == [None] * 6
    assert store.get([]) == []
    store.put(known)
    a, *_, b = known
    found = store.get([b, key("none"), a, b])
    assert found[1] is None
    assert same([found[2], found[0]], {a: known[a], b: known[b]})
    assert same([found[3]], {b: known[b]})


@pytest.mark.parametrize("ram", [0, 10**6])
def test_writing_to_what_was_given_or_taken_changes_nothing(tmp_path, ram):
    expected = entries()
    given = {k: v.clone() for k, v in expected.items()}
    store = ActivationStore(tmp_path, ram_bytes=ram)
    store.put(given)
    other, before = disk(tmp_path), shards(tmp_path)[0].read_bytes()
    held = store.get(list(expected))
    for tensor in [*given.values(), *store.get(list(expected))]:
        assert tensor is not None
        tensor.zero_()
    for found in (held, store.get(list(expected)), other.get(list(expected))):
        assert same(found, expected)
    assert shards(tmp_path)[0].read_bytes() == before


def test_the_key_depends_on_each_part_and_on_nothing_else():
    def tokens(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    keys = [
        entry_key("f", tokens(1, 2, 3), "h", tokens(0, 1), "float32"),
        entry_key("g", tokens(1, 2, 3), "h", tokens(0, 1), "float32"),
        entry_key("f", tokens(1, 2, 4), "h", tokens(0, 1), "float32"),
        entry_key("f", tokens(1, 2), "h", tokens(3, 0, 1), "float32"),
        entry_key("f", tokens(1, 2, 3), "i", tokens(0, 1), "float32"),
        entry_key("f", tokens(1, 2, 3), "h", tokens(1, 0), "float32"),
        entry_key("f", tokens(1, 2, 3), "h", tokens(), "float32"),
        entry_key("f", tokens(1, 2, 3), "h", None, "float32"),
        entry_key("f", tokens(1, 2, 3, 0, 1), "h", None, "float32"),
        entry_key("f", tokens(1, 2, 3), "h", tokens(0, 1), "bfloat16"),
        entry_key("f", tokens(1, 2, 3), "h", tokens(0, 1), "float32", "zero head 1"),
        entry_key("fh", tokens(1, 2, 3), "", tokens(0, 1), "float32"),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == entry_key("f", tokens(1, 2, 3).int(), "h", torch.tensor([0, 9, 1])[::2], "float32")
    # Written down, because it must not change from one process to the next.
    assert keys[7] == "1038a15a0af974fef084427da50b7ceb549a4224e61e07caff3acc6f72364607"


def test_models_of_one_name_with_other_weights_share_nothing(tmp_path):
    store = disk(tmp_path)
    a, b = (entry_key(f, torch.tensor([1, 2]), "h", None, "float32") for f in ("weights a", "weights b"))
    store.put({a: torch.ones(2)}, fingerprint="weights a")
    assert store.get([b]) == [None]


def test_the_ram_tier_is_a_list_of_the_last_used_within_its_bound():
    for seed in range(20):
        chance = random.Random(seed)
        limit = chance.randrange(0, 400)
        tier, model = MemoryTier(limit), OrderedDict[str, int]()
        for _ in range(200):
            names = [str(chance.randrange(12)) for _ in range(chance.randrange(1, 4))]
            if chance.random() < 0.5:
                found = [n for n in dict.fromkeys(names) if n in model]
                assert list(tier.get(names)) == found
                for n in found:
                    model.move_to_end(n)
            else:
                put = {n: torch.zeros(chance.randrange(40)) for n in names}
                tier.put(put)
                for n, tensor in put.items():
                    model.pop(n, None)
                    if tensor.nbytes <= limit:
                        model[n] = tensor.nbytes
                        while sum(model.values()) > limit:
                            model.popitem(last=False)
            assert tier.size == sum(model.values()) <= limit


def test_the_disk_keeps_what_was_used_last(tmp_path):
    store = disk(tmp_path)
    for number in range(3):
        store.put(entries(2, 2 * number))
        os.utime(shards(tmp_path)[number], ns=(10**9 * number, shards(tmp_path)[number].stat().st_mtime_ns))
    size = sum(file.stat().st_size for file in shards(tmp_path))
    reader = disk(tmp_path)
    held = reader.get(list(entries(2, 2)))
    assert store.get([key(0)]) != [None]
    bounded = disk(tmp_path, disk_bytes=size)
    bounded.put(entries(2, 6))
    kept = [number for number in range(4) if disk(tmp_path).get([key(2 * number)]) != [None]]
    assert kept == [0, 1, 3]
    bounded.clear()
    # A removed shard goes on for whoever has it open, and is a miss for the others.
    assert same(held, entries(2, 2))
    assert reader.get(list(entries(2, 2))) == [None, None]


def test_the_disk_bound_holds_and_a_batch_beyond_it_is_told_once(tmp_path):
    messages: list[str] = []
    store = disk(tmp_path, messages, disk_bytes=10_000)
    for number in range(30):
        store.put(entries(chance := 1 + number % 5, 10 * number))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10_000
        assert same(store.get(list(entries(chance, 10 * number))), entries(chance, 10 * number))
    for _ in range(2):
        store.put(entries(1, 500, (50, 100)))
    assert len(messages) == 1
    assert "larger than all" in messages[0]


def test_leftovers_of_a_day_are_removed_and_other_files_are_not_touched(tmp_path):
    (tmp_path / "model.safetensors").write_text("weights")
    store = disk(tmp_path, disk_bytes=10_000)
    store.put(entries())
    fresh, old = (tmp_path / f"activations-{n:016x}-00000000-1-{n:08x}.safetensors.part" for n in range(2))
    for file in (fresh, old):
        file.write_text("half")
    os.utime(old, (day_ago := time.time() - 25 * 3600, day_ago))
    store.put(entries())
    assert fresh.exists()
    assert not old.exists()
    assert store.clear() == 2
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", fresh.name}


def test_a_store_without_directory_or_of_nothing_is_a_store(tmp_path):
    store = ActivationStore(None, ram_bytes=10**6)
    store.put(entries())
    assert same(store.get(list(entries())), entries())
    assert (store.ls(), store.verify().shards, store.clear()) == ([], 0, 0)
    assert store.get([key(0)]) == [None]
    none = disk(tmp_path / "none")
    none.put({})
    assert (none.ls(), none.verify().shards, none.clear(), none.get([key(0)])) == ([], 0, 0, [None])
    assert not (tmp_path / "none").exists()


def test_a_type_that_cannot_be_stored_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"one of float64, .*, not torch.complex64 \(entry "):
        disk(tmp_path).put({key(0): torch.zeros(2, dtype=torch.complex64)})


def test_the_default_directory_follows_the_environment(monkeypatch):
    monkeypatch.setenv("MECHLIST_CACHE", "/somewhere")
    assert default_directory() == Path("/somewhere")
    monkeypatch.setenv("MECHLIST_CACHE", "")
    assert default_directory() == Path.home() / ".cache" / "mechlist" / "activations"
