"""Tables and sentences of the logit-lens experiment, from its saved results alone."""

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.effects import NOT_MATCHED, matched_words
from mechlist.experiments.logit_lens.curves import CONTRASTS, PAIR_CONTRASTS, SERIES
from mechlist.experiments.logit_lens.figures import PARTS, group, matched_means
from mechlist.figures.notes import resampled
from mechlist.text import from_last, joined, number_of, with_interval

_OF_LAYERS = "layer_change_"
_OF_ITEMS = "item_change_"


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Curves, and change points along layers and items."""
    curves = results[[f"curve_{part}" for part in PARTS]].to_dataframe().reset_index()
    out = {"curves": curves.query("curve_lists > 0").reset_index(drop=True)}
    if "matched_mean" in results:
        names = [f"matched_{part}" for part in (*PARTS, "others")]
        matched = results[names].to_dataframe().reset_index()
        out["matched"] = matched.query("matched_lists > 0").reset_index(drop=True)
    for name, prefix in (("change-points-layers", _OF_LAYERS), ("change-points-items", _OF_ITEMS)):
        found = results[[n for n in results.data_vars if str(n).startswith(prefix)]]
        if found.data_vars:
            out[name] = found.to_dataframe().reset_index().dropna(subset=[f"{prefix}place"]).reset_index(drop=True)
    if "kl_mean" in results:
        fit = results[["kl_mean", "kl_low", "kl_high", "bias"]]
        out["lens-fit"] = fit.to_dataframe().reset_index()
    return _without_lists(out, resampled(results)) if results.attrs["origin"] == "pairs" else out


def _without_lists(tables: dict[str, pd.DataFrame], over: str) -> dict[str, pd.DataFrame]:
    """The tables as pairs of prompts have them, which have no adjective, with what they hold."""
    held = {
        "curves": f"means by series, lens and layers passed, with intervals over {over}",
        "change-points-layers": f"where along the layers each contrast grows most, with intervals over {over}",
    }
    out = {name: table.drop(columns="by_adjective", errors="ignore") for name, table in tables.items()}
    out["curves"] = out["curves"].rename(columns={"curve_lists": "pairs"})
    for name in held.keys() & out.keys():
        out[name].attrs["caption"] = held[name]
    return out


def findings(results: xr.Dataset) -> list[str]:
    """For each direction and adjective where the difference is made; how far the lens can be trusted."""
    out = []
    pairs = results.attrs["origin"] == "pairs"
    for direction in results["direction"].values.tolist():
        for adjective in results["by_adjective"].values.tolist():
            at = results.sel(direction=direction, by_adjective=adjective)
            out.append(_of_pairs(at, direction) if pairs else _of_lists(at, direction, adjective))
            out += [] if pairs else [_of_matched(at, direction, adjective)]
            if "item_change_place" in results:
                # The last stage is the model's own, whatever the lens.
                out += _along_items(at.sel(lens="plain"), direction, adjective)
    return out + (_of_fit(results) if "kl_mean" in results else [])


def claims(results: xr.Dataset) -> list[Claim]:
    """Where the adjective's effect on what is read grows most, of the first direction and adjective that show it."""
    for direction in results["direction"].values.tolist():
        for adjective in results["by_adjective"].values.tolist():
            at = results.sel(direction=direction, by_adjective=adjective)
            if "layer_change_place" in at and CONTRASTS[1] in at["contrast"].values and _known(at, CONTRASTS[1]):
                step = _step(at, CONTRASTS[1])
                text = f"Read as {direction}, the adjective's effect on {group(adjective)} grows most {step}."
                return [Claim(text, f"layers-{direction[0]}-{adjective}")]
    return []


def _of_lists(at: xr.Dataset, direction: str, adjective: str) -> str:
    last, swapped = (_curve(at, name) for name in SERIES)
    said = f"{direction}, {group(adjective)}: the model itself gives {_value(last)} at the last item"
    if int(swapped["lists"]):
        said += f" and {_value(swapped)} at the last item after the other adjective"
    grows = f" The adjective's effect grows most {_step(at, CONTRASTS[1])}." if _known(at, CONTRASTS[1]) else ""
    return f"{said}.{grows}"


def _of_matched(at: xr.Dataset, direction: str, adjective: str) -> str:
    """What the model itself has at last items against others."""
    found = matched_words(matched_means(at, lens="plain").isel(stage=-1), "+.2f", "logits")
    start = f"{direction}, {group(adjective)}: last items less other items of equal number and filler"
    return f"{start}, {found or f'not known, as {NOT_MATCHED}'}."


