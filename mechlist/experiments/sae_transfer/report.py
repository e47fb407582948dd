"""Figures, table and sentences of the check of SAEs, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.sae_features import short_name
from mechlist.figures import agreement, grouped_bars
from mechlist.sae.transfer import LEAST, warning
from mechlist.text import number_of

SCORES = {"explained_variance": "explained variance", "ce_recovered": "cross-entropy recovered", "kept": "metric kept"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The scores of each SAE, and every list's metric before and after."""
    scores = table(results)
    values = xr.DataArray(
        scores[list(SCORES)].to_numpy(),
        dims=("category", "series"),
        coords={"category": _short(results), "series": list(SCORES.values())},
    )
    warning = _warning(results)
    before = np.repeat(results["metric"].values[:, None], results.sizes["sae"], axis=1)
    after = results["metric_spliced"].transpose("list", "sae").values
    there = np.isfinite(before) & np.isfinite(after)
    names = [
        [f"list {i} ({topic}), {sae}" for sae in _short(results)] for i, topic in enumerate(results["topic"].values)
    ]
    return {
        "scores": grouped_bars(
            values,
            title="What SAEs keep on these lists",
            caption=f"{warning}Explained variance of the activations; share of the loss in cross-entropy that the "
            "reconstruction undoes, against setting the activation to 0; and slope through 0 of the metric after the "
            "splice on the metric before.",
            y_title="score (1 is perfect)",
            reference={"passes": LEAST["ce_recovered"]},
        ),
        "metric": agreement(
            before[there].tolist(),
            after[there].tolist(),
            np.array(names, dtype=object)[there].tolist(),
            title="The metric before and after the splice",
            caption=f"{warning}Each point is a list with one SAE in the place of its activation, no error kept: "
            f"{results.attrs['direction']}.",
            x_title="as it is (logits)",
            y_title="with the SAE (logits)",
        ),
    }


def table(results: xr.Dataset) -> pd.DataFrame:
    """One row an SAE: its scores, and whether it passes."""
    names = [name for name in map(str, results.data_vars) if results[name].dims == ("sae",)]
    out = results[names].to_dataframe().reset_index()
    out["kept"] = _kept(results)
    out["passes"] = np.all([out[name].to_numpy() >= least for name, least in LEAST.items()], axis=0)
    return out


def findings(results: xr.Dataset) -> list[str]:
    """The scores, and a warning for each SAE that fails."""
    scores = table(results)
    scores["sae"] = _short(results)
    where = "BOS and other special tokens included" if results.attrs["keep_special"] else "special tokens left out"
    out = [
        f"{row['sae']}: explained variance {row['explained_variance']:.3f}, {row['l0']:.1f} active features a "
        "position, "
        f"cross-entropy recovered {row['ce_recovered']:.3f} ({row['ce_clean']:.3f} nats as it is, "
        f"{row['ce_spliced']:.3f} with the SAE, {row['ce_zero']:.3f} with 0), {row['kept']:.2f} of the metric kept; "
        f"{where}."
        for row in scores.to_dict("records")
    ]
    return [*out, _warning(results).strip() or "Every SAE passes the check on these lists."]


def claims(results: xr.Dataset) -> list[Claim]:
    """How many SAEs pass."""
    passes = table(results)["passes"].to_numpy(dtype=bool)
    if len(passes) == 1:
        return [Claim(f"The SAE {'passes' if passes.all() else 'fails'} the check on these lists.", "scores")]
    return [Claim(f"{int(passes.sum())} of {number_of(len(passes), 'SAEs')} pass the check on these lists.", "scores")]


def _kept(results: xr.Dataset) -> list[float]:
    """Slope through 0 of the metric after the splice on the metric before, over lists."""
    before, out = results["metric"].values, []
    for after in results["metric_spliced"].transpose("sae", "list").values:
        there = np.isfinite(before) & np.isfinite(after)
        size = float((before[there] ** 2).sum())
        out.append(float((before[there] * after[there]).sum()) / size if size else np.nan)
    return out


def _warning(results: xr.Dataset) -> str:
    scores = (results[name].values.tolist() for name in ("explained_variance", "ce_recovered"))
    return warning(_short(results), *scores)


def _short(results: xr.Dataset) -> list[str]:
    return [short_name(str(name)) for name in results["sae"].values]
