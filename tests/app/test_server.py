import json
import socket
from pathlib import Path

import pytest

from mechlist.app.access import Access
from mechlist.app.desk import Desk
from mechlist.app.server import PAGES, listen, make_app
from mechlist.cli.main import main
from mechlist.errors import InputError


def client(access: Access, folder: Path):
    return make_app(Desk(folder), access).server.test_client()


def test_every_request_is_checked_callbacks_among_them(tmp_path):
    asked = client(Access("0.0.0.0", "secret"), tmp_path)
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/wrong/_dash-layout", "/_favicon.ico"):
        answer = asked.get(path, headers={"Host": "lab:8050"})
        assert answer.status_code == 403
        assert "lacks the access token" in answer.text
    body = json.dumps({"output": "runs-list.children", "inputs": [], "changedPropIds": []})
    headers = {"Host": "lab:8050", "Content-Type": "application/json"}
    assert asked.post("/_dash-update-component", data=body, headers=headers).status_code == 403
    assert asked.get("/secret/_dash-layout", headers={"Host": "lab:8050"}).status_code == 200
    assert asked.get("/secret/tree", headers={"Host": "lab:8050"}).status_code == 200


def test_on_loopback_other_names_and_other_pages_are_refused(tmp_path):
    asked = client(Access("127.0.0.1"), tmp_path)
    assert asked.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert asked.get("/", headers={"Host": "127.0.0.1:8050"}).status_code == 200
    asked_from = {"Host": "127.0.0.1:8050", "Origin": "http://evil.example"}
    assert asked.post("/_dash-update-component", data="{}", headers=asked_from).status_code == 403


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    answer = client(Access("127.0.0.1"), tmp_path).get("/", headers={"Host": "127.0.0.1"})
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "https://" not in answer.text.replace("https://dash.plotly.com", "")
    assert 'src="/_dash-component-suites/' in answer.text
    assert "prefers-color-scheme: dark" in answer.text


def test_without_a_model_the_pages_say_so(tmp_path):
    answer = client(Access("127.0.0.1"), tmp_path).get("/_dash-layout", headers={"Host": "127.0.0.1"})
    assert answer.text.count("needs a model: start the app with --model") == 2
    assert answer.text.count("No model is loaded") == 2
    assert all(title in answer.text for title, _ in PAGES.values())


def test_a_taken_port_is_a_sentence(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen at 127.0.0.1, port {port} \(Address already in use\)"):
            listen("127.0.0.1", port)
        assert main(["view", str(tmp_path), "--port", str(port), "--no-open"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mechlist: The app cannot listen at 127.0.0.1")
    assert "give another --port or --host" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-folder"], "no-such-folder is no directory: give one that holds runs."),
        (["--port", "70000"], "port must be from 0 to 65535, not 70000."),
        (["--port", "0", "--no-open", "--model", "no/such/dir"], "no/such/dir"),
    ],
)
def test_bad_input_is_one_sentence_with_status_2(capsys, arguments, words):
    assert main(["view", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_help_says_what_there_is(capsys):
    assert main(["view", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--model" in text
    assert "random token" in " ".join(text.split())
