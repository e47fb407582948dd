"""A text with numbers under every token: where tokens stand, and what is escaped."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.token_sheet import Sheet, token_sheet

VALUES = xr.DataArray(
    [[0.0, 0.25, 1.0, np.nan], [-2.0, 1234.5, 12.34, np.nan]],
    dims=("measure", "token"),
    coords={"measure": ["share", "signed"]},
)
TEXTS = ["-", "<b>x</b>\n", "a very long token", "\n"]


def drawn(**changes: Any) -> Any:
    given: dict[str, Any] = {"shares": ["share"], "signed": ["signed"], "title": "T", "caption": "C", **changes}
    return token_sheet(given.pop("values", VALUES), given.pop("texts", TEXTS), **given)


def test_tokens_stand_line_by_line():
    sheet = Sheet.of(6, [1], 3)
    assert sheet.line == (0, 0, 1, 1, 1, 2)
    assert sheet.column == (0, 1, 0, 1, 2, 0)
    assert sheet.size == (3, 3)
    # A break where a line is full begins one line, not two.
    assert Sheet.of(4, [1], 2).line == (0, 0, 1, 1)


def test_text_is_escaped_and_cut():
    figure = drawn(hover=["<i>", "", "one\ntwo", ""])
    tokens = figure.data[2]
    assert list(tokens.text) == ["<b>-</b>", "<b>&lt;b&gt;x&lt;/…</b>", "<b>a very…</b>", "<b>⏎</b>"]
    assert tokens.customdata[0] == "<b>-</b><br>share: 0.000<br>signed: -2.000<br>&lt;i&gt;"
    assert tokens.customdata[2].endswith("<b>a very long token</b><br>share: 1.000<br>signed: 12.340<br>one<br>two")
    assert tokens.customdata[3] == "<b>⏎</b>"


def test_numbers_stand_under_their_tokens():
    figure = drawn(breaks=[1], columns=3)
    shares, signed = figure.data[3], figure.data[4]
    assert list(shares.text) == ["0.00", "0.25", "1.00", ""]
    assert list(signed.text) == ["-2.00", "1234", "12.3", ""]
    tokens = figure.data[2]
    assert list(shares.x) == list(signed.x) == list(tokens.x)
    assert all(a < b < c for a, b, c in zip(tokens.y, shares.y, signed.y, strict=True))
    assert tokens.y[2] > signed.y[1]
    colours = figure.data[0]
    assert np.nansum(colours.z) == pytest.approx(1.25)
    # Each coloured cell holds its number.
    row, column = np.argwhere(colours.z == 0.25)[0]
    assert colours.y[row] < shares.y[1] < colours.y[row + 1]
    assert colours.x[column] < shares.x[1] < colours.x[column + 1]


def test_six_columns_fit_a_phone():
    many = xr.DataArray(np.zeros((1, 40)), dims=("measure", "token"), coords={"measure": ["share"]})
    figure = drawn(values=many, texts=["a"] * 40, signed=[])
    assert figure.layout.width <= 390


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"texts": ["a"]}, "texts and hover must be one for each of the 4 tokens; received 1 and 1"),
        ({"hover": ["a"]}, "received 4 and 1"),
        ({"shares": ["other"]}, "shares and signed must be among the measures share, signed, not"),
        ({"columns": 0}, "columns must be at least 1, not 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        drawn(**changes)
