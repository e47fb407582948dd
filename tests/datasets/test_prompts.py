from pathlib import Path

import pytest

from mechlist.datasets.prompts import KINDS, read_prompts, shipped_prompts
from mechlist.errors import InputError


def test_kinds_have_as_many_prompts_each():
    found = shipped_prompts()
    assert tuple(found) == KINDS
    assert {len(texts) for texts in found.values()} == {8}
    texts = [text for of_kind in found.values() for text in of_kind]
    assert len(set(texts)) == 24
    # What the README says of them: at most ten words, no blank at an end, and no end of a sentence.
    assert all(text == text.strip() and len(text.split()) <= 10 and text[-1].isalnum() for text in texts)
    assert list(shipped_prompts(("happy",))) == ["happy"]


def test_kinds_that_there_are_not_are_refused():
    with pytest.raises(InputError, match=r"kinds must be among neutral, contentious, happy, .* not \['sad'\]"):
        shipped_prompts(("sad",))
    with pytest.raises(InputError, match=r"kinds must be among .* not \[\]"):
        shipped_prompts(())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b", "must hold a list of texts"),
        ("[]", "must hold a list of texts"),
        ("- 1", "must hold a list of texts"),
        ('- ""', "must hold a list of texts"),
        ("- a\n- a", "holds 'a' twice"),
        ("- [", "is not YAML"),
    ],
)
def test_files_without_prompts_are_refused(text: str, words: str, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_prompts(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "none.yaml")
