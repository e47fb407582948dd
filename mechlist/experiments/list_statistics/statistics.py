"""The steps of the list statistics: each takes the lists and returns a part of the result, with its intervals."""

import hashlib
from typing import Any

import numpy as np
import xarray as xr

from mechlist.experiments.list_statistics.lists import Lists
from mechlist.metrics.ratios import ratio_interval
from mechlist.metrics.statistics import Interval
from mechlist.metrics.survival import Survival, SurvivalIntervals, survival_curve, survival_intervals
from mechlist.metrics.trend import trend_test

SEED = 0
"""Of every resample and permutation: a run without a model has no generator of its own."""
PLACES = ("on any item", "on the last item", "on the last item only")
OUTCOMES = ("share of a list's items with a filler", "share of lists with a filler")

MOST_TOKENS = 20
"""Content tokens of an item that the distribution tells apart."""

Variables = dict[str, Any]


def item_tokens(lists: Lists, resamples: int) -> xr.Dataset:
    """How items distribute over their number of content tokens, by adjective; single-token items by topic.

    Items that the token cap cut off are left out: how long they would have become is not known. The last number of
    tokens, `MOST_TOKENS`, also holds the items that are longer.
    """
    tokens, whole = lists.items.tokens, lists.items.whole
    longest = int(tokens[whole].max()) if whole.any() else 0
    most = min(longest, MOST_TOKENS)
    counts = lists.count(tokens.clip(max=MOST_TOKENS) - 1, most, whole)
    by_list = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    group = lists.in_adjective()[:, :, None]
    variables = _shares(
        lists,
        "item_tokens_share",
        ("by_adjective", "item_tokens"),
        group * counts[:, None],
        group * by_list[:, None],
        resamples,
    )
    variables["item_tokens_count"] = (("by_adjective", "item_tokens"), (group * counts[:, None]).sum(axis=0))
    single = counts[:, 0] if most else np.zeros(len(counts))
    variables |= _topic_shares(lists, "single_token_share", single, counts.sum(axis=1), resamples)
    variables["longest_item"] = ((), longest, {"units": "tokens"})
    return _dataset(lists, variables, item_tokens=np.arange(1, most + 1))


def fillers(lists: Lists, resamples: int) -> xr.Dataset:
    """Lists with a filler anywhere, on the last item and only there; chance of a filler by index from either end.

    An item that the token cap cut off may still have got a filler, and is left out. Only a list that ended has a last
    item, and an index from the end.
    """
    level, items = lists.level, lists.items
    written = level["n_whole_items"].values > 0
    last = written & level["ended"].values
    hits = np.stack([level["n_filler"] > 0, level["filler_on_last"], level["filler_only_on_last"]], axis=1)
    among = np.stack([written, last, last], axis=1)
    group = lists.in_adjective()[:, :, None]
    variables: Variables = {}
    place = ("by_adjective", "place")
    variables |= _shares(
        lists, "filler_lists_share", place, group * (hits & among)[:, None], group * among[:, None], resamples
    )
    variables["filler_lists"] = (place, (group * (hits & among)[:, None]).sum(axis=0))
    variables["filler_lists_among"] = (place, (group * among[:, None]).sum(axis=0))
    number = int(level["n_items"].max())
    directions = {
        "filler_from_end": (items.from_end, items.whole & (items.from_end >= 0)),
        "filler_from_start": (items.from_start, items.whole),
    }
    dims = ("by_adjective", "item_index")
    for stem, (index, chosen) in directions.items():
        with_filler = group * lists.count(index, number, chosen & items.filler)[:, None]
        every = group * lists.count(index, number, chosen)[:, None]
        variables |= _shares(lists, stem, dims, with_filler, every, resamples)
        variables[f"{stem}_items"] = (dims, every.sum(axis=0))
    variables |= _shares(
        lists,
        "mean_filler_share",
        ("by_adjective",),
        group[:, :, 0] * _share(lists)[:, None],
        group[:, :, 0] * written[:, None],
        resamples,
    )
    return _dataset(lists, variables, place=list(PLACES), item_index=np.arange(number))


