"""Activation of chosen features along lists, where it is largest, and the tokens that they write."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.role_positions import CountFrom, named_roles
from mechlist.errors import InputError
from mechlist.experiments.sae_features import Chosen
from mechlist.runner import Runner
from mechlist.sae.sae import Sae, flat
from mechlist.text import escaped, visible
from mechlist.weights.output import output_weights

WINDOW = 8
"""Tokens on both sides of a context."""


def activations(
    runner: Runner, saes: Sequence[Sae | None], chosen: Chosen, rows: Sequence[torch.Tensor]
) -> Float[np.ndarray, "feature list position"]:
    """Of every chosen feature at every token; NaN in padding."""
    width = max(len(row) for row in rows)
    out = np.full((len(chosen.features), len(rows), width), np.nan, dtype=np.float32)
    for number, sae in enumerate(saes):
        if sae is None:
            continue
        own = [i for i, feature in enumerate(chosen.features) if feature.sae == number]
        columns = torch.tensor([chosen.features[i].number for i in own])
        x = flat(runner.capture(rows, sae.hook)[sae.hook])
        for i, row in enumerate(rows):
            f = sae.encode(x[i, : len(row)].to(sae.decoder.device))[:, columns.to(sae.decoder.device)]
            out[own, i, : len(row)] = f.float().cpu().numpy().T
    return out


def largest(
    traces: Float[np.ndarray, "feature list position"], counted: Bool[np.ndarray, "list position"]
) -> Float[np.ndarray, "feature list"]:
    """Each feature's largest activation on each list, at the positions that count."""
    return np.where(counted[None], np.nan_to_num(traces), 0.0).max(axis=2)


def by_role(
    traces: Float[np.ndarray, "feature list position"],
    counted: Bool[np.ndarray, "list position"],
    data: ListSet,
    count_from: CountFrom,
    items: int,
) -> xr.Dataset:
    """Mean activation at the positions with each role that count; and by item of its largest one, mean over lists.

    `role_activation(feature, role)` and `item_activation(feature, item)`; items counted from the first.
    """
    named = named_roles(data.roles, data.lengths.tolist(), count_from, items)
    roles = {
        name: [[at for at in positions if counted[i, at]] for i, positions in enumerate(where)]
        for name, where in named.items()
    }
    roles = {name: where for name, where in roles.items() if any(where)}
    means = np.full((len(traces), len(roles)), np.nan)
    for r, where in enumerate(roles.values()):
        found = [traces[:, i, positions] for i, positions in enumerate(where) if positions]
        means[:, r] = np.concatenate(found, axis=1).mean(axis=1)
    in_items = np.full((len(traces), len(data), data.width), np.nan)
    for i, one in enumerate(data.roles):
        for item in range(one.n_items):
            here = np.flatnonzero(one.item_from_start == item)
            in_items[:, i, item] = traces[:, i, here].max(axis=1)
    told = np.isfinite(in_items).any(axis=1)
    of_items = np.where(told, np.nansum(in_items, axis=1) / np.isfinite(in_items).sum(axis=1).clip(min=1), np.nan)
    variables = {"role_activation": (("feature", "role"), means), "item_activation": (("feature", "item"), of_items)}
    return xr.Dataset(variables, {"role": list(roles), "item": np.arange(1, data.width + 1)})


def contexts(
    runner: Runner,
    traces: Float[np.ndarray, "feature list position"],
    counted: Bool[np.ndarray, "list position"],
    data: ListSet,
    count: int,
) -> xr.Dataset:
    """The tokens at which each feature is most active, one a list, with the text around them.

    `context_*(feature, rank)`: list, position, activation, and the texts before, at and behind it, escaped.
    """
    allowed = np.where(counted[None], np.nan_to_num(traces), 0.0)
    shape = (len(traces), min(count, len(data)))
    found: dict[str, np.ndarray] = {
        "list": np.full(shape, -1),
        "position": np.full(shape, -1),
        "activation": np.full(shape, np.nan),
    }
    texts = {name: np.full(shape, escaped(""), dtype=object) for name in ("before", "token", "behind")}
    for f, own in enumerate(allowed):
        order = np.argsort(-own.max(axis=1), kind="stable")[: shape[1]]
        for rank, i in enumerate(order.tolist()):
            at = int(own[i].argmax())
            if own[i, at] <= 0:
                break
            found["list"][f, rank], found["position"][f, rank] = i, at
            found["activation"][f, rank] = own[i, at]
            row = data.rows[i].tolist()
            words = runner.token_texts(row[max(0, at - WINDOW) : at + WINDOW + 1])
            place = min(at, WINDOW)
            parts = "".join(words[:place]), words[place], "".join(words[place + 1 :])
            for name, text in zip(texts, parts, strict=True):
                texts[name][f, rank] = escaped(text)
    variables: dict[str, Any] = {f"context_{name}": (("feature", "rank"), v) for name, v in found.items()}
    variables |= {f"context_{name}": (("feature", "rank"), v.astype(str)) for name, v in texts.items()}
    return xr.Dataset(variables)


def tokens_written(runner: Runner, saes: Sequence[Sae | None], chosen: Chosen, count: int) -> xr.Dataset:
    """The tokens whose logits a feature's direction raises and lowers most, by the direct path to the unembedding.

    `written(feature, end, place)` in logits for one unit of the feature, where the final norm divides by 1; NaN for
    SAEs that do not write to the residual stream. `written_token`: their texts, escaped.
    """
    output = output_weights(runner)
    shape = (len(chosen.features), 2, count)
    values, texts = np.full(shape, np.nan), np.full(shape, escaped(""), dtype=object)
    for i, feature in enumerate(chosen.features):
        sae = saes[feature.sae]
        if sae is None or sae.hook.endswith("hook_z"):
            continue
        direction = sae.decoder[feature.number].to(output.weight) * output.gain.to(output.weight)
        logits = (direction @ output.weight).float() * output.multiplier
        logits = logits - logits.mean()
        for end, turned in enumerate((logits, -logits)):
            top = turned.topk(min(count, len(turned)))
            values[i, end, : len(top.values)] = (top.values * (1 - 2 * end)).cpu().numpy()
            texts[i, end, : len(top.values)] = [escaped(visible(t)) for t in runner.token_texts(top.indices.tolist())]
    dims = ("feature", "end", "place")
    return xr.Dataset({"written": (dims, values), "written_token": (dims, texts.astype(str))}, {"end": ["up", "down"]})


def require_active(chosen: Chosen, values: Float[np.ndarray, "feature list"]) -> None:
    """Refuse features none of which is active anywhere.

    Raises:
        InputError: naming them.
    """
    if not (values > 0).any():
        named = ", ".join(chosen.label(feature) for feature in chosen.features[:5])
        raise InputError(f"features must be active somewhere; {named} are active at no position that counts.")