def _of_pairs(at: xr.Dataset, direction: str) -> str:
    clean, corrupt = (_curve(at, name) for name in ("clean", "corrupt"))
    return (
        f"{direction}, {number_of(int(clean['lists']), 'pairs')}: the model itself gives {_value(clean)} after "
        f"the clean prompts and {_value(corrupt)} after the corrupt ones. They part most "
        f"{_step(at, PAIR_CONTRASTS[1])}."
    )


def _step(at: xr.Dataset, contrast: str) -> str:
    """`in layer 4 (interval 4 to 5), by +3.61 logits [+3.34, +3.97]`, through each lens."""
    said = []
    for lens in at["lens"].values.tolist():
        own = {"contrast": contrast, "lens": lens}
        place, low, high = (float(at[f"{_OF_LAYERS}{n}"].sel(own)) for n in ("place", "place_low", "place_high"))
        spread = "" if np.isnan(low) else f" (interval {low:.0f} to {high:.0f})"
        through = "" if lens == "plain" else f"through the {lens} lens "
        said.append(f"{through}in layer {place:.0f}{spread}, by {_jump(at, _OF_LAYERS, **own)}")
    return "; ".join(said)


def _along_items(at: xr.Dataset, direction: str, adjective: str) -> list[str]:
    place, low, high = (float(at[f"{_OF_ITEMS}{n}"].sel(end="end")) for n in ("place", "place_low", "place_high"))
    if np.isnan(place):
        return []
    spread = "" if np.isnan(low) else f" (interval {from_last(round(high))} to {from_last(round(low))})"
    places = f"{from_last(round(place))} to {from_last(round(place) - 1)}"
    jump = _jump(at, _OF_ITEMS, end="end")
    return [f"{direction}, {group(adjective)}: along items the largest step is from {places}{spread}, by {jump}."]


def _jump(at: xr.Dataset, prefix: str, **where: str) -> str:
    jump, low, high = (float(at[f"{prefix}{n}"].sel(where)) for n in ("jump", "jump_low", "jump_high"))
    return with_interval(jump, low, high, unit="logits")


def _value(means: xr.Dataset, unit: str = "") -> str:
    mean, low, high = (float(means[name]) for name in ("mean", "low", "high"))
    return with_interval(mean, low, high, ".2f", unit)


def _known(at: xr.Dataset, contrast: str) -> bool:
    return bool(at[f"{_OF_LAYERS}place"].sel(contrast=contrast).notnull().all())


def _curve(at: xr.Dataset, name: str) -> xr.Dataset:
    """The model's own value, which is the lens's at the last stage."""
    last = at[[f"curve_{part}" for part in PARTS]].sel(series=name, lens="plain").isel(stage=-1)
    return last.rename({f"curve_{part}": part for part in PARTS})


def _of_fit(results: xr.Dataset) -> list[str]:
    """Every lens, halfway through the model and before its last layer."""
    layers = results.sizes["stage"] - 1
    held_out, pairs = results.attrs["held_out"], results.attrs["origin"] == "pairs"
    units, whatever = (resampled(results), "prompt") if pairs else ("topics", "list")
    on = f"On {number_of(len(held_out), units)} held out" if held_out else f"On {units} that it was trained on"
    others = [str(lens) for lens in results["lens"].values[1:]]
    said = []
    for stage in sorted({layers // 2, layers - 1}):
        plain, *rest = (
            _value(
                results[["kl_mean", "kl_low", "kl_high"]]
                .sel(lens=lens, stage=stage)
                .rename(kl_mean="mean", kl_low="low", kl_high="high"),
                "nats",
            )
            for lens in ("plain", *others)
        )
        said.append(
            f"after {number_of(stage, 'layers')} the plain lens is {plain} from the model's own distribution and "
            f"{joined([f'the {lens} one {far}' for lens, far in zip(others, rest, strict=True)])}"
        )
    bias = results["bias"].isel(stage=layers // 2)
    shifts = [f"the {lens} one's {float(bias.sel(lens=lens)):.2f}" for lens in others]
    return [
        f"{on}, {'; '.join(said)}.",
        f"The plain lens's bias halfway through the model, the same whatever the {whatever}, is "
        f"{float(bias.sel(lens='plain')):.2f} nats; "
        f"{joined(shifts)}.",
    ]
