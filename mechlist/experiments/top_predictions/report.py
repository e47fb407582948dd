"""Figures, table and findings of `top-predictions`, from its saved results alone."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures import interval_rows
from mechlist.figures.token_sheet import token_sheet
from mechlist.text import number, visible

MEASURES = ("P(top)", "entropy")
SHOWN = 3
"""Tokens of the empty prompt that a sentence names."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """All prompts in one sheet; the tokens that follow the empty prompt."""
    given = results.isel(prefix=np.flatnonzero(results["prompt"].values >= 0))
    out = {"prefixes": _sheet(given)} if given.sizes["prefix"] else {}
    empty = results.isel(prefix=np.flatnonzero(results["prompt"].values < 0))
    if empty.sizes["prefix"]:
        out["empty-prompt"] = _empty(empty.isel(prefix=0))
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """One row a prefix: the token read last, and what is expected next."""
    labels = ["(empty prompt)", *results.attrs["prompts"]]
    columns = {
        "prompt": [labels[n + 1] for n in results["prompt"].values.tolist()],
        "length": results["length"].values,
        "token": [visible(json.loads(text)) for text in results["text"].values.tolist()],
        "odds": results["odds"].values,
        "entropy": results["entropy"].values,
        "next_tokens": [", ".join(row) for row in _named(results)],
    }
    return {"prefixes": pd.DataFrame(columns)}


def findings(results: xr.Dataset) -> list[str]:
    """The empty prompt first, then the end of each prompt."""
    out = []
    for n in sorted(set(results["prompt"].values.tolist())):
        last = results.isel(prefix=int(np.flatnonzero(results["prompt"].values == n)[-1]))
        tokens = [f'"{visible(json.loads(text))}"' for text in last["top_text"].values.tolist()]
        shares = last["probability"].values
        if n < 0:
            listed = ", ".join(f"{token} ({share:.1%})" for token, share in zip(tokens, shares, strict=True))
            out.append(f"After the empty prompt, BOS alone, the most probable tokens are {listed}.")
            continue
        out.append(
            f'After "{results.attrs["prompts"][n]}" comes {tokens[0]} with {shares[0]:.1%}, '
            f"{number(float(last['odds']))} times as probable as {tokens[1]}."
        )
    return out


def _named(results: xr.Dataset) -> list[list[str]]:
    """Each prefix's next tokens with probability and logit."""
    return [
        [
            f"{visible(json.loads(text))} {share:.3f} ({logit:.2f})"
            for text, share, logit in zip(texts, shares, logits, strict=True)
        ]
        for texts, shares, logits in zip(
            results["top_text"].values.tolist(), results["probability"].values, results["logit"].values, strict=True
        )
    ]


def _sheet(given: xr.Dataset) -> go.Figure:
    values = xr.DataArray(
        np.stack([given["probability"].values[:, 0], given["entropy"].values]),
        dims=("measure", "token"),
        coords={"measure": list(MEASURES)},
    )
    return token_sheet(
        values,
        [json.loads(text) for text in given["text"].values.tolist()],
        title="What comes next, after every prefix",
        caption="Numbers are about the token that comes next: the probability of the most probable one, and the "
        "entropy in nats. Hover for the tokens and their logits.",
        breaks=np.flatnonzero(np.diff(given["prompt"].values)).tolist(),
        shares=MEASURES[:1],
        hover=["\n".join(["next, most probable first:", *row]) for row in _named(given)],
        columns=8,
    )


def _empty(empty: xr.Dataset) -> go.Figure:
    names = [visible(json.loads(text)) for text in empty["top_text"].values.tolist()]
    # Equal texts of different tokens would be drawn as one row.
    labels = [f"{n}. {name}" for n, name in enumerate(names, start=1)]
    values = xr.DataArray(empty["probability"].values, dims="category", coords={"category": labels})
    return interval_rows(
        values,
        low=values * np.nan,
        high=values * np.nan,
        title="What follows the empty prompt",
        caption="Probability of the most probable tokens after BOS alone, before the model has read anything.",
        x_title="probability",
    )
