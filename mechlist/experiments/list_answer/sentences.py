"""The answer's sentences, each made from the numbers that were gathered, with the figure that shows it."""

import numpy as np
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.list_answer.effects import FACTORS, TERMS, Effect
from mechlist.experiments.list_answer.gathering import ENDS, FILLERS
from mechlist.text import adjective_rank, joined, lists_named, number_of, with_interval
from mechlist.types import head_name

ALL_EARLIER = "all earlier fillers"
"""The contrast of list-factors between fillers on all earlier items and none."""
OWN_TOKENS = 2
"""Tokens that every line has beside its item's: the hyphen and the line break."""
FEWEST = 5
"""Lists behind a probability that a sentence names."""
MOST_NAMED = 3
UNKNOWN = "not known"
HALF = 0.5
"""Share of an effect from which on a head is said to carry it."""


def claims(results: xr.Dataset) -> list[Claim]:
    """At most five sentences; what the results do not tell is left out."""
    out: list[Claim] = []
    if "coefficient" in results:
        out += [_moves(results), _counts(results)]
    if "share" in results and np.isfinite(results["share"]).any():
        out.append(_heads(results))
    if "median_items" in results:
        out.append(_ends(results))
    if "coefficient" in results and np.isfinite(results["truth"]).any():
        out.append(_unlike(results))
    return out


def margin_of(results: xr.Dataset) -> float:
    """Logits of A beyond which an effect matters."""
    return results.attrs["margin"] * results.attrs["gap"]


def effect(results: xr.Dataset, term: str) -> Effect:
    """Of a term of list-factors."""
    return Effect.of(results.sel(term=term), "coefficient", "truth")


def _there(results: xr.Dataset) -> dict[str, Effect]:
    found = {term: effect(results, term) for term in TERMS if term in results["term"].values}
    return {term: one for term, one in found.items() if one.value.size}


def _moves(results: xr.Dataset) -> Claim:
    margin, attrs, terms = margin_of(results), results.attrs, _there(results)
    found = {term: one.verdict(margin) for term, one in terms.items()}
    moving = [term for term in terms if found[term] == "matters"]
    moving.sort(key=lambda term: -float(np.abs(terms[term].value).max()))
    told = [f"{TERMS[term]} ({_beside_truth(terms[term])})" for term in moving]
    if attrs["gap_between"][0] != attrs["gap_between"][1] and attrs["gap_low"] > margin:
        most, least = (lists_named(name) for name in attrs["gap_between"])
        gap = with_interval(attrs["gap"], attrs["gap_low"], attrs["gap_high"])
        larger = sum(float(np.abs(terms[term].value).max()) > attrs["gap"] for term in moving)
        told.insert(larger, f"the adjective ({gap} from {least} to {most} of the same text)")
    moved_by = joined(told or ["nothing that was varied"])
    said = (
        f"The decision to end a list (A: logit of the end minus another item's, at a line break) is moved by {moved_by}"
    )
    still = [TERMS[term] for term in terms if found[term] == "within the margin"]
    if still:
        verb = "stays" if len(still) == 1 else "stay"
        said += f"; {joined(still)} {verb} within {margin:.2f} logits, {attrs['margin']:.0%} of what the adjective does"
    return Claim(f"{said}.", "coefficients", attrs["folders"]["factors"])


def _beside_truth(one: Effect) -> str:
    truth = one.truth_text()
    return one.text() + (f"; its training process {truth}" if truth else "")


