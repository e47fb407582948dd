"""Means and shares over lists, by hand and against the slow way."""

import numpy as np
import pytest
import xarray as xr

from mechlist.metrics.by_topic import (
    FEWEST,
    at_last,
    clustered_means,
    counted_from,
    enough,
    matched_last,
    ratio_of_sums,
    ratio_variables,
    share_variables,
    well_founded,
)
from mechlist.metrics.shares import share_interval
from tests.metrics.bca import bca_ends, left_out


def test_counting_from_the_end_shifts_and_never_pads_with_zero():
    values = xr.DataArray(
        [[1.0, 2.0, 3.0], [4.0, np.nan, np.nan]],
        dims=("list", "item"),
        coords={"n_items": ("list", [3, 1]), "topic": ("list", ["a", "b"]), "item": [1, 2, 3]},
    )
    behind = counted_from(values, "end")
    np.testing.assert_array_equal(behind.values, [[3, 2, 1], [4, np.nan, np.nan]])
    np.testing.assert_array_equal(at_last(values), [3, 4])


def _lists(numbers: list[int], values: np.ndarray, topics: list[str]) -> xr.DataArray:
    coords = {"n_items": ("list", numbers), "topic": ("list", topics)}
    return xr.DataArray(values, dims=("list", "item"), coords=coords)


def test_last_items_are_matched_by_hand():
    nan = np.nan
    values = np.array([[1.0, 5, nan], [2, 3, 9], [4, 1, 7], [6, nan, nan]])
    fillers = np.array([[0, 1, nan], [0, 1, 1], [1, 0, 1], [0, nan, nan]])
    found = matched_last(_lists([2, 3, 3, 1], values, list("abab")), fillers, np.random.default_rng(0), resamples=50)
    # With a filler: list 0 ends at item 2, where list 1 goes on. Without: list 3 ends at item 1, and 0 and 1 go on.
    np.testing.assert_allclose(found["mean"], [[5, 3, 2], [6, 1.5, 4.5]])
    np.testing.assert_array_equal(found["lists"], [1, 1])
    np.testing.assert_array_equal(found["others"], [1, 2])
    # One topic alone has an item of either kind: there is no interval.
    assert found["low"].sel(by_filler="with filler").isnull().all()
    alone = matched_last(_lists([2, 2], values[:2, :2], list("ab")), fillers[:2, :2], np.random.default_rng(0))
    assert alone["mean"].isnull().all()
    assert not alone["lists"].any()


def test_weights_are_those_of_both_kinds_and_intervals_are_over_topics():
    # At item 1 one list of three ends, and one of two at item 2; the others go on to item 3.
    numbers = [1, 3, 3, 2, 3] * 8
    generator = np.random.default_rng(0)
    values = generator.normal(size=(40, 3)) + np.repeat(generator.normal(size=8), 5)[:, None]
    topics = [f"topic {i // 5}" for i in range(40)]
    fillers = np.where(np.arange(3) < np.array(numbers)[:, None], 0.0, np.nan)
    found = matched_last(_lists(numbers, values, topics), fillers, np.random.default_rng(0), resamples=4000)
    number = np.array(numbers)
    pairs = [(number == k, number > k) for k in (1, 2)]
    weights = [last.sum() * more.sum() / (last.sum() + more.sum()) for last, more in pairs]

    def difference(rows: np.ndarray) -> float:
        apart = [
            values[rows][last[rows], k].mean() - values[rows][more[rows], k].mean()
            for k, (last, more) in enumerate(pairs)
        ]
        return float(np.average(apart, weights=weights))

    own = found.sel(by_filler="without filler", kind="difference")
    assert float(own["mean"]) == pytest.approx(difference(np.arange(40)))
    drawn = [
        difference(np.concatenate([np.arange(5 * t, 5 * t + 5) for t in generator.integers(8, size=8)]))
        for _ in range(4000)
    ]
    without = left_out(topics, lambda rows: np.array(difference(rows)))
    expected = bca_ends(np.array(drawn), difference(np.arange(40)), without, 0.95, 8)
    np.testing.assert_allclose([own["low"], own["high"]], expected, atol=0.08)


def test_means_are_over_the_lists_that_have_the_item():
    values = xr.DataArray(
        [[1.0, 2.0], [3.0, np.nan], [8.0, np.nan], [5.0, np.nan]],
        dims=("list", "item"),
        coords={"topic": ("list", ["a", "a", "b", "b"]), "adjective": ("list", ["long", "short", "long", "long"])},
    )
    means = clustered_means(values, np.random.default_rng(0), by="adjective")
    assert means["adjective"].values.tolist() == ["long", "short"]
    np.testing.assert_allclose(means["mean"], [[14 / 3, 2], [3, np.nan]])
    np.testing.assert_array_equal(means["lists"], [[3, 1], [1, 0]])
    # Topic a of the long lists has a mean of 1, b of 6.5; an interval over topics reaches from one to the other.
    np.testing.assert_allclose([means["low"][0, 0], means["high"][0, 0]], [1, 6.5])
    assert means["low"][:, 1].isnull().all()
    assert well_founded(means, "lists", "item")["mean"].notnull().sum() == 2


