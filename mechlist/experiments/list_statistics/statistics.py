"""The steps of the list statistics: each takes the lists and returns a part of the result, with its intervals."""

import hashlib
from typing import Any

import numpy as np
import xarray as xr

from mechlist import effort
from mechlist.datasets.lists.conditions import membership
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.topics import RUNS_OUT, capacities
from mechlist.metrics.by_topic import ENDS, ratio_variables
from mechlist.metrics.ratios import ratio_interval
from mechlist.metrics.resampling import Interval
from mechlist.metrics.survival import Survival, SurvivalIntervals, survival_curve, survival_intervals
from mechlist.metrics.trend import trend_test
from mechlist.text import visible

SEED = 0
"""Of every resample and permutation: a run without a model has no generator of its own."""
PLACES = ("on any item", "on the last item", "on the last item only")
OUTCOMES = ("share of a list's items with a filler", "share of lists with a filler")

CAPACITIES = (f"at most {RUNS_OUT} items", f"more than {RUNS_OUT} items")
"""Topics by how many items there are; lists of the former run out."""
MOST_TOKENS = 20
"""Content tokens of an item that the distribution tells apart."""

Variables = dict[str, Any]


def every_list(lists: ListSet) -> xr.Dataset:
    """One entry a list, over the dimension `list`."""
    items, on_last = {"units": "items"}, _filler_on_last(lists)
    tokens = [np.mean([len(item.content) for item in one.items]) if one.items else np.nan for one in lists.parsed]
    variables: Variables = {
        "n_items": ("list", lists.n_items, items),
        "ended": ("list", lists.ended),
        "n_filler": ("list", lists.n_filler, items),
        "filler_on_last": ("list", on_last),
        "n_single_token_items": ("list", [one.n_single_token_items for one in lists.parsed], items),
        "filler_only_on_last": ("list", on_last & (lists.n_filler == 1)),
        "n_whole_items": ("list", _whole_items(lists), items),
        "n_tokens_per_item": ("list", np.array(tokens, dtype=float), {"units": "tokens"}),
        "survival_time": ("list", lists.time, items),
    }
    labels = {
        "model": ("list", [visible(one.model) for one in lists.provenance]),
        "file": ("list", [visible(one.path.name) if one.path else "" for one in lists.provenance]),
        "number": ("list", list(lists.number)),
    }
    return xr.Dataset(variables, coords=lists.coords("temperature") | labels)


def item_tokens(lists: ListSet, resamples: int) -> xr.Dataset:
    """How items distribute over their number of content tokens, by adjective; single-token items by topic.

    Items that the token cap cut off are left out: how long they would have become is not known. The last number of
    tokens, `MOST_TOKENS`, also holds the items that are longer.
    """
    tokens, whole = lists.item_tokens, lists.whole
    longest = int(tokens[whole].max(initial=0))
    most = min(longest, MOST_TOKENS)
    counts = np.zeros((len(lists), most))
    row, item = np.nonzero(whole)
    np.add.at(counts, (row, tokens[row, item].clip(max=MOST_TOKENS) - 1), 1)
    by_list = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    group = _in_adjective(lists)[:, :, None]
    dims = ("by_adjective", "item_tokens")
    variables = _shares(lists, "item_tokens_share", dims, group * counts[:, None], group * by_list[:, None], resamples)
    variables["item_tokens_count"] = (dims, (group * counts[:, None]).sum(axis=0))
    single = counts[:, 0] if most else np.zeros(len(counts))
    variables |= _topic_shares(lists, "single_token_share", single, counts.sum(axis=1), resamples)
    variables["longest_item"] = ((), longest, {"units": "tokens"})
    return _dataset(lists, variables, item_tokens=np.arange(1, most + 1))


