"""Where chosen SAE features are active: along every list, by topic, role and item, beside the list's twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.errors import InputError
from mechlist.experiment import Option
from mechlist.experiments.feature_traces import report as output
from mechlist.experiments.feature_traces.traces import (
    activations,
    by_role,
    contexts,
    largest,
    require_active,
    tokens_written,
)
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.sae_features import (
    FROM_RUN,
    Sign,
    check_one_source,
    check_transfer,
    choose_features,
    counted_positions,
    load_chosen,
)
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.raw import basis_words, raw_activations
from mechlist.sae.load import hooks_of
from mechlist.sae.neuronpedia import label_key, page, read_labels
from mechlist.text import visible


@register("feature-traces")
@dataclass(frozen=True, kw_only=True)
class FeatureTraces(MadeListExperiment):
    """Read chosen SAE features along every list: where they are active, on which topics, and what they write."""

    options: ClassVar[Mapping[str, Option]] = FROM_RUN

    saes: tuple[str, ...] = ()
    """SAEs that features are named of: directories, DIR@HOOK or RELEASE:ID; by default the built-in ones of the model.
    """
    features: tuple[str, ...] = ()
    """Features as SAE:INDEX, such as layer_3:17, where SAE is the name of one of them or its end."""
    features_from: Path | None = None
    """Folder or results.nc of a sae-attribution run, whose strongest features are read instead."""
    strongest: int = 12
    """How many of them."""
    sign: Sign = "both"
    """Those of them that count: with positive attribution, negative or both."""
    adjective: Literal["short", "long"] = "short"
    """Whose lists: those written after this adjective; the twin is the same list after the other one."""
    labels: Path | None = None
    """JSON file of labels by SITE_LAYER_FEATURE, such as those of Neuronpedia: {"res_20_8573": "..."}."""
    contexts: int = 5
    """Lists whose most active token is shown of each feature."""
    tokens: int = 8
    """Tokens that are shown of those which each feature writes up and down."""
    count_from: CountFrom = "end"
    """Items with roles of their own are those nearest to the last item, or to the first."""
    role_items: int = 2
    """How many they are; all other items share one role."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("strongest", "contexts", "tokens", "role_items"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_one_source(self.features, self.features_from)
        self.check_options()

    def run(self, runner: Runner) -> xr.Dataset:
        """Activation of every feature along every list and its twin; contexts, and tokens that are written."""
        model = runner.language_model.info["name"]
        chosen = choose_features(
            self.features, self.features_from, strongest=self.strongest, sign=self.sign, saes=self.saes, model=model
        )
        runner = raw_activations(runner, hooks_of(runner, chosen.places))
        saes = load_chosen(runner, chosen)
        data = self.data(runner).select(self.adjective)
        twin = data.swapped()
        counted = counted_positions(runner, data.tokens, data.lengths).numpy()
        own, other = (activations(runner, saes, chosen, lists.rows) for lists in (data, twin))
        peaks = largest(own, counted)
        require_active(chosen, peaks)
        labels = read_labels(self.labels) if self.labels is not None else {}
        used = [saes[feature.sae] for feature in chosen.features]
        numbers = [feature.number for feature in chosen.features]
        hooks = [sae.hook if sae else "" for sae in used]
        neuronpedia = [sae.neuronpedia if sae else "" for sae in used]
        known = [labels.get(label_key(*pair), "") for pair in zip(hooks, numbers, strict=True)]
        parts = [
            xr.Dataset(
                {
                    "activation": (("feature", "list", "position"), own),
                    "largest": (("feature", "list"), peaks),
                    "twin_largest": (("feature", "list"), largest(other, counted)),
                }
            ),
            by_role(own, counted, data, self.count_from, self.role_items),
            contexts(runner, own, counted, data, self.contexts),
            tokens_written(runner, saes, chosen, self.tokens),
            check_transfer(runner, [sae for sae in saes if sae is not None], data),
        ]
        coords = {
            "feature": [chosen.label(feature) for feature in chosen.features],
            "hook": ("feature", hooks),
            "number": ("feature", numbers),
            "neuronpedia": ("feature", neuronpedia),
            "page": ("feature", [page(*pair) for pair in zip(neuronpedia, numbers, strict=True)]),
            "label": ("feature", [visible(one) for one in known]),
            "topic": ("list", data.clusters.tolist()),
        }
        results = xr.merge(parts).assign_coords(coords)
        return results.assign_attrs(model=model, adjective=self.adjective, basis=basis_words(runner))

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Largest activations by list, clustered; their twins; by role and by item."""
        return output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Features, their contexts, the tokens that they write, and counts by topic."""
        return output.tables(results)

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """The features as a list that Neuronpedia opens, where it has them."""
        return output.files(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Where each feature is most active, and what it writes."""
        return output.findings(results)