def test_a_ratio_of_sums_by_hand():
    above, below = np.array([[1, 0], [2, 0], [6, 0]]), np.array([[2, 0], [2, 0], [6, 0]])
    found = ratio_of_sums(above, below, np.array(["a", "a", "b"]), resamples=500, generator=np.random.default_rng(0))
    # Topic a has 3/4, topic b 1; a cell in which nothing counts has no ratio.
    np.testing.assert_array_equal(found.value, [9 / 10, np.nan])
    np.testing.assert_allclose([found.low[0], found.high[0]], [3 / 4, 1])
    assert np.isnan([found.low[1], found.high[1]]).all()


def test_shares_and_means_are_ratios_of_sums():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(60, 3))
    values[0, 1] = np.nan
    topics = np.repeat(list("abcdefghijkl"), 5)
    told = np.isfinite(values)
    variables = ratio_variables(
        "x",
        ("item",),
        np.nan_to_num(values),
        told,
        topics,
        resamples=4000,
        generator=np.random.default_rng(1),
    )
    array = xr.DataArray(values, dims=("list", "item"), coords={"topic": ("list", topics)})
    means = clustered_means(array, np.random.default_rng(1), resamples=4000)
    assert list(variables) == ["x", "x_low", "x_high"]
    for name, (dims, numbers) in zip(("mean", "low", "high"), variables.values(), strict=True):
        assert dims == ("item",)
        np.testing.assert_allclose(means[name], numbers)
    np.testing.assert_allclose(means["mean"], np.nanmean(values, axis=0))
    # The interval is that of topics drawn one by one.
    drawn = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(topics == t) for t in generator.choice(list("abcdefghijkl"), 12)])
        drawn.append(values[rows, 0].mean())
    without = left_out(topics, lambda rows: values[rows, 0].mean())
    expected = bca_ends(np.array(drawn), values[:, 0].mean(), without, 0.95, 12)
    np.testing.assert_allclose([means["low"][0], means["high"][0]], expected, atol=0.03)


def test_points_on_few_lists_are_left_out_where_a_curve_has_more():
    held = xr.DataArray([[9, FEWEST, FEWEST - 1, 1], [2, 2, 1, 0]], dims=("series", "x"))
    np.testing.assert_array_equal(enough(held, "x"), [[True, True, False, False], [True, True, False, False]])
    curves = xr.Dataset({"y": held + 0.5, "y_low": held * np.nan, "held": held})
    shown = well_founded(curves, "held", "x")
    np.testing.assert_array_equal(shown["y"], [[9.5, FEWEST + 0.5], [2.5, 2.5]])
    np.testing.assert_array_equal(shown["held"], [[9, FEWEST], [2, 2]])
    nothing = well_founded(curves * np.nan, "held", "x")
    assert nothing.sizes["x"] == 1


@pytest.mark.parametrize("end", ["start", "end"])
def test_items_are_counted_from_either_end(end: str):
    values = xr.DataArray([[1.0, 2.0]], dims=("list", "item"), coords={"n_items": ("list", [2]), "item": [1, 2]})
    found = counted_from(values, end)
    assert found["item_index"].values.tolist() == [0, 1]
    assert found.values.tolist() == [[1, 2] if end == "start" else [2, 1]]


def test_none_of_n_has_a_bound():
    topics = np.repeat(["a", "b", "c", "d"], 5)
    hits, among = np.zeros((20, 3), dtype=int), np.ones((20, 3), dtype=int)
    hits[:, 1], hits[::2, 2] = 1, 1
    found = share_variables("s", ("cell",), hits, among, topics, resamples=50, generator=np.random.default_rng(0))
    low, high = found["s_low"][1], found["s_high"][1]
    # Four topics are the units, and not twenty lists: 0 of 4 is at most .49.
    np.testing.assert_allclose([low[0], high[0]], share_interval(0, 4))
    np.testing.assert_allclose([low[1], high[1]], share_interval(4, 4))
    assert 0.4 < high[0] < 0.5
    plain = ratio_variables("s", ("cell",), hits, among, topics, resamples=50, generator=np.random.default_rng(0))
    assert (low[2], high[2]) == (plain["s_low"][1][2], plain["s_high"][1][2])
    assert (plain["s_low"][1][0], plain["s_high"][1][0]) == (0, 0)


def test_nothing_counted_has_no_share():
    none = np.zeros((2, 1), dtype=int)
    generator, topics = np.random.default_rng(0), np.array(["a", "b"])
    found = share_variables("s", ("cell",), none, none, topics, resamples=9, generator=generator)
    assert all(np.isnan(found[name][1]).all() for name in found)
