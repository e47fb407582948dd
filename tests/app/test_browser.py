"""The app in a real Chromium; skipped where there is none."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mechlist.app.access import Access
from mechlist.app.desk import Desk
from mechlist.app.live import Live
from mechlist.app.server import listen, make_app, make_web_server
from mechlist.cli.main import main
from mechlist.decode.records import records_text
from mechlist.decode.tree_file import tree_text

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, odd_tree, odd_record, wide_tree) -> Path:
    """Files to open, and a run of odd text."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "odd.json").write_text(tree_text(odd_tree), encoding="utf-8")
    (folder / "odd.jsonl").write_text(records_text([odd_record]), encoding="utf-8")
    (folder / "wide.json").write_text(tree_text(wide_tree(2000)), encoding="utf-8")
    (folder / "bad.json").write_text("not JSON", encoding="utf-8")
    asked = ["--recorded", str(folder / "odd.jsonl"), "--out", str(folder / "odd-run")]
    assert main(["run", "logprobs", *asked]) == 0
    return folder


@pytest.fixture(scope="module")
def address(live: Live, folder: Path) -> Iterator[str]:
    access = Access("127.0.0.1", "secret")
    with listen("127.0.0.1", 0) as opened:
        server = make_web_server(make_app(Desk(folder, live), access), opened)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield access.url(opened.getsockname()[1])
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: "Browser", address: str) -> "Iterator[Callable[[str], Page]]":
    """Opens a page; in the end nothing may have gone wrong on the console, and no token text may have run."""
    page = browser.new_page()
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    own = address, "data:", "blob:"
    page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))

    def visited(name: str) -> "Page":
        page.goto(address + name)
        return page

    yield visited
    assert page.evaluate("window.ran") is None
    page.close()
    assert wrong == []


def opened(page: "Page", name: str, file: Path) -> None:
    page.fill(f"#{name}-path", str(file))
    page.click(f"#{name}-open")


def test_a_click_on_a_token_and_a_choice_give_new_text(visit):
    page = visit("response")
    page.fill("#response-most", "8")
    page.click("#response-write")
    page.wait_for_selector("#response-text")
    first = page.inner_text("#response-text")
    page.locator("button.token").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".others")
    page.locator(".others button:not([disabled])").first.press("Enter")
    page.wait_for_selector(".steps")
    assert page.inner_text("#response-text") != first
    assert page.locator("button.token.chosen").count() == 1
    with page.expect_download() as download:
        page.click("#response-save")
    assert json.loads(download.value.path().read_text())["path"][0].startswith("token 3: ")
    page.click("#response-undo")
    page.wait_for_selector(".steps", state="detached")
    assert page.inner_text("#response-text") == first


def test_a_tree_is_opened_searched_and_collapsed(visit, folder):
    page = visit("tree")
    opened(page, "tree", folder / "wide.json")
    page.wait_for_selector("#tree-said:not(:empty)")
    before = page.inner_text("#tree-said")
    page.click("text=Collapse >> nth=1")
    page.wait_for_function("before => document.querySelector('#tree-said').innerText !== before", arg=before)
    assert " 1 of " in page.inner_text("#tree-said")
    page.fill("#tree-query", "w2b")
    page.press("#tree-query", "Enter")
    page.wait_for_function("() => document.querySelector('#tree-said').innerText.includes('hold “w2b”')")
    assert "9 chains hold “w2b”" in page.inner_text("#tree-said")
    assert page.locator("#tree-panel pre").inner_text().startswith("·w2b")
    page.click("#tree-respond")
    page.wait_for_selector("#response-text")
    assert page.locator("#page-response").is_visible()


def test_a_patch_shows_its_map_and_its_cells(visit):
    page = visit("patching")
    page.click("#patch-go")
    page.wait_for_selector("#patch-map .plotly .hm")
    cells = page.locator("#patch-map .plotly .nsewdrag").first
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 6.5 / 7, box["y"] + box["height"] * 2.5 / 6)
    page.wait_for_selector("#patch-told h3")
    assert "Layer 2, position 6 “·of”" in page.inner_text("#patch-told")
    assert "(·short)" in page.inner_text("#patch-told")


def test_a_look_says_what_the_terminal_says(visit):
    page = visit("look")
    page.fill("#look-text", "Write a list")
    page.click("#look-go")
    page.wait_for_selector("#look-shown table")
    assert "list-tiny reads" in page.inner_text("#look-shown")
    assert "what each layer would say" in page.inner_text("#look-shown")


def test_odd_text_shows_as_itself_on_every_page(visit, folder):
    page = visit("response")
    opened(page, "response", folder / "odd.jsonl")
    page.wait_for_selector("#response-text")
    page.locator("button.token").nth(1).click()
    page.wait_for_selector(".others")
    shown = page.inner_text("#page-response")
    for text in ("<script>window.ran=1</script>", "onerror=window.ran=1>", "{{7*7}}", r"\x00", r"\u202eabc", "😀"):
        assert text in shown
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("button", name="odd-run").click()
    page.wait_for_selector("#runs-shown table")
    assert "<script>window.ran=1</script>" in page.inner_text("#runs-shown")
    page.get_by_role("button", name="text 1").click()
    page.wait_for_selector("#page-response:not([hidden])")
    page.get_by_role("link", name="Tree").click()
    opened(page, "tree", folder / "odd.json")
    page.wait_for_selector("#tree-panel ol")
    assert "<script>window.ran=1</script>" in page.inner_text("#tree-panel")


def test_what_cannot_be_opened_is_a_sentence_on_the_page(visit, folder, tmp_path):
    page = visit("tree")
    page.fill("#tree-low", "0.9")
    page.click("#tree-grow")
    page.wait_for_selector("#message:not(:empty)")
    assert "the first not above the second, not 0.9 and 0.5" in page.inner_text("#message")
    opened(page, "tree", folder / "odd.jsonl")
    page.wait_for_function("() => document.querySelector('#message').innerText.includes('responses and no tree')")
    page.get_by_role("link", name="Response").click()
    opened(page, "response", folder / "bad.json")
    page.wait_for_function("() => document.querySelector('#message').innerText.includes('bad.json is')")
    assert "bad.json is cut off or not JSON" in page.inner_text("#message")
    (tmp_path / "large.json").write_bytes(b" " * 40_000_000)
    page.set_input_files("#response-upload input", str(tmp_path / "large.json"))
    page.wait_for_function("() => document.querySelector('#message').innerText.includes('has 40 MB')")
    (tmp_path / "page.html").write_text("<html>")
    page.set_input_files("#response-upload input", str(tmp_path / "page.html"))
    page.wait_for_function("() => document.querySelector('#message').innerText.includes('page.html is cut off or not')")
    page.set_input_files("#response-upload input", str(folder / "odd.jsonl"))
    page.wait_for_selector("#response-text")
    assert page.inner_text("#message") == ""
