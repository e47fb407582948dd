"""Models from the Hugging Face hub: safetensors only, never pickles, and one sentence for every failure."""

import errno
import json
from pathlib import Path

from mechlist.errors import ModelError

FILES = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
]
# Subfolders and consolidated* repeat the weights in other formats, which can double a download.
SKIPPED = ["*/*", "consolidated*"]
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
OR_DIRECTORY = "or give a local directory with --model DIR"


def download(repo_id: str, revision: str | None = None) -> Path:
    """Directory with the files of a model on the hub, downloaded unless the cache already holds them.

    The hub is asked for the revision's newest commit; when it cannot be asked, what is in the cache is used.

    Raises:
        ModelError: the repository is missing, gated or without safetensors; the hub cannot be reached and the
            cache does not hold the model; the disk cannot take it.
    """
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    try:
        return _from_hub(repo_id, revision)
    except ModelError:
        raise
    except (HFValidationError, RevisionNotFoundError) as error:
        raise ModelError(explain(error, repo_id, revision)) from error
    except Exception as error:
        cached = _from_cache(repo_id, revision)
        if cached is not None and _is_whole(cached):
            return cached
        raise ModelError(explain(error, repo_id, revision)) from error


def explain(error: Exception, repo_id: str, revision: str | None = None) -> str:
    """One sentence: why `repo_id` could not be downloaded, and what to do about it."""
    import httpx2  # the client whose errors huggingface_hub lets through
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.HFValidationError):
        return (
            f"{repo_id!r} cannot be a model on the Hugging Face hub: give OWNER/NAME in letters, digits, "
            f"'-', '_' and '.', {OR_DIRECTORY}."
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, error.response.status_code, repo_id, revision)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _unreachable("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set", repo_id)
    if isinstance(error, json.JSONDecodeError):
        return _unreachable("something else answers: a proxy, a login page or a wrong HF_ENDPOINT", repo_id)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _unreachable("no answer", repo_id)
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | ConnectionError | TimeoutError):
        return _unreachable(_brief(error), repo_id)
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno):
        return _unsaved(error, repo_id)
    return f"Downloading {repo_id} failed ({_brief(error)}): try again, {OR_DIRECTORY}."


def _from_hub(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    # snapshot_download asks the same without a time limit and waits for ever on a hub that is silent.
    info = HfApi().model_info(repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    names = [sibling.rfilename for sibling in info.siblings or []]
    wanted = list(filter_repo_objects(names, allow_patterns=FILES, ignore_patterns=SKIPPED))
    _check_usable(names, wanted, repo_id)
    cached = _from_cache(repo_id, revision)
    if cached is not None and cached.name == info.sha and all((cached / name).is_file() for name in wanted):
        return cached
    directory = snapshot_download(repo_id, revision=revision, allow_patterns=FILES, ignore_patterns=SKIPPED)
    return Path(directory)


def _from_cache(repo_id: str, revision: str | None) -> Path | None:
    """The snapshot in the cache, without any request; it may lack files if another program put it there."""
    try:
        from huggingface_hub import snapshot_download  # a malformed HF_ENDPOINT makes this a ValueError

        directory = snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=FILES,
            ignore_patterns=SKIPPED,
            local_files_only=True,
        )
    except (OSError, ValueError):
        return None
    return Path(directory)


def _is_whole(directory: Path) -> bool:
    """Whether a snapshot holds a configuration and all weights: tokenizers alone are often cached."""
    weights = {path.name for path in directory.glob("*.safetensors") if path.is_file()}
    index = directory / "model.safetensors.index.json"
    if not (directory / "config.json").is_file() or not weights:
        return False
    if "model.safetensors" in weights or not index.is_file():
        return True
    try:
        return weights.issuperset(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_usable(names: list[str], wanted: list[str], repo_id: str) -> None:
    """Refuse a repository before anything of it is downloaded."""
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if not any(name.endswith(".safetensors") for name in wanted):
        if not pickles:
            raise ModelError(f"{repo_id} has no *.safetensors weights: choose another model, {OR_DIRECTORY}.")
        raise ModelError(
            f"{repo_id} has its weights only as a pickle ({pickles[0]}), which can run code when opened: "
            "convert them to safetensors (save_pretrained does) and give the directory with --model DIR."
        )
    if "config.json" not in names:
        raise ModelError(f"{repo_id} has no config.json: choose another model, {OR_DIRECTORY}.")


def _refused(error: Exception, status: int, repo_id: str, revision: str | None) -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo_id}"
    missing = status == 404 and not isinstance(error, errors.EntryNotFoundError)
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision or 'main'!r}: give a branch, tag or commit of {page}."
    if isinstance(error, errors.GatedRepoError):
        problem = f"{repo_id} is gated"
        remedy = f"accept the licence on {page} and log in with `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError) or missing:
        problem = f"The Hugging Face hub has no model {repo_id}, or it is private"
        remedy = "check the spelling, log in with `hf auth login` if it is private"
    elif isinstance(error, errors.DisabledRepoError):
        problem, remedy = f"{repo_id} has been disabled on the Hugging Face hub", "choose another model"
    elif status in (401, 403):
        problem = f"The Hugging Face hub refused the credentials for {repo_id} (HTTP {status})"
        remedy = "log in again with `hf auth login` (HF_TOKEN, if set, is used instead and must be valid)"
    else:
        problem = f"The Hugging Face hub failed to send {repo_id} (HTTP {status})"
        remedy = "try again later"
    return f"{problem}: {remedy}, {OR_DIRECTORY}."


def _unreachable(reason: str, repo_id: str) -> str:
    return (
        f"The Hugging Face hub cannot be reached ({reason}) and the cache does not hold all of {repo_id}: "
        f"connect and try again, {OR_DIRECTORY}."
    )


def _unsaved(error: OSError, repo_id: str) -> str:
    from huggingface_hub import constants

    cache = constants.HF_HUB_CACHE
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full, so {repo_id} cannot be saved in {cache}: free some space, or set HF_HOME "
            "to a directory on a larger disk."
        )
    reason = f"{error.filename or cache}: {error.strerror or _brief(error)}"
    return (
        f"The cache cannot be used for {repo_id} ({reason}): make it readable and writable, or set HF_HOME "
        "to a directory that is."
    )


def _brief(error: Exception) -> str:
    """First line of an error's text, which a server may have written: nothing that moves a cursor."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "".join(character for character in line if character.isprintable())[:200]
