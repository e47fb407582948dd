"""The factors' coefficients: a linear model within topics, with intervals over topics."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics.by_topic import LEVEL
from mechlist.metrics.resampling import draws_of

TERMS = ("item", "filler", "earlier_filler", "tokens", "repeat")
"""A line more; a filler on the last item; one more on an earlier item; a token more in the items; an item more that
stood before."""


class Fit(NamedTuple):
    """Coefficients in the units of the values; NaN for a term that does not vary within any topic."""

    coefficient: Float[np.ndarray, " term"]
    low: Float[np.ndarray, " term"]
    high: Float[np.ndarray, " term"]
    error: Float[np.ndarray, " term"]
    """Standard errors: the spread over resamples of topics."""
    r2: float
    """Share of the variance within topics that the terms explain."""


def fit(
    terms: Float[np.ndarray, "text term"],
    values: Float[np.ndarray, " text"],
    topics: Shaped[np.ndarray, " text"],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> Fit:
    """Least squares with an intercept for every topic; texts whose value is not finite are left out.

    The bootstrap (BCa, 95 %, `metrics.resampling`) draws whole topics. With one topic there is no interval.

    Raises:
        InputError: no finite value, or no text that differs from another of its topic.
    """
    there = np.isfinite(values)
    if not there.any():
        raise InputError("values must hold a finite number at least, and hold none.")
    x, y, topics = terms[there].astype(np.float64), values[there].astype(np.float64), topics[there]
    member = np.unique(topics, return_inverse=True)[1]
    x, y = _within(x, member), _within(y[:, None], member)[:, 0]
    varies = np.abs(x).max(axis=0) > 1e-9
    if not varies.any():
        raise InputError("texts of a topic must differ in one factor at least, and differ in none.")
    x, number = x[:, varies], int(member.max()) + 1
    gram, moment = np.zeros((number, x.shape[1], x.shape[1])), np.zeros((number, x.shape[1]))
    np.add.at(gram, member, x[:, :, None] * x[:, None, :])
    np.add.at(moment, member, x * y[:, None])
    found = _solve(gram.sum(axis=0)[None], moment.sum(axis=0)[None])[0]
    total = float((y**2).sum())
    out = np.full((4, terms.shape[1]), np.nan)
    out[0, varies] = found
    if number > 1:
        with effort.draws(resamples) as draws:
            drawn = draws_of(
                lambda counts: _solve(np.einsum("rt,tij->rij", counts, gram), counts @ moment),
                number,
                resamples=draws,
                generator=generator,
            )
            out[1, varies], out[2, varies] = drawn.interval(LEVEL)
        out[3, varies] = drawn.again.std(axis=0, ddof=1) if draws > 1 else np.nan
    r2 = 1 - float(((y - x @ found) ** 2).sum()) / total if total > 0 else float("nan")
    return Fit(out[0], out[1], out[2], out[3], r2)


def _within(
    values: Float[np.ndarray, "text column"], member: Int[np.ndarray, " text"]
) -> Float[np.ndarray, "text column"]:
    """Values less the mean of their topic."""
    sums = np.zeros((int(member.max()) + 1, values.shape[1]))
    np.add.at(sums, member, values)
    return values - (sums / np.bincount(member)[:, None])[member]


def _solve(
    gram: Float[np.ndarray, "row term term"], moment: Float[np.ndarray, "row term"]
) -> Float[np.ndarray, "row term"]:
    """The shortest of the best solutions: a resample may hold no topic in which a term varies."""
    return np.einsum("rij,rj->ri", np.linalg.pinv(gram, rcond=1e-10, hermitian=True), moment)
