"""Mean effects of a grid of cells: intervals, corrected tests, numerical noise and null; and what they say.

They are computed once, when an experiment runs, and saved with its results: NAME is the mean, and NAME_low, NAME_high,
NAME_n, NAME_p_corrected, NAME_tested, NAME_survives and NAME_reason say how much it is worth. Figures, tables and
sentences read them.
"""

import dataclasses
from collections.abc import Hashable

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float, Int

from mechlist.datasets.topics import RUNS_OUT, capacities
from mechlist.errors import InputError
from mechlist.metrics.significance import Correction, beyond_null, effect_table
from mechlist.patching.sweep.task import Task
from mechlist.text import joined, number_of, visible, with_interval
from mechlist.types import Head

SEED = 0
"""Of the sign flips and the bootstrap: the statistics follow from the effects alone."""
LEVEL = 0.95
CORRECTIONS: dict[Correction, str] = {"max-t": "max-T", "benjamini-hochberg": "Benjamini-Hochberg"}
EXACT = 1e-4
"""Logits to which a patched cell equals a forward pass with hooks in float32; see `patch_grid`."""
EPSILON = float(np.finfo(np.float32).eps)
MEAN = "mean_effect"
"""Name of the mean effects over prompts."""
COLUMNS = ("estimate", "low", "high", "n", "p_corrected", "survives")
AGAINST = ("below_noise", "beyond_null")
"""What else may be known of a cell."""
SITES = {
    "resid_pre": "Residual stream before each layer",
    "resid_mid": "Residual stream after attention",
    "resid_post": "Residual stream after each layer",
    "attn_out": "Attention output",
    "mlp_out": "MLP output",
    "z": "Outputs of heads",
    "q": "Queries",
    "k": "Keys",
    "v": "Values",
    "pattern": "Attention patterns",
    "attn_scores": "Attention scores",
}
"""As titles name them."""


def estimated(
    effects: xr.DataArray,
    over: str,
    *,
    clusters: np.ndarray | None = None,
    noise: float | None = None,
    correction: Correction = "max-t",
) -> xr.Dataset:
    """Of every cell its mean `over` a dimension: `estimate`, `low`, `high`, `n`, `p_corrected`, `tested`, `survives`.

    Corrected are the p values for all cells of the array (signs flipped by cluster). A NaN says that a unit lacks the
    cell. `reason` says why there is no test, or why none can succeed; with `noise` there is `below_noise` too.
    """
    ordered = effects.transpose(over, ...)
    found = effect_table(
        ordered.values.astype(np.float64),
        clusters=clusters,
        level=LEVEL,
        noise=noise,
        correction=correction,
        generator=np.random.default_rng(SEED),
    )
    dims = ordered.dims[1:]
    values = {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n_units}
    values |= {"p_corrected": found.p_corrected, "tested": found.tested, "survives": found.survives}
    values |= {} if noise is None else {"below_noise": found.below_noise}
    variables = {name: (dims, value) for name, value in values.items()} | {"reason": ((), found.reason)}
    coords = {dim: ordered[dim] for dim in dims if dim in ordered.coords}
    return xr.Dataset(variables, coords, {"level": found.level, "correction": correction})


def estimated_lists(effects: xr.DataArray, noise: float | None = None) -> xr.Dataset:
    """`estimated` over lists, clustered by topic; with `noise`, effects no larger than it never survive."""
    cells = estimated(effects, "list", clusters=effects["topic"].values, noise=noise)
    if noise is None:
        return cells
    return cells.assign(survives=cells["survives"] & ~cells["below_noise"]).drop_vars("below_noise")


def rounding(measured: xr.DataArray, resolution: float = EPSILON) -> float:
    """Effects of this size, in logits, may be rounding: what cells are exact to, or a unit in the last place.

    Args:
        measured: what effects are differences of.
        resolution: a unit in the last place of 1, in the model's type.
    """
    return max(EXACT, resolution * float(np.abs(measured).max()))


def estimated_prompts(results: xr.Dataset, effects: xr.DataArray) -> xr.Dataset:
    """`estimated` over prompts, with what results know: `cluster`, `noise`, `null`, and the `correction` asked for."""
    cells = estimated(
        effects,
        "prompt",
        clusters=results["cluster"].values if "cluster" in results else None,
        noise=_noise(results),
        correction=results.attrs.get("correction", "max-t"),
    )
    if "null" not in results:
        return cells
    null = results["null"].transpose("draw", *cells["estimate"].dims)
    mask = beyond_null(cells["estimate"].values, null.values, cells.attrs["level"])
    attrs = {"threshold": mask.threshold.value, "level": mask.threshold.level, "draws": len(null)}
    return cells.assign(beyond_null=(cells["estimate"].dims, mask.survives, attrs))


def saved(cells: xr.Dataset, name: str, units: str) -> xr.Dataset:
    """The cells as variables of results, under a name."""
    out = cells.rename({of: name if of == "estimate" else f"{name}_{of}" for of in map(str, cells.data_vars)})
    out[name].attrs = {"units": units, **cells.attrs}
    return out.drop_attrs(deep=False)


