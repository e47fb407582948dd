"""Figures, tables and sentences of `guiding-tokens`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.guiding_tokens.scores import MEANINGS, METHODS, TRACING, TRUTH
from mechlist.figures import attention_panel, grouped_bars, position_heatmap, position_lines, token_labels
from mechlist.figures.token_text import coloured_text
from mechlist.text import joined, number, unescaped, visible
from mechlist.types import head_name

BARS = 12
"""Tokens that get bars."""
NAMED = 3
"""Tokens that sentences name."""
WON = 0.05
"""Share of what the noise takes from which on a restored state is marked."""
MOST_HEADS = 12
"""Heads whose patterns are drawn."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Text by method, bars of the strongest tokens, agreement, deletion, attention, trace."""
    texts = _texts(results)
    return {
        "text": _text(results, texts),
        "tokens": _bars(results, texts),
        "agreement": _agreement(results),
        "deletion": _deletion(results),
        "attention": _attention(results, texts),
        "trace": position_heatmap(
            results["restored"],
            token_labels(texts),
            title="States that bring the answer back",
            caption=f"Embedding of {_named(results.attrs['subject'], texts)} noised "
            f"({results.attrs['deviations']:g} standard deviations); the residual stream before one layer at one "
            f"position restored. Mean over {results.sizes['draw']} draws; dots mark states that win or lose {WON:.0%} "
            "of what noise takes, with an interval on one side of 0.",
            unit="nats",
            marked=_won(results),
        ),
    }


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Tokens with their scores, BOS among them; methods with their agreement and deletion."""
    texts = _texts(results)
    tokens = pd.DataFrame({"position": results["position"].values, "token": [visible(text) for text in texts]})
    for method in METHODS:
        tokens[method] = results["score"].sel({"method": method}).values
    tokens["noise_low"], tokens["noise_high"] = results["noise_low"].values, results["noise_high"].values
    names = ["agreement", "agreement_without_bos", "deletion_area"]
    methods = pd.DataFrame({"method": list(METHODS), **{name: results[name].values for name in names}})
    methods["what"] = [MEANINGS[method] for method in METHODS]
    return {"methods": methods, "tokens": tokens}


def findings(results: xr.Dataset) -> list[str]:
    """The strongest tokens by removal, which methods agree, how well orders delete, and whether gradients add up."""
    texts = _texts(results)
    answer = visible(unescaped(results.attrs["answer"]))
    truth = results["score_without_bos"].sel({"method": TRUTH}).values
    order = [i for i in np.argsort(-np.nan_to_num(truth, nan=-np.inf), kind="stable")[:NAMED] if np.isfinite(truth[i])]
    strongest = joined([f"“{visible(texts[i])}” at position {i} ({truth[i]:+.2f} nats)" for i in order])
    said = [
        f"The token that is predicted is “{answer}”, with a log-probability of {results.attrs['answer_log_prob']:.3f} "
        "nats.",
        f"Without it the answer loses most: {strongest}.",
    ]
    others = [method for method in METHODS if method != TRUTH]
    ranked = sorted(others, key=lambda m: -_of(results, "agreement_without_bos", m))
    told = [f"{m} {_of(results, 'agreement_without_bos', m):.2f}" for m in ranked]
    whose = " without BOS" if results.attrs["has_bos"] else ""
    said.append(f"Rank correlation with leave-one-out{whose}: {joined(told)}.")
    if results.attrs["has_bos"]:
        share = {m: float(results["score"].sel({"method": m})[0]) for m in ("attention", "rollout")}
        said.append(
            f"BOS takes {share['attention']:.0%} of layer {results.attrs['layer']}'s attention and "
            f"{share['rollout']:.0%} of the rollout."
        )
    area, chance = results["deletion_area"], float(results["random_deletion"].mean())
    best = str(area["method"][int(area.values.argmin())].item())
    said.append(
        f"Tokens taken out of sight in the order of {best} lower the answer most: mean log-probability "
        f"{float(area.min()):.2f} nats along the curve, {chance:.2f} in random orders."
    )
    score = float(results["score"].sel({"method": "integrated gradients"}).sum())
    said.append(
        f"Integrated gradients add up to {score:+.2f} nats, {abs(results.attrs['gap']):.2f} "
        f"{'more' if results.attrs['gap'] > 0 else 'less'} than the whole way from the mean embeddings changes."
    )
    return said


def _texts(results: xr.Dataset) -> list[str]:
    return [unescaped(str(text)) for text in results["text"].values]


def _of(results: xr.Dataset, name: str, method: str) -> float:
    value = float(results[name].sel({"method": method}))
    return value if np.isfinite(value) else -np.inf


def _won(results: xr.Dataset) -> xr.DataArray:
    """States that win back, or lose, a share of what the noise takes, beyond the spread over draws."""
    taken = abs(float(results["clean"]) - float(results["noised"].mean()))
    aside = (results["restored_low"] > 0) | (results["restored_high"] < 0)
    return aside & (abs(results["restored"]) >= WON * taken)


def _named(positions: list[int], texts: list[str]) -> str:
    return joined([f"“{visible(texts[i])}” at position {i % len(texts)}" for i in positions])


def _text(results: xr.Dataset, texts: list[str]) -> go.Figure:
    """Each method's scores as shares of its largest, so that their colours compare."""
    score = results["score_without_bos"].values
    largest = np.nanmax(np.abs(score), axis=1, keepdims=True)
    shares = np.where(largest > 0, score / np.where(largest > 0, largest, 1), score)
    names = [f"{method}: {MEANINGS[method]}" for method in METHODS]
    notes = [
        "\n".join(f"{m} {number(float(v))}" for m, v in zip(METHODS, column, strict=True) if np.isfinite(v))
        for column in results["score"].values.T
    ]
    bos = " BOS is left out of the colours." if results.attrs["has_bos"] else ""
    return coloured_text(
        xr.DataArray(shares, dims=("name", "token"), coords={"name": names}),
        texts,
        title=f"Tokens that drive “{visible(unescaped(results.attrs['answer']))}”",
        caption=f"Scores of each method as a share of its largest: blue speaks for the answer, red against it.{bos} "
        "Hover for the scores themselves.",
        unit="share of the largest",
        diverging=True,
        hover=notes,
    )


