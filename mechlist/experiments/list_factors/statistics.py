"""From what is said after every text to coefficients, curves and contrasts, as a Dataset."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from mechlist.datasets.lists.design import KINDS, Text
from mechlist.experiments.list_factors.reading import Said, Values, factors
from mechlist.experiments.list_factors.regression import TERMS, fit
from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.margin import smallest_seen
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.text import visible

ALL_EARLIER, MANY, AGAIN, ONE = "all earlier fillers", "many tokens", "first again", "one item"
WITHIN, BEYOND = "slope within", "slope beyond"
CONTRASTS = (ALL_EARLIER, MANY, AGAIN, ONE, WITHIN, BEYOND)
"""At the same number of items: fillers on all earlier ones against none; items of many tokens against few; the first
item once more as the last, and one item in every line, against the best known. Then logits a line, up to the design's
most items and beyond."""
_MATCHED = {MANY: (KINDS[2], KINDS[1]), AGAIN: (KINDS[3], KINDS[0]), ONE: (KINDS[4], KINDS[0])}
Draw = Callable[[], np.random.Generator]
"""The same generator each time, so that all intervals are of the same resamples."""


def coefficients(texts: Sequence[Text], said: Said, known: Said, most: int, resamples: int, draw: Draw) -> xr.Dataset:
    """Of A (`coefficient`) and of B (`coefficient_item`) by adjective and term, and the process's (`truth`).

    The last item's filler stands behind the position of B, which it cannot change; its coefficient there is NaN.
    """
    chosen = np.array([text.items <= most for text in texts])
    terms, adjectives, topics = factors(texts), *_labels(texts)
    names = list(dict.fromkeys(adjectives.tolist()))
    variables: dict[str, Any] = {}
    for stem, true, values, truths in (
        ("coefficient", "truth", said.end, known.end),
        ("coefficient_item", "truth_item", said.filler, known.filler),
    ):
        seen = chosen & ~((terms[:, 1] > 0) & (stem == "coefficient_item"))
        fits = [
            fit(terms[rows], values[rows], topics[rows], resamples=resamples, generator=draw())
            for rows in (seen & (adjectives == name) for name in names)
        ]
        for end, part in zip(ENDS, ("coefficient", "low", "high"), strict=True):
            array = np.stack([getattr(one, part) for one in fits])
            variables[f"{stem}{end}"] = (("adjective", "term"), array, {"units": "logits"})
        errors = np.stack([one.error for one in fits])
        variables[f"{stem}_smallest_seen"] = (("adjective", "term"), smallest_seen_each(errors), {"units": "logits"})
        variables[f"{stem}_r2"] = ("adjective", [one.r2 for one in fits])
        true_fits = [_truth(terms, truths, topics, seen & (adjectives == name), draw()) for name in names]
        variables[true] = (("adjective", "term"), np.stack(true_fits), {"units": "logits"})
    means = [float(said.end[chosen & (adjectives == name)].mean()) for name in names]
    variables["mean_A"] = ("adjective", means, {"units": "logits"})
    return xr.Dataset(variables, coords={"adjective": names, "term": list(TERMS)})


def smallest_seen_each(errors: Float[np.ndarray, "adjective term"]) -> Float[np.ndarray, "adjective term"]:
    """`smallest_seen` of each; NaN stays NaN."""
    return np.array([[smallest_seen(error) for error in row] for row in errors])


def curves(texts: Sequence[Text], said: Said, known: Said, resamples: int, draw: Draw) -> xr.Dataset:
    """A by number of items over topics that have a text of each, with and without a filler on the last."""
    adjectives, topics = _labels(texts)
    names, items = list(dict.fromkeys(adjectives.tolist())), sorted({text.items for text in texts})
    shape = (len(names), len(items), 2)
    arrays = {f"A{end}": np.full(shape, np.nan) for end in (*ENDS, "_truth")}
    of_kind = np.full((len(names), len(KINDS), len(items)), np.nan)
    counts = np.zeros(shape, dtype=np.int64)
    for a, name in enumerate(names):
        for f in range(2):
            rows = _plain(texts, KINDS[0], filler=bool(f)) & (adjectives == name)
            of_topic = _by_topic(texts, said.end, topics, rows, items)
            for end, values in zip(ENDS, _mean(of_topic, resamples, draw()), strict=True):
                arrays[f"A{end}"][a, :, f] = values
            arrays["A_truth"][a, :, f] = _by_topic(texts, known.end, topics, rows, items).mean(axis=0)
            counts[a, :, f] = np.isfinite(of_topic).sum(axis=0)
        for k, kind in enumerate(KINDS):
            rows = _plain(texts, kind, filler=False) & (adjectives == name)
            of_kind[a, k] = _by_topic(texts, said.end, topics, rows, items).mean(axis=0)
    dims = ("adjective", "items", "last_filler")
    variables: dict[str, Any] = {name: (dims, array, {"units": "logits"}) for name, array in arrays.items()}
    variables["A_topics"] = (dims, counts)
    variables["A_kind"] = (("adjective", "kind", "items"), of_kind, {"units": "logits"})
    coords = {"adjective": names, "items": items, "last_filler": ["without", "with"], "kind": list(KINDS)}
    return xr.Dataset(variables, coords=coords)


def contrasts(texts: Sequence[Text], said: Said, known: Said, most: int, resamples: int, draw: Draw) -> xr.Dataset:
    """The `CONTRASTS` by adjective, with intervals over topics, and by the process."""
    adjectives, topics = _labels(texts)
    names, items = list(dict.fromkeys(adjectives.tolist())), sorted({text.items for text in texts})
    change, true = np.full((len(names), len(CONTRASTS), 3), np.nan), np.full((len(names), len(CONTRASTS)), np.nan)

    def of_topics(values: Values, here: Bool[np.ndarray, " text"]) -> list[np.ndarray]:
        rows = _plain(texts, KINDS[0], filler=False) & here
        slopes = _slopes(_by_topic(texts, values, topics, rows, items), items, most)
        filled = _matched(
            texts, values, topics, here, lambda t: t.earlier if t.kind == KINDS[0] else "", ("all", "none")
        )
        bare = here & np.array([t.earlier == "none" for t in texts])
        kinds = [_matched(texts, values, topics, bare, lambda t: t.kind, pair) for pair in _MATCHED.values()]
        return [filled, *kinds, *slopes.T]

    for a, name in enumerate(names):
        here = adjectives == name
        for c, values in enumerate(of_topics(said.end, here)):
            change[a, c] = [float(end) for end in _mean(values, resamples, draw())]
        true[a] = [float(values.mean()) for values in of_topics(known.end, here)]
    variables: dict[str, Any] = {
        f"change{end}": (("adjective", "contrast"), change[..., i], {"units": "logits"}) for i, end in enumerate(ENDS)
    }
    variables["change_truth"] = (("adjective", "contrast"), true, {"units": "logits"})
    return xr.Dataset(variables, coords={"adjective": names, "contrast": list(CONTRASTS)})


def every_text(texts: Sequence[Text], said: Said, known: Said) -> xr.Dataset:
    """The design itself, a text an entry."""
    adjectives, topics = _labels(texts)
    columns: dict[str, Any] = {
        "text_topic": topics,
        "text_adjective": adjectives,
        "text_kind": np.array([text.kind for text in texts]),
        "text_earlier": np.array([text.earlier for text in texts]),
        "text_items": np.array([text.items for text in texts]),
        "text_filler": np.array([text.filler for text in texts]),
        "text_earlier_fillers": np.array([text.earlier_fillers for text in texts]),
        "text_tokens": np.array([text.content for text in texts]),
        "text_repeats": np.array([text.repeats for text in texts]),
        "text_A": said.end,
        "text_B": said.filler,
        "text_truth": known.end,
    }
    return xr.Dataset({name: ("text", values) for name, values in columns.items()})


def _labels(texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
    """Adjective and topic of each text."""
    return (
        np.array([text.prompt.adjective_name for text in texts]),
        np.array([visible(text.prompt.topic) for text in texts]),
    )


def _plain(texts: Sequence[Text], kind: str, *, filler: bool) -> Bool[np.ndarray, " text"]:
    """Texts of a kind without fillers on earlier items."""
    return np.array([t.kind == kind and t.earlier == "none" and t.filler == filler for t in texts])


def _truth(
    terms: Float[np.ndarray, "text term"],
    values: Values,
    topics: np.ndarray,
    rows: Bool[np.ndarray, " text"],
    generator: np.random.Generator,
) -> Float[np.ndarray, " term"]:
    rows = rows & np.isfinite(values)
    if not rows.any():
        return np.full(len(TERMS), np.nan)
    return fit(terms[rows], values[rows], topics[rows], resamples=1, generator=generator).coefficient


def _by_topic(
    texts: Sequence[Text], values: Values, topics: np.ndarray, rows: Bool[np.ndarray, " text"], items: Sequence[int]
) -> Float[np.ndarray, "topic item"]:
    """Values of the chosen texts, of the topics that have most of them; NaN for a number of items without a text."""
    of_topic: dict[str, dict[int, float]] = {}
    for i in np.flatnonzero(rows).tolist():
        of_topic.setdefault(topics[i], {})[texts[i].items] = float(values[i])
    most = max(map(len, of_topic.values()), default=0)
    kept = [found for found in of_topic.values() if len(found) == most]
    return np.array([[found.get(number, np.nan) for number in items] for found in kept]).reshape(len(kept), len(items))


def _slopes(
    values: Float[np.ndarray, "topic item"], items: Sequence[int], most: int
) -> Float[np.ndarray, "topic part"]:
    """Change a line from the fewest items to the design's most, and from there to the last of the curve."""
    last, border = len(items) - 1, items.index(most)
    beyond = (values[:, last] - values[:, border]) / (items[last] - most) if last > border else values[:, 0] * np.nan
    return np.stack([(values[:, border] - values[:, 0]) / (most - items[0]), beyond], axis=1)


def _matched(
    texts: Sequence[Text],
    values: Values,
    topics: np.ndarray,
    here: Bool[np.ndarray, " text"],
    level: Callable[[Text], str],
    pair: tuple[str, str],
) -> Float[np.ndarray, " topic"]:
    """One level minus another of a factor, by topic: the mean over pairs of texts that have all else in common."""
    found: dict[tuple[str, int, bool], dict[str, float]] = {}
    for i in np.flatnonzero(here).tolist():
        found.setdefault((topics[i], texts[i].items, texts[i].filler), {})[level(texts[i])] = float(values[i])
    changes: dict[str, list[float]] = {}
    for (topic, _, _), by_level in found.items():
        if set(pair) <= by_level.keys():
            changes.setdefault(topic, []).append(by_level[pair[0]] - by_level[pair[1]])
    return np.array([np.mean(of_topic) for of_topic in changes.values()])


def _mean(
    values: Float[np.ndarray, "topic *cell"], resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over topics with its interval."""
    low, high = bootstrap_interval(values, resamples=resamples, generator=generator)
    return np.asarray(values.mean(axis=0)), low, high