def read(results: xr.Dataset, name: str) -> xr.Dataset:
    """The cells that were saved under a name.

    Raises:
        InputError: results of a version that did not save them.
    """
    if f"{name}_reason" not in results:
        raise InputError(f"The results hold no {name}: they are of an earlier version of mechlist; run it again.")
    known = [of for of in (*COLUMNS[1:], "tested", "reason", *AGAINST) if f"{name}_{of}" in results]
    cells = results[[name, *(f"{name}_{of}" for of in known)]]
    return cells.rename({name: "estimate"} | {f"{name}_{of}": of for of in known}).assign_attrs(results[name].attrs)


def rows(cells: xr.Dataset, **labels: Hashable) -> pd.DataFrame:
    """One row a cell that some unit has, with constant columns in front."""
    others = [name for name in map(str, cells.data_vars) if name not in (*AGAINST, "tested", "reason")]
    table = cells[others].to_dataframe().reset_index()
    table = table.loc[table["n"] > 0].copy()
    for place, (name, value) in enumerate(labels.items()):
        table.insert(place, name, value)
    return table


def shown(cell: xr.Dataset, digits: int = 2) -> str:
    """The estimate of one cell with its interval, where there is one."""
    value, low, high = (float(cell[name]) for name in ("estimate", "low", "high"))
    return with_interval(value, low, high, f"+.{digits}f")


def site_name(site: str, more: str = "") -> str:
    """A site as titles name it: `Values (v)`."""
    return f"{SITES[site]} ({site}{more})"


def decision(direction: str) -> str:
    """A direction of lists as titles name it: of `A: end of turn - hyphen`, `decision A, end of turn - hyphen`."""
    letter, colon, tokens = direction.partition(": ")
    return f"decision {letter}, {tokens}" if colon else direction


def comparable_fillers(results: xr.Dataset) -> Float[np.ndarray, "list item"]:
    """`filler(list, item)` of results for `matched_last`, NaN for lists of topics that run out.

    Such a list ends with the last item that there is: at that number, lists of other topics are no match for it.
    """
    small = [visible(topic) for topic, items in capacities().items() if items <= RUNS_OUT]
    return np.where(np.isin(results["topic"].values, small)[:, None], np.nan, results["filler"].values)


def matched_words(found: xr.Dataset, form: str, unit: str) -> str:
    """How last items differ from others of equal number and filler, as `matched_last` has it of one quantity.

    Nothing where no item can be matched.
    """
    said = []
    for filler in found["by_filler"].values.tolist():
        own = found.sel(by_filler=filler)
        if int(own["lists"]):
            value, low, high = (float(own[name].sel(kind="difference")) for name in ("mean", "low", "high"))
            counts = f"{number_of(int(own['lists']), 'last items')}, {number_of(int(own['others']), 'others')}"
            said.append(f"{with_interval(value, low, high, form, unit)} {filler} ({counts})")
    return joined(said) if said else ""


NOT_MATCHED = "no list goes on from an item of the number and filler that a last item of another list has"


# Which cells are strongest.


def strongest(estimate: Float[np.ndarray, "*cell"], count: int) -> Int[np.ndarray, " cell"]:
    """Numbers of the cells that are largest in size, the first of equals first; none without a value, and none of 0."""
    size = np.nan_to_num(np.abs(estimate.ravel()), nan=0.0)
    order = np.argsort(-size, kind="stable")[:count]
    return order[size[order] > 0]


def largest(cells: xr.Dataset) -> xr.Dataset:
    """The cell with the largest estimate in size; all dimensions are left out, and their labels kept.

    Of a grid without any effect it is the first cell.
    """
    first = (*strongest(cells["estimate"].values, 1).tolist(), 0)[0]
    place = np.unravel_index(first, cells["estimate"].shape)
    return cells.isel(dict(zip(cells["estimate"].dims, map(int, place), strict=True)))


def strongest_heads(results: xr.Dataset, count: int) -> list[Head]:
    """The heads of a list-heads run with the largest mean effect at any role, exact where that is known, in order."""
    mean = results["exact"].mean("list").fillna(results["effect"].mean("list"))
    size = abs(mean).max("role").transpose("layer", "head")
    layers, heads = np.unravel_index(strongest(size.values, count), size.shape)
    return [(int(results["layer"][a]), int(results["head"][b])) for a, b in zip(layers, heads, strict=True)]


def verified(task: Task, effects: xr.DataArray, top: int) -> xr.DataArray:
    """The exact effect of the cells with the `top` largest mean estimates; NaN for all others.

    A mean is over the prompts that have the cell.
    """
    flat = effects.values.reshape(len(effects), -1)
    there = np.isfinite(flat)
    chosen = strongest(np.where(there, flat, 0.0).sum(axis=0) / there.sum(axis=0).clip(min=1), top)
    exact = np.full(flat.shape, np.nan)
    if len(chosen):
        values = dataclasses.replace(task, parts=task.parts.only(torch.from_numpy(chosen))).values()
        exact[:, chosen] = (values.patched - values.base[:, None]).double().numpy()[:, chosen]
    return task.of_cells(exact)


