"""The sets of features that are changed: the chosen ones, and what they are compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from mechlist.errors import InputError
from mechlist.experiments.sae_features import Chosen, Feature
from mechlist.runner import Runner
from mechlist.text import joined

CLEAN, CHOSEN, SPLICE, OTHER_TOPIC = "clean", "features", "splice", "other topic"
NEAREST = 10
"""Active features closest in mean activation, of which one is drawn as control."""


class Seen(NamedTuple):
    """What an SAE's features do on the lists, at the positions where they are changed."""

    by_topic: Float[np.ndarray, "topic feature"]
    """Mean activation."""
    largest: Float[np.ndarray, " feature"]

    @property
    def mean(self) -> Float[np.ndarray, " feature"]:
        """Over topics alike."""
        return self.by_topic.mean(axis=0)


FeatureSet = Mapping[str, tuple[Feature, ...]]
"""Features that are changed, by topic."""


def feature_sets(
    runner: Runner, chosen: Chosen, seen: Mapping[int, Seen], topics: Sequence[str], controls: int
) -> dict[str, FeatureSet]:
    """The chosen features, random ones matched by activation, and of each topic those of another at the same ranks.

    Raises:
        InputError: too few active features for controls.
    """
    sets: dict[str, FeatureSet] = {CHOSEN: dict.fromkeys(topics, chosen.features)}
    for number in range(1, controls + 1):
        generator = runner.generator(f"random features {number}")
        sets[f"random {number}"] = dict.fromkeys(topics, _matched(chosen, seen, generator))
    if len(topics) > 1:
        ranked = {topic: _ranked(chosen, seen, t, topic) for t, topic in enumerate(topics)}
        others = dict(zip(topics, [*topics[1:], topics[0]], strict=True))
        sets[OTHER_TOPIC] = {
            topic: _same_ranks(chosen.features, ranked[topic], ranked[other]) for topic, other in others.items()
        }
    return sets


def active_only(chosen: Chosen, seen: Mapping[int, Seen]) -> Chosen:
    """The chosen features that are active on the lists; those of another run need not be.

    Raises:
        InputError: a feature that was given by hand is not, or none of a run is.
    """
    kept = tuple(feature for feature in chosen.features if seen[feature.sae].mean[feature.number] > 0)
    lost = [chosen.label(feature) for feature in chosen.features if feature not in kept]
    if lost and (not kept or not chosen.strength):
        raise InputError(
            f"features must be active where they are changed; {joined(lost)} {'is' if len(lost) == 1 else 'are'} at "
            "none of the positions."
        )
    return replace(chosen, features=kept)


def _matched(chosen: Chosen, seen: Mapping[int, Seen], generator: torch.Generator) -> tuple[Feature, ...]:
    """As many features of the same SAEs, each drawn from the active ones nearest in mean activation."""
    found: list[Feature] = []
    for feature in chosen.features:
        mean = seen[feature.sae].mean
        taken = [one.number for one in (*chosen.features, *found) if one.sae == feature.sae]
        free = np.setdiff1d(np.flatnonzero(mean > 0), taken)
        if not len(free):
            raise InputError(
                f"controls must be 0 here: beside those that are changed, no feature of the SAE of "
                f"{chosen.label(feature)} is active."
            )
        near = free[np.argsort(np.abs(np.log(mean[free] / mean[feature.number])), kind="stable")[:NEAREST]]
        found.append(Feature(feature.sae, int(near[int(torch.randint(len(near), (1,), generator=generator))])))
    return tuple(found)


def _ranked(chosen: Chosen, seen: Mapping[int, Seen], number: int, topic: str) -> list[Feature]:
    """Features of a topic, the strongest first: by attribution where that is known, else by mean activation."""
    if topic in chosen.strength:
        strength = chosen.strength[topic]
    else:
        strength = {
            Feature(sae, int(i)): float(one.by_topic[number, i])
            for sae, one in seen.items()
            for i in np.flatnonzero(one.by_topic[number])
        }
    return sorted(strength, key=lambda feature: (-abs(strength[feature]), feature))


def _same_ranks(chosen: Sequence[Feature], own: Sequence[Feature], other: Sequence[Feature]) -> tuple[Feature, ...]:
    """For each chosen feature the one of its rank on another topic; the next there if that is chosen or taken."""
    found: list[Feature] = []
    for place, feature in enumerate(chosen):
        rank = own.index(feature) if feature in own else place
        free = [one for one in (*other[rank:], *reversed(other[:rank])) if one not in chosen and one not in found]
        if free:
            found.append(free[0])
    return tuple(found)
