"""The real client and a hub on loopback, in subprocesses: offline mode would block loopback too."""

import errno
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors

from mechlist.errors import ModelError
from mechlist.models.sources import hub
from tests.models.sources.hub_server import BAD_TOKEN, Answer, HubServer, commit_of

ROOT = Path(__file__).parents[3]
CLOSED = "http://127.0.0.1:9"  # the discard port, where nothing listens
SCRIPT = """
import json, sys
from mechlist.errors import MechlistError
from mechlist.models.sources import hub

heavy = [name for name in ("torch", "transformer_lens", "huggingface_hub") if name in sys.modules]
outcomes = []
for repo, revision in json.loads(sys.argv[1]):
    try:
        path = hub.download(repo, revision)
        files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        outcomes.append({"commit": path.name, "files": files, "config": (path / "config.json").read_text()})
    except MechlistError as error:
        print(error, file=sys.stderr)
        outcomes.append({"error": str(error), "status": error.exit_status})
heavy += [name for name in ("torch", "transformer_lens") if name in sys.modules]
print(json.dumps({"outcomes": outcomes, "heavy": heavy}))
"""


@dataclass
class Client:
    """What a process that downloads sees, as a user's would: its cache and its environment."""

    home: Path

    def download(self, url: str, *repos: str | tuple[str, str], **environment: str) -> list[dict]:
        jobs = [(repo, None) if isinstance(repo, str) else repo for repo in repos]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(jobs)],
            cwd=ROOT,
            env=self._environment(url) | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        result = json.loads(done.stdout.splitlines()[-1])  # huggingface_hub prints when its own import fails
        assert result["heavy"] == []
        for outcome in result["outcomes"]:
            if "error" in outcome:
                assert_sentence(outcome["error"])
                assert outcome["error"] in done.stderr
                assert outcome["status"] == 2
        return result["outcomes"]

    def _environment(self, url: str) -> dict[str, str]:
        hidden = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(hidden) and not key.lower().endswith("_proxy")
        }
        return kept | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


def assert_sentence(text: str) -> None:
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 400


def write_repo(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the content of {name}")
    return root


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path / "home")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_repo(
        tmp_path / "model",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "pytorch_model.bin",
        "README.md",
        "modeling_custom.py",
        "consolidated.safetensors",
        "onnx/model.safetensors",
    )


DOWNLOADED = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
]


def test_safetensors_arrive_and_the_cache_serves_them_without_network(client: Client, model: Path):
    server = HubServer({"owner/model": model})
    with server as url:
        first, second = client.download(url, "owner/model", "owner/model")
        by_commit, newest = client.download(url, ("owner/model", commit_of(model)), ("owner/model", "main"))
    stopped = client.download(url, "owner/model", ("owner/model", commit_of(model)), "owner/absent")
    offline = client.download(url, "owner/model", "owner/absent", HF_HUB_OFFLINE="1")
    assert first == {
        "commit": commit_of(model),
        "files": DOWNLOADED,
        "config": "the content of config.json",
    }
    assert [second, by_commit, newest, *stopped[:2], offline[0]] == [first] * 6
    fetched = [request for request in server.requests if request.startswith("GET /owner/model/resolve/")]
    assert len(fetched) == len(DOWNLOADED)
    for outcome in (stopped[2], offline[1]):
        for words in ("cannot be reached", "owner/absent", "cache", "local directory with --model DIR"):
            assert words in outcome["error"]
    assert "refused" in stopped[2]["error"]
    assert "HF_HUB_OFFLINE" in offline[1]["error"]


def test_a_new_commit_is_downloaded(client: Client, model: Path):
    with HubServer({"model": model}) as url:
        (old,) = client.download(url, "model")
        (model / "config.json").write_text("changed")
        (new,) = client.download(url, "model")
    assert old["config"] == "the content of config.json"
    assert new["config"] == "changed"


