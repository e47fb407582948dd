"""`show`: results drawn as their experiment would draw them, in a notebook or in the browser."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.figures import head_heatmap, position_heatmap
from mechlist.figures.tokens import MIXED, MIXED_SAID, tokens_of_all
from mechlist.registry import find
from mechlist.text import number_of


def show(results: xr.Dataset, experiment: Experiment | None = None) -> None:
    """Draw results: those of a run as its experiment draws them, those of `patch_grid` as heat maps.

    In a notebook the figures appear below the cell; elsewhere they open in the browser.

    Args:
        results: what an experiment, `patch_grid` or `attribution_grid` gave.
        experiment: that gave them; without, the one that a run's results name, with its default parameters.

    Raises:
        InputError: results that nothing is known to draw.
    """
    for figure in figures_of(results, experiment).values():
        figure.show()


def figures_of(results: xr.Dataset, experiment: Experiment | None = None) -> dict[str, go.Figure]:
    """The figures that `show` shows, by name.

    Raises:
        InputError: as `show`.
    """
    if experiment is not None:
        return experiment.figures(results)
    if "experiment" in results.attrs:
        return _default(str(results.attrs["experiment"])).figures(results)
    values = next((results[name] for name in ("recovered", "patched", "effect") if name in results), None)
    if values is None or values.ndim == 0 or "layer" not in values.dims:
        raise InputError(
            "show draws what patch_grid and attribution_grid give over a whole grid, and the results of a run; for "
            f"others, which have {', '.join(map(str, results.data_vars)) or 'no variables'}, give the experiment too: "
            "show(results, experiment)."
        )
    if values.name == "patched":
        values = values - results["base"]
    return _grid(results, values, "share recovered" if values.name == "recovered" else results["base"].attrs["units"])


def _default(name: str) -> Experiment:
    make: Callable[[], Experiment] = find(name)
    try:
        return make()
    except TypeError as error:
        raise InputError(f"{name} has parameters without default: show(results, experiment).") from error


def _grid(results: xr.Dataset, values: xr.DataArray, unit: str) -> dict[str, go.Figure]:
    """Heat maps over layers and positions or heads; of both, each with the strongest of the other."""
    prompts = results.sizes["prompt"]
    words: dict[str, Any] = {
        "title": f"{results.attrs['site']}: what replacing each cell does",
        "caption": f"Mean over {number_of(prompts, 'prompts')}."
        if prompts > 1
        else "One prompt, which says nothing of others.",
        "unit": unit,
    }
    mean = values.mean("prompt")
    places = [str(dim) for dim in mean.dims if dim != "layer"]
    return {
        f"{place}s": _map(results, _strongest(mean, [dim for dim in places if dim != place]), place, words)
        for place in places
    }


def _strongest(values: xr.DataArray, dims: list[str]) -> xr.DataArray:
    """Along these dimensions the value that is largest in size."""
    for dim in dims:
        values = values.isel({dim: abs(values).fillna(0).argmax(dim)}).drop_vars(dim, errors="ignore")
    return values


def _map(results: xr.Dataset, values: xr.DataArray, place: str, words: dict[str, Any]) -> go.Figure:
    if place == "head":
        return head_heatmap(values, diverging=True, **words)
    labels = [str(label) for label in values[place].values.tolist()] if place in values.coords else []
    if place == "position" and "token" in results:
        labels = tokens_of_all(results["token"].values.tolist())
        if any(MIXED in label for label in labels):
            words = words | {"caption": f"{words['caption']} {MIXED_SAID}"}
    numbered = values if place == "position" else values.rename({place: "position"})
    return position_heatmap(numbered.drop_vars("position", errors="ignore"), labels, **words)
