"""What features of SAEs do to lists: these are written again, and read, with the features changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist import effort
from mechlist.datasets.lists.list_set import ListSet, concatenated
from mechlist.errors import InputError, MechlistError
from mechlist.experiment import Claim, Option
from mechlist.experiments.list_curves import curves_by_set
from mechlist.experiments.list_experiment import SampledListExperiment, sample_lists
from mechlist.experiments.list_predictions import Predictions, predict
from mechlist.experiments.sae_ablation import report as output
from mechlist.experiments.sae_ablation.positions import Start, Where, before_last_item, check_roles
from mechlist.experiments.sae_ablation.sets import CHOSEN, CLEAN, SPLICE, FeatureSet, Seen, active_only, feature_sets
from mechlist.experiments.sae_ablation.written import compared
from mechlist.experiments.sae_features import (
    FROM_RUN,
    Chosen,
    Feature,
    Sign,
    activation_by_topic,
    check_one_source,
    check_transfer,
    choose_features,
    load_chosen,
    special_tokens,
)
from mechlist.registry import register
from mechlist.runner import Intervention, Runner
from mechlist.runner.raw import basis_words, raw_activations
from mechlist.sae.changes import FeatureChange, FeatureMode, along, while_writing
from mechlist.sae.load import hooks_of
from mechlist.sae.sae import Sae
from mechlist.text import visible


@register("sae-ablation")
@dataclass(frozen=True, kw_only=True)
class SaeAblation(SampledListExperiment):
    """Change SAE features and write lists again with the same random numbers: items, hazard, fillers and diversity.

    Always beside three controls: the SAEs spliced in with nothing changed, random active features matched by
    activation, and the features that have the same ranks on another topic.
    """

    options: ClassVar[Mapping[str, Option]] = {
        **FROM_RUN,
        "factor": Option(
            lambda experiment: "" if experiment.change in ("scale", "steer") else "unless change is scale or steer"
        ),
    }
    captions: ClassVar[Mapping[str, str]] = {
        "changes": "a row a quantity and set: its change, and how far that of the features goes beyond it",
        "features": "the features of each set, by topic",
        "lists": "a row a written list and set",
    }

    saes: tuple[str, ...] = ()
    """SAEs that features are named of: directories, DIR@HOOK or RELEASE:ID; by default the built-in ones of the model.
    """
    features: tuple[str, ...] = ()
    """Features as SAE:INDEX, such as layer_3:17, where SAE is the name of one of them or its end."""
    features_from: Path | None = None
    """Folder or results.nc of a sae-attribution run, whose strongest features are changed instead."""
    strongest: int = 5
    """How many of them."""
    sign: Sign = "positive"
    """Those of them that count: with positive attribution (what is explained falls without them), negative or both."""
    change: FeatureMode = "zero"
    """What becomes of a feature: 0, its mean (over the lists), a multiple of it (scale); or steer, which adds its
    direction. The SAE's error is kept."""
    factor: float | int = 2.0
    """Of scale, the multiple; of steer, what is added in multiples of the feature's largest activation."""
    at: tuple[str, ...] = ()
    """Roles of the tokens at which features are changed: adjective, topic, prompt, header, hyphen, item, filler,
    line_break; by default all tokens that are not special."""
    while_writing: bool = True
    """Change features at tokens that are written too, and not in the prompt alone."""
    write_from: Literal["prompt", "last-item"] = "prompt"
    """Where lists are written again from: their prompt; or, as in the original study, where they stand before the last
    token of their last item."""
    controls: int = 3
    """Sets of random features, to compare with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.controls < 1 or self.strongest < 1:
            raise InputError(f"controls and strongest must be at least 1, not {self.controls} and {self.strongest}.")
        check_one_source(self.features, self.features_from)
        check_roles(self.at)
        if self.factor == 1 and self.change == "scale":
            raise InputError("factor must not be 1 where change is scale: nothing would change.")
        self.check_options()

    def run(self, runner: Runner) -> xr.Dataset:
        """Lists written as they are, with the features changed and with each control, and read as they were written."""
        model = runner.language_model.info["name"]
        chosen = choose_features(
            self.features,
            self.features_from,
            strongest=self.strongest,
            sign=self.sign,
            saes=self.saes,
            model=model,
        )
        runner = raw_activations(runner, hooks_of(runner, chosen.places))
        saes = {i: sae for i, sae in enumerate(load_chosen(runner, chosen)) if sae is not None}
        lists = self._lists(runner)
        starts, of_lists = self._starts(lists)
        where = self._where(runner, lists, starts)
        counted = where.along(lists, of_lists)
        seen = {i: Seen(*activation_by_topic(runner, sae, lists, counted)) for i, sae in saes.items()}
        asked, chosen = chosen.features, active_only(chosen, seen)
        topics = np.unique(lists.clusters).tolist()
        sets = feature_sets(runner, chosen, seen, topics, self.controls)
        work = _Work(self, runner, saes, seen, where)
        clean, begun = self._clean(work, lists, starts), [start for start in starts for _ in range(self.samples)]
        as_it_is = work.read(clean, begun, None)
        _require_change(as_it_is, work.read(clean, begun, sets[CHOSEN]))
        changed = self._changed(work, starts, sets)
        written, read = {CLEAN: clean} | changed, {CLEAN: (clean, as_it_is.drawn_end)}
        for name, own in changed.items():
            read[name] = (own, work.read(own, begun, sets.get(name), splice=name == SPLICE).drawn_end)
        results = xr.merge(
            [
                curves_by_set(runner, read, self.resamples, "features"),
                compared(runner, written, self.samples, self.resamples),
                check_transfer(runner, list(saes.values()), lists),
            ],
            join="outer",
            compat="equals",
        )
        return results.assign_attrs(self._attributes(runner, chosen, sets), inactive=len(asked) - len(chosen.features))

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Changes of lists by set, and hazards."""
        return output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Changes by set, features of each set, every list."""
        return output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the change does, beside what each control does."""
        return output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return output.claims(results)

    def _lists(self, runner: Runner) -> ListSet:
        """The lists; where they are cut before their last item, those that ended."""
        lists = self.data(runner)
        if self.write_from == "prompt":
            return lists
        kept = np.flatnonzero(lists.ended & (lists.n_items > 0))
        if not len(kept):
            raise InputError("write_from last-item needs lists that ended, and none did: give longer ones.")
        return lists.of(kept.tolist())

    def _starts(self, lists: ListSet) -> tuple[list[Start], list[Start]]:
        """What lists are written from, and the start of each given list."""
        if self.write_from == "prompt":
            return [Start(prompt) for prompt in lists.each_prompt], [Start(prompt) for prompt in lists.prompts]
        return (starts := before_last_item(lists)), starts

    def _where(self, runner: Runner, lists: ListSet, starts: list[Start]) -> Where:
        return Where(
            starts=starts,
            special=lists.special,
            never=special_tokens(runner),
            at=self.at,
            written=self.while_writing,
        )

    def _clean(self, work: "_Work", lists: ListSet, starts: list[Start]) -> ListSet:
        """Lists of the model as it is, which may have been written already."""
        there = not self.recorded and self.write_from == "prompt"
        return lists if there else work.written(starts, (), CLEAN)

    def _changed(self, work: "_Work", starts: list[Start], sets: Mapping[str, FeatureSet]) -> dict[str, ListSet]:
        """Lists written with the SAEs spliced in, and with each set."""
        out = {SPLICE: work.written(starts, (), SPLICE, splice=True)}
        for name, of_topic in sets.items():
            groups = _grouped(starts, of_topic)
            made = [work.written([starts[i] for i in own], features, name) for features, own in groups.items()]
            first = [i * self.samples for own in groups.values() for i in own]
            order = np.argsort([row + i for row in first for i in range(self.samples)])
            out[name] = concatenated(made).of(order)
        return out

    def _attributes(self, runner: Runner, chosen: Chosen, sets: Mapping[str, FeatureSet]) -> dict[str, Any]:
        named = {
            name: {topic: [chosen.label(feature) for feature in own] for topic, own in of_topic.items()}
            for name, of_topic in sets.items()
        }
        return {
            "model": runner.language_model.info["name"],
            "change": self.change,
            "factor": float(self.factor),
            "at": list(self.at),
            "while_writing": self.while_writing,
            "write_from": self.write_from,
            "sets": named,
            "ranked_by": "attribution" if chosen.strength else "mean activation",
            "basis": basis_words(runner),
            "max_new_tokens": self.max_new_tokens,
        }