def fillers(lists: ListSet, resamples: int) -> xr.Dataset:
    """Lists with a filler anywhere, on the last item and only there; chance of a filler by index from either end.

    An item that the token cap cut off may still have got a filler, and is left out. Only a list that ended has a last
    item, and an index from the end.
    """
    number = lists.n_filler
    written = _whole_items(lists) > 0
    ended = written & lists.ended
    on_last = _filler_on_last(lists)
    hits = np.stack([number > 0, on_last, on_last & (number == 1)], axis=1)
    among = np.stack([written, ended, ended], axis=1)
    group = _in_adjective(lists)[:, :, None]
    variables: Variables = {}
    place = ("by_adjective", "place")
    variables |= _shares(
        lists, "filler_lists_share", place, group * (hits & among)[:, None], group * among[:, None], resamples
    )
    variables["filler_lists"] = (place, (group * (hits & among)[:, None]).sum(axis=0))
    variables["filler_lists_among"] = (place, (group * among[:, None]).sum(axis=0))
    items = int(lists.n_items.max())
    whole, filler = lists.whole[:, :items], lists.fillers[:, :items] == 1
    sides = {
        "filler_from_end": [_from_end(part & lists.ended[:, None], lists.n_items) for part in (whole, filler)],
        "filler_from_start": [whole, filler],
    }
    dims = ("by_adjective", "item_index")
    for stem, (chosen, with_filler) in sides.items():
        every = group * chosen[:, None]
        variables |= _shares(lists, stem, dims, group * with_filler[:, None], every, resamples)
        variables[f"{stem}_items"] = (dims, every.sum(axis=0, dtype=float))
    variables |= _shares(
        lists,
        "mean_filler_share",
        ("by_adjective",),
        group[:, :, 0] * _share(lists)[:, None],
        group[:, :, 0] * written[:, None],
        resamples,
    )
    return _dataset(lists, variables, place=list(PLACES), item_index=np.arange(items))


def lengths(lists: ListSet, resamples: int) -> xr.Dataset:
    """Survival of lists by adjective, and by adjective and temperature; medians by adjective and topic too.

    Event: the list ended. Time: its number of items. See `survival_time` for lists that did not end.
    """
    n_times = int(lists.n_items.max()) + 1
    variables: Variables = {}
    in_condition = _in_condition(lists)
    groups = {"": ("by_adjective", _in_adjective(lists)), "condition_": ("condition", in_condition)}
    for stem, (dim, members) in groups.items():
        curves = [_survival(lists, chosen, n_times, resamples, by_topic=True) for chosen in members.T]
        variables |= _curves(stem, dim, curves)
    mean = in_condition * lists.n_items[:, None]
    variables |= _shares(lists, "condition_mean_items", ("condition",), mean, in_condition, resamples)
    variables |= _topic_medians(lists, n_times, resamples)
    ended = lists.ended[:, None]
    for stem, (dim, members) in groups.items():
        variables[f"{stem}n_lists"] = (dim, members.sum(axis=0))
        variables[f"{stem}n_lists_ended"] = (dim, (members & ended).sum(axis=0))
    return _dataset(lists, variables, item=np.arange(n_times))


def by_capacity(lists: ListSet, resamples: int) -> xr.Dataset:
    """Survival of lists by adjective and by how many items their topic has, of topics whose items are known.

    A list of days of the week ends after seven items whatever the adjective: pooled with topics that have room, such
    lists would tell of their topics. `topics_p_value` is that of a test of one survival for all topics with room, by
    exchanging lists between topics; NaN where there is nothing to exchange.
    """
    known, n_times = capacities(), int(lists.n_items.max()) + 1
    of_list = np.array([known.get(topic, np.nan) for topic in lists.topic], dtype=float)
    kinds = np.stack([of_list <= RUNS_OUT, of_list > RUNS_OUT], axis=1)
    members, dims = _in_adjective(lists)[:, :, None] & kinds[:, None], ("by_adjective", "by_capacity")
    values = np.full((*members.shape[1:], 3), np.nan)
    for cell in np.ndindex(*members.shape[1:]):
        chosen = members[(slice(None), *cell)]
        if chosen.any():
            found, ends = _survival(lists, chosen, n_times, resamples, by_topic=True)
            values[cell] = found.median, *map(float, ends.median)
    variables: Variables = {
        f"capacity_median_items{end}": (dims, values[..., i], {"units": "items"}) for i, end in enumerate(ENDS)
    }
    variables["capacity_n_lists"] = (dims, members.sum(axis=0))
    all_of_it = (lists.ended & (lists.n_items >= of_list))[:, None, None]
    variables["capacity_n_run_out"] = (dims, (members & all_of_it).sum(axis=0))
    variables["topics_p_value"] = (
        "by_adjective",
        [_topics_differ(lists, chosen, resamples) for chosen in members[:, :, 1].T],
    )
    first = [lists.clusters.tolist().index(topic) for topic in _topics(lists)]
    variables["topic_capacity"] = ("by_topic", of_list[first], {"units": "items"})
    return _dataset(lists, variables, by_capacity=list(CAPACITIES))


