import pytest

from mechlist.errors import InputError
from mechlist.types import format_bytes, head_name, parse_bytes, parse_head, read_head, readable


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1000000", 1_000_000),
        ("7B", 7),
        ("2kB", 2_000),
        ("500MB", 500_000_000),
        ("1GB", 1_000_000_000),
        ("1KiB", 1024),
        ("3MiB", 3 * 2**20),
        ("4GiB", 4 * 2**30),
        ("1.5GiB", 3 * 2**29),
        (" 4 gib ", 4 * 2**30),
    ],
)
def test_sizes_are_read_with_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "4TB", "-1GiB", "0", "0.5B", "1e9", "4 GiB more", ".5GiB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_bytes(text)
    assert str(raised.value) == f"memory must be a size such as 4GiB or 500MB, not {text!r}."


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (4 * 2**30, "4.0 GiB"),
        (3000 * 2**30, "3000.0 GiB"),
    ],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize("size", [1, 4096, 3 * 2**20, 2**33])
def test_a_written_size_reads_back(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


@pytest.mark.parametrize("text", ["L4H11", "l4h11", "4.11", "a4.h11", " L4H11 "])
def test_a_head_is_read_in_every_notation_and_written_in_one(text: str) -> None:
    assert read_head(text) == ((4, 11), "")
    assert parse_head(text, "heads", (5, 12)) == parse_head(text, "heads") == (4, 11)
    assert head_name((4, 11)) == "L4H11"


@pytest.mark.parametrize("text", ["L4H11.q", "a4.h11<q>", "4.11.q"])
def test_what_a_head_reads_has_its_letter(text: str) -> None:
    assert read_head(text) == ((4, 11), "q")
    assert head_name((4, 11), "q") == "L4H11.q"
    with pytest.raises(InputError, match="heads must be such as L4H11, not"):
        parse_head(text, "heads")


@pytest.mark.parametrize("text", ["4,11", "a4.h", "a4.11", "L4", "H11", "m4", "-1.2", "L4H11.m", "a4.h11<q", ""])
def test_what_is_no_head_is_refused(text: str) -> None:
    assert read_head(text) is None
    with pytest.raises(InputError) as raised:
        parse_head(text, "previous_head", (5, 12))
    assert str(raised.value) == f"previous_head must be a head from L0H0 to L4H11, not {text!r}."


@pytest.mark.parametrize("text", ["L5H0", "L4H12", "a99.h0"])
def test_a_head_that_the_model_has_not_is_refused(text: str) -> None:
    parse_head(text, "heads")
    with pytest.raises(InputError) as raised:
        parse_head(text, "heads", (5, 12))
    assert str(raised.value) == f"heads must be from L0H0 to L4H11, not {text!r}."


def test_saved_labels_are_written_as_people_read_them() -> None:
    assert readable("a0.h1->a1.h3<k>") == "L0H1->L1H3.k"
    assert readable("a3.h0<q>, a4.h1<v>") == "L3H0.q, L4H1.v"
    assert readable("input->m3") == "input->m3"
    assert readable("logits") == "logits"
