import pytest
import torch

from mechlist.cli.cache import main
from mechlist.errors import InputError
from mechlist.runner.store import shard as store_shard
from mechlist.runner.store.store import ActivationStore, entry_key


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A store of two shards, found through the environment."""
    monkeypatch.setenv("MECHLIST_CACHE", str(tmp_path / "cache"))
    store = ActivationStore(tmp_path / "cache", ram_bytes=0)
    for number in range(2):
        keys = [entry_key("m", torch.tensor([n]), "hook", None, "float32") for n in range(number + 1)]
        store.put({k: torch.ones(300, 4) for k in keys}, fingerprint=f"{number}123456789")
    return tmp_path / "cache"


def test_ls_shows_one_row_a_shard(capsys, filled, monkeypatch):
    monkeypatch.setattr(store_shard, "VERSION", "0")
    ActivationStore(filled, ram_bytes=0).put({"k": torch.ones(3)}, fingerprint="x")
    monkeypatch.undo()
    assert main(["ls", "--directory", str(filled)]) == 0
    first, second, other, total = capsys.readouterr().out.splitlines()
    assert first.split()[2:7] == ["5.0", "KiB", "01234567", "1", "entries"]
    assert second.split()[2:7] == ["9.8", "KiB", "11234567", "2", "entries"]
    assert "other version" in other
    assert first.split()[0].count("-") == 2
    assert total == f"3 shards, 15.1 KiB in {filled}"
    assert len({line.index("activations-") for line in (first, second, other)}) == 1


def test_verify_reports_and_removes_damage_once(capsys, filled):
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == "2 sound shards with 3 entries, none damaged\n"
    file = sorted(filled.iterdir())[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert main(["verify"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"damaged: {file} (a checksum is wrong; removed)",
        "1 sound shard with 2 entries, 1 shard damaged",
    ]
    assert main(["verify"]) == 0


def test_clear_removes_everything(capsys, filled):
    assert main(["clear"]) == 0
    assert capsys.readouterr().out == "removed 2 shards, 14.8 KiB\n"
    assert list(filled.iterdir()) == []


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("ls", "0 shards, 0 B in {}"),
        ("verify", "0 sound shards with 0 entries, none damaged"),
        ("clear", "removed 0 shards, 0 B"),
    ],
)
def test_nothing_is_a_sound_answer(capsys, tmp_path, made, action, answer):
    directory = tmp_path / "cache"
    if made:
        directory.mkdir()
    assert main([action, "--directory", str(directory)]) == 0
    assert capsys.readouterr().out.strip() == answer.format(directory)
    assert directory.exists() == made


def test_bad_usage_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"directory must be a directory, and .*file is a file"):
        main(["ls", "--directory", str(tmp_path / "file")])
    with pytest.raises(InputError, match="lst"):
        main(["lst"])
    with pytest.raises(InputError):
        main([])