REFUSALS: dict[str, tuple[Answer | int, list[str]]] = {
    "owner/missing": (
        Answer(404, "RepoNotFound"),
        ["no model", "spelling", "private", "hf auth login", "directory"],
    ),
    "owner/hidden": (
        Answer(401, "RepoNotFound"),
        ["no model", "spelling", "private", "hf auth login", "directory"],
    ),
    "owner/gone": (404, ["no model", "spelling", "directory"]),
    "owner/gated401": (
        Answer(401, "GatedRepo"),
        ["gated", "accept", "huggingface.co/owner/gated401", "hf auth login"],
    ),
    "owner/gated403": (
        Answer(403, "GatedRepo"),
        ["gated", "accept", "huggingface.co/owner/gated403", "hf auth login"],
    ),
    "owner/badtoken": (
        BAD_TOKEN,
        ["credentials", "401", "log in again", "hf auth login", "HF_TOKEN", "directory"],
    ),
    "owner/forbidden": (403, ["credentials", "403", "log in again", "hf auth login", "directory"]),
    "owner/disabled": (
        Answer(403, message="Access to this resource is disabled."),
        ["disabled", "another model"],
    ),
    "owner/broken": (500, ["failed to send", "500", "later", "directory"]),
    "owner/busy": (429, ["failed to send", "429", "later", "directory"]),
    "owner/login-page": (
        Answer(200, body=b"<html>Log in</html>"),
        ["cannot be reached", "HF_ENDPOINT", "directory"],
    ),
}


def test_every_refusal_is_one_sentence(client: Client):
    with HubServer({repo: answer for repo, (answer, _) in REFUSALS.items()}) as url:
        outcomes = client.download(url, *REFUSALS)
    for (repo, (_, words)), outcome in zip(REFUSALS.items(), outcomes, strict=True):
        for word in (repo, *words):
            assert word in outcome["error"]


def test_gated_files_of_a_listed_repository_and_other_refusals_after_the_listing(client: Client, tmp_path: Path):
    weights = write_repo(tmp_path / "weights", "config.json", "model.safetensors")
    pickles = write_repo(tmp_path / "pickles", "config.json", "pytorch_model.bin", "training_args.bin")
    repos = {
        "owner/gated": Answer(401, "GatedRepo", listing=weights),
        "owner/waiting": Answer(403, "GatedRepo", listing=weights),
        "owner/weights": weights,
        "owner/pickles": pickles,
        "owner/empty": write_repo(tmp_path / "empty", "README.md"),
        "owner/adapter": write_repo(tmp_path / "adapter", "adapter_model.safetensors"),
    }
    names = ["owner/gated", "owner/waiting", ("owner/weights", "v9"), *list(repos)[3:], "a/b/c", "foo..bar"]
    with HubServer(repos) as url:
        sentences = [outcome["error"] for outcome in client.download(url, *names)]
    expected = [
        ["owner/gated", "accept", "hf auth login"],
        ["owner/waiting", "accept", "hf auth login"],
        ["owner/weights", "'v9'", "branch, tag or commit"],
        ["owner/pickles", "pytorch_model.bin", "pickle", "run code", "safetensors", "directory"],
        ["owner/empty", "no *.safetensors", "directory"],
        ["owner/adapter", "no config.json", "directory"],
        ["'a/b/c'", "OWNER/NAME", "directory"],
        ["'foo..bar'", "OWNER/NAME", "directory"],
    ]
    for sentence, words in zip(sentences, expected, strict=True):
        for word in words:
            assert word in sentence
    assert not list(client.home.rglob("*.bin"))


def test_a_cache_that_another_program_filled_in_part_is_not_taken_for_the_model(client: Client):
    sharded = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    snapshots = {}
    for name in ("tokenizer-only", "half", "whole"):
        repository = client.home / "hub" / f"models--owner--{name}"
        snapshots[name] = write_repo(repository / "snapshots" / ("a" * 40), "config.json", "tokenizer.json")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40)
    for name in ("half", "whole"):
        write_repo(snapshots[name], "model-00001-of-00002.safetensors")
        (snapshots[name] / "model.safetensors.index.json").write_text(json.dumps(sharded))
    write_repo(snapshots["whole"], "model-00002-of-00002.safetensors")
    tokenizer, half, whole = client.download(CLOSED, "owner/tokenizer-only", "owner/half", "owner/whole")
    assert "cache does not hold all of owner/tokenizer-only" in tokenizer["error"]
    assert "cache does not hold all of owner/half" in half["error"]
    assert len(whole["files"]) == 5


def test_a_silent_hub_times_out(client: Client):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (outcome,) = client.download(url, "owner/model", HF_HUB_ETAG_TIMEOUT="1")
    assert "cannot be reached" in outcome["error"]
    assert "timed out" in outcome["error"]


