"""Records as a Dataset of numbers and back: token text stands once, escaped, in a table of its own."""

import numpy as np
import xarray as xr

from mechlist.decode.records import Alternative, Record, RecordedToken
from mechlist.decode.token_texts import NONE, TokenTexts, token_texts
from mechlist.text import escaped, unescaped


def to_dataset(records: list[Record]) -> xr.Dataset:
    """`log_prob`, `prob`, `rank`, `entropy` and `entry` by record and token, the alternatives, and the texts.

    `entry` numbers a row of the texts at hand: `vocabulary_text` (escaped) and `vocabulary_id` (-1 unknown). Beyond a
    record's end numbers are NaN, entries -1. `rank` is among the alternatives where the model was not asked.
    """
    texts = TokenTexts()
    size = (len(records), max((len(r.tokens) for r in records), default=0))
    width = max((len(t.alternatives) for r in records for t in r.tokens), default=0)
    numbers = {name: np.full(size, np.nan) for name in ("log_prob", "rank", "entropy")}
    own, other = np.full(size, NONE), np.full((*size, width), NONE)
    other_log_prob = np.full((*size, width), np.nan)
    for i, record in enumerate(records):
        for j, token in enumerate(record.tokens):
            own[i, j] = texts.number(token.token, token.token_id)
            numbers["log_prob"][i, j], numbers["rank"][i, j] = token.log_prob, token.known_rank
            numbers["entropy"][i, j] = np.nan if token.entropy is None else token.entropy
            for k, one in enumerate(token.alternatives):
                other[i, j, k], other_log_prob[i, j, k] = texts.number(one.token, one.token_id), one.log_prob
    dims, nats = ("record", "token"), {"units": "nats"}
    return xr.Dataset(
        {
            "log_prob": (dims, numbers["log_prob"], nats),
            "prob": (dims, np.exp(numbers["log_prob"])),
            "rank": (dims, numbers["rank"], {"units": "tokens"}),
            "entropy": (dims, numbers["entropy"], nats),
            "perplexity": ("record", [record.perplexity for record in records]),
            "entry": (dims, own),
            "alternative_entry": ((*dims, "alternative"), other),
            "alternative_log_prob": ((*dims, "alternative"), other_log_prob, nats),
            **texts.variables(),
            "prompt": ("record", np.array([escaped(record.prompt) for record in records], dtype=object)),
            "response": ("record", np.array([escaped(record.response) for record in records], dtype=object)),
        },
        coords={"record": np.arange(size[0]), "token": np.arange(size[1])},
    )


def to_records(results: xr.Dataset) -> list[Record]:
    """The records that `to_dataset` made a Dataset of; ranks count as known where entropies are."""
    texts = token_texts(results)
    out = []
    for i in range(results.sizes["record"]):
        one = results.isel(record=i)
        own, log_prob, rank, entropy = (one[name].values for name in ("entry", "log_prob", "rank", "entropy"))
        other, other_log_prob = one["alternative_entry"].values, one["alternative_log_prob"].values
        tokens = []
        for j in range(int((own != NONE).sum())):
            there = [(int(e), float(p)) for e, p in zip(other[j], other_log_prob[j], strict=True) if e != NONE]
            told = np.isfinite(entropy[j])
            tokens.append(
                RecordedToken(
                    token=texts[own[j]][0],
                    log_prob=float(log_prob[j]),
                    alternatives=tuple(Alternative(texts[e][0], p, texts[e][1]) for e, p in there),
                    token_id=texts[own[j]][1],
                    rank=int(rank[j]) if told else None,
                    entropy=float(entropy[j]) if told else None,
                )
            )
        out.append(Record(unescaped(str(one["prompt"].item())), unescaped(str(one["response"].item())), tuple(tokens)))
    return out