def lengths(lists: Lists, resamples: int) -> xr.Dataset:
    """Survival of lists by adjective, and by adjective and temperature; medians by adjective and topic too.

    Event: the list ended. Time: its number of items. See `survival_time` for lists that did not end.
    """
    n_times = int(lists.level["n_items"].max()) + 1
    variables: Variables = {}
    groups = {"": ("by_adjective", lists.in_adjective()), "condition_": ("condition", lists.in_condition())}
    for stem, (dim, members) in groups.items():
        curves = [_survival(lists, chosen, "topic", n_times, resamples) for chosen in members.T]
        variables |= _curves(stem, dim, curves)
    mean = lists.in_condition() * lists.level["n_items"].values[:, None]
    variables |= _shares(lists, "condition_mean_items", ("condition",), mean, lists.in_condition(), resamples)
    variables |= _topic_medians(lists, n_times, resamples)
    ended = lists.level["ended"].values[:, None]
    for stem, (dim, members) in groups.items():
        variables[f"{stem}n_lists"] = (dim, members.sum(axis=0))
        variables[f"{stem}n_lists_ended"] = (dim, (members & ended).sum(axis=0))
    return _dataset(lists, variables, item=np.arange(n_times))


def filler_by_temperature(lists: Lists, resamples: int) -> xr.Dataset:
    """Fillers by adjective and temperature, and their trend over the temperature within topic, adjective and model."""
    level, group = lists.level, lists.in_condition()[:, :, None]
    written = level["n_whole_items"].values > 0
    values = np.stack([_share(lists), level["n_filler"].values > 0], axis=1)
    among = np.broadcast_to(written[:, None], values.shape)
    dims = ("condition", "outcome")
    variables = _shares(lists, "condition_filler", dims, group * values[:, None], group * among[:, None], resamples)
    temperature, topic = level["temperature"].values, level["topic"].values
    used = written & np.isfinite(temperature)
    strata = np.array([repr(s) for s in zip(topic, level["adjective"].values, level["model"].values, strict=True)])
    trends = [
        trend_test(
            temperature[used], y[used], strata[used], topic[used], resamples=resamples, generator=_generator("trend")
        )
        for y in values.T
    ]
    for field in trends[0]._fields:
        variables[f"trend_{field}"] = ("outcome", [getattr(trend, field) for trend in trends])
    return _dataset(lists, variables, outcome=list(OUTCOMES))


def _share(lists: Lists) -> np.ndarray:
    """Share of each list's items with a filler, among those whose line was seen whole; 0 where there is none."""
    whole = lists.level["n_whole_items"].values
    return np.divide(lists.level["n_filler"].values, whole, out=np.zeros(len(whole)), where=whole > 0)


def _shares(
    lists: Lists, name: str, dims: tuple[str, ...], above: np.ndarray, below: np.ndarray, resamples: int
) -> Variables:
    """Ratio of sums over lists, with an interval over topics."""
    above, below = above.astype(float), below.astype(float)
    topics, generator = lists.level["topic"].values, _generator(name)
    low, high = ratio_interval(above, below, topics, resamples=resamples, generator=generator)
    sums = below.sum(axis=0)
    value = np.divide(above.sum(axis=0), sums, out=np.full(sums.shape, np.nan), where=sums > 0)
    return {name: (dims, value), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}


def _topic_shares(lists: Lists, name: str, above: np.ndarray, below: np.ndarray, resamples: int) -> Variables:
    """Ratio of sums over a topic's lists, with an interval over these lists."""
    topics = lists.level["topic"].values
    columns: list[tuple[float, Interval]] = []
    for topic in lists.topics:
        a, b = above[topics == topic], below[topics == topic]
        ends = ratio_interval(a, b, np.arange(len(a)), resamples=resamples, generator=_generator(f"{name} {topic}"))
        columns.append((a.sum() / b.sum() if b.sum() else np.nan, ends))
    return {
        name: ("by_topic", [value for value, _ in columns]),
        f"{name}_low": ("by_topic", [float(ends.low) for _, ends in columns]),
        f"{name}_high": ("by_topic", [float(ends.high) for _, ends in columns]),
    }