def _topics_differ(lists: ListSet, chosen: np.ndarray, resamples: int) -> float:
    """P value of one survival for the topics of the chosen lists, by exchanging lists between topics at random.

    The statistic is that of the log-rank test: how far the endings of a topic's lists are from those expected of as
    many lists of all topics (Peto & Peto 1972), squared, over the lists of the topic, summed. NaN where no topic has
    two lists, or there is one topic.
    """
    rows = np.flatnonzero(chosen & (lists.time >= 0))
    time, ended = lists.time[rows], lists.ended[rows]
    topics, member, sizes = np.unique(lists.clusters[rows], return_inverse=True, return_counts=True)
    if len(topics) < 2 or sizes.max(initial=0) < 2 or not ended.any():
        return np.nan
    times = np.arange(time.max() + 1)
    hazard = survival_curve(time, ended, len(times)).hazard
    scores = ended - np.cumsum(np.nan_to_num(hazard))[time]

    def statistic(of: np.ndarray) -> float:
        return float((np.bincount(member, weights=of) ** 2 / sizes).sum())

    generator, own = _generator("topics"), statistic(scores)
    drawn = [statistic(generator.permutation(scores)) for _ in effort.steps(resamples)]
    return (1 + sum(one >= own * (1 - 1e-9) for one in drawn)) / (1 + len(drawn))


def filler_by_temperature(lists: ListSet, resamples: int) -> xr.Dataset:
    """Fillers by adjective and temperature, and their trend over the temperature within topic, adjective and model."""
    group, written = _in_condition(lists)[:, :, None], _whole_items(lists) > 0
    values = np.stack([_share(lists), lists.n_filler > 0], axis=1)
    among = np.broadcast_to(written[:, None], values.shape)
    dims = ("condition", "outcome")
    variables = _shares(lists, "condition_filler", dims, group * values[:, None], group * among[:, None], resamples)
    temperature, topic = lists.temperature, lists.clusters
    used = written & np.isfinite(temperature)
    models = [visible(one.model) for one in lists.provenance]
    strata = np.array([repr(stratum) for stratum in zip(topic, lists.adjective, models, strict=True)])
    trends = [
        trend_test(
            temperature[used], y[used], strata[used], topic[used], resamples=resamples, generator=_generator("trend")
        )
        for y in values.T
    ]
    for field in trends[0]._fields:
        variables[f"trend_{field}"] = ("outcome", [getattr(trend, field) for trend in trends])
    return _dataset(lists, variables, outcome=list(OUTCOMES))


def _whole_items(lists: ListSet) -> np.ndarray:
    """Items of each list whose line was seen to its end."""
    return np.array([one.n_whole_items for one in lists.parsed], dtype=np.int64)


def _filler_on_last(lists: ListSet) -> np.ndarray:
    """Whether the last item of each list has a filler."""
    return np.array([one.filler_on_last for one in lists.parsed], dtype=bool)


def _share(lists: ListSet) -> np.ndarray:
    """Share of each list's items with a filler, among those whose line was seen whole; 0 where there is none."""
    whole = _whole_items(lists)
    return np.divide(lists.n_filler, whole, out=np.zeros(len(whole)), where=whole > 0)


def _from_end(values: np.ndarray, n_items: np.ndarray) -> np.ndarray:
    """Values of items counted from the last of each list; False where a list has no such item."""
    number = n_items[:, None] - 1 - np.arange(values.shape[1])
    return np.take_along_axis(values, number.clip(min=0), axis=1) & (number >= 0)