@dataclass(frozen=True, eq=False)
class _Work:
    """Reading and writing with features changed."""

    asked: SaeAblation
    runner: Runner
    saes: Mapping[int, Sae]
    seen: Mapping[int, Seen]
    where: Where

    def read(self, lists: ListSet, starts: list[Start], own: FeatureSet | None, *, splice: bool = False) -> Predictions:
        """What the model predicts along lists, each with its start, by the rule of writing as well.

        Each topic has its own features.
        """
        counted, placed = self.where.along(lists, starts), list[Intervention]()
        if own is not None:
            for features in dict.fromkeys(own.values()):
                rows = torch.tensor([own[topic] == features for topic in lists.clusters.tolist()])
                placed += [along(change, counted & rows[:, None]) for change in self._changes(features)]
        if splice:
            placed += [along(change, counted) for change in self._changes((), splice=True)]
        with self.runner.intervene(*placed):
            return predict(self.runner, lists, rules=[self.asked.sampling] * len(lists), label="Reading lists")

    def written(
        self, starts: list[Start], features: tuple[Feature, ...], name: str, *, splice: bool = False
    ) -> ListSet:
        """Lists that the model writes with the features changed."""
        changes = self._changes(features, splice=splice)
        return sample_lists(
            self.runner,
            [start.prompt for start in starts],
            self.where.special,
            sampling=self.asked.sampling,
            samples=self.asked.samples,
            max_new_tokens=self.asked.max_new_tokens,
            begun=[start.begun for start in starts],
            edit=while_writing(changes, self.where, self.where.name) if changes else None,
            label=f"Writing lists ({name})",
        )

    def _changes(self, features: tuple[Feature, ...], *, splice: bool = False) -> list[FeatureChange]:
        if splice:
            return [FeatureChange(sae=sae, features=()) for sae in self.saes.values()]
        out = []
        for number, sae in self.saes.items():
            own = tuple(feature.number for feature in features if feature.sae == number)
            if own:
                values = self._values(number, own)
                out.append(FeatureChange(sae=sae, features=own, mode=self.asked.change, values=values))
        return out

    def _values(self, sae: int, features: tuple[int, ...]) -> Tensor | None:
        """What each feature is set to, multiplied by, or what is added of its direction."""
        seen, mode = self.seen[sae], self.asked.change
        if mode == "zero":
            return None
        if mode == "scale":
            return torch.full((len(features),), float(self.asked.factor))
        if mode == "mean":
            return torch.from_numpy(seen.mean[list(features)]).float()
        return float(self.asked.factor) * torch.from_numpy(seen.largest[list(features)]).float()


def _grouped(starts: list[Start], own: FeatureSet) -> dict[tuple[Feature, ...], list[int]]:
    """Numbers of the starts whose lists are written with the same features."""
    out: dict[tuple[Feature, ...], list[int]] = {}
    for number, start in enumerate(starts):
        out.setdefault(own[visible(start.prompt.topic)], []).append(number)
    return out


def _require_change(before: Predictions, after: Predictions) -> None:
    """Refuse a change that the model's logits do not know of.

    Raises:
        MechlistError: all are as they were.
    """
    same = [np.array_equal(one, other, equal_nan=True) for one, other in zip(before, after, strict=True)]
    if all(same) and not effort.sampled():
        raise MechlistError(
            "Changing the features leaves the model's logits as they are on every list, though they are active: the "
            "change did not happen, or is below rounding."
        )
