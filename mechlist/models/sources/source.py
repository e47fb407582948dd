"""What `--model` names: a built-in model, a local directory, or a repository on the Hugging Face hub."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mechlist.errors import ModelError
from mechlist.models.sources import hub

BUILTIN_ROOT = Path(__file__).parents[1] / "builtin"

Kind = Literal["hooked_transformer", "huggingface"]


@dataclass(frozen=True)
class Source:
    """A model on this disk: its name as given, its directory, and the format the directory is in."""

    name: str
    directory: Path
    kind: Kind


def builtin_models() -> list[str]:
    """Names of the models that ship with mechlist."""
    return sorted(p.name for p in BUILTIN_ROOT.iterdir() if (p / "model.safetensors").is_file())


def locate(model: str) -> Source:
    """Find the model that `model` names, downloading it if it is a repository on the hub.

    Raises:
        ModelError: no such name, directory or repository; a pickle; a directory without a model.
    """
    if not model.strip():
        raise ModelError("model must be a name or a directory, not an empty string.")
    if model in builtin_models():
        return Source(model, BUILTIN_ROOT / model, _format(BUILTIN_ROOT / model))
    try:
        path = Path(model).expanduser()
        if path.is_file():
            raise ModelError(_not_a_directory(path))
        if path.is_dir():
            return Source(model, path.resolve(), _format(path))
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{model!r} cannot be opened ({error}); give a directory that you may read.") from error
    if _looks_like_path(model):
        raise ModelError(f"There is no directory {model!r}; give a directory that holds config.json and *.safetensors.")
    directory = hub.download(official_name(model))
    return Source(model, directory, _format(directory))


def official_name(model: str) -> str:
    """The hub's name for a TransformerLens alias (`gpt2-small` is `gpt2`); other `owner/name` pass through."""
    from mechlist.models.tl import model_aliases

    aliases = model_aliases()
    if model.lower() in aliases:
        return aliases[model.lower()]
    if "/" in model:
        return model
    close = difflib.get_close_matches(model.lower(), [*aliases, *builtin_models()], n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ModelError(
        f"Unknown model {model!r}: give a built-in model ({', '.join(builtin_models())}), "
        f"a Hugging Face name such as google/gemma-2-2b-it, or a directory.{hint}"
    )


def _looks_like_path(model: str) -> bool:
    return (
        model.startswith((".", "/", "~"))
        or model.count("/") > 1
        or "\\" in model
        or model.endswith((".safetensors", *hub.PICKLES))
    )


def _not_a_directory(path: Path) -> str:
    if path.suffix.lower() in hub.PICKLES:
        return (
            f"{path} is a pickle, which can run code when it is opened; convert it to safetensors "
            "(save_pretrained does) and give the directory."
        )
    return f"{path} is a file; give the directory that holds config.json and *.safetensors."


def _format(directory: Path) -> Kind:
    names = {p.name for p in directory.iterdir()}
    weights = sorted(n for n in names if n.endswith(".safetensors"))
    pickles = sorted(n for n in names if n.endswith(hub.PICKLES))
    if "hooked_transformer_config.json" in names:
        if "model.safetensors" not in names:
            raise ModelError(_without_weights(directory, pickles))
        return "hooked_transformer"
    if "config.json" not in names:
        raise ModelError(
            f"{directory} holds no model: expected config.json (Hugging Face) or "
            "hooked_transformer_config.json (TransformerLens) beside *.safetensors."
        )
    if not weights:
        raise ModelError(_without_weights(directory, pickles))
    return "huggingface"


def _without_weights(directory: Path, pickles: list[str]) -> str:
    if pickles:
        return (
            f"{directory} has its weights only as a pickle ({pickles[0]}), which can run code when it is opened; "
            "convert them to safetensors (save_pretrained does)."
        )
    return f"{directory} has a configuration but no *.safetensors weights; put them beside it."
