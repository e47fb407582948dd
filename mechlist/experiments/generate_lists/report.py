"""What `generate-lists` shows and hands on: pure functions of its saved results."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.datasets.lists.list_set import ListSet, Provenance
from mechlist.datasets.lists.parse import ListTokens, ParsedList, well_formed
from mechlist.datasets.lists.recorded import RecordedLists, recorded_json
from mechlist.experiment import Claim
from mechlist.figures import finish, grouped_bars, plot_text
from mechlist.figures.style import meta
from mechlist.text import NO_ADJECTIVE, adjective_rank, lists_named, number_of, visible

DECISIONS = ("first token of an item", "rest of an item", "filler or line break", "hyphen or end")
"""What the model decides at each token of a list, as the figure names it."""
FILLER, END = "\u2423", "<i>end of turn</i>"
"""Shown in place of a filler, which nobody could see, and where a list ended."""


def lists_of(results: xr.Dataset) -> ListSet:
    """The lists that were written; nobody asks for the parts of their prompts here."""
    attrs = results.attrs
    special = ListTokens(**attrs["special_tokens"])
    provenance = [
        Provenance(
            origin="sampled",
            special=special,
            model=attrs["model"],
            temperature=None if np.isnan(temperature) else temperature,
            top_p=attrs["top_p"],
            max_new_tokens=attrs["max_new_tokens"],
        )
        for temperature in results["temperature"].values.tolist()
    ]
    return ListSet(
        rows=tuple(torch.from_numpy(row[row >= 0]) for row in results["tokens"].values),
        starts=tuple((results["prompt_length"].values - 1).tolist()),
        topic=tuple(results["topic"].values.tolist()),
        adjective=tuple(results["adjective"].values.tolist()),
        number=tuple((results["sample"].values + 1).tolist()),
        provenance=tuple(provenance),
    )


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Lists side by side, and the surprisal of the tokens by what they decide."""
    return {"lists": sheet(results), "surprisal": surprisal(results)}


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
    figure.update_layout(margin={"l": 12, "r": 12}, meta={**meta(figure), "min_width": 130 + 110 * len(adjectives)})
    return figure


def surprisal(results: xr.Dataset) -> go.Figure:
    """Mean surprisal of the tokens that were written, by what they decide and by adjective."""
    lists = lists_of(results)
    adjectives = list(dict.fromkeys(lists.adjective))
    nats = {(decision, a): [] for decision in DECISIONS for a in adjectives}
    for row, adjective, parsed in zip(results["log_prob"].values, lists.adjective, lists.parsed, strict=True):
        for position, decision in _decisions(parsed):
            nats[decision, adjective].append(-row[position])
    means = [[float(np.mean(nats[d, a])) if nats[d, a] else np.nan for a in adjectives] for d in DECISIONS]
    coords = {"category": list(DECISIONS), "series": adjectives}
    return grouped_bars(
        xr.DataArray(means, dims=("category", "series"), coords=coords),
        title="Surprisal of the tokens that were written",
        caption="-log p of each token by the model itself (temperature 1): what it leaves open, and what is settled.",
        y_title="mean -log p (nats)",
    )


def table(results: xr.Dataset) -> pd.DataFrame:
    """One row a list."""
    lists = lists_of(results)
    columns = {name: results[name].values for name in ("topic", "adjective", "temperature", "sample")}
    columns |= {"n_items": lists.n_items, "ended": lists.ended}
    return pd.DataFrame(columns | {"text": [visible(text) for text in _texts(results)]})


def files(results: xr.Dataset) -> dict[str, str]:
    """`lists.jsonl`, and `lists/ADJECTIVE_TTEMPERATURE.json` in the format of recorded lists."""
    lists = lists_of(results)
    out = {"lists.jsonl": "".join(json.dumps(line) + "\n" for line in _lines(results, lists))}
    for adjective, temperature, rows in lists.by_condition():
        at = "greedy" if np.isnan(temperature) else f"T{_digits(temperature)}"
        name = f"{adjective}_{at}".replace(" ", "-")
        out[f"lists/{name}.json"] = recorded_json(_recorded(results, lists.of(rows)))
    return out


