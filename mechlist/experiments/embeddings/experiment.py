"""Where the tokens of a prompt lie: principal components of embeddings and of the residual stream."""

import importlib.util
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float

from mechlist.errors import InputError
from mechlist.experiments.embeddings import report
from mechlist.experiments.prompt_experiment import PromptExperiment
from mechlist.metrics.pca import principal_components
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import escaped

EMBEDDING = "hook_embed"
"""The token embeddings, before positions are added."""


@register("embeddings")
@dataclass(frozen=True, kw_only=True)
class Embeddings(PromptExperiment):
    """Principal components of a prompt's token embeddings and of its residual stream, layer by layer."""

    prompt: str = ""
    """Prompt; without, a short list of fruits is asked for."""
    layers: tuple[int, ...] = ()
    """Layers behind which the residual stream is taken; without, the first, the middle and the last."""
    components: int = 2
    """Principal components, two at least."""
    fit_bos: bool = True
    """Whether BOS, which often lies far from all other tokens, decides the components with them."""
    umap: bool = False
    """Two dimensions of UMAP beside them, where umap-learn is installed."""

    def __post_init__(self) -> None:
        if self.components < 2:
            raise InputError(f"components must be at least 2, not {self.components}.")
        if self.umap and importlib.util.find_spec("umap") is None:
            raise InputError("umap needs umap-learn, which is not installed: pip install umap-learn.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Coordinates of every token in every place, and the variance that each component explains."""
        prompt = self.prompt_of(runner, self.prompt)
        layers = self._layers(runner)
        hooks = {"embedding": EMBEDDING} | {f"after layer {n}": f"blocks.{n}.hook_resid_post" for n in layers}
        kept = runner.capture([list(prompt.tokens)], *hooks.values())
        has_bos = prompt.tokens[0] == runner.bos_token_id
        fitted = np.ones(len(prompt.tokens), dtype=bool)
        fitted[0] = self.fit_bos or not has_bos
        vectors = np.stack([kept[hook][0].double().numpy() for hook in hooks.values()])
        found = [principal_components(place, self.components, fitted) for place in vectors]
        results = xr.Dataset(
            {
                "coordinate": (("place", "position", "component"), np.stack([one.coordinates for one in found])),
                "explained": (("place", "component"), np.stack([one.explained for one in found])),
                "norm": (("place", "position"), np.linalg.norm(vectors, axis=2)),
                "token_id": ("position", list(prompt.tokens)),
                "text": ("position", np.array([escaped(t) for t in runner.token_texts(prompt.tokens)], dtype=object)),
            },
            coords={
                "place": list(hooks),
                "position": np.arange(len(prompt.tokens)),
                "component": 1 + np.arange(self.components),
            },
        )
        if self.umap:
            results["umap"] = ("place", "position", "axis"), np.stack([umapped(v, runner.seed) for v in vectors])
        return results.assign_attrs(
            model=runner.language_model.info["name"], has_bos=has_bos, fit_bos=bool(fitted[0]), d_model=vectors.shape[2]
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Tokens on the first two components of every place."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Tokens with their coordinates and lengths; places with the variance explained."""
        return report.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How much two components tell, and how far BOS lies."""
        return report.findings(results)

    def _layers(self, runner: Runner) -> list[int]:
        last = runner.shape.n_layers - 1
        chosen = self.layers or (0, last // 2, last)
        out = [layer + last + 1 if layer < 0 else layer for layer in chosen]
        if any(not 0 <= layer <= last for layer in out):
            raise InputError(f"layers must be from 0 to {last}, or count from the last (-1), not {list(chosen)}.")
        return list(dict.fromkeys(out))


def umapped(vectors: Float[np.ndarray, "position d_model"], seed: int) -> Float[np.ndarray, "position axis"]:
    """Two dimensions that keep neighbours (McInnes et al. 2018); distances between groups mean little."""
    umap = importlib.import_module("umap")
    return np.asarray(umap.UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed).fit_transform(vectors))