def _counts(results: xr.Dataset) -> Claim:
    margin, folder = margin_of(results), results.attrs["folders"]["factors"]
    terms = _there(results)
    first = min(results["adjective"].values.tolist(), key=adjective_rank)
    if "item" not in terms or "tokens" not in terms:
        return Claim("Whether lines or tokens count was not varied.", "coefficients", folder)
    item, tokens = terms["item"], terms["tokens"]
    numbers = f"a line more adds {item.text()}, a token more in as many lines {tokens.text()}"
    lines, words = item.verdict(margin), tokens.verdict(margin)
    beyond = _beyond_its_tokens(item, tokens, margin)
    if lines == "matters" and words == "within the margin":
        said = f"The model counts lines, not tokens: {numbers}, within the margin"
    elif words == "matters" and not beyond:
        said = (
            f"The model counts tokens, not lines: {numbers}, so that a line does no more than its hyphen and line "
            "break do as tokens"
        )
    elif lines == words == "matters":
        said = f"The model counts lines and, less, tokens: {numbers}"
    elif lines == "matters" and beyond:
        said = f"The model counts lines rather than tokens: {numbers}"
    elif lines == words == "within the margin":
        said = f"The model counts neither lines nor tokens: {numbers}, both within the margin"
    else:
        said = f"Whether the model counts lines or tokens is not settled: {numbers}"
    repeat = terms.get("repeat")
    if lines == "matters" and repeat is not None and repeat.verdict(margin) == "within the margin":
        said += "; an item that stood before counts like a new one"
    return Claim(f"{said}{_held(results)}.", f"items-{first}", folder)


def _beyond_its_tokens(item: Effect, tokens: Effect, margin: float | int) -> bool:
    """Whether a line does more, after every adjective, than its own two tokens would as tokens."""
    names = [name for name in item.adjectives if name in tokens.adjectives]
    rows, others = ([one.adjectives.index(name) for name in names] for one in (item, tokens))
    low = item.low[rows] - OWN_TOKENS * tokens.high[others]
    high = item.high[rows] - OWN_TOKENS * tokens.low[others]
    return bool((low > margin).all() or (high < -margin).all())


def _held(results: xr.Dataset) -> str:
    """What the residual stream holds of the number of items, and what an exchange of it does."""
    if "probe_r2" not in results or not np.isfinite(results["probe_r2"]).any():
        return ""
    layer = results.attrs["close_layer"]
    one = results.sel(after_layer=layer)
    share = one["exchange_share"]
    way = share["way"].values[int(share.values.argmax())]
    random = float(np.abs(results["random_share"]).max())
    carried = _value(one.sel(way=way), "exchange_share", ".0%")
    return (
        f"; exchanged in the stream after layer {layer}, the number of items carries {carried} of A's difference "
        f"(random directions at most {random:.0%})"
    )


def _heads(results: xr.Dataset) -> Claim:
    """The strongest head of each factor; of one that carries half of it, what it carries of the others."""
    half, less = [], []
    for factor in sorted(results["factor"].values.tolist(), key=_place):
        of_factor, name = results["share"].sel(factor=factor), FACTORS.get(factor, factor)
        ranked = [head for head in _by_size(of_factor) if np.isfinite(_at(of_factor, head))]
        if not ranked:
            continue
        top, size = ranked[0], abs(_at(of_factor, ranked[0]))
        value = _value(results.sel(factor=factor, layer=top[0], head=top[1]), "share", ".0%")
        beside = [f"the next, {head_name(ranked[1])}, {_at(of_factor, ranked[1]):.0%}"] if len(ranked) > 1 else []
        if size >= HALF:
            beside += _of_others(results, factor, top)
        after = f" ({'; '.join(beside)})" if beside else ""
        if size >= HALF:
            half.append(f"{head_name(top)} carries {value} of the effect of {name}{after}")
        else:
            less.append(f"{head_name(top)} {value} of that of {name}{after}")
    parts = list(half)
    if less:
        parts.append(f"no head carries half of {'another' if half else 'an'} effect: at most {joined(less)}")
    folders = results.attrs["folders"]["heads"]
    return Claim(f"At the last line break, {'; '.join(parts)}.", results.attrs["heads_figure"], folders[0])


def _of_others(results: xr.Dataset, factor: str, head: tuple[int, int]) -> list[str]:
    """What a head carries of the effects of the other factors."""
    found = []
    for other in results["factor"].values.tolist():
        share = _at(results["share"].sel(factor=other), head)
        if other != factor and np.isfinite(share):
            found.append(f"{share:.0%} of that of {FACTORS.get(other, other)}")
    return found


def _place(factor: str) -> int:
    return list(FACTORS).index(factor) if factor in FACTORS else len(FACTORS)


def _by_size(share: xr.DataArray) -> list[tuple[int, int]]:
    """Layers and heads, those with the largest shares first; those without a share last."""
    sizes = np.abs(share.transpose("layer", "head").values)
    places = np.unravel_index(np.argsort(-np.nan_to_num(sizes, nan=-1.0), axis=None, kind="stable"), sizes.shape)
    return [(int(share["layer"][a]), int(share["head"][b])) for a, b in zip(*places, strict=True)]


