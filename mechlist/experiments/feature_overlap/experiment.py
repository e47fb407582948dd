"""Which topics use the same features: Jaccard indices of their feature sets, with a permutation null."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.feature_overlap import report as output
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.sae.attributed import AttributedFeatures, read_attributed
from mechlist.sae.overlap import clustered, incidence, jaccard, original_ratio, overlap_p_values
from mechlist.text import visible

SEED = 0
"""Of the permutations: p values follow from the file alone."""


@register("feature-overlap")
@dataclass(frozen=True, kw_only=True)
class FeatureOverlap(Experiment):
    """Compare the SAE features that a metric is attributed to between topics, beside features dealt out at random."""

    needs_model: ClassVar[bool] = False

    recorded: Path | None = None
    """File of attributed features by topic, such as `exports/features.json` of an sae-attribution run."""
    keep_bos: bool = False
    """Count features at position 0 (BOS) too, where most lists have the same."""
    original_ratio: bool = False
    """Also give the original study's unsymmetric ratio, for comparison."""
    permutations: int = 1000
    """Draws of the null: features dealt out to topics at random."""

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise InputError(f"permutations must be at least 1, not {self.permutations}.")

    def run(self, runner: Runner | None = None) -> xr.Dataset:  # noqa: ARG002
        """The Jaccard index of every pair of topics, and how often chance gives as large a one."""
        if self.recorded is None:
            raise InputError(
                "feature-overlap needs --recorded FILE: attributed features by topic, such as `exports/features.json` "
                "of an sae-attribution run."
            )
        attributed = read_attributed(self.recorded)
        features, has = incidence(attributed, keep_bos=self.keep_bos)
        index = jaccard(has)
        p = overlap_p_values(has, self.permutations, np.random.default_rng(SEED))
        topics = [visible(topic) for topic in attributed.topics]
        pair = ("topic", "other_topic")
        results = xr.Dataset(
            {
                "jaccard": (pair, index),
                "p_value": (pair, p),
                "n_features": ("topic", has.sum(axis=1)),
                "n_lists": ("topic", [len(lists) for lists in attributed.topics.values()]),
                "order": ("topic", np.argsort(clustered(index))),
                "has": (("topic", "feature"), has),
                "hook": ("feature", [visible(hook) for hook, _ in features]),
                "number": ("feature", [number for _, number in features]),
            },
            {"topic": topics, "other_topic": topics},
        )
        results["order"].attrs["meaning"] = "place of each topic in the clustered map"
        if self.original_ratio:
            results["original_ratio"] = (pair, original_ratio(attributed, keep_bos=self.keep_bos))
        entries, at_bos = _entries(attributed)
        return results.assign_attrs(
            model=visible(attributed.model),
            metric=visible(attributed.metric),
            top_k=attributed.top_k,
            keep_bos=self.keep_bos,
            entries=entries,
            at_bos=at_bos,
            permutations=self.permutations,
            seed=SEED,
            sha256=hashlib.sha256(self.recorded.expanduser().read_bytes()).hexdigest(),
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The clustered heat map; the original's ratio where it was asked for."""
        return output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Every pair of topics, and every feature with the topics that have it."""
        return output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How much topics share, which share most and least, and which more than chance."""
        return output.findings(results)


def _entries(attributed: AttributedFeatures) -> tuple[int, int]:
    """All entries, and those at position 0."""
    positions = [entry[0] for lists in attributed.topics.values() for one in lists for entry in one]
    return len(positions), positions.count(0)
