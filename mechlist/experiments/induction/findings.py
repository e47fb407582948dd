"""Findings and tables of the induction experiment, from its saved results alone."""

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.induction.effects import ablation_table, ablation_words, mlp_words
from mechlist.experiments.induction.scores import SCORES, found_heads, ranked, threshold
from mechlist.metrics.by_topic import ENDS
from mechlist.text import between, with_interval
from mechlist.types import head_name

NAMED = 8
"""Heads that a sentence names before it counts the rest."""


def findings(results: xr.Dataset) -> list[str]:
    """What the results say, with what the controls say."""
    period, batch = results.attrs["period"], results.attrs["batch"]
    first, second = (float(results["log_prob"].sel(half=h)) for h in ("first", "second"))
    right = float(results["accuracy"].sel(half="second"))
    out = [
        f"On {batch} random blocks of {period} tokens shown twice, the mean log-probability of the next token goes "
        f"from {first:.3f} nats in the first half to {second:.3f} nats in the second.",
        f"The model's first choice is right for {right:.1%} of the second half; since the second block's first "
        f"token cannot be known, induction alone can reach {(period - 1) / period:.1%}.",
        _role(results, "induction_score"),
        _role(results, "previous_token_score"),
    ]
    if "null_largest_score" in results:
        best = float(results["null_largest_score"].sel(score="induction_score").max())
        out.append(f"The best head of an untrained model has an induction score of {best:.3f}.")
    if "ablated_accuracy" in results:
        out.append(_ablation(results, right))
    if "mlp_loss_increase" in results:
        out.append(_mlp(results))
    if "circuit_top1_accuracy" in results:
        out += _circuit(results)
    elif results.sizes["layer"] < 2:
        out.append("The model has one layer, so there is no composition of heads and no induction circuit.")
    if "text_accuracy" in results:
        a, b = (float(results["text_accuracy"].sel(half=h)) for h in ("first", "second"))
        out.append(f"On a natural passage shown twice, accuracy goes from {a:.1%} to {b:.1%}.")
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Every head ranked by its induction score; the pairs of heads that compose most."""
    names = [n for score in SCORES for n in (score, f"{score}_low", f"{score}_high", f"{score}_loose")]
    frame = results[names].to_dataframe().reset_index()
    heads = list(zip(frame["layer"], frame["head"], strict=True))
    frame.insert(0, "name", [head_name(head) for head in heads])
    for place, score in enumerate(("induction_score", "previous_token_score")):
        found = set(found_heads(results, score))
        frame.insert(3 + place, f"is_{SCORES[score].replace(' ', '_')}_head", [head in found for head in heads])
    out = {"heads": frame.sort_values("induction_score", ascending=False, kind="stable", ignore_index=True)}
    if "ablated_accuracy" in results:
        out["ablations"] = ablation_table(results)
    if "k_composition" in results:
        out["k-composition"] = _pairs(results)
    return out


def _pairs(results: xr.Dataset) -> pd.DataFrame:
    frame = results["k_composition"].to_dataframe("score").dropna().reset_index()
    mean, sd = results.attrs["composition_null_mean"], results.attrs["composition_null_sd"]
    columns = {
        "writer": [head_name(h) for h in zip(frame["writer_layer"], frame["writer_head"], strict=True)],
        "reader": [head_name(h) for h in zip(frame["layer"], frame["head"], strict=True)],
        "k_composition": frame["score"],
        "above_random": frame["score"] - mean,
        "random_sds": (frame["score"] - mean) / sd,
    }
    return pd.DataFrame(columns).sort_values("k_composition", ascending=False, kind="stable", ignore_index=True)


def _role(results: xr.Dataset, name: str) -> str:
    scores, bar, words = results[name], threshold(results, name), SCORES[name]
    found = found_heads(results, name)
    if not found:
        top = ranked(scores)[0]
        return (
            f"No {words} head: no head's score passes {bar:.2f}, which the untrained null, uniform attention and a "
            f"clear effect demand; the highest is {head_name(top)} with {float(scores.values[top]):.3f}."
        )
    named = ", ".join(_with_interval(results, name, head) for head in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{words.capitalize()} heads (interval above {bar:.2f}): {named}{more}."


def _with_interval(results: xr.Dataset, name: str, head: tuple[int, int]) -> str:
    value, low, high = (float(results[f"{name}{end}"].values[head]) for end in ENDS)
    return f"{head_name(head)} {with_interval(value, low, high, '.2f')}"


def _ablation(results: xr.Dataset, right: float) -> str:
    accuracy = results["ablated_accuracy"]
    sets = [str(s) for s in results["head_set"].values]
    random = [s for s in sets if s.startswith("random")]
    words = {"zero": "z set to zero", "mean": "z at its mean"}
    parts: list[str] = []
    for mode, what in words.items():
        values = accuracy.sel(ablation=mode)
        part = f"with {what} to {float(values.sel(head_set='induction heads')):.1%}{_ends(results, mode)}"
        if random:
            left = values.sel(head_set=random)
            part += f" (as many random heads leave {float(left.min()):.1%} to {float(left.max()):.1%}"
            if "rest of the layer" in sets:
                part += f", the other heads of the same layers {float(values.sel(head_set='rest of the layer')):.1%}"
            part += ")"
        parts.append(part)
    said = f"Without the induction heads second-half accuracy goes from {right:.1%} {' and '.join(parts)}."
    return said + ablation_words(results)


def _ends(results: xr.Dataset, mode: str) -> str:
    """The interval of the accuracy without the induction heads, where there is one."""
    chosen = {"ablation": mode, "head_set": "induction heads"}
    names = [name for name in ("ablated_accuracy_low", "ablated_accuracy_high") if name in results]
    if not names:
        return ""
    low, high = (float(results[name].sel(chosen)) for name in names)
    return between(low, high, ".1%")


def _mlp(results: xr.Dataset) -> str:
    names = {
        "mlp_loss_increase": "the same token one period earlier",
        "mlp_loss_increase_mean": "the mean",
        "mlp_loss_increase_other_sequence": "another sequence",
    }
    largest = [f"{mlp_words(results, n)} from {words}" for n, words in names.items() if n in results]
    reason = results["mlp_loss_increase"].attrs.get("reason", "")
    said = f"Replacing one MLP output of the second block raises the loss by at most {', '.join(largest)}."
    return f"{said} {reason}" if reason else said


def _circuit(results: xr.Dataset) -> list[str]:
    out: list[str] = []
    pairs = {"": results.attrs["circuit"], "hand_": results.attrs.get("hand_pair") or None}
    for prefix, pair in pairs.items():
        if pair is None or f"{prefix}circuit_top1_accuracy" not in results:
            continue
        by_axis = [
            f"{_share(results, f'{prefix}circuit_top1_accuracy', a)} (top 5 "
            f"{_share(results, f'{prefix}circuit_top5_accuracy', a)}) among all {words}"
            for a, words in (("query", "queries"), ("key", "keys"))
        ]
        said = (
            f"K-composition circuit of {pair[0]} and {pair[1]}, from weights alone: how often a token's own entry is "
            f"the largest: {' and '.join(by_axis)}"
        )
        read, vocab = (results.attrs.get(name, 0) for name in (f"{prefix}circuit_tokens", "vocab"))
        out.append(said + (f", read on {read:,} of {vocab:,} tokens drawn at random." if read < vocab else "."))
    return out


def _share(results: xr.Dataset, name: str, axis: str) -> str:
    value, low, high = (
        float(results[f"{name}{end}"].sel(axis=axis)) if f"{name}{end}" in results else np.nan for end in ENDS
    )
    return with_interval(value, low, high, ".1%")
