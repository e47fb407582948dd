"""What experiments on chosen features share: which features they are, and how strong features are on which topics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.datasets.lists.list_set import ListSet
from mechlist.errors import InputError
from mechlist.experiment import Option
from mechlist.runner import Runner
from mechlist.runs import results_file, results_of
from mechlist.sae.load import Place, load_sae, places
from mechlist.sae.sae import Sae, flat
from mechlist.sae.transfer import cross_entropy, reconstruction, warning
from mechlist.text import visible

Sign = Literal["positive", "negative", "both"]


def _without_run(experiment: Any) -> str:
    return "without features_from" if experiment.features_from is None else ""


FROM_RUN: Mapping[str, Option] = {"strongest": Option(_without_run), "sign": Option(_without_run)}
"""Options that count where features are those of a sae-attribution run."""


def check_one_source(features: Sequence[str], source: Path | None) -> None:
    """Features are named or taken from a run.

    Raises:
        InputError: both.
    """
    if features and source is not None:
        raise InputError("features and features_from exclude each other: give one of them.")


class Feature(NamedTuple):
    """One feature of one of the SAEs at hand."""

    sae: int
    """Number of the SAE."""
    number: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """SAEs, some of their features in the order of their strength, and where that comes from."""

    places: Sequence[Place]
    features: tuple[Feature, ...]
    strength: Mapping[str, Mapping[Feature, float]]
    """By topic the mean attribution of features; empty where features were given by hand."""

    def label(self, feature: Feature) -> str:
        """As figures and sentences name it: `layer_3:17`."""
        return f"{short_name(self.places[feature.sae].name)}:{feature.number}"


def short_name(sae: str) -> str:
    """The end of an SAE's name, which tells it from others."""
    return visible(sae.rstrip("/").rsplit("/", 1)[-1])


def choose_features(
    names: Sequence[str],
    source: Path | None,
    *,
    strongest: int,
    sign: Sign = "positive",
    saes: Sequence[str] = (),
    model: str = "",
) -> Chosen:
    """The features that are named, or the strongest of a sae-attribution run.

    Args:
        names: `SAE:INDEX`, an SAE being one of `saes`, by its name or the end of it.
        source: folder or results.nc of a sae-attribution run.
        strongest: features that are taken from it, those with the largest mean attribution.
        sign: of the attributions that count; `both` goes by their size.
        saes: names of SAEs, by default the built-in ones; those of the run where features are taken from one.
        model: whose built-in ones.

    Raises:
        InputError: no feature, one twice, an SAE that is not there, a file that holds no such results.
    """
    if source is not None:
        return _of_run(source, strongest, sign)
    where = places(saes, model)
    found = tuple(_parsed(name, where) for name in names)
    if not found:
        raise InputError("features must name one feature at least, as SAE:INDEX; or give a run with features_from.")
    twice = next((name for i, name in enumerate(names) if found[i] in found[:i]), None)
    if twice is not None:
        raise InputError(f"features must name each feature once; {twice} is there twice.")
    return Chosen(places=where, features=found, strength={})


def load_chosen(runner: Runner, chosen: Chosen) -> list[Sae | None]:
    """The SAEs that have a chosen feature; None for the others.

    Raises:
        InputError: a feature that its SAE does not have.
    """
    used = {feature.sae for feature in chosen.features}
    device = str(runner.language_model.device)
    saes = [load_sae(place, device=device) if i in used else None for i, place in enumerate(chosen.places)]
    for feature in chosen.features:
        sae = saes[feature.sae]
        if sae is not None and feature.number >= sae.d_sae:
            raise InputError(
                f"features must be from 0 to {sae.d_sae - 1} of {sae.name}, not {feature.number}: it has no more."
            )
    return saes


def special_tokens(runner: Runner) -> list[int]:
    """BOS and the tokenizer's other special tokens, at which SAEs are not asked unless it is said."""
    return sorted({*runner.tokenizer.all_special_ids, runner.bos_token_id} - {None})


def counted_positions(
    runner: Runner, tokens: Int[Tensor, "list position"], lengths: Int[Tensor, " list"], *, keep_special: bool = False
) -> Bool[Tensor, "list position"]:
    """Positions of tokens and not of padding, without special tokens unless they are kept."""
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    return real if keep_special else real & ~torch.isin(tokens, torch.tensor(special_tokens(runner)))


