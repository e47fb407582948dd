"""What can be claimed of a grid of patching effects, from saved results: tests, numerical noise, and the null."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from mechlist.experiments.noise import noise_of
from mechlist.metrics.significance import Correction, EffectTable, NullMask, beyond_null, effect_table

SEED = 0
"""Of the sign flips and the bootstrap: tables and sentences follow from the results alone."""
CORRECTIONS: dict[Correction, str] = {"max-t": "max-T", "benjamini-hochberg": "Benjamini-Hochberg"}


@dataclass(frozen=True)
class Claims:
    """Effects over the prompts with what is known against them; arrays have the cells of the grid."""

    effects: xr.DataArray
    """Patched - base, by prompt and cell: a ratio would not change when base and source change places."""
    table: EffectTable
    clustered: str
    """What is taken for independent: cluster or prompt."""
    noise: float | None
    """The largest difference that computing again makes; None where it was not measured."""
    repeated: int
    """Prompts with which the noise was measured."""
    null: NullMask | None
    """None where there is no null."""
    draws: int
    """Of the null."""

    @property
    def marked(self) -> xr.DataArray:
        """Cells that survive the test, are not below the noise, and are beyond the null where there is one."""
        cells = self.table.survives & ~self.table.below_noise
        return self.of_cells(cells if self.null is None else cells & self.null.survives)

    @property
    def notes(self) -> xr.DataArray:
        """What there is to say of each cell, for a hover box."""
        table = self.table
        lines = np.full(table.p_corrected.shape, "", dtype=object)
        for cell in np.ndindex(lines.shape):
            p = table.p_corrected[cell]
            said = [f"p = {p:.3g}{', survives' if table.survives[cell] else ''}"] if np.isfinite(p) else []
            said += ["below numerical noise"] if table.below_noise[cell] else []
            said += ["not beyond the null"] if self.null is not None and not self.null.survives[cell] else []
            lines[cell] = "; ".join(said) if np.isfinite(table.estimate[cell]) else ""
        return self.of_cells(lines)

    def of_cells(self, values: np.ndarray) -> xr.DataArray:
        """The values with the names of the grid."""
        return self.effects.isel(prompt=0, drop=True).copy(data=values)


def claims(results: xr.Dataset) -> Claims:
    """The claims that results allow, which hold `patched` and `base`, and may hold `cluster`, `noise` and `null`."""
    effects = results["patched"] - results["base"]
    level = noise_of(results)
    table = effect_table(
        effects.values,
        clusters=results["cluster"].values if "cluster" in results else None,
        noise=level,
        correction=results.attrs.get("correction", "max-t"),
        generator=np.random.default_rng(SEED),
    )
    null = results["null"].transpose("draw", *effects.dims[1:]).values if "null" in results else None
    return Claims(
        effects=effects,
        table=table,
        clustered="cluster" if "cluster" in results else "prompt",
        noise=level,
        repeated=int(results["noise"].attrs["prompts"]) if "noise" in results else 0,
        null=None if null is None else beyond_null(table.estimate, null, table.level),
        draws=0 if null is None else len(null),
    )


def sentences(found: Claims, unit: str) -> list[str]:
    """What survives, or why there is no test; the noise; the null."""
    return [_significance(found), *_noise(found, unit), *_null(found, unit)]


def legend(found: Claims) -> str:
    """What a dot in a heat map means; why there is none, where there is no test."""
    if not found.table.survives.any():
        return "No cell is marked: none survives a test." if not found.table.reason else "No cell is marked."
    more = ["above numerical noise"] if found.noise is not None else []
    more += ["beyond the null of an irrelevant token"] if found.null is not None else []
    return f"A dot: {_held(found.table)}{''.join(f', {words}' for words in more)}."


def _significance(found: Claims) -> str:
    table, prompts = found.table, found.effects.sizes["prompt"]
    if prompts == 1:
        return "There is no interval and no test: one prompt says nothing about others."
    if table.reason:
        said = table.reason.replace("units", "prompts")
        return (
            said.replace("There is no test", "There is no interval and no test") if np.isnan(table.low).all() else said
        )
    tested, survive = int(table.tested.sum()), int(table.survives.sum())
    return (
        f"{survive} of {tested} cells change the metric beyond chance: {_held(table)}, over all cells, signs of raw "
        f"effects flipped by {found.clustered}."
    )


def _held(table: EffectTable) -> str:
    rate = {"max-t": "family-wise error", "benjamini-hochberg": "false discovery rate"}[table.correction]
    return f"{rate} at most {1 - table.level:.2g} ({CORRECTIONS[table.correction]})"


def _noise(found: Claims, unit: str) -> list[str]:
    if found.noise is None:
        return []
    estimate, prompts = found.table.estimate, found.effects.sizes["prompt"]
    changed = np.isfinite(estimate) & (estimate != 0)
    below, some = int((changed & found.table.below_noise).sum()), int(changed.sum())
    which = f"{found.repeated} of the {prompts} prompts" if found.repeated < prompts else "all prompts"
    again = f"Computed again in other batches ({which if prompts > 1 else 'one prompt'}), effects"
    if not found.noise:
        return [f"{again} are the same bit for bit."]
    return [
        f"{again} differ by at most {found.noise:.2g} {unit}: {below} of the {some} cells with any effect are below "
        "this numerical noise."
    ]


def _null(found: Claims, unit: str) -> list[str]:
    if found.null is None:
        return []
    (value, level), cells = found.null.threshold, int(np.isfinite(found.table.estimate).sum())
    beyond, times = int(found.null.survives.sum()), "draw" if found.draws == 1 else "draws"
    return [
        f"Where base and source differ in a token that should not matter, the largest effect anywhere stays at or "
        f"below {value:.3g} {unit} (level {level:.2g}, {found.draws} {times}): {beyond} of {cells} cells go beyond it."
    ]
