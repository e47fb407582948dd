"""Figure, table and findings of `token-view`, from its saved results alone."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiment import Claim
from mechlist.figures.token_sheet import token_sheet
from mechlist.figures.token_text import coloured_text
from mechlist.text import lists_named, number, visible

MEASURES = {
    "end": "P(end)",
    "filler": "P(filler)",
    "entropy": "entropy",
    "end_logit": "A",
    "filler_logit": "B",
}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The list, line by line."""
    names = list(MEASURES)
    values = xr.DataArray(
        np.stack([results[name].values for name in names]),
        dims=("measure", "token"),
        coords={"measure": [MEASURES[name] for name in names]},
    )
    figure = token_sheet(
        values,
        _texts(results["text"]),
        title=f"{_list_words(results)}, token by token",
        caption="Numbers are about the token that comes next: A = logit of end of turn minus hyphen, B = blank minus "
        "line break, entropy in nats. Hovering over a token names the alternatives.",
        breaks=np.flatnonzero(results["token"].values == results.attrs["line_break"]).tolist(),
        shares=(MEASURES["end"], MEASURES["filler"]),
        signed=(MEASURES["end_logit"], MEASURES["filler_logit"]),
        hover=_hover(results),
    )
    numbers = [
        [f"{label}: {number(value)}" for label, value in zip(MEASURES.values(), row, strict=True) if np.isfinite(value)]
        for row in values.values.T.tolist()
    ]
    flowing = coloured_text(
        xr.DataArray(results["end"].values, dims="token"),
        _texts(results["text"]),
        title=f"{_list_words(results)}, as it reads",
        caption="Each token on the probability that the turn ends next; hovering over a token, or tapping on it, names "
        "its numbers and the alternatives.",
        unit=MEASURES["end"],
        hover=["\n".join([*told[1:], note]) for told, note in zip(numbers, _hover(results), strict=True)],
    )
    return {"text": flowing, "tokens": figure}


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """One row a token, with the most probable next ones."""
    tops = _tops(results)
    columns = {name: results[name].values for name in (*MEASURES, "log_prob")}
    texts = [visible(text) for text in _texts(results["text"])]
    frame = pd.DataFrame({"position": results["position"].values, "token": results["token"].values, "text": texts})
    return {"tokens": frame.assign(**columns, next_tokens=[", ".join(row) for row in tops])}


def findings(results: xr.Dataset) -> list[str]:
    """Which list it is; the likeliest end that was not taken, and the chance of the one that was."""
    breaks = np.flatnonzero(results["token"].values == results.attrs["line_break"])
    end = results["end"].values[breaks]
    written = np.isfinite(end)
    out = [
        f"{_list_words(results)}: {results.attrs['n_items']} items in {results.sizes['position']} tokens, "
        f"{'ended by the model' if results.attrs['ended'] else 'cut off before it ended'}."
    ]
    earlier = end[written][:-1] if results.attrs["ended"] else end[written]
    if len(earlier):
        most = int(earlier.argmax())
        out.append(
            f"The likeliest end that was not taken stood at line break {most + 1}: P(end) = {earlier[most]:.3f}."
        )
    if results.attrs["ended"] and written.any():
        out.append(f"At the line break where it ended, P(end) was {end[written][-1]:.3f}.")
    return out


def claims(results: xr.Dataset) -> list[Claim]:
    """How probable the end was where the list ended, and where it was most probable before."""
    breaks = np.flatnonzero(results["token"].values == results.attrs["line_break"])
    end = results["end"].values[breaks]
    end = end[np.isfinite(end)]
    if not results.attrs["ended"] or not len(end):
        return [Claim(f"{_list_words(results)} was cut off before it ended.", "text")]
    before = f", and {end[:-1].max():.2f} at most before" if len(end) > 1 else ""
    return [Claim(f"{_list_words(results)}: P(end) was {end[-1]:.2f} where it ended{before}.", "text")]


def _list_words(results: xr.Dataset) -> str:
    named = lists_named(results.attrs["adjective"]).replace("lists", "list")
    return f"{named[0].upper()}{named[1:]} of {results.attrs['topic']}"


def _texts(values: xr.DataArray) -> list[str]:
    return [json.loads(text) for text in values.values.tolist()]


def _tops(results: xr.Dataset) -> list[list[str]]:
    """The most probable next tokens of each token, with their probabilities."""
    shares = np.exp(results["top_log_prob"].values)
    return [
        [f"{visible(json.loads(text))} {share:.3f}" for text, share in zip(texts, row, strict=True)]
        for texts, row in zip(results["top_text"].values.tolist(), shares, strict=True)
    ]


def _hover(results: xr.Dataset) -> list[str]:
    """How probable a token was, and what might come next; nothing comes after the end of the turn."""
    own, told = results["log_prob"].values, np.isfinite(results["entropy"].values)
    notes = []
    for i, row in enumerate(_tops(results)):
        was = [f"it had a probability of {np.exp(own[i]):.3f}"] if np.isfinite(own[i]) else []
        follows = ["next, most probable first:", *row] if told[i] else []
        notes.append("\n".join([*was, *follows]))
    return notes
