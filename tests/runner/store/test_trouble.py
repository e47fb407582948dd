"""Damaged shards and failing disks: the store gives back what it was given or nothing, and goes on."""

import errno
import os
import random
from pathlib import Path

import pytest

from mechlist.runner.store import ActivationStore
from mechlist.runner.store import shard as store_shard
from tests.runner.store.store_entries import bits, disk, entries, key, same, shards


def test_a_flipped_bit_is_a_miss_and_never_other_data(tmp_path):
    expected = entries()
    chance = random.Random(0)
    disk(tmp_path / "0").put(expected)
    data = bytearray(shards(tmp_path / "0")[0].read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*range(8), *chance.sample(range(8, header), 150), *chance.sample(range(header, len(data)), 50)]
    for number, place in enumerate(places):
        directory = tmp_path / f"flipped {number}"
        directory.mkdir()
        bit = 1 << chance.randrange(8)
        data[place] ^= bit
        file = directory / shards(tmp_path / "0")[0].name
        file.write_bytes(data)
        data[place] ^= bit
        messages: list[str] = []
        store = disk(directory, messages)
        # What is read before the damage is found may be right; nothing may be wrong.
        for found, right in zip(store.get(list(expected)), expected.values(), strict=True):
            assert found is None or bits(found) == bits(right)
        assert None in store.get(list(expected))
        assert len(messages) == 1 - file.exists()
        assert not file.exists() or store.ls()[0].state == "other version"
        store.put(expected)
        assert same(store.get(list(expected)), expected)


def test_damage_is_found_by_a_store_that_has_read_the_shard_before(tmp_path):
    expected, messages = entries(), []
    store = disk(tmp_path, messages)
    store.put(expected)
    held = store.get(list(expected))
    file = shards(tmp_path)[0]
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    copy = tmp_path / "copy"
    copy.write_bytes(damaged)
    copy.replace(file)
    assert store.get(list(expected)) == [None] * 6
    assert [m for m in messages if "damaged (a checksum is wrong)" in m] == messages
    assert not file.exists()
    assert same(held, expected)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_or_longer_shard_is_a_miss(tmp_path, length):
    store = disk(tmp_path)
    store.put(entries())
    store.get(list(entries()))
    data = shards(tmp_path)[0].read_bytes()
    shards(tmp_path)[0].write_bytes(data[:length])
    for each in (store, disk(tmp_path)):
        assert each.get(list(entries())) == [None] * 6
    assert shards(tmp_path) == []
    store.put(entries())
    with shards(tmp_path)[0].open("ab") as file:
        file.write(b"x")
    assert disk(tmp_path).get(list(entries())) == [None] * 6


def test_a_sound_duplicate_answers_for_a_damaged_shard(tmp_path):
    for _ in range(2):
        disk(tmp_path).put(entries())
    for number in range(2):
        data = bytearray(shards(tmp_path)[number].read_bytes())
        data[-1] ^= number
        shards(tmp_path)[number].write_bytes(data)
    store = disk(tmp_path)
    assert same(store.get(list(entries())), entries())
    assert len(store.ls()) == 1


def test_another_version_is_a_miss_that_ls_shows(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store_shard, "VERSION", "0")
        disk(tmp_path).put(entries())
    messages: list[str] = []
    store = disk(tmp_path, messages)
    assert store.get(list(entries())) == [None] * 6
    store.put(entries(), fingerprint="abc")
    assert same(store.get(list(entries())), entries())
    assert [(s.state, s.entries, s.fingerprint) for s in store.ls()] == [("other version", 0, ""), ("", 6, "abc")]
    found = store.verify()
    assert (found.shards, found.entries, found.other, found.bad) == (1, 6, 1, ())
    assert messages == []


def raising(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("trouble", ["below a file", "no permission", "full disk", "read-only"])
def test_without_a_disk_the_store_goes_on_in_ram_and_says_so_once(tmp_path, monkeypatch, trouble):
    messages: list[str] = []
    directory = tmp_path / "store"
    if trouble == "below a file":
        directory.write_text("")
        directory = directory / "below"
    elif trouble == "no permission":
        monkeypatch.setattr(os, "scandir", raising(errno.EACCES))
        monkeypatch.setattr(Path, "mkdir", raising(errno.EACCES))
    elif trouble == "full disk":
        # The header is written, then the disk is full.
        monkeypatch.setattr(store_shard.zlib, "crc32", full_after(store_shard.zlib.crc32, 3))
    else:
        monkeypatch.setattr(Path, "replace", raising(errno.EROFS))
    store = ActivationStore(directory, ram_bytes=6 * 140, warn=messages.append)
    assert store.get(list(entries())) == [None] * 6
    for _ in range(3):
        store.put(entries())
        assert same(store.get(list(entries())), entries())
        assert store.get([key("none")]) == [None]
    assert len(messages) == 1, messages
    assert "goes on without it" in messages[0]
    monkeypatch.undo()
    assert not directory.is_dir() or list(directory.iterdir()) == []


def full_after(checksum, calls: int):
    made = []

    def fail(*arguments: object) -> int:
        made.append(arguments)
        if len(made) > calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return checksum(*arguments)

    return fail


def test_a_shard_that_cannot_be_read_is_a_miss(tmp_path, monkeypatch):
    disk(tmp_path).put(entries())
    messages: list[str] = []
    store, late = disk(tmp_path, messages), disk(tmp_path, messages)
    late.get(list(entries()))
    monkeypatch.setattr(Path, "open", raising(errno.EIO))
    for each in (store, late):
        assert each.get(list(entries())) == [None] * 6
        assert each.get(list(entries())) == [None] * 6
    assert len(messages) == 2
    assert store.verify().bad[0][1] == "it cannot be read: Input/output error"
    assert len(shards(tmp_path)) == 1