def findings(results: xr.Dataset) -> list[str]:
    """How many lists were written, ended, and well formed."""
    lists = lists_of(results)
    columns, special = zip(lists.rows, lists.starts, strict=True), lists.special
    tidy = sum(well_formed(row.tolist(), special, start=start) for row, start in columns)
    sentences = [
        f"{results.attrs['model']} wrote {number_of(len(lists), 'lists')} of "
        f"{number_of(len(set(lists.topic)), 'topics')}; {int(lists.ended.sum())} ended within "
        f"{results.attrs['max_new_tokens']} tokens, and {tidy} of these are well formed."
    ]
    for adjective in dict.fromkeys(lists.adjective):
        here = lists.select(adjective)
        cut = int((~here.ended).sum())
        note = f" ({cut} of {len(here)} were cut off, so that the mean is too low)" if cut else ""
        what = lists_named(adjective).capitalize()
        sentences.append(f"{what} have {here.n_items.mean():.1f} items on average{note}.")
    return sentences


def claims(results: xr.Dataset) -> list[Claim]:
    """How many lists ended."""
    lists = lists_of(results)
    ended, total = int(lists.ended.sum()), len(lists)
    cap = results.attrs["max_new_tokens"]
    return [Claim(f"{ended} of {total} lists that {results.attrs['model']} wrote ended within {cap} tokens.", "lists")]


def _decisions(parsed: ParsedList) -> Iterator[tuple[int, str]]:
    """Positions with what was decided there; the first hyphen is prefilled."""
    for number, item in enumerate(parsed.items):
        yield item.content.start, DECISIONS[0]
        yield from ((position, DECISIONS[1]) for position in item.content[1:])
        if item.line_break is not None:
            yield item.content.stop, DECISIONS[2]
        if number:
            yield item.hyphen, DECISIONS[3]
    if parsed.ended is not None:
        yield parsed.ended, DECISIONS[3]


def _digits(temperature: float) -> str:
    """As short as it can be without being that of another temperature."""
    short = f"{temperature:g}"
    return short if float(short) == temperature else repr(temperature)


def _texts(results: xr.Dataset) -> list[str]:
    return [json.loads(text) for text in results["text"].values]


def _shown(text: str, end: str) -> str:
    """A list in lines, with fillers that one can see and a sign where it ended."""
    body, turn, _ = text.partition(end)
    lines = [plot_text(line[:-1]) + FILLER if line.endswith(" ") else plot_text(line) for line in body.split("\n")]
    return "<br>".join(line for line in lines if line) + (f"<br>{END}" if turn else "")


def _lines(results: xr.Dataset, lists: ListSet) -> Iterator[dict[str, Any]]:
    texts = _texts(results)
    for i, (row, start) in enumerate(zip(lists.rows, lists.starts, strict=True)):
        temperature = float(lists.temperature[i])
        log_probs = results["log_prob"].values[i, start + 1 : len(row)]
        yield {
            "topic": lists.topic[i],
            "adjective": _word(lists.adjective[i]),
            "temperature": None if np.isnan(temperature) else temperature,
            "sample": lists.number[i] - 1,
            "prompt": row[:start].tolist(),
            "completion": row[start:].tolist(),
            "log_probs": [round(float(x), 6) for x in log_probs],
            "text": texts[i],
        }


def _recorded(results: xr.Dataset, lists: ListSet) -> RecordedLists:
    """Lists of one adjective and one temperature."""
    adjective, one = lists.adjective[0], lists.provenance[0]
    topics: dict[str, list[list[int]]] = {}
    for topic, row in zip(lists.topic, lists.rows, strict=True):
        topics.setdefault(topic, []).append(row.tolist())
    return RecordedLists(
        model=one.model,
        adjective=_word(adjective) or "",
        adjective_index=results.attrs["adjective_index"][adjective],
        temperature=one.temperature,
        tokens=one.special,
        model_header=tuple(results.attrs["model_header"]),
        topics=topics,
        top_p=one.top_p,
        max_new_tokens=one.max_new_tokens,
    )


def _word(adjective: str) -> str | None:
    return None if adjective == NO_ADJECTIVE else adjective
