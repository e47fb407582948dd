"""What a model writes from nothing: tokens that its texts begin with, and that they hold."""

import json
from collections import Counter
from collections.abc import Sequence

import xarray as xr

from mechlist.decode.generation import Completion
from mechlist.metrics.shares import share_interval
from mechlist.runner import Runner

KEPT = 40
"""Tokens that are told, of either kind."""


def top_of_mind(runner: Runner, texts: Sequence[Completion]) -> xr.Dataset:
    """Share of the texts that begin with a token, and that hold it, with intervals; and the texts themselves."""
    begins = Counter(text.tokens[0] for text in texts)
    holds = Counter(token for text in texts for token in set(text.tokens))
    written = [json.dumps(runner.tokenizer.decode(list(text.tokens))) for text in texts]
    out = xr.Dataset({"sample_text": ("sample", written)})
    for name, counts in (("begins", begins), ("holds", holds)):
        common = counts.most_common(KEPT)
        dim = f"{name}_rank"
        ends = [share_interval(count, len(texts)) for _, count in common]
        out[f"{name}_token"] = (dim, [token for token, _ in common])
        # As plain ASCII: text may hold anything, and NetCDF strings may not.
        out[f"{name}_text"] = (dim, [json.dumps(t) for t in runner.token_texts([token for token, _ in common])])
        out[f"{name}_share"] = (dim, [count / len(texts) for _, count in common], {"units": "share of texts"})
        out[f"{name}_share_low"] = (dim, [low for low, _ in ends])
        out[f"{name}_share_high"] = (dim, [high for _, high in ends])
    return out