def _at(share: xr.DataArray, head: tuple[int, int]) -> float:
    return float(share.sel(layer=head[0], head=head[1]))


def _ends(results: xr.Dataset) -> Claim:
    names = sorted(results["of_lists"].values.tolist(), key=adjective_rank)
    rules = {
        "model": "the model's probabilities at T = 1",
        "sampled": "the lists as they were drawn",
        "truth": "its training process",
    }
    there = [rule for rule in rules if rule in results["rule"].values]
    there = [rule for rule in there if np.isfinite(results["median_items"].sel(rule=rule)).any()]
    told = []
    for name in names:
        parts = [_median(results.sel(of_lists=name, rule=rule)) for rule in there]
        if set(parts) != {UNKNOWN}:
            told.append(f"{joined(parts)} in {lists_named(name)}")
    folder = results.attrs["folders"].get("hazard", results.attrs["folders"].get("statistics", ""))
    if not told:
        return Claim("Too few lists ended for a median of their length.", "", folder)
    by = joined([rules[rule] for rule in there])
    said = f"The median number of items by {by} is {'; '.join(told)}"
    return Claim(f"{said}{_by_filler(results)}.", f"hazard-{names[0]}" if "end_probability" in results else "", folder)


def _median(one: xr.Dataset) -> str:
    value, low, high = (float(one[f"median_items{end}"]) for end in ENDS)
    if not np.isfinite(value):
        return UNKNOWN
    end = "not reached" if np.isinf(high) else f"{high:.0f}"
    return f"{value:.0f}" + (f" [{low:.0f}, {end}]" if low < high else "")


def _by_filler(results: xr.Dataset) -> str:
    """P(end) with and without a filler, at the adjective and number of items that most lists of both kinds have."""
    if "end_probability" not in results:
        return ""
    held = results["end_lists"].min("filler").fillna(0)
    if int(held.max()) < FEWEST:
        return ""
    sizes = held.transpose("of_lists", "item").values
    of, item = np.unravel_index(int(sizes.argmax()), sizes.shape)
    part = results[[f"end_probability{end}" for end in ENDS]].isel(of_lists=int(of), item=int(item))
    bare, filled = (_value(part.sel(filler=name), "end_probability", ".0%") for name in FILLERS)
    return (
        f"; {lists_named(str(part['of_lists'].values))} that have {number_of(int(part['item']), 'items')} end with a "
        f"probability of {filled} after a filler and of {bare} without one"
    )


def _unlike(results: xr.Dataset) -> Claim:
    margin, folder = margin_of(results), results.attrs["folders"]["factors"]
    found = {TERMS[term]: one for term, one in _there(results).items() if term != "earlier_filler"}
    if ALL_EARLIER in results["contrast"].values:
        found["fillers on all earlier items"] = Effect.of(results.sel(contrast=ALL_EARLIER), "change", "change_truth")
    apart = {name: one.beyond_truth(margin) for name, one in found.items()}
    apart = {name: one for name, one in apart.items() if one.value.size}
    if not apart:
        return Claim(
            f"In none of this does the model differ from its training process by more than {margin:.2f} logits, as far "
            "as intervals show.",
            "coefficients",
            folder,
        )
    order = sorted(apart, key=lambda name: -float(np.abs(apart[name].value - apart[name].truth).max()))[:MOST_NAMED]
    told = [_against(name, apart[name], found[name]) for name in order]
    return Claim(f"The model is not its training process, in logits of A: {'; '.join(told)}.", "coefficients", folder)


def _against(name: str, one: Effect, every: Effect) -> str:
    where = "" if one.adjectives == every.adjectives else f" in {joined([lists_named(a) for a in one.adjectives])}"
    return f"{name}{where}: {one.text()}, where the process has {one.truth_text()}"


def _value(part: xr.Dataset, name: str, form: str) -> str:
    """A value with its interval, where there is one."""
    value, low, high = (float(part[f"{name}{end}"]) if f"{name}{end}" in part else np.nan for end in ENDS)
    return with_interval(value, low, high, form)
