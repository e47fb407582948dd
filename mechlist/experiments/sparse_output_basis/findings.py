"""Tables and sentences of `sparse-output-basis`, from its saved results alone."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.plain_prompts import told
from mechlist.metrics.by_topic import ENDS
from mechlist.text import joined, visible

GOOD = 0.9
"""Share of the own weights' agreement with the model that a good refit keeps."""
NAMED = 5


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """By penalty and way; by dimension; by token of the texts from nothing; the texts."""
    names = [f"{name}{end}" for name in ("kl", "agreement") for end in ENDS]
    fits = results[names].to_dataframe().reset_index()
    sparsity = dict(zip(results["penalty"].values.tolist(), results["sparsity"].values.tolist(), strict=True))
    fits.insert(1, "sparsity", [sparsity[p] for p in fits["penalty"]])
    dimensions = pd.DataFrame({"dimension": np.arange(results.sizes["dimension"]), "tokens": results["written"].values})
    for end in ("up", "down"):
        dimensions[end] = [", ".join(_texts(row)) for row in results[f"{end}_text"].values.tolist()]
    mind = {
        name: pd.DataFrame(
            {
                "token": _texts(results[f"{name}_text"].values.tolist()),
                **{f"share{end}": results[f"{name}_share{end}"].values for end in ENDS},
            }
        )
        for name in ("holds", "begins")
    }
    texts = pd.DataFrame({"text": _texts(results["sample_text"].values.tolist())})
    return {
        "fits": fits, "dimensions": dimensions, "top-of-mind": mind["holds"], "first-tokens": mind["begins"],
        "texts": texts,
    }  # fmt: skip


def findings(results: xr.Dataset) -> list[str]:
    """How sparse the weights can be, against pruning; what dimensions then write; texts from nothing."""
    attrs = results.attrs
    own = told(results, "own_agreement", ".1%")
    capped = (
        f", whose softcap at {attrs['softcap']:g} the refitted weights take on themselves" if attrs["softcap"] else ""
    )
    out = [
        f"Refitted on {attrs['states']} and judged on {attrs['held_out']} final states of the model's own texts, over "
        f"tokens with {attrs['covered']:.2%} of its probability{capped}; its own weights alone agree in {own}."
    ]
    return [*out, _sparsest(results), _dimensions(results), *_mind(results)]


def _sparsest(results: xr.Dataset) -> str:
    agreement = results["agreement"].sel(way="refitted").values
    good = np.flatnonzero(agreement >= GOOD * float(results["own_agreement"]))
    at = results.isel(penalty=int(good[0]) if len(good) else int(np.nanargmax(agreement)))
    refit, cut = (at.sel(way=way) for way in ("refitted", "pruned"))
    lead = "" if len(good) else "No refit agrees with the model nine times out of ten as often as its own weights. "
    return (
        f"{lead}With {float(at['sparsity']):.1%} of the weights 0, refitted ones agree with the model in "
        f"{told(refit, 'agreement', '.1%')} at a divergence of {told(refit, 'kl', '.3f')} nats; the "
        f"model's own weights pruned to the same share in {told(cut, 'agreement', '.1%')} at "
        f"{told(cut, 'kl', '.3f')}."
    )


def _dimensions(results: xr.Dataset) -> str:
    counts = results["written"].values
    fewest = int(np.argmin(np.where(counts > 0, counts, counts.max() + 1)))
    up, down = (
        joined([f'"{text}"' for text in _texts(results[f"{end}_text"].values[fewest, :3].tolist())])
        for end in ("up", "down")
    )
    return (
        f"The median dimension then writes {np.median(counts):,.0f} tokens, {int((counts == 0).sum())} of "
        f"{len(counts)} write none; the one that writes fewest, {fewest}, writes {int(counts[fewest])}: up {up}, down "
        f"{down}."
    )


def _mind(results: xr.Dataset) -> list[str]:
    out = []
    for name, verb in (("begins", "begin with"), ("holds", "hold")):
        texts = _texts(results[f"{name}_text"].values[:NAMED].tolist())
        named = [
            f'"{text}" ({told(results.isel({f"{name}_rank": n}), f"{name}_share", ".1%")})'
            for n, text in enumerate(texts)
        ]
        out.append(f"Of {results.attrs['samples']} texts from nothing most {verb} {joined(named)}.")
    first = _texts(results["sample_text"].values[:1].tolist())[0]
    return [*out, f"One of them: {first[:120]}{'…' if len(first) > 120 else ''}"]


def _texts(values: list[str]) -> list[str]:
    return [visible(json.loads(text)) for text in values]
