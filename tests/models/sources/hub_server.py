"""A small model hub on loopback, with as much of the API as huggingface_hub's snapshot_download uses."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/models/(?P<repo>[^/]+(?:/[^/]+)?)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?/?")
FILE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass(frozen=True)
class Answer:
    """What the hub answers instead of a repository."""

    status: int
    code: str = ""
    """X-Error-Code, by which the client tells a gated repository from a missing one."""
    message: str = ""
    body: bytes = b""
    listing: Path | None = None
    """Files that are listed while their contents are refused, as the real hub does when gated."""


MISSING = Answer(404, "RepoNotFound", "Repository not found")
NO_REVISION = Answer(404, "RevisionNotFound", "Invalid rev id")
NO_ENTRY = Answer(404, "EntryNotFound", "Entry not found")
BAD_TOKEN = Answer(401, message="Invalid credentials in Authorization header")


class HubServer:
    """Serves repositories, each a directory, an answer or a bare HTTP status; entering it gives its URL."""

    def __init__(self, repos: dict[str, Path | Answer | int]):
        self.repos = {name: Answer(repo) if isinstance(repo, int) else repo for name, repo in repos.items()}
        self.requests: list[str] = []
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> str:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


def commit_of(root: Path) -> str:
    """A commit's name: the same content always has the same."""
    digest = hashlib.sha1()
    for name in _names(root):
        digest.update(name.encode() + b"\0" + (root / name).read_bytes())
    return digest.hexdigest()


def _names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        if match := FILE.fullmatch(path):
            self._file(*(unquote(part) for part in match.group("repo", "revision", "name")))
        elif match := API.fullmatch(path):
            revision = unquote(match["revision"] or "main")
            self._api(unquote(match["repo"]), revision, tree=match["what"] == "tree")
        else:
            self._refuse(Answer(404))

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def log_message(self, *args: object, **kwargs: object) -> None:
        pass

    def _api(self, repo: str, revision: str, tree: bool) -> None:
        root = self.hub.repos.get(repo, MISSING)
        if isinstance(root, Answer):
            if root.listing is None:
                return self._refuse(root)
            root = root.listing
        if revision not in ("main", commit_of(root)):
            return self._refuse(NO_REVISION)
        names = _names(root)
        if tree:
            files = [{"type": "file", "path": name, "oid": "0" * 40, "size": _size(root, name)} for name in names]
            return self._send(200, json.dumps(files).encode(), {"Content-Type": "application/json"})
        siblings = [{"rfilename": name} for name in names]
        info = {"id": repo, "modelId": repo, "sha": commit_of(root), "siblings": siblings, "tags": []}
        return self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, name: str) -> None:
        root = self.hub.repos.get(repo, MISSING)
        if isinstance(root, Answer):
            return self._refuse(root)
        if revision not in ("main", commit_of(root)):
            return self._refuse(NO_REVISION)
        if name not in _names(root):
            return self._refuse(NO_ENTRY)
        content = (root / name).read_bytes()
        etag = hashlib.sha1(content).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit_of(root)})

    def _refuse(self, answer: Answer) -> None:
        headers = {
            "X-Error-Code": answer.code,
            "X-Error-Message": answer.message,
            "Content-Type": "text/html",
        }
        self._send(answer.status, answer.body, {key: value for key, value in headers.items() if value})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _size(root: Path, name: str) -> int:
    return (root / name).stat().st_size
