"""What the induction experiment's interventions do, over sequences: means with intervals, and tests of all at once."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from mechlist.metrics.significance import effect_table
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.text import with_interval

MEASURES = ("accuracy", "log_prob")
UNITS = {"accuracy": "share of tokens", "log_prob": "nats"}


def ablation_effects(
    intact: Float[np.ndarray, "measure sequence"],
    without: Float[np.ndarray, "head_set ablation measure sequence"],
    generator: np.random.Generator,
) -> xr.Dataset:
    """Accuracy and log-probability without sets of heads, and the test of their change over all sets and ways at once.

    Variables `ablated_accuracy`, with `_low` and `_high` of its interval over sequences, and `_p_corrected` and
    `_survives` of its difference from the whole model on the same sequences (max-T); the same of `ablated_log_prob`.
    Attributes `ablation_reason`, a sentence where there is no test, and `ablation_level`.
    """
    out, dims = xr.Dataset(), ("head_set", "ablation")
    for number, measure in enumerate(MEASURES):
        values = np.moveaxis(without[:, :, number], -1, 0)
        units, name = {"units": UNITS[measure]}, f"ablated_{measure}"
        table = effect_table(values - intact[number][:, None, None], generator=generator)
        ends = bootstrap_interval(values, level=table.level, generator=generator)
        out[name] = (dims, values.mean(axis=0), units)
        out[f"{name}_low"], out[f"{name}_high"] = (dims, ends.low, units), (dims, ends.high, units)
        out[f"{name}_p_corrected"], out[f"{name}_survives"] = (dims, table.p_corrected), (dims, table.survives)
        if measure == "accuracy":
            out = out.assign_attrs(ablation_reason=_of_sequences(table.reason), ablation_level=table.level)
    return out.assign_attrs(sequences=intact.shape[1])


def mlp_effects(
    name: str, increase: Float[np.ndarray, "sequence layer position"], generator: np.random.Generator
) -> xr.Dataset:
    """The mean increase of the loss, with its interval and its test over all layers and positions (max-T).

    Variables `name`, `name_low`, `name_high`, `name_p_corrected` and `name_survives`, with attributes `reason` and
    `level` of the first.
    """
    table, units, dims = effect_table(increase, generator=generator), {"units": "nats a token"}, ("layer", "position")
    said = {"reason": _of_sequences(table.reason), "level": table.level}
    ends = {f"{name}_{end}": (dims, getattr(table, end), units) for end in ("low", "high")}
    tests = {f"{name}_{of}": (dims, getattr(table, of)) for of in ("p_corrected", "survives")}
    return xr.Dataset({name: (dims, table.estimate, units | said), **ends, **tests})


def ablation_table(results: xr.Dataset) -> pd.DataFrame:
    """One row a set of heads and way to ablate: mean accuracy, its interval, sequences, and corrected p value."""
    names = [
        "ablated_accuracy" + end for end in ("", "_low", "_high", "_p_corrected") if "ablated_accuracy" + end in results
    ]
    frame = results[[*names, "ablated_heads"]].to_dataframe().reset_index()
    frame.insert(len(frame.columns) - 1, "n", results.attrs.get("sequences") or results.attrs["batch"])
    return frame


def ablation_words(results: xr.Dataset) -> str:
    """Which sets of heads change the accuracy beyond chance, or why that cannot be said; empty for results without."""
    if "ablated_accuracy_survives" not in results:
        return ""
    if results.attrs["ablation_reason"]:
        return f" {results.attrs['ablation_reason']}"
    survives = results["ablated_accuracy_survives"].any("ablation")
    named = [str(name) for name in results["head_set"].values[survives.values]]
    alpha = 1 - results.attrs["ablation_level"]
    return (
        f" Beyond chance (family-wise error at most {alpha:.2g}, max-T over all sets, signs flipped by sequence) "
        f"accuracy changes without {', '.join(named) if named else 'none of the sets'}."
    )


def mlp_words(results: xr.Dataset, name: str) -> str:
    """The largest increase with its interval, and how many cells survive."""
    values = results[name].values
    at = np.unravel_index(int(np.nanargmax(values)), values.shape)
    low, high = (
        float(results[f"{name}_{end}"].values[at]) if f"{name}_{end}" in results else np.nan for end in ("low", "high")
    )
    said = f"{with_interval(values[at], low, high, '.3f', 'nats')} (layer {int(at[0])}"
    if f"{name}_survives" not in results or results[name].attrs.get("reason"):
        return f"{said})"
    survive, tested = int(results[f"{name}_survives"].sum()), int(results[f"{name}_p_corrected"].notnull().sum())
    return f"{said}; {survive} of {tested} cells beyond chance)"


def _of_sequences(reason: str) -> str:
    return reason.replace("units", "sequences").replace("one unit", "one sequence")
