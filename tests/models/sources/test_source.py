"""What `--model` may name, and the sentence for what it may not."""

import os
import re
from pathlib import Path

import pytest

from mechlist.errors import ModelError
from mechlist.models.sources import hub
from mechlist.models.sources.source import builtin_models, locate, official_name


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str) -> Path:
        pytest.fail(f"asked the hub for {name}")

    monkeypatch.setattr(hub, "download", refuse)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names that the hub was asked for; it answers with a directory that looks like a model."""
    names: list[str] = []
    directory = huggingface(tmp_path / "snapshot")

    def download(name: str) -> Path:
        names.append(name)
        return directory

    monkeypatch.setattr("mechlist.models.sources.source.hub.download", download)
    return names


def huggingface(directory: Path, *names: str) -> Path:
    directory.mkdir()
    for name in names or ("config.json", "model.safetensors"):
        (directory / name).write_text("{}")
    return directory


def message(model: str) -> str:
    with pytest.raises(ModelError) as caught:
        locate(model)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


def test_builtin_models_are_found_by_name():
    assert "induction-tiny" in builtin_models()
    found = locate("induction-tiny")
    assert found.kind == "hooked_transformer"
    assert (found.directory / "model.safetensors").is_file()
    assert found.name == "induction-tiny"


def test_a_directory_says_its_format_by_its_files(tmp_path: Path):
    assert locate(str(huggingface(tmp_path / "a"))).kind == "huggingface"
    hooked = huggingface(tmp_path / "b", "hooked_transformer_config.json", "model.safetensors")
    assert locate(str(hooked)).kind == "hooked_transformer"
    sharded = huggingface(tmp_path / "c", "config.json", "model-00001-of-00002.safetensors", "pytorch_model.bin")
    assert locate(str(sharded)).kind == "huggingface"


def test_a_relative_directory_and_one_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = huggingface(tmp_path / "mine").resolve()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mine", "./mine", "~/mine", "mine/"):
        found = locate(name)
        assert found.directory == directory
        assert found.name == name


@pytest.mark.parametrize(
    ("given", "official"),
    [
        ("gpt2", "gpt2"),
        ("gpt2-small", "gpt2"),
        ("GPT2-small", "gpt2"),
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("google/gemma-2-2b-it", "google/gemma-2-2b-it"),
        ("somebody/their-model", "somebody/their-model"),
    ],
)
def test_names_go_to_the_hub(asked: list[str], given: str, official: str):
    found = locate(given)
    assert asked == [official]
    assert found.name == given
    assert found.kind == "huggingface"
    assert official_name(given) == official


@pytest.mark.parametrize("empty", ["", "  ", "\t"])
def test_an_empty_name(empty: str):
    assert message(empty) == "model must be a name or a directory, not an empty string."


@pytest.mark.parametrize(("wrong", "right"), [("gtp2", "gpt2"), ("induction-tyny", "induction-tiny")])
def test_a_misspelt_name_gets_a_suggestion(wrong: str, right: str):
    text = message(wrong)
    assert f"Unknown model '{wrong}'" in text
    assert re.search(rf"Did you mean .*{right}", text)
    assert "induction-tiny" in text
    assert "a directory" in text


def test_a_name_like_no_other_gets_no_suggestion():
    text = message("zzzzqqqq")
    assert "Unknown model 'zzzzqqqq': give a built-in model" in text
    assert "Did you mean" not in text


@pytest.mark.parametrize("path", ["./nope", "/nope/x", "~/nope", "../nope", "a/b/c", "nope.bin", "nope.safetensors"])
def test_a_directory_that_does_not_exist(path: str):
    assert message(path) == (
        f"There is no directory {path!r}; give a directory that holds config.json and *.safetensors."
    )


def test_the_home_directory_of_nobody():
    text = message("~nobody-of-that-name/model")
    assert text.startswith("'~nobody-of-that-name/model' cannot be opened")
    assert "give a directory that you may read" in text


def test_a_name_too_long_for_a_file_name():
    assert "give a directory" in message("./" + "x" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read(tmp_path: Path):
    closed = huggingface(tmp_path / "closed")
    closed.chmod(0)
    try:
        assert "give a directory that you may read" in message(str(closed))
    finally:
        closed.chmod(0o700)


def test_a_directory_that_fails_to_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = huggingface(tmp_path / "closed")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr("mechlist.models.sources.source.builtin_models", list)
    text = message(str(directory))
    assert "Permission denied" in text
    assert "give a directory that you may read" in text


def test_a_file_instead_of_a_directory(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.touch()
    assert message(str(file)) == f"{file} is a file; give the directory that holds config.json and *.safetensors."


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".PT"])
def test_a_pickle_is_refused(tmp_path: Path, suffix: str):
    file = tmp_path / f"model{suffix}"
    file.touch()
    text = message(str(file))
    assert text.startswith(f"{file} is a pickle, which can run code when it is opened; convert it to safetensors")


@pytest.mark.parametrize("config", ["config.json", "hooked_transformer_config.json"])
def test_a_directory_with_a_pickle_only(tmp_path: Path, config: str):
    directory = huggingface(tmp_path / "model", config, "pytorch_model.bin")
    text = message(str(directory))
    assert text.startswith(f"{directory} has its weights only as a pickle (pytorch_model.bin)")
    assert "convert them to safetensors" in text


def test_a_directory_without_weights(tmp_path: Path):
    directory = huggingface(tmp_path / "model", "config.json")
    text = message(str(directory))
    assert text.startswith(f"{directory} has a configuration but no *.safetensors weights")
    assert "put them beside it" in text


@pytest.mark.parametrize("names", [(), ("model.safetensors",), ("README.md",)])
def test_a_directory_without_a_model(tmp_path: Path, names: tuple[str, ...]):
    directory = tmp_path / "model"
    directory.mkdir()
    for name in names:
        (directory / name).touch()
    text = message(str(directory))
    assert text.startswith(f"{directory} holds no model: expected config.json (Hugging Face)")
    assert "hooked_transformer_config.json" in text
