"""Tables and sentences of `jacobian-lens`, from its saved results alone."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.plain_prompts import told
from mechlist.metrics.by_topic import ENDS
from mechlist.text import joined, visible


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Readings at the end of each prompt; every lens by stage; every edit by stage."""
    names = [f"{name}{end}" for name in ("fit_kl", "said") for end in ENDS]
    lenses = results[names].to_dataframe().reset_index()
    if "jacobian_error" in results:
        error = dict(zip(results["fitted_stage"].values.tolist(), results["jacobian_error"].values, strict=True))
        lenses["standard_error"] = [
            error.get(stage, np.nan) if lens == "Jacobian lens" else np.nan
            for lens, stage in zip(lenses["lens"], lenses["stage"], strict=True)
        ]
    columns = [str(name) for name in results.data_vars if results[name].dims == ("edit", "edit_stage")]
    edits = results[columns].to_dataframe().reset_index()
    return {"readings": _readings(results), "lenses": lenses, "edits": edits}


def findings(results: xr.Dataset) -> list[str]:
    """What the lens is, how near it is to the model, what it reads, and what edits along it do."""
    return [_lens(results), _near(results), _said(results), *_example(results), *_edits(results)]


def _readings(results: xr.Dataset) -> pd.DataFrame:
    rows = []
    for n, label in enumerate(results.attrs["prompts"]):
        at = results.isel(prompt=n, position=int(results["length"][n]) - 1)
        for lens in results["lens"].values.tolist():
            for stage in results["stage"].values.tolist():
                cell = at.sel(lens=lens, stage=stage)
                rows.append(
                    {"text": label, "lens": lens, "stage": stage, "kl": float(cell["kl"]), "tokens": _tokens(cell)}
                )
    return pd.DataFrame(rows)


def _tokens(cell: xr.Dataset) -> str:
    if int(cell["top_token"][0]) < 0:
        return ""
    names = [visible(json.loads(text)) for text in cell["top_text"].values.tolist()]
    return ", ".join(f"{n} {share:.3f}" for n, share in zip(names, cell["top_probability"].values, strict=True))


def _lens(results: xr.Dataset) -> str:
    said = f"The Jacobian lens is from {results.attrs['lens_source']}"
    count = results.attrs["lens_prompts"]
    said += f", a mean over {count} prompts" if count else ""
    if "jacobian_error" not in results:
        return f"{said}."
    error = results["jacobian_error"].values
    return (
        f"{said}; its standard error is {error.max():.1%} of its norm at most and {error.min():.1%} at least, by stage."
    )


def _near(results: xr.Dataset) -> str:
    """Halfway through the model, and one layer before its end."""
    layers = results.sizes["stage"] - 1
    parts = []
    for stage in sorted({layers // 2, layers - 1}):
        lenses = [
            f"{lens} {told(results.sel(lens=lens, stage=stage), 'fit_kl', '.2f', 'nats')}"
            for lens in results["lens"].values.tolist()
        ]
        parts.append(f"after {stage} of {layers} layers {joined(lenses)}")
    return (
        f"How far each lens is from the model's own next-token distribution on {results.attrs['held_out']} held-out "
        f"texts: {'; '.join(parts)}."
    )


def _said(results: xr.Dataset) -> str:
    layers = results.sizes["stage"] - 1
    stage = layers // 2
    lenses = [
        f"{told(results.sel(lens=lens, stage=stage), 'said', '.1%')} by the {lens}"
        for lens in results["lens"].values.tolist()
    ]
    model = float(results["said"].isel(stage=-1).sel(lens="logit lens"))
    return (
        f"The most probable token read after {stage} of {layers} layers is among the text's next ten in "
        f"{', '.join(lenses)}; the model's own choice is in {model:.1%}."
    )


def _example(results: xr.Dataset) -> list[str]:
    """The end of the first prompt, halfway through the model."""
    stage = (results.sizes["stage"] - 1) // 2
    at = results.isel(prompt=0, position=int(results["length"][0]) - 1, rank=0)
    names = [
        f'the {lens} reads "{visible(json.loads(str(at["top_text"].sel(lens=lens, stage=stage).item())))}"'
        for lens in results["lens"].values.tolist()
        if int(at["top_token"].sel(lens=lens, stage=stage)) >= 0
    ]
    model = visible(json.loads(str(at["top_text"].sel(lens="logit lens").isel(stage=-1).item())))
    label = results.attrs["prompts"][0]
    return [f'After "{label}", at stage {stage}, {", ".join(names)}; the model says "{model}".']


def _edits(results: xr.Dataset) -> list[str]:
    """For each edit the stage before the last at which it does most, with its control.

    After the last layer the lens is the unembedding, and an edit along it moves the logits by construction.
    """
    out, last = [], results.sizes["stage"] - 1
    inside = results["edit_stage"].values < last
    for edit in results["edit"].values.tolist():
        at = results.sel(edit=edit).isel(edit_stage=np.flatnonzero(inside) if inside.any() else slice(None))
        best = at.isel(edit_stage=int(np.argmax(np.abs(at["edit_effect_mean"].values))))
        effect = told(best, "edit_effect", unit="nats", mean="_mean")
        said = f"To {edit} changes the log-odds most at stage {int(best['edit_stage'])}, by {effect}"
        if "edit_control_mean" in results:
            control = told(best, "edit_control", unit="nats", mean="_mean")
            p = float(best["edit_p_corrected"])
            test = "" if np.isnan(p) else f" (corrected p of the difference {p:.3g})"
            said += f"; along random directions {control}{test}"
        out.append(f"{said}.")
    if results.attrs.get("edit_reason"):
        out.append(results.attrs["edit_reason"])
    return out
