"""Figures, tables and findings of `list-counter`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiment import Claim
from mechlist.experiments.list_counter.moving import MEAN, PROBE
from mechlist.figures.notes import OVER_TOPICS, ends
from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.margin import rank_p
from mechlist.text import joined, lists_named, number_of, with_interval

_WAYS = {PROBE: "along the probe's weights", MEAN: "along what a line adds on average"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """R2 of probes and baselines, and the share of A's difference that an exchange carries, by layer."""
    own = results[[f"probe_r2{end}" for end in ENDS]].rename({f"probe_r2{end}": f"r2{end}" for end in ENDS})
    others = results[[f"baseline_r2{end}" for end in ENDS]].rename({f"baseline_r2{end}": f"r2{end}" for end in ENDS})
    shown = xr.concat([own.expand_dims(baseline=["the model"]), others], dim="baseline")
    shown = shown.rename(baseline="series", layer="x")
    share = results[[f"exchange_share{end}" for end in ENDS]].rename(way="series", layer="x")
    share = share.assign_coords(series=[_WAYS[way] for way in share["series"].values.tolist()])
    return {
        "probes": draw.interval_lines(
            shown["r2"],
            **ends(shown, "r2"),
            title="The number of items, read from the residual stream at line breaks",
            caption="R2 of ridge probes on topics that they were not fitted on, and of probes that have the baselines "
            f"alone; below 0 a probe is worse than the mean; {OVER_TOPICS}.",
            x_title="after layer",
            y_title="R2",
        ),
        "exchange": draw.interval_lines(
            share["exchange_share"],
            **ends(share, "exchange_share"),
            title="Share of A's difference that an exchange of the number carries",
            caption="The state at the last line break is moved to where lists with the other number of items are, "
            f"along one direction; 1 is all that these lists differ by; {OVER_TOPICS}.",
            x_title="after layer",
            y_title="share of the difference",
        ),
    }


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """R2, shares by layer, slopes with the number erased, and the random directions."""
    names = [f"{stem}{end}" for stem in ("probe_r2", "filler_shift") for end in ENDS]
    baselines = results[[f"baseline_r2{end}" for end in ENDS]]
    shares = results[[f"exchange_share{end}" for end in ENDS]]
    return {
        "probes": results[names].to_dataframe().reset_index(),
        "baselines": baselines.to_dataframe(dim_order=["baseline", "layer"]).reset_index(),
        "exchange": shares.to_dataframe(dim_order=["way", "layer"]).reset_index(),
        "erased": results["erased_slope"].to_dataframe(dim_order=["state", "adjective"]).reset_index(),
        "random": results[["random_share"]].to_dataframe().reset_index(),
    }


def findings(results: xr.Dataset) -> list[str]:
    """What the results say, with intervals over topics."""
    return [_data(results), _read(results), _fillers(results), _exchanged(results), *_erased(results)]


def claims(results: xr.Dataset) -> list[Claim]:
    """How well the number is read, and what an exchange of it carries."""
    best, layer = int(results["probe_r2"].argmax("layer")), results.attrs["close_layer"]
    share = _value(results.isel(layer=layer).sel(way=MEAN), "exchange_share")
    text = (
        f"The number of items is read after layer {best} (R2 {_value(results.isel(layer=best), 'probe_r2')}), and "
        f"exchanging it after layer {layer} carries {share} of A's difference."
    )
    return [Claim(text, "exchange")]


def _data(results: xr.Dataset) -> str:
    attrs = results.attrs
    left = [f"{topic} ({number_of(count, 'items')})" for topic, count in attrs["left_out"].items()]
    return (
        f"{attrs['model']} read {attrs['n_texts']:,} lists of 1 to {attrs['max_items']} items of "
        f"{number_of(attrs['n_topics'], 'topics')}, each up to a line break; probes are judged on topics that they "
        "were not fitted on." + (f" Left out for want of items: {joined(left)}." if left else "")
    )


def _read(results: xr.Dataset) -> str:
    best = int(results["probe_r2"].argmax("layer"))
    part = results.isel(layer=best)
    told, highest = [], -np.inf
    for name in results["baseline"].values.tolist():
        one = results.sel(baseline=name)
        if np.isfinite(one["baseline_r2"]).any():
            there = int(one["baseline_r2"].argmax("layer"))
            told.append(f"{name} {_value(one.isel(layer=there), 'baseline_r2')}")
            highest = max(highest, float(one["baseline_r2"].max()))
    said = "lies above" if float(part["probe_r2_low"]) > highest else "does not lie above"
    return (
        f"The number of items is read best after layer {best}, with an R2 of {_value(part, 'probe_r2')}; baselines, "
        f"each at its best layer: {', '.join(told)}. The probe's interval {said} all of them; of untrained models "
        "there is one draw at most."
    )


def _fillers(results: xr.Dataset) -> str:
    part = results.isel(layer=int(results["probe_r2"].argmax("layer")))
    return (
        "On lists with a filler on every item the same probe reads "
        f"{_value(part, 'filler_shift')} items more than on the same lists without."
    )


def _exchanged(results: xr.Dataset) -> str:
    layer, counts = results.attrs["close_layer"], joined([str(count) for count in results.attrs["counts"]])
    part, random = results.isel(layer=layer), results["random_share"].values
    told = [f"{_value(part.sel(way=way), 'exchange_share')} {named}" for way, named in _WAYS.items()]
    share = float(part["exchange_share"].sel(way=MEAN))
    return (
        f"Exchanging the number between lists of {counts} items in the state after layer {layer} carries these shares "
        f"of their difference in A: {'; '.join(told)}; moved as far in {number_of(len(random), 'random directions')}: "
        f"{random.min():+.2f} to {random.max():+.2f}. By rank against these, p = {rank_p(share, random):.3f} for the "
        "second direction."
    )


def _erased(results: xr.Dataset) -> list[str]:
    out = []
    for adjective in results["adjective"].values.tolist():
        slopes = results["erased_slope"].sel(adjective=adjective)
        clean, probe, mean = (float(slopes.sel(state=state)) for state in ("clean", PROBE, MEAN))
        random = results["random_slope"].sel(adjective=adjective).values
        p = rank_p(mean - clean, random - clean)
        out.append(
            f"{lists_named(adjective).capitalize()}: a line adds {clean:+.3f} logits to A; with the number erased "
            f"after layer {results.attrs['close_layer']} {probe:+.3f} {_WAYS[PROBE]} and {mean:+.3f} {_WAYS[MEAN]} (as "
            f"far in random directions {random.min():+.3f} to {random.max():+.3f}; by rank p = {p:.3f} for the second)."
        )
    return out


def _value(part: xr.Dataset, name: str) -> str:
    value, low, high = (float(part[f"{name}{end}"]) for end in ENDS)
    return with_interval(value, low, high)
