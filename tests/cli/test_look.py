import webbrowser
from pathlib import Path

import pytest

from mechlist.cli.main import main


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_a_look_shows_tokens_what_comes_next_layers_and_heads(capsys):
    assert main(["look", "Write a short list of fruits", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for words in (
        "·short │ 408",
        "what comes after 's'",
        "what each layer would say",
        "the embedding",
        "heads that attend",
    ):
        assert words in text
    assert "list-tiny reads 10 tokens and expects 's' next (4.0%)" in text


def test_every_token_has_a_row_and_the_page_holds_the_same(capsys, monkeypatch, tmp_path):
    opened = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert main(["look", "<b>Write</b> fruits", "--every", "--open", "--device", "cpu"]) == 0
    *printed, path = capsys.readouterr().out.strip().splitlines()
    assert "next one's rank" in "\n".join(printed)
    page = Path(path).read_text()
    assert "A look at &lt;b&gt;Write&lt;/b&gt;·fruits" in page or "A look at &lt;b&gt;Write&lt;/b&gt; fruits" in page
    assert "comes first from" in page
    assert opened == [Path(path).resolve().as_uri()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], "TEXT is empty: give a prompt to look at."),
        (["x", "--model", "induction-tiny"], "needs a tokenizer, and the model induction-tiny has none"),
        (["fruit " * 2000], "tokens, and the context of the model holds"),
    ],
)
def test_bad_input_is_one_sentence_with_status_2(capsys, arguments, words):
    assert main(["look", *arguments]) == 2
    assert words in capsys.readouterr().err