def test_a_cache_that_cannot_be_written(client: Client, model: Path, tmp_path: Path):
    cache = write_repo(tmp_path, "file") / "file" / "hub"
    with HubServer({"owner/model": model}) as url:
        (outcome,) = client.download(url, "owner/model", HF_HUB_CACHE=str(cache))
    for words in ("owner/model", "cache", f"{cache}", "Not a directory", "HF_HOME"):
        assert words in outcome["error"]


def test_a_malformed_endpoint(client: Client):
    (outcome,) = client.download("http://127.0.0.1:port", "owner/model")
    assert "Port could not be cast" in outcome["error"]


def http_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    request = httpx2.Request("GET", "https://huggingface.co/api/models/owner/model")
    return kind("two\nlines", response=httpx2.Response(status, request=request))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            http_error(errors.RepositoryNotFoundError, 404),
            ["no model owner/model", "spelling", "hf auth login"],
        ),
        (
            http_error(errors.RepositoryNotFoundError, 401),
            ["no model owner/model", "private", "hf auth login"],
        ),
        (http_error(errors.GatedRepoError, 403), ["gated", "accept", "https://huggingface.co/owner/model"]),
        (
            http_error(errors.RevisionNotFoundError, 404),
            ["no revision 'v2'", "https://huggingface.co/owner/model"],
        ),
        (http_error(errors.RemoteEntryNotFoundError, 404), ["failed to send", "404"]),
        (http_error(errors.HfHubHTTPError, 401), ["credentials", "hf auth login"]),
        (http_error(errors.HfHubHTTPError, 403), ["credentials", "hf auth login"]),
        (http_error(errors.HfHubHTTPError, 503), ["503", "later"]),
        (errors.HFValidationError("Repo id must be"), ["'owner/model'", "OWNER/NAME"]),
        (errors.OfflineModeIsEnabled("Cannot reach"), ["cannot be reached", "HF_HUB_OFFLINE"]),
        (errors.LocalEntryNotFoundError("not on disk"), ["cannot be reached"]),
        (
            httpx2.ConnectError("[Errno -2] Name or service not known"),
            ["cannot be reached", "Name or service"],
        ),
        (httpx2.ConnectTimeout("timed out"), ["cannot be reached", "timed out"]),
        (httpx2.ProxyError("407 Proxy Authentication Required"), ["cannot be reached", "407"]),
        (httpx2.InvalidURL("Invalid port: 'x'"), ["cannot be reached", "Invalid port"]),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), ["cannot be reached", "reset by peer"]),
        (json.JSONDecodeError("Expecting value", "<html>", 0), ["cannot be reached", "HF_ENDPOINT"]),
        (
            caused(errors.LocalEntryNotFoundError("x"), http_error(errors.HfHubHTTPError, 502)),
            ["failed to send", "502"],
        ),
        (
            caused(errors.LocalEntryNotFoundError("x"), httpx2.ReadTimeout("")),
            ["cannot be reached (ReadTimeout)"],
        ),
        (OSError(errno.ENOSPC, "No space left on device"), ["disk is full", "owner/model", "HF_HOME"]),
        (
            PermissionError(errno.EACCES, "Permission denied", "/cache/x"),
            ["/cache/x: Permission denied", "HF_HOME"],
        ),
        (
            OSError("Consistency check failed: size 3\nretry"),
            ["Consistency check failed: size 3)", "try again"],
        ),
        (RuntimeError("\x1b[2Jxet"), ["failed ([2Jxet)", "try again"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_explain(error: Exception, words: list[str]):
    text = hub.explain(error, "owner/model", "v2")
    assert_sentence(text)
    for word in words:
        assert word in text


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    raised: list[BaseException] = []

    def model_info(*args: object, **kwargs: object) -> None:
        raise raised[0]

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return raised


def test_an_interrupt_passes_through(answering: list[BaseException]):
    answering.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        hub.download("owner/no-such-model-here")


def test_the_cause_is_kept_for_debugging(answering: list[BaseException]):
    answering.append(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(ModelError, match="disk is full") as caught:
        hub.download("owner/no-such-model-here")
    assert caught.value.__cause__ is answering[0]