def _survival(
    lists: Lists, chosen: np.ndarray, clusters: str, n_times: int, resamples: int
) -> tuple[Survival, SurvivalIntervals]:
    """Curve and intervals of the chosen lists; `clusters` names their label, and without one each is its own."""
    time, event = (lists.level[name].values[chosen] for name in ("survival_time", "ended"))
    labels = lists.level[clusters].values[chosen] if clusters else np.arange(len(time))
    ends = survival_intervals(time, event, labels, n_times, resamples=resamples, generator=_generator("survival"))
    return survival_curve(time, event, n_times), ends


def _topic_medians(lists: Lists, n_times: int, resamples: int) -> Variables:
    """Medians over a topic's lists with one adjective, with an interval over these lists."""
    topics, dims = lists.level["topic"].values, ("by_adjective", "by_topic")
    members = lists.in_adjective()[:, :, None] & (topics[:, None] == np.array(lists.topics))[:, None]
    medians = [
        _survival(lists, members[:, a, t], "", n_times, resamples) if members[:, a, t].any() else None
        for a, t in np.ndindex(members.shape[1:])
    ]
    values = [(m[0].median, *map(float, m[1].median)) if m else (np.nan, np.nan, np.nan) for m in medians]
    grid = np.array(values).reshape(*members.shape[1:], 3)
    names = [f"topic_median_items{end}" for end in ("", "_low", "_high")]
    variables: Variables = {name: (dims, grid[:, :, i], {"units": "items"}) for i, name in enumerate(names)}
    variables["topic_n_lists"] = (dims, members.sum(axis=0))
    variables["topic_n_lists_ended"] = (dims, (members & lists.level["ended"].values[:, None, None]).sum(axis=0))
    return variables


def _curves(stem: str, dim: str, curves: list[tuple[Survival, SurvivalIntervals]]) -> Variables:
    """Variables over `dim` and `item`."""
    dims = (dim, "item")
    variables: Variables = {
        f"{stem}at_risk": (dims, np.stack([curve.at_risk for curve, _ in curves])),
        f"{stem}ended_after": (dims, np.stack([curve.events for curve, _ in curves])),
    }
    for name in ("survival", "hazard"):
        variables[f"{stem}{name}"] = (dims, np.stack([getattr(curve, name) for curve, _ in curves]))
        for end in ("low", "high"):
            values = np.stack([getattr(getattr(ends, name), end) for _, ends in curves])
            variables[f"{stem}{name}_{end}"] = (dims, values)
    return variables | _medians(stem, dim, curves)


def _medians(stem: str, dim: str, curves: list[tuple[Survival, SurvivalIntervals]]) -> Variables:
    name = f"{stem}median_items"
    return {
        name: (dim, [curve.median for curve, _ in curves], {"units": "items"}),
        f"{name}_low": (dim, [float(ends.median.low) for _, ends in curves], {"units": "items"}),
        f"{name}_high": (dim, [float(ends.median.high) for _, ends in curves], {"units": "items"}),
    }


def _dataset(lists: Lists, variables: Variables, **coords: Any) -> xr.Dataset:
    """Variables with the labels of their groups."""
    labels = {
        "by_adjective": ("by_adjective", lists.adjectives),
        "by_topic": ("by_topic", lists.topics),
        "condition_adjective": ("condition", [name for name, _ in lists.conditions]),
        "condition_temperature": ("condition", [temperature for _, temperature in lists.conditions]),
    }
    used = {dim for dims, *_ in variables.values() for dim in ([dims] if isinstance(dims, str) else dims)}
    kept = {name: value for name, value in labels.items() if value[0] in used}
    return xr.Dataset(variables, coords=kept | coords)


def _generator(purpose: str) -> np.random.Generator:
    """A random generator that follows from what it is for."""
    digest = hashlib.sha256(f"{SEED}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