def _topics(lists: ListSet) -> list[str]:
    """In the order of the files."""
    return list(dict.fromkeys(lists.clusters.tolist()))


def _in_adjective(lists: ListSet) -> np.ndarray:
    """Whether each list (rows) is of each adjective (columns)."""
    return np.array(lists.adjective)[:, None] == np.array(lists.adjectives)


def _in_condition(lists: ListSet) -> np.ndarray:
    """Whether each list (rows) is of each adjective with a temperature (columns)."""
    return membership([one.rows for one in lists.by_condition()], len(lists))


def _shares(
    lists: ListSet, name: str, dims: tuple[str, ...], above: np.ndarray, below: np.ndarray, resamples: int
) -> Variables:
    return ratio_variables(name, dims, above, below, lists.clusters, resamples=resamples, generator=_generator(name))


def _topic_shares(lists: ListSet, name: str, above: np.ndarray, below: np.ndarray, resamples: int) -> Variables:
    """Ratio of sums over a topic's lists, with an interval over these lists."""
    columns: list[tuple[float, Interval]] = []
    for topic in _topics(lists):
        a, b = above[lists.clusters == topic], below[lists.clusters == topic]
        ends = ratio_interval(a, b, np.arange(len(a)), resamples=resamples, generator=_generator(f"{name} {topic}"))
        columns.append((a.sum() / b.sum() if b.sum() else np.nan, ends))
    return {
        name: ("by_topic", [value for value, _ in columns]),
        f"{name}_low": ("by_topic", [float(ends.low) for _, ends in columns]),
        f"{name}_high": ("by_topic", [float(ends.high) for _, ends in columns]),
    }


def _survival(
    lists: ListSet, chosen: np.ndarray, n_times: int, resamples: int, *, by_topic: bool
) -> tuple[Survival, SurvivalIntervals]:
    """Curve and intervals of the chosen lists, over topics, or over the lists themselves."""
    time, event = lists.time[chosen], lists.ended[chosen]
    labels = lists.clusters[chosen] if by_topic else np.arange(len(time))
    ends = survival_intervals(time, event, labels, n_times, resamples=resamples, generator=_generator("survival"))
    return survival_curve(time, event, n_times), ends


def _topic_medians(lists: ListSet, n_times: int, resamples: int) -> Variables:
    """Medians over a topic's lists with one adjective, with an interval over these lists."""
    dims = ("by_adjective", "by_topic")
    of_topic = lists.clusters[:, None] == np.array(_topics(lists))
    members = _in_adjective(lists)[:, :, None] & of_topic[:, None]
    medians = [
        _survival(lists, members[:, a, t], n_times, resamples, by_topic=False) if members[:, a, t].any() else None
        for a, t in np.ndindex(members.shape[1:])
    ]
    values = [(m[0].median, *map(float, m[1].median)) if m else (np.nan, np.nan, np.nan) for m in medians]
    grid = np.array(values).reshape(*members.shape[1:], 3)
    names = [f"topic_median_items{end}" for end in ENDS]
    variables: Variables = {name: (dims, grid[:, :, i], {"units": "items"}) for i, name in enumerate(names)}
    variables["topic_n_lists"] = (dims, members.sum(axis=0))
    variables["topic_n_lists_ended"] = (dims, (members & lists.ended[:, None, None]).sum(axis=0))
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


def _dataset(lists: ListSet, variables: Variables, **coords: Any) -> xr.Dataset:
    """Variables with the labels of their groups."""
    labels = {
        "by_adjective": ("by_adjective", lists.adjectives),
        "by_topic": ("by_topic", _topics(lists)),
        "condition_adjective": ("condition", [one.adjective for one in lists.by_condition()]),
        "condition_temperature": ("condition", [one.temperature for one in lists.by_condition()]),
    }
    used = {dim for dims, *_ in variables.values() for dim in ([dims] if isinstance(dims, str) else dims)}
    kept = {name: value for name, value in labels.items() if value[0] in used}
    return xr.Dataset(variables, coords=kept | coords)


def _generator(purpose: str) -> np.random.Generator:
    """A random generator that follows from what it is for."""
    digest = hashlib.sha256(f"{SEED}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
