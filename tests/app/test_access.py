import pytest

from mechlist.app.access import Access, is_loopback


def test_this_machine_needs_no_token_and_the_world_does():
    assert Access.to("127.0.0.1").token == Access.to("localhost").token == Access.to("::1").token == ""
    one, other = Access.to("0.0.0.0"), Access.to("0.0.0.0")
    assert len(one.token) >= 32
    assert one.token != other.token
    assert one.url(8050) == f"http://0.0.0.0:8050/{one.token}/"
    assert Access.to("::1").url(1) == "http://[::1]:1/"


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("lab", False)],
)
def test_what_is_this_machine(host, local):
    assert is_loopback(host) is local


def test_on_loopback_the_name_in_the_request_must_be_this_machine():
    access = Access.to("127.0.0.1")
    assert access.refusal("/", "127.0.0.1:8050") == ""
    assert access.refusal("/_dash-layout", "localhost:8050") == ""
    for host in ("evil.example:8050", "127.0.0.1.evil.example", "", "[::1"):
        assert "this machine's own address only" in access.refusal("/", host)


def test_beyond_it_every_path_must_begin_with_the_token():
    access = Access.to("0.0.0.0")
    assert access.refusal(f"/{access.token}/_dash-update-component", "lab:8050") == ""
    for path in ("/", "/_dash-update-component", f"/{access.token}x/", f"/{access.token[:-1]}/", "/ä/", ""):
        assert "lacks the access token" in access.refusal(path, "lab:8050")


def test_pages_elsewhere_may_not_ask():
    access = Access.to("127.0.0.1")
    assert access.refusal("/", "127.0.0.1:8050", "http://127.0.0.1:8050") == ""
    assert "own pages only" in access.refusal("/", "127.0.0.1:8050", "http://evil.example")
    assert "own pages only" in access.refusal("/", "127.0.0.1:8050", "null")
