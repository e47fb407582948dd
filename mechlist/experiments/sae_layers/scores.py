"""Three ways of scoring layers for SAEs, and what the features of each layer do."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.experiments.list_pairs import ListPairs
from mechlist.lens.logit_lens import lens_differences
from mechlist.patching.grid import patch_cells
from mechlist.runner import Intervention, Rows, Runner
from mechlist.sae.ablation import metric_of
from mechlist.sae.attribution import FeatureAttribution
from mechlist.sae.load import Place, opened_sae
from mechlist.sae.sae import Sae, flat
from mechlist.sae.traces import Question

LENS, PATCHING, EXPLAINED = "jump in the logit lens", "patching, discounted", "attribution explained"
HEURISTICS = (LENS, PATCHING, EXPLAINED)


def lens_jumps(runner: Runner, pairs: ListPairs, tokens: Tensor, layers: Sequence[int]) -> Float[np.ndarray, " sae"]:
    """Size of the mean change of the logit difference along each layer, read through the last norm."""
    rows = [row[:n] for row, n in zip(tokens, pairs.lengths.tolist(), strict=True)]
    where = (pairs.lengths - 1)[:, None]
    found = lens_differences(runner, rows, where, [pairs.direction.answer], [pairs.direction.wrong])
    stages = found[:, 0].double().mean(0).numpy()
    return np.abs(np.diff(stages))[list(layers)]


def patching_scores(runner: Runner, pairs: ListPairs, layers: Sequence[int], last: float) -> Float[np.ndarray, " sae"]:
    """Mean size of the effect of the stream from the other adjective's run, added up over roles.

    The role that is measured counts `last`, and layer l of n counts 1 - l / n, as near the end every patch has its
    effect, whatever is computed there.
    """
    cells = patch_cells(runner, pairs.arguments("noising", "resid_post", "position"))
    effect = np.abs(cells["patched"].values - cells["base"].values[:, None, None])
    weight = np.array([last if role == pairs.own else 1.0 for role in pairs.roles])
    depth = 1 - np.arange(runner.shape.n_layers) / runner.shape.n_layers
    with np.errstate(invalid="ignore"):
        by_layer = np.nansum(np.nan_to_num(effect).mean(axis=0) * weight, axis=1) * depth
    return by_layer[list(layers)]


def explained_scores(found: Sequence[FeatureAttribution]) -> Float[np.ndarray, " sae"]:
    """Attribution that the features get in size, times their share of it beside the error, mean over lists."""
    features, error = (np.stack([getattr(own, name).abs().numpy() for own in found]) for name in ("features", "error"))
    share = features / np.where(features + error > 0, features + error, 1.0)
    return (features * share).mean(axis=1)


def effects(
    runner: Runner,
    where: Sequence[Place],
    found: Sequence[FeatureAttribution],
    question: Question,
    counted: Bool[Tensor, "list position"],
) -> Float[np.ndarray, "sae list"]:
    """The metric minus the metric without a list's strongest features that speak for the answer, one SAE at a time.

    Taken off is what they write in the plain run, at all positions that count; the SAE's error is kept.
    """
    rows = [tokens[:n] for tokens, n in zip(question.tokens, question.lengths.tolist(), strict=True)]
    base = metric_of(runner, question, rows)["metric"]
    out = np.zeros((len(where), len(rows)))
    for i, (place, own) in enumerate(zip(where, found, strict=True)):
        with opened_sae(runner, place) as sae:
            written = _written(runner, sae, own, rows, counted)
        with runner.intervene(_without(*written)):
            changed = metric_of(runner, question, rows)["metric"]
        out[i] = question.sign * (base - changed).double().cpu().numpy()
    return out


def _written(
    runner: Runner,
    sae: Sae,
    own: FeatureAttribution,
    rows: Sequence[Tensor],
    counted: Bool[Tensor, "list position"],
) -> tuple[str, Float[Tensor, "list position d_in"]]:
    """The SAE's hook, and what the features write."""
    x = flat(runner.capture(rows, sae.hook)[sae.hook])
    out, device = torch.zeros(len(rows), counted.shape[1], sae.d_in), sae.decoder.device
    for i, row in enumerate(rows):
        kept = own.feature[i][own.attribution[i] > 0].to(device)
        at = counted[i, : len(row)].nonzero()[:, 0]
        out[i, at] = (sae.encode(x[i, at].to(device))[:, kept] @ sae.decoder[kept]).float().cpu()
    return sae.hook, out


def _without(hook: str, size: Float[Tensor, "list position d_in"]) -> Intervention:
    def change(activation: Tensor, rows: Rows) -> Tensor:
        taken = size[rows.index.cpu()][:, : activation.shape[1]].to(activation)
        return activation - taken.reshape(activation.shape)

    return Intervention(hook, change)
