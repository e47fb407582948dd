"""What `generate-lists` shows and hands on: pure functions of its saved results."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.parse import ListTokens, parse_list, well_formed
from mechlist.datasets.lists.recorded import RecordedLists, recorded_json
from mechlist.figures import finish, grouped_bars, plot_text
from mechlist.text import adjective_rank, number_of, visible

NO_ADJECTIVE = "none"
KINDS = ("first token of an item", "rest of an item", "filler or line break", "hyphen or end")
"""What the model decides at each token of a list, as the figure names it."""
FILLER, END = "\u2423", "<i>end of turn</i>"
"""Shown in place of a filler, which nobody could see, and where a list ended."""


def marks(results: xr.Dataset) -> ListTokens:
    """The ids that give the lists their form."""
    return ListTokens(**results.attrs["marks"])


def completions(results: xr.Dataset) -> list[tuple[int, ...]]:
    """Each list from its prefilled hyphen on."""
    tokens, starts = results["tokens"].values, results["prompt_length"].values - 1
    return [tuple(int(t) for t in row[start:] if t >= 0) for row, start in zip(tokens, starts, strict=True)]


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Lists side by side, and the surprise of each kind of token."""
    return {"lists": sheet(results), "surprise": surprise(results)}


def sheet(results: xr.Dataset) -> go.Figure:
    """The first list of each adjective for the first topics, at the temperature in the middle."""
    texts = _texts(results)
    topics = list(dict.fromkeys(results["topic"].values))[:3]
    adjectives = sorted(dict.fromkeys(results["adjective"].values.tolist()), key=adjective_rank)
    temperatures = np.unique(results["temperature"].values)
    first = temperatures[len(temperatures) // 2]
    same = (results["temperature"].values == first) | np.isnan(results["temperature"].values)
    cells = []
    for topic in topics:
        row = [f"<b>{plot_text(str(topic))}</b>"]
        for adjective in adjectives:
            here = same & (results["topic"].values == topic) & (results["adjective"].values == adjective)
            row.append(_shown(texts[int(np.flatnonzero(here)[0])], results.attrs["end_of_turn"]))
        cells.append(row)
    heads = ["topic", *(f"{a} list" if a != NO_ADJECTIVE else "list (no adjective)" for a in adjectives)]
    figure = go.Figure(
        go.Table(
            columnwidth=[1, *[2.4] * len(adjectives)],
            header={"values": heads, "align": "left"},
            cells={"values": list(zip(*cells, strict=True)), "align": "left", "height": 22},
        )
    )
    lines = sum(max(cell.count("<br>") + 1 for cell in row) for row in cells)
    at = "greedily" if np.isnan(first) else f"at temperature {first:g}"
    figure = finish(
        figure,
        title="Lists that the model wrote",
        caption=f"First sample of each prompt {at}; {FILLER} is a filler; a list without end of turn was cut off.",
    )
    figure.update_layout(height=140 + 16 * lines + 12 * len(topics), width=190 + 230 * len(adjectives))
    return figure


def surprise(results: xr.Dataset) -> go.Figure:
    """Mean surprise of the tokens that were written, by kind and adjective."""
    adjectives = list(dict.fromkeys(results["adjective"].values))
    nats = {(kind, a): [] for kind in KINDS for a in adjectives}
    starts = results["prompt_length"].values - 1
    for row, start, adjective, completion in zip(
        results["log_prob"].values, starts, results["adjective"].values, completions(results), strict=True
    ):
        for place, kind in _kinds(completion, marks(results)):
            nats[kind, adjective].append(-row[start + place])
    means = [[float(np.mean(nats[kind, a])) if nats[kind, a] else np.nan for a in adjectives] for kind in KINDS]
    values = xr.DataArray(means, dims=("category", "series"), coords={"category": list(KINDS), "series": adjectives})
    return grouped_bars(
        values,
        title="Surprise of the tokens that were written",
        caption="-log p of each token by the model itself (temperature 1): what it leaves open, and what is settled.",
        y_title="mean -log p (nats)",
    )


def table(results: xr.Dataset) -> pd.DataFrame:
    """One row a list."""
    form = marks(results)
    parsed = [parse_list(c, form) for c in completions(results)]
    return pd.DataFrame(
        {
            "topic": results["topic"].values,
            "adjective": results["adjective"].values,
            "temperature": results["temperature"].values,
            "sample": results["sample"].values,
            "n_items": [len(p.items) for p in parsed],
            "ended": [p.ended is not None for p in parsed],
            "text": [visible(text) for text in _texts(results)],
        }
    )


def files(results: xr.Dataset) -> dict[str, str]:
    """`lists.jsonl`, and `lists/ADJECTIVE_TTEMPERATURE.json` in the format of recorded lists."""
    out = {"lists.jsonl": "".join(json.dumps(line) + "\n" for line in _lines(results))}
    adjectives, temperatures = results["adjective"].values, results["temperature"].values
    for adjective in dict.fromkeys(adjectives):
        for temperature in dict.fromkeys(temperatures):
            here = (adjectives == adjective) & ((temperatures == temperature) | np.isnan(temperatures))
            name = f"{adjective}_{'greedy' if np.isnan(temperature) else f'T{temperature:g}'}".replace(" ", "-")
            out[f"lists/{name}.json"] = recorded_json(_recorded(results.isel(list=here)))
    return out


def findings(results: xr.Dataset) -> list[str]:
    """How many lists were written, ended, and well formed."""
    form, adjectives = marks(results), results["adjective"].values
    written = completions(results)
    parsed = [parse_list(c, form) for c in written]
    sentences = [
        f"{results.attrs['model']} wrote {number_of(len(written), 'lists')} of "
        f"{number_of(len(set(results['topic'].values)), 'topics')}; "
        f"{sum(p.ended is not None for p in parsed)} ended within {results.attrs['max_new_tokens']} tokens, and "
        f"{sum(well_formed(c, form) for c in written)} of these are well formed."
    ]
    for adjective in dict.fromkeys(adjectives):
        here = [p for p, a in zip(parsed, adjectives, strict=True) if a == adjective]
        cut = sum(p.ended is None for p in here)
        note = f" ({cut} of {len(here)} were cut off, so that the mean is too low)" if cut else ""
        what = "Lists without an adjective" if adjective == NO_ADJECTIVE else f"{str(adjective).capitalize()} lists"
        sentences.append(f"{what} have {np.mean([len(p.items) for p in here]):.1f} items on average{note}.")
    return sentences


def _kinds(completion: tuple[int, ...], tokens: ListTokens) -> Iterator[tuple[int, str]]:
    """Places in the completion with what was decided there."""
    parsed = parse_list(completion, tokens)
    for number, item in enumerate(parsed.items):
        yield item.content.start, KINDS[0]
        yield from ((place, KINDS[1]) for place in item.content[1:])
        if item.line_break is not None:
            yield item.content.stop, KINDS[2]
        if number:
            yield item.hyphen, KINDS[3]
    if parsed.ended is not None:
        yield parsed.ended, KINDS[3]


def _texts(results: xr.Dataset) -> list[str]:
    return [json.loads(text) for text in results["text"].values]


def _shown(text: str, end: str) -> str:
    """A list in lines, with fillers that one can see and a mark where it ended."""
    body, turn, _ = text.partition(end)
    lines = [plot_text(line[:-1]) + FILLER if line.endswith(" ") else plot_text(line) for line in body.split("\n")]
    return "<br>".join(line for line in lines if line) + (f"<br>{END}" if turn else "")


def _lines(results: xr.Dataset) -> Iterator[dict[str, Any]]:
    for i, completion in enumerate(completions(results)):
        row = results.isel(list=i)
        temperature = float(row["temperature"])
        start = int(row["prompt_length"]) - 1
        log_probs = row["log_prob"].values[start + 1 : start + len(completion)]
        yield {
            "topic": str(row["topic"].values),
            "adjective": _word(str(row["adjective"].values)),
            "temperature": None if np.isnan(temperature) else temperature,
            "sample": int(row["sample"]),
            "prompt": [int(t) for t in row["tokens"].values[:start]],
            "completion": list(completion),
            "log_probs": [round(float(x), 6) for x in log_probs],
            "text": json.loads(str(row["text"].values)),
        }


def _recorded(results: xr.Dataset) -> RecordedLists:
    """Lists of one adjective and one temperature."""
    attrs, temperature = results.attrs, float(results["temperature"].values[0])
    adjective = str(results["adjective"].values[0])
    topics: dict[str, list[list[int]]] = {}
    for topic, row in zip(results["topic"].values, results["tokens"].values, strict=True):
        topics.setdefault(str(topic), []).append([int(t) for t in row if t >= 0])
    return RecordedLists(
        model=attrs["model"],
        adjective=_word(adjective) or "",
        adjective_index=attrs["adjective_index"][adjective],
        temperature=None if np.isnan(temperature) else temperature,
        tokens=marks(results),
        model_header=tuple(attrs["model_header"]),
        topics=topics,
        top_p=attrs["top_p"],
        max_new_tokens=attrs["max_new_tokens"],
    )


def _word(adjective: str) -> str | None:
    return None if adjective == NO_ADJECTIVE else adjective