# What is said of a grid of effects over prompts.


def marked(cells: xr.Dataset) -> xr.DataArray:
    """Cells that survive the test, are not below the noise, and are beyond the null where there is one."""
    kept = cells["survives"].astype(bool)
    kept = kept & ~cells["below_noise"].astype(bool) if "below_noise" in cells else kept
    return kept & cells["beyond_null"].astype(bool) if "beyond_null" in cells else kept


def notes(cells: xr.Dataset) -> xr.DataArray:
    """What there is to say of each cell, for a hover box: its mean effect with interval and units, then its test."""
    p, survives = cells["p_corrected"].values, cells["survives"].values
    below, beyond = (cells[name].values if name in cells else None for name in AGAINST)
    lines = np.full(p.shape, "", dtype=object)
    for cell in np.ndindex(lines.shape):
        said = [f"p = {p[cell]:.3g}{', survives' if survives[cell] else ''}"] if np.isfinite(p[cell]) else []
        said += ["below numerical noise"] if below is not None and below[cell] else []
        said += ["not beyond the null"] if beyond is not None and not beyond[cell] else []
        if np.isfinite(cells["estimate"].values[cell]):
            value, low, high = (float(cells[name].values[cell]) for name in ("estimate", "low", "high"))
            effect = with_interval(value, low, high, "+.3f", str(cells.attrs.get("units", "")))
            lines[cell] = "\n".join([f"{effect}, mean of {int(cells['n'].values[cell])}", "; ".join(said)])
    return cells["estimate"].copy(data=lines)


def legend(cells: xr.Dataset) -> str:
    """What a dot in a heat map means; why there is none, where there is no test."""
    if not cells["survives"].any():
        return "No cell is marked." if cells["reason"].item() else "No cell is marked: none survives a test."
    more = ["above numerical noise"] if "below_noise" in cells else []
    more += ["beyond the null of an irrelevant token"] if "beyond_null" in cells else []
    return f"A dot: {_held(cells)}{''.join(f', {words}' for words in more)}."


def sentences(results: xr.Dataset, cells: xr.Dataset, unit: str) -> list[str]:
    """What survives, or why there is no test; the noise; the null."""
    return [_significance(results, cells), *_noise_words(results, cells, unit), *_null_words(cells, unit)]


def _significance(results: xr.Dataset, cells: xr.Dataset) -> str:
    reason = cells["reason"].item()
    if results.sizes["prompt"] == 1:
        return "There is no interval and no test: one prompt says nothing about others."
    if reason:
        said = reason.replace("units", "prompts")
        unknown = bool(cells["low"].isnull().all())
        return said.replace("There is no test", "There is no interval and no test") if unknown else said
    return (
        f"{int(cells['survives'].sum())} of {int(cells['tested'].sum())} cells change the metric beyond chance: "
        f"{_held(cells)}, over all cells, signs of raw effects flipped by "
        f"{'cluster' if 'cluster' in results else 'prompt'}."
    )


def _held(cells: xr.Dataset) -> str:
    correction: Correction = cells.attrs["correction"]
    rate = {"max-t": "family-wise error", "benjamini-hochberg": "false discovery rate"}[correction]
    return f"{rate} at most {1 - cells.attrs['level']:.2g} ({CORRECTIONS[correction]})"


def _noise(results: xr.Dataset) -> float | None:
    """The numerical noise anywhere in the grid; None where it was not measured, or no cell has a value."""
    level = float(results["noise"].max()) if "noise" in results else np.nan
    return None if np.isnan(level) else level


def _noise_words(results: xr.Dataset, cells: xr.Dataset, unit: str) -> list[str]:
    level = _noise(results)
    if level is None:
        return []
    estimate, prompts, repeated = cells["estimate"], results.sizes["prompt"], int(results["noise"].attrs["prompts"])
    changed = estimate.notnull() & (estimate != 0)
    below, some = int((changed & cells["below_noise"].astype(bool)).sum()), int(changed.sum())
    which = f"{repeated} of the {prompts} prompts" if repeated < prompts else "all prompts"
    again = f"Computed again in other batches ({which if prompts > 1 else 'one prompt'}), effects"
    if not level:
        return [f"{again} are the same bit for bit."]
    return [
        f"{again} differ by at most {level:.2g} {unit}: {below} of the {some} cells with any effect are below "
        "this numerical noise."
    ]


def _null_words(cells: xr.Dataset, unit: str) -> list[str]:
    if "beyond_null" not in cells:
        return []
    known, beyond = cells["beyond_null"].attrs, int(cells["beyond_null"].sum())
    draws = int(known["draws"])
    return [
        f"Where base and source differ in a token that should not matter, the largest effect anywhere stays at or "
        f"below {known['threshold']:.3g} {unit} (level {known['level']:.2g}, {draws} draw{'s' if draws > 1 else ''}): "
        f"{beyond} of {int(cells['estimate'].notnull().sum())} cells go beyond it."
    ]