def check_transfer(runner: Runner, saes: Iterable[Sae], data: ListSet) -> xr.Dataset:
    """The check of sae-transfer on the lists at hand without special tokens, for the warning that figures carry.

    `checked_explained_variance(checked)` and `checked_ce_recovered(checked)`.
    """
    counted, scored = counted_positions(runner, data.tokens, data.lengths), data.scored
    names, made, loss = [], [], []
    for sae in saes:
        names.append(short_name(sae.name))
        made.append(reconstruction(runner, sae, data.rows, counted).explained_variance)
        loss.append(cross_entropy(runner, sae, data.rows, counted, scored).recovered)
    variables = {"checked_explained_variance": ("checked", made), "checked_ce_recovered": ("checked", loss)}
    return xr.Dataset(variables, {"checked": names})


def transfer_warning(results: xr.Dataset) -> str:
    """What a figure's caption begins with where an SAE fails the check; empty where none does, or nobody checked."""
    if "checked" not in results.coords:
        return ""
    scores = (results[f"checked_{name}"].values.tolist() for name in ("explained_variance", "ce_recovered"))
    return warning([str(name) for name in results["checked"].values], *scores)


def activation_by_topic(
    runner: Runner, sae: Sae, data: ListSet, counted: Bool[Tensor, "list position"]
) -> tuple[Float[np.ndarray, "topic feature"], Float[np.ndarray, " feature"]]:
    """Mean activation of every feature over the positions that count, by topic as sorted; and the largest anywhere."""
    x = flat(runner.capture(data.rows, sae.hook)[sae.hook])
    topics = data.clusters
    means, largest = [], torch.zeros(sae.d_sae)
    for topic in np.unique(topics):
        rows = torch.from_numpy(np.flatnonzero(topics == topic))
        total, n = torch.zeros(sae.d_sae, dtype=torch.float64), 0
        for row in rows.tolist():
            f = sae.encode(x[row][counted[row, : x.shape[1]]].to(sae.decoder.device)).float().cpu()
            total += f.double().sum(0)
            largest = torch.maximum(largest, f.amax(0)) if len(f) else largest
            n += len(f)
        means.append((total / max(1, n)).numpy())
    return np.stack(means), largest.numpy()


def _parsed(name: str, where: Sequence[Place]) -> Feature:
    sae, colon, index = name.rpartition(":")
    if not colon or not index.isdigit():
        raise InputError(f"features must be SAE:INDEX, such as {short_name(where[0].name)}:17, not {name!r}.")
    found = [i for i, place in enumerate(where) if sae in (place.name, short_name(place.name))]
    if len(found) != 1:
        there = ", ".join(short_name(place.name) for place in where)
        raise InputError(f"features must name one of the SAEs ({there}); {sae!r} names {len(found) or 'none'} of them.")
    return Feature(found[0], int(index))


def _of_run(source: Path, strongest: int, sign: Sign) -> Chosen:
    results = results_of(source, "sae-attribution", "features_from")
    where = places([str(name) for name in results["sae"].values])
    topics = results["topic"].values
    total: dict[Feature, float] = {}
    by_topic: dict[str, dict[Feature, float]] = {str(topic): {} for topic in np.unique(topics)}
    number, attribution = results["feature"].values, np.nan_to_num(results["attribution"].values)
    for i, s, rank in zip(*np.nonzero(number >= 0), strict=True):
        feature, value = Feature(int(s), int(number[i, s, rank])), float(attribution[i, s, rank])
        total[feature] = total.get(feature, 0.0) + value
        own = by_topic[str(topics[i])]
        own[feature] = own.get(feature, 0.0) + value / int((topics == topics[i]).sum())
    turned = {"positive": total, "negative": {feature: -value for feature, value in total.items()}}
    size = turned.get(sign, {feature: abs(value) for feature, value in total.items()})
    order = sorted((feature for feature in size if size[feature] > 0), key=lambda feature: (-size[feature], feature))
    if not order:
        file = results_file(source)
        raise InputError(f"features_from must hold a feature of the sign asked for, {sign}; {file} has none.")
    return Chosen(places=where, features=tuple(order[:strongest]), strength=by_topic)
