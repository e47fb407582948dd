"""Figures, tables and sentences of `logprobs`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.decode.records import Record, RecordedToken, records_table
from mechlist.decode.token_texts import NONE
from mechlist.experiments.logprobs.dataset import to_records
from mechlist.figures import grouped_bars, position_lines
from mechlist.figures.token_text import coloured_text
from mechlist.text import joined, number, number_of, unescaped, visible

SHOWN = 6
"""Texts that get a figure each."""
NAMED = 3
"""Least confident tokens that sentences name."""
SURE, UNSURE = 0.7, 0.3
"""Probabilities from which on a token counts as sure, and below which as unsure."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Texts by confidence; entropy along them; perplexity, where there are several."""
    if results.attrs["logits_only"]:
        return _logit_lines(results)
    records = to_records(results)
    drawn = {f"text-{i + 1}": _text(record) for i, record in enumerate(records[:SHOWN]) if record.tokens}
    if len(records) > 1:
        names = [f"text {i + 1}" for i in results["record"].values]
        drawn["perplexity"] = grouped_bars(
            xr.DataArray(results["perplexity"].values, dims="category", coords={"category": names}),
            title="Perplexity of each text",
            caption="exp of minus the mean log-probability of its tokens: 1 where the model was sure of each.",
            y_title="perplexity",
        )
    return drawn


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """Records, tokens, and the `top` least confident tokens."""
    if results.attrs["logits_only"]:
        return {"logits": _logit_table(results)}
    records = to_records(results)
    tokens = records_table(records)
    summary = pd.DataFrame(
        {
            "record": range(len(records)),
            "prompt": [visible(record.prompt) for record in records],
            "response": [visible(record.response) for record in records],
            "tokens": [len(record.tokens) for record in records],
            "perplexity": results["perplexity"].values,
            "mean_log_prob": results["log_prob"].mean("token").values,
            "unsure": (results["prob"] < UNSURE).sum("token").values,
        }
    )
    least = tokens.sort_values("log_prob", kind="stable").head(top) if len(tokens) else tokens
    return {"records": summary, "least_confident": least.reset_index(drop=True), "tokens": tokens}


def findings(results: xr.Dataset) -> list[str]:
    """Tokens and perplexity, shares of sure tokens, and the least confident ones."""
    if results.attrs["logits_only"]:
        names = joined([f'"{visible(unescaped(str(t)))}"' for t in results["column_text"].values])
        return [f"Logits of {names} in {number_of(int(results['logit'].notnull().any('column').sum()), 'places')}."]
    records = to_records(results)
    prob = results["prob"].values[np.isfinite(results["prob"].values)]
    if not len(prob):
        return [f"{number_of(len(records), 'records')} without any token."]
    ranks = results["rank"].values[np.isfinite(results["rank"].values)]
    mean = float(np.exp(-np.log(prob).mean()))
    said = [
        f"{number_of(len(records), 'texts')} of {number_of(len(prob), 'tokens')}; over all of them the perplexity is "
        f"{number(mean)}.",
        f"{(prob > SURE).mean():.0%} of the tokens had a probability above {SURE}, {(prob < UNSURE).mean():.0%} one "
        f"below {UNSURE}; {(ranks == 0).mean():.0%} were the most probable token{_among(results)}.",
    ]
    places = sorted(((t.log_prob, r, i) for r, record in enumerate(records) for i, t in enumerate(record.tokens)))
    named = [_least(records[r].tokens[i], r, i, len(records)) for _, r, i in places[:NAMED]]
    return [*said, f"Least confident: {joined(named)}."]


def _among(results: xr.Dataset) -> str:
    known = np.isfinite(results["entropy"].values).any()
    return "" if known else " among the alternatives that are recorded, or as probable as that"


def _least(token: RecordedToken, record: int, place: int, records: int) -> str:
    where = f" of text {record + 1}" if records > 1 else ""
    other = next((a for a in token.alternatives if a.token != token.token), None)
    instead = f', where "{visible(other.token)}" had {np.exp(other.log_prob):.3f}' if other is not None else ""
    return f'"{visible(token.token)}" at token {place + 1}{where} ({np.exp(token.log_prob):.3f}{instead})'


def _text(record: Record) -> go.Figure:
    values = xr.DataArray([float(np.exp(t.log_prob)) for t in record.tokens], dims="token")
    return coloured_text(
        values,
        [t.token for t in record.tokens],
        title=f"Behind “{_short(record.prompt)}”",
        caption="Each token is coloured by its probability: red where the model was not sure of it. Hover for what "
        "else might have come.",
        unit="probability",
        confidence=True,
        hover=[_hover(t) for t in record.tokens],
    )


def _short(text: str, most: int = 60) -> str:
    shown = visible(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _hover(token: RecordedToken) -> str:
    ranked = f"rank {token.rank + 1} of the vocabulary" if token.rank is not None else ""
    entropy = f"entropy {token.entropy:.3f} nats" if token.entropy is not None else ""
    others = [f"{visible(a.token)} {np.exp(a.log_prob):.3f}" for a in token.alternatives]
    return "\n".join(part for part in (ranked, entropy, "most probable here:" if others else "", *others) if part)


def _logit_lines(results: xr.Dataset) -> dict[str, go.Figure]:
    names = [visible(unescaped(str(text))) for text in results["column_text"].values]
    drawn = {}
    for i in range(min(SHOWN, results.sizes["record"])):
        one = results["logit"].isel(record=i).dropna("token", how="all")
        drawn[f"logits-{i + 1}"] = position_lines(
            {name: one.isel(column=n).drop_vars("column") for n, name in enumerate(names)},
            title=f"Logits before each token of text {i + 1}",
            caption="Only these columns of the vocabulary were unembedded; logits alone say nothing of probabilities.",
            x_title="token",
            y_title="logit",
        )
    return drawn


def _logit_table(results: xr.Dataset) -> pd.DataFrame:
    rows = []
    for i, j in np.argwhere(results["token_id"].values != NONE):
        text = visible(unescaped(str(results["text"].values[i, j])))
        logits = dict(zip(results["column_text"].values, results["logit"].values[i, j], strict=True))
        named = {f"logit of {visible(unescaped(str(name)))}": value for name, value in logits.items()}
        rows.append({"record": int(i), "position": int(j), "token": text, **named})
    return pd.DataFrame(rows)
