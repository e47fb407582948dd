import math

import numpy as np
import pandas as pd
import pytest

from mechlist.report.tables import MOST_ROWS, cell, number, table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.5, "0.5000"),
        (12.3456, "12.35"),
        (999.96, "1000"),
        (-1234.56, "-1235"),
        (123456.7, "123457"),
        (1e-9, "1.000e-09"),
        (2.5e8, "2.500e+08"),
        (math.nan, "\N{EN DASH}"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers_have_four_digits(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\N{EN DASH}"),
        (pd.NA, "\N{EN DASH}"),
        (np.bool_(True), "yes"),
        (False, "no"),
        (np.int64(7), "7"),
        ("a", "a"),
    ],
)
def test_cells(value, shown):
    assert cell(value) == shown


def test_counts_stay_whole_where_one_is_missing():
    assert '<td class="number">3</td>' in table(pd.DataFrame({"n": [3, np.nan]}), "t")


def test_a_named_index_becomes_columns():
    frame = pd.DataFrame({"score": [0.5]}, index=pd.MultiIndex.from_tuples([(4, 11)], names=["layer", "head"]))
    text = table(frame, "t")
    assert '<th scope="col" class="number">layer</th><th scope="col" class="number">head</th>' in text
    assert '<td class="number">4</td><td class="number">11</td><td class="number">0.5000</td>' in text


def test_columns_of_two_levels_are_joined():
    frame = pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("score", "mean")]))
    assert "score / mean" in table(frame, "t")


def test_long_tables_say_what_they_leave_out():
    text = table(pd.DataFrame({"n": range(MOST_ROWS + 5)}), "Rows")
    assert f"{MOST_ROWS} of {MOST_ROWS + 5} rows, 5 more" in text
    assert text.count("<tr>") == MOST_ROWS + 1
    saved = table(pd.DataFrame({"n": range(1725)}), "lists", "statistics/tables/lists.parquet")
    link = '<a href="statistics/tables/lists.parquet">tables/lists.parquet</a>'
    assert f"{MOST_ROWS} of 1,725 rows, the rest in {link}" in saved


def test_a_caption_says_what_a_table_holds():
    frame = pd.DataFrame({"n": [1]})
    frame.attrs["caption"] = "one row a list & topic"
    assert "<caption>lists: one row a list &amp; topic</caption>" in table(frame, "lists")


def test_an_empty_table_has_its_header():
    assert "<th" in table(pd.DataFrame({"n": []}), "t")
    assert "<table>" in table(pd.DataFrame(), "t")
