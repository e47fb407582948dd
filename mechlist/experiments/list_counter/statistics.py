"""How well probes read the number of items, and what moves along their directions do, as Datasets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from mechlist.datasets.lists.design import Text
from mechlist.experiments.list_counter.moving import (
    MEAN,
    WAYS,
    Moves,
    decision,
    directions,
    moves,
    partners,
    random_directions,
)
from mechlist.experiments.list_counter.probing import BASELINES, baseline_predictions, numbers, probe, topics_of
from mechlist.metrics.by_topic import ratio_variables
from mechlist.metrics.ridge import HeldOut
from mechlist.runner import Runner

Draw = Callable[[], np.random.Generator]
NEAR = 0.05
"""The layer whose directions are looked at closely is the first with an R2 this near to the largest."""
States = Float[np.ndarray, "layer text d_model"]


def r_squared(
    name: str,
    dims: tuple[str, ...],
    predicted: Float[np.ndarray, "text *cell"],
    texts: Sequence[Text],
    resamples: int,
    draw: Draw,
) -> dict[str, Any]:
    """Share of the variance of the number of items that predictions explain, with intervals over topics."""
    labels = numbers(texts)
    shape = (-1, *(1,) * (predicted.ndim - 1))
    total = np.broadcast_to(((labels - labels.mean()) ** 2).reshape(shape), predicted.shape)
    missed = (predicted - labels.reshape(shape)) ** 2
    kept = np.where(np.isfinite(missed), total, 0)
    return ratio_variables(
        name, dims, np.nan_to_num(kept - missed), kept, topics_of(texts), resamples=resamples, generator=draw()
    )


def probes(
    states: States,
    untrained: States | None,
    filled: Float[np.ndarray, "layer filled_text d_model"],
    texts: Sequence[Text],
    filled_texts: Sequence[Text],
    penalty: float | int,
    resamples: int,
    draw: Draw,
) -> tuple[xr.Dataset, list[HeldOut]]:
    """R2 after each layer and of the baselines on topics held out, and what fillers on all items shift.

    Args:
        states: before the first layer, then after each.
        untrained: the same of an untrained model; None where there is none.
        filled: the same of the texts with fillers.
        texts: that probes are fitted on.
        filled_texts: with fillers on all items.
        penalty: of the ridge.
        resamples: of topics.
        draw: makes the generator.
    """
    layers = range(1, len(states))
    held = [probe(states[layer], texts, penalty) for layer in layers]
    read = np.stack([one.predicted for one in held], axis=1)
    variables = r_squared("probe_r2", ("layer",), read, texts, resamples, draw)
    by_baseline = np.full((len(texts), len(BASELINES), len(held)), np.nan)
    for b, name in enumerate(BASELINES):
        for layer in layers:
            found = baseline_predictions(name, layer, states, untrained, texts, penalty, draw())
            if found is not None:
                by_baseline[:, b, layer - 1] = found
    variables |= r_squared("baseline_r2", ("baseline", "layer"), by_baseline, texts, resamples, draw)
    topics = np.unique(topics_of(texts))
    group = np.searchsorted(topics, topics_of(filled_texts))
    shift = np.stack(
        [
            (filled[layer] * one.weights[group]).sum(axis=1) + one.intercepts[group] - numbers(filled_texts)
            for layer, one in zip(layers, held, strict=True)
        ],
        axis=1,
    )
    plain = np.stack([one.predicted - numbers(texts) for one in held], axis=1)
    place = {(text.prompt.tokens, text.items, text.kind): i for i, text in enumerate(texts)}
    twin = [place[text.prompt.tokens, text.items, text.kind] for text in filled_texts]
    shift = shift - plain[twin]
    variables |= ratio_variables(
        "filler_shift", ("layer",), shift, np.ones_like(shift), topics_of(filled_texts), resamples=resamples,
        generator=draw(),
    )  # fmt: skip
    coords = {"layer": np.arange(len(held)), "baseline": list(BASELINES)}
    return xr.Dataset(variables, coords=coords), held


def close_layer(r2: Float[np.ndarray, " layer"]) -> int:
    """The first layer whose R2 is within `NEAR` of the largest."""
    return int(np.flatnonzero(r2 >= np.nanmax(r2) - NEAR)[0])


def moved(
    runner: Runner,
    states: States,
    texts: Sequence[Text],
    held: Sequence[HeldOut],
    rows: Int[np.ndarray, " row"],
    layer: int,
    draws: int,
    resamples: int,
    draw: Draw,
) -> xr.Dataset:
    """What exchanging the number does after every layer, and erasing it after one, against random directions there.

    Args:
        runner: the model.
        states: before the first layer, then after each.
        texts: that the probes were fitted on.
        held: the probe of each layer.
        rows: numbers of the texts that are moved.
        layer: that is looked at closely.
        draws: random directions.
        resamples: of topics.
        draw: makes the generator.
    """
    chosen, other = [texts[i] for i in rows.tolist()], partners([texts[i] for i in rows.tolist()])
    labels, topics = numbers(texts), topics_of(chosen)
    clean = decision(runner, chosen, "", None, "Reading lists")
    span = clean[other] - clean

    def after(at: int, along: Moves, far: np.ndarray) -> Float[np.ndarray, " row"]:
        hook, label = f"blocks.{at}.hook_resid_post", f"Moving the state after layer {at}"
        return decision(runner, chosen, hook, states[at + 1][rows] + far[:, None] * along.direction, label)

    by_way: Mapping[str, list[Moves]] = {
        way: [
            moves(states[at + 1], directions(way, states[at + 1], labels, one), one.group[rows], rows, other)
            for at, one in enumerate(held)
        ]
        for way in WAYS
    }
    change = np.stack(
        [[after(at, along, along.exchanged) - clean for at, along in enumerate(of)] for of in by_way.values()], axis=-1
    )
    variables = ratio_variables(
        "exchange_share", ("layer", "way"), np.moveaxis(change, 1, 0) * span[:, None, None],
        np.broadcast_to((span**2)[:, None, None], (len(span), *change.shape[::2])), topics,
        resamples=resamples, generator=draw(),
    )  # fmt: skip
    erased = np.stack([clean, *(after(layer, of[layer], of[layer].erased) for of in by_way.values())])
    best = by_way[MEAN][layer]
    unit = random_directions((held[layer].weights.shape[0], states.shape[2]), draws, draw())
    random = [best._replace(direction=one[held[layer].group[rows]]) for one in unit]
    shares = [float(((after(layer, one, one.exchanged) - clean) * span).sum() / (span**2).sum()) for one in random]
    slopes = _slopes(np.stack([*erased, *(after(layer, one, one.erased) for one in random)]), chosen)
    names = list(slopes)
    both = np.stack(list(slopes.values()), axis=1)
    variables |= {
        "random_share": ("draw", shares),
        "erased_slope": (("state", "adjective"), both[: len(erased)], {"units": "logits"}),
        "random_slope": (("draw", "adjective"), both[len(erased) :], {"units": "logits"}),
    }
    coords = {"layer": np.arange(len(held)), "way": list(WAYS), "adjective": names, "state": ["clean", *WAYS]}
    return xr.Dataset(variables, coords=coords)


def _slopes(values: Float[np.ndarray, "state text"], texts: Sequence[Text]) -> dict[str, Float[np.ndarray, " state"]]:
    """Logits of A a line, by adjective."""
    adjectives, items = np.array([text.prompt.adjective_name for text in texts]), numbers(texts)
    out = {}
    for name in dict.fromkeys(adjectives.tolist()):
        here = adjectives == name
        centred = items[here] - items[here].mean()
        out[name] = values[:, here] @ centred / (centred**2).sum()
    return out
