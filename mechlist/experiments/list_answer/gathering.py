"""What an answer needs of the results of other runs, as one Dataset: copied, or means with intervals over topics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mechlist.errors import InputError
from mechlist.metrics.by_topic import ENDS, ratio_variables
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.results import load_dataset
from mechlist.runs import results_file

FILLERS = ("without filler", "with filler")
"""Whether the item before a line break carries one."""
SEED = 0
"""Of the bootstrap: what is gathered follows from the results alone."""


def read(path: Path, field: str, needed: Sequence[str]) -> xr.Dataset:
    """The results of a run that a field names, by its folder or its results.nc.

    Raises:
        InputError: there are none, or they lack what is needed.
    """
    file = results_file(path)
    if not file.is_file():
        raise InputError(f"{field} must name a run's folder or its results.nc, and {path} is none.")
    results = load_dataset(file)
    missing = [name for name in needed if name not in results.variables]
    if missing:
        raise InputError(
            f"{field} must name results with {', '.join(needed)}; those of "
            f"{results.attrs.get('experiment', 'an unknown experiment')} in {path} lack {', '.join(missing)}."
        )
    return results


def of_factors(results: xr.Dataset, resamples: int) -> xr.Dataset:
    """Effects of factors on A by adjective, with the known process; and the adjective's own on the same texts."""
    names = [f"coefficient{end}" for end in ENDS] + [f"change{end}" for end in (*ENDS, "_truth")] + ["truth"]
    gap, low, high = _gap(results, resamples)
    most, least = (str(results["adjective"][int(place)].values) for place in _extremes(results))
    return (
        results[names]
        .drop_attrs(deep=False)
        .assign_attrs(
            gap=gap,
            gap_low=low,
            gap_high=high,
            gap_between=[most, least],
            margin=float(results.attrs["margin"]),
            n_topics=int(results.attrs["n_topics"]),
            design_items=[int(results.attrs["min_items"]), int(results.attrs["max_items"])],
            model=str(results.attrs["model"]),
        )
    )


def of_hazard(results: xr.Dataset, resamples: int) -> xr.Dataset:
    """P(end) at line breaks by item, adjective and filler; medians of the number of items by each rule."""
    at_break, filler = results["end_at_break"].values, results["filler"].values > 0
    adjectives, topics = results["adjective"].values, results["topic"].values
    of_lists = list(dict.fromkeys(adjectives.tolist()))
    chosen = np.stack([[(adjectives == name)[:, None] & (filler == has) for has in (False, True)] for name in of_lists])
    chosen = np.moveaxis(chosen & np.isfinite(at_break), 2, 0)
    values = np.where(chosen, np.nan_to_num(at_break)[:, None, None], 0.0)
    variables = ratio_variables(
        "end_probability", ("of_lists", "filler", "item"), values, chosen, topics,
        resamples=resamples, generator=np.random.default_rng(SEED),
    )  # fmt: skip
    variables["end_lists"] = (("of_lists", "filler", "item"), chosen.sum(axis=0))
    found = xr.Dataset(variables, coords={"of_lists": of_lists, "filler": list(FILLERS), "item": results["item"]})
    rows = [int(np.flatnonzero(results["condition_adjective"].values == name)[0]) for name in of_lists]
    medians = results[[f"median_items{end}" for end in ENDS]].isel(condition=rows).drop_vars(
        ["condition_adjective", "condition_temperature"], errors="ignore"
    )  # fmt: skip
    return xr.merge([found, medians.rename(condition="of_lists").assign_coords(of_lists=of_lists)]).assign_attrs(
        model=str(results.attrs["model"])
    )


def of_statistics(results: xr.Dataset) -> xr.Dataset:
    """Medians of the number of items of the lists themselves."""
    medians = results[[f"median_items{end}" for end in ENDS]].rename(by_adjective="of_lists")
    return medians.drop_attrs(deep=False).expand_dims(rule=["sampled"], axis=-1)


def of_counter(results: xr.Dataset) -> xr.Dataset:
    """How well the number of items is read by layer, and the share of A's difference that an exchange of it carries."""
    stems = ("probe_r2", "baseline_r2", "exchange_share")
    names = [f"{stem}{end}" for stem in stems for end in ENDS]
    kept = results[[*names, "random_share"]].rename(layer="after_layer")
    return kept.drop_attrs(deep=False).assign_attrs(
        close_layer=int(results.attrs["close_layer"]), model=str(results.attrs["model"])
    )


def of_heads(results: xr.Dataset) -> xr.Dataset:
    """The share of its factor's effect on A that each head carries at the last line break.

    Raises:
        InputError: they were measured elsewhere.
    """
    factor = str(results.attrs.get("factor", "adjective"))
    if "share" not in results and "mean_exact" not in results:
        raise InputError("heads must name results with share, or with mean_exact; those given have neither.")
    own = str(results.attrs["own"])
    if "line break" not in own:
        raise InputError(f"heads must name a run of list-heads that measured at the line break, not at the {own}.")
    if "share" in results:
        names = [f"share{end}" for end in ENDS if f"share{end}" in results]
        kept = results[names].drop_attrs(deep=False).expand_dims(factor=[factor])
        return kept.assign_attrs(heads_figure="shares")
    span = float(results["mean_source"] - results["mean_base"])
    shares: dict[str, Any] = {}
    for end in ENDS:
        shares[f"share{end}"] = results[f"mean_exact{end}"].sel(role=own, drop=True) / span
    if span < 0:
        shares["share_low"], shares["share_high"] = shares["share_high"], shares["share_low"]
    return xr.Dataset(shares).expand_dims(factor=[factor]).assign_attrs(heads_figure="heads")


def _extremes(results: xr.Dataset) -> tuple[int, int]:
    """Places of the adjectives whose texts have the highest and the lowest mean of A."""
    means = results["mean_A"].values
    return int(means.argmax()), int(means.argmin())


def _gap(results: xr.Dataset, resamples: int) -> tuple[float, float, float]:
    """Logits of A between these adjectives on the same texts, with the interval over topics; 0 with one adjective."""
    most, least = (results["adjective"].values[place] for place in _extremes(results))
    value = float(results["mean_A"].max() - results["mean_A"].min())
    words, topics = results["text_adjective"].values, results["text_topic"].values
    # The design crosses adjectives with all else, so that topics have the same texts after each.
    within = results["text_items"].values <= results.attrs["max_items"]
    means = [
        [results["text_A"].values[within & (words == word) & (topics == topic)].mean() for topic in np.unique(topics)]
        for word in (most, least)
    ]
    apart = np.array(means[0]) - np.array(means[1])
    low, high = bootstrap_interval(apart, resamples=resamples, generator=np.random.default_rng(SEED))
    return value, float(low), float(high)