def _bars(results: xr.Dataset, texts: list[str]) -> go.Figure:
    truth = results["score_without_bos"].sel({"method": TRUTH}).values
    chosen = np.sort(np.argsort(-np.abs(np.nan_to_num(truth)), kind="stable")[:BARS])
    series = [TRUTH, "mask-out", TRACING]
    values = results["score_without_bos"].sel({"method": series}).values[:, chosen].T
    labels = [f"{i} {visible(texts[i])}" for i in chosen]
    return grouped_bars(
        xr.DataArray(values, dims=("category", "series"), coords={"category": labels, "series": series}),
        title="What the answer loses without a token",
        caption="Log-probability of the answer less that of the prompt without the token, with it out of sight, and "
        "with its embedding noised, for the tokens with the largest effects of leaving them out.",
        y_title="nats",
    )


def _agreement(results: xr.Dataset) -> go.Figure:
    names = {"agreement": "with BOS", "agreement_without_bos": "without BOS"}
    names = names if results.attrs["has_bos"] else {"agreement": "all tokens"}
    others = [method for method in METHODS if method != TRUTH]
    values = np.stack([results[name].sel({"method": others}).values for name in names], axis=1)
    return grouped_bars(
        xr.DataArray(values, dims=("category", "series"), coords={"category": others, "series": list(names.values())}),
        title="Agreement with leave-one-out",
        caption="Rank correlation of the scores of all tokens with what leaving the token out really does: 1 the same "
        "order, 0 no relation.",
        y_title="rank correlation",
    )


def _deletion(results: xr.Dataset) -> go.Figure:
    lines = {method: results["deletion"].sel({"method": method}).drop_vars("method") for method in METHODS}
    lines["random orders, mean"] = results["random_deletion"].mean("order")
    return position_lines(
        lines,
        title="The answer while tokens are taken out of sight",
        caption="Tokens vanish in the order of each method's scores, the highest first; no other token sees them then. "
        "The earlier a line falls below that of random orders, the better the method finds what matters.",
        x_title="tokens out of sight",
        y_title="log-probability of the answer (nats)",
    )


def _attention(results: xr.Dataset, texts: list[str]) -> go.Figure:
    pattern = results["pattern"]
    heads = pattern.sizes["head"]
    shown = pattern.values[: MOST_HEADS if heads > MOST_HEADS else heads]
    layer = results.attrs["layer"]
    names = ["mean over heads", *(head_name((layer, i)) for i in range(len(shown)))]
    both = np.concatenate([pattern.values.mean(axis=0, keepdims=True), shown])
    beyond = f" The first {MOST_HEADS} of {heads} heads." if heads > MOST_HEADS else ""
    return attention_panel(
        xr.DataArray(both, dims=("name", "query", "key"), coords={"name": names}),
        title=f"Attention in layer {layer}",
        caption=f"The last row is what the prediction reads.{beyond}",
        labels=texts,
    )
