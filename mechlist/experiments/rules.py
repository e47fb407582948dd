"""How well estimates by each rule, gradients or relevance, agree with exact patching where that was done."""

import contextlib
from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechlist.errors import InputError
from mechlist.metrics.statistics import correlation, rank_correlation
from mechlist.patching.gradients.gradient import Rule
from mechlist.text import joined

FEWEST = 3
"""Cells from which on a correlation says something."""
NAMES: Mapping[str, str] = {"gradient": "gradients", "relp": "relevance (RelP)"}
MEASURES = ("pearson", "spearman")


def other_rule(rule: Rule) -> Rule:
    """The one that estimates are compared with."""
    return "relp" if rule == "gradient" else "gradient"


def by_rule(
    rule: Rule,
    estimate: Float[np.ndarray, " cell"],
    exact: Float[np.ndarray, " cell"],
    others: Callable[[Rule], Float[np.ndarray, " cell"]],
) -> xr.DataArray:
    """`correlation(rule, measure)` of estimates and exact effects, Pearson's and Spearman's, of both rules.

    NaN with fewer than three cells, and for a rule that the model does not allow.

    Args:
        rule: by which the cells were chosen.
        estimate: mean effects of the cells by that rule.
        exact: patched exactly.
        others: the estimates by the other rule; InputError where the model does not allow it.
    """
    found = dict.fromkeys(NAMES, np.full(len(estimate), np.nan)) | {rule: estimate}
    if len(exact) >= FEWEST:
        with contextlib.suppress(InputError):
            found[other_rule(rule)] = others(other_rule(rule))
    values = [[_of(measure, found[name], exact) for measure in MEASURES] for name in NAMES]
    coords = {"rule": list(NAMES), "measure": list(MEASURES)}
    return xr.DataArray(values, dims=("rule", "measure"), coords=coords, attrs={"chosen_by": rule, "cells": len(exact)})


def _of(measure: str, estimate: Float[np.ndarray, " cell"], exact: Float[np.ndarray, " cell"]) -> float:
    if len(exact) < FEWEST or not np.isfinite(estimate).all():
        return float("nan")
    return correlation(estimate, exact) if measure == "pearson" else rank_correlation(estimate, exact)


def means_of(effects: xr.DataArray, exact: xr.DataArray) -> Float[np.ndarray, " cell"]:
    """Means over the prompts that have a cell, of the cells that were patched exactly."""
    mean, chosen = effects.mean("prompt").values, exact.notnull().any("prompt").values
    return mean[chosen].astype(float)


def by_rule_words(results: xr.Dataset, what: str, names: Mapping[str, str] = NAMES) -> list[str]:
    """A sentence on `correlation(rule, measure)`; nothing where none is known.

    Args:
        results: with it.
        what: the cells, in the plural, such as "cells".
        names: of the rules.
    """
    if "correlation" not in results:
        return []
    found = results["correlation"]
    texts = [
        f"{pearson:.3f} ({spearman:.3f}) with {names[rule]}"
        for rule, (pearson, spearman) in zip(found["rule"].values.tolist(), found.values.tolist(), strict=True)
        if np.isfinite(pearson)
    ]
    if not texts:
        return []
    chosen = names[found.attrs["chosen_by"]]
    return [
        f"Over the {found.attrs['cells']} {what} that were patched exactly, chosen by {chosen}, the correlation (rank "
        f"correlation) of estimates and exact effects is {joined(texts)}."
    ]


def reach_words(estimate: ArrayLike, exact: ArrayLike, rest: ArrayLike, what: str, unit: str) -> str:
    """What cells that were not patched could do, by the worst of the estimates that were checked.

    Args:
        estimate: of the cells that were patched exactly.
        exact: their effects.
        rest: estimates of all others; NaN where there is none.
        what: a cell, in the singular.
        unit: of the metric.
    """
    size, effect = np.abs(np.asarray(estimate, float)), np.abs(np.asarray(exact, float))
    ratio = np.max(effect[size > 0] / size[size > 0], initial=1.0)
    reach = float(ratio * np.nanmax(np.abs(np.asarray(rest, float)), initial=0.0))
    return (
        f"Unless other estimates are worse than the worst of these, no other {what} moves the metric by more than "
        f"{reach:.3g} {unit}; {int((effect > reach).sum())} of {len(effect)} do."
    )
