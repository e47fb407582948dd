"""Means over lists of what features, bias and error get, with intervals over topics; saved with the results."""

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.effects import estimated_lists, saved
from mechlist.experiments.sae_features import short_name
from mechlist.metrics.statistics import rank_correlation

PARTS = ("features", "bias", "error")
FEWEST = 3
"""Ablations from which on a rank correlation says something."""


def with_statistics(results: xr.Dataset) -> xr.Dataset:
    """The results with the mean over lists of each part: `mean_features`, `mean_bias`, `mean_error`."""
    for part in PARTS:
        means = estimated_lists(results[f"{part}_attribution"])
        results = results.assign(saved(means, f"mean_{part}", results.attrs["units"]).data_vars)
    return results


def every_feature(results: xr.Dataset) -> pd.DataFrame:
    """One row a list, SAE and kept feature, largest attribution in size first."""
    names = ["attribution", "exact", "feature", "position", "activation", "role_number"]
    table = results[names].to_dataframe().reset_index()
    table = table.iloc[np.flatnonzero(table["feature"].to_numpy() >= 0)].copy()
    roles = [str(role) for role in results["role"].values]
    table["role"] = [roles[n] if n >= 0 else "" for n in table["role_number"].tolist()]
    columns = ["list", "topic", "sae", "hook", "feature", "position", "role", "attribution", "exact", "activation"]
    return table.loc[:, columns].reset_index(drop=True)


def over_lists(results: xr.Dataset) -> pd.DataFrame:
    """Each feature's mean attribution over all lists, positions added up, and how many lists have it among theirs.

    A list that does not have the feature among its strongest counts as 0.
    """
    table = every_feature(results)
    grouped = table.groupby(["sae", "hook", "feature"], sort=False)
    out = grouped.agg(attribution=("attribution", "sum"), n_lists=("list", "nunique")).reset_index()
    out["attribution"] /= results.sizes["list"]
    return by_size(out).reset_index(drop=True)


def checked(results: xr.Dataset) -> pd.DataFrame:
    """The features that were set to 0 exactly, largest attribution in size first."""
    table = every_feature(results)
    return by_size(table.iloc[np.flatnonzero(np.isfinite(table["exact"].to_numpy()))])


def agreement_of(results: xr.Dataset) -> float:
    """Rank correlation of attribution and exact effect over all that was ablated; NaN for few."""
    table = checked(results)
    if len(table) < FEWEST:
        return float("nan")
    return rank_correlation(table["attribution"].to_numpy(), table["exact"].to_numpy())


def by_size(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of their attribution, the largest in size first."""
    return table.iloc[np.argsort(-np.abs(table["attribution"].to_numpy()), kind="stable")]


def edges_of(results: xr.Dataset) -> pd.DataFrame:
    """One row an edge, with the names of its SAEs."""
    names = [short_name(str(sae)) for sae in results["sae"].values]
    return pd.DataFrame(
        {
            "later": [names[i] for i in results["later"].values.tolist()],
            "later_feature": results["later_feature"].values,
            "earlier": [names[i] for i in results["earlier"].values.tolist()],
            "earlier_feature": results["earlier_feature"].values,
            "attribution": results["edge_attribution"].values,
            "exact": results["edge_exact"].values,
            "lists": results["edge_lists"].values,
        }
    )
