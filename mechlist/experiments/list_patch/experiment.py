"""Patching of lists between two runs that differ in one factor, by role and item, over all lists."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.datasets.lists.factors import Factor
from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.errors import InputError
from mechlist.experiment import Claim, Option
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.list_pairs import At, ListPairs, Side, list_pairs, spread
from mechlist.experiments.list_patch import claims as told
from mechlist.experiments.list_patch import figures as drawing
from mechlist.experiments.list_patch import findings as words
from mechlist.experiments.list_patch.statistics import with_statistics
from mechlist.patching.grid import patch_cells
from mechlist.patching.sweep.cells import HEAD_SITES, KEY_VALUE_SITES, Site
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import visible

SITES: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out", "q", "k", "v", "pattern")
"""With all heads at once z does what attn_out does, and attn_scores what pattern does."""
SIDES: tuple[Side, ...] = get_args(Side)
NULL_LISTS = 6
"""Swept for the null. Means over fewer lists are rather larger, so that the threshold is no smaller for it."""


def _without_head_sites(experiment: "ListPatch") -> str:
    if set(experiment.sites) & set(HEAD_SITES):
        return ""
    return f"with sites {', '.join(experiment.sites)}, which have no heads"


@register("list-patch")
@dataclass(frozen=True, kw_only=True)
class ListPatch(MadeListExperiment):
    """Exchange parts of two runs of the same list, role by role, both ways.

    The runs differ in one factor: short or long, a filler on the last item or none, some items more or fewer. Where
    they differ in length, parts go to the position with the same role, counted from the last item.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "per_head": Option(_without_head_sites),
        "fewer": Option(lambda experiment: "" if experiment.factor == "count" else f"with factor {experiment.factor}"),
    }
    captions: ClassVar[Mapping[str, str]] = {
        "cells": "the strongest cells by site and side, in logits, with intervals and corrected p values",
        "lists": "a row a list, with what is measured in both runs",
    }

    factor: Factor = "adjective"
    """What the two runs differ in: the adjective, the number of items, or a filler on the last item."""
    fewer: int = 4
    """With factor count: items that the shorter run has fewer, the first ones of each list."""

    lists: int = 1
    """At most so many lists of each topic, the first ones that ended."""
    sites: tuple[Site, ...] = SITES
    """Activations that are replaced, one after the other; z and attn_scores are worth it head by head only. Where the
    runs differ in length, patterns and scores are replaced between positions that have a counterpart."""
    at: At = "break"
    """What is measured: at the last item's line break, end of turn minus hyphen; or at the last item's last token, a
    blank minus a line break."""
    adjective: Literal["short", "long"] = "short"
    """Whose lists: those written after this adjective."""
    per_head: bool = False
    """Replace one head at a time, at the sites that have heads."""
    count_from: CountFrom = "end"
    """Items with roles of their own are those nearest to the last item, or to the first."""
    role_items: int = 2
    """How many they are; all other items share one role."""
    null_pairs: int = 1
    """Draws of the null, each a sweep of its own of at most 6 lists (denoising) into which an irrelevant change is put,
    their items in another order. 19 draws make a threshold at .95; 0 leaves it out."""
    top: int = 20
    """Rows of the table of each site."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("role_items", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.fewer < 1:
            raise InputError(f"fewer must be at least 1, not {self.fewer}.")
        if self.factor == "filler" and self.at == "item":
            raise InputError("at must be break with factor filler, not item: before the filler the two runs are one.")
        if self.null_pairs < 0:
            raise InputError(f"null_pairs must be 0 or more, not {self.null_pairs}.")
        if not self.sites or len(set(self.sites)) < len(self.sites):
            raise InputError(f"sites must be one site at least, each once, not {', '.join(self.sites) or 'none'}.")
        self.check_options()

    def run(self, runner: Runner) -> xr.Dataset:
        """The logit difference of every list, site, layer and role, patched both ways; and of the runs themselves."""
        pairs = self._pairs(runner)
        results = xr.Dataset(coords={"side": list(SIDES), "role": list(pairs.roles), **pairs.coords})
        for site, per in self._grids():
            made = [patch_cells(runner, pairs.arguments(side, site, per)) for side in SIDES]
            if "base" not in results:
                results["base"] = (("side", "list"), np.stack([one["base"].values for one in made]))
            # Keys and values have heads of their own number.
            heads = "kv_head" if site in KEY_VALUE_SITES else "head"
            dims = ["side", "list", *[heads if d == "head" else d for d in made[0]["patched"].dims[1:]]]
            patched = np.stack([one["patched"].values for one in made]).astype(np.float32)
            results[f"patched_{site}"] = (dims, patched, {"units": "logits"})
            labels = {"layer": made[0]["layer"].values}
            if "head" in made[0].coords:
                labels[heads] = made[0]["head"].values
            results = results.assign_coords(labels)
            if self.null_pairs and max(pairs.n_items) > 1:
                null = self._null(runner, pairs, site, per).drop_vars("role", errors="ignore")
                results[f"null_effect_{site}"] = null.assign_attrs(units="logits")
        results = results.assign_attrs(
            factor=self.factor,
            sites=list(self.sites),
            direction=pairs.direction.name,
            own=pairs.own,
            adjective=self.adjective,
            left_out=pairs.left_out,
            resolution=torch.finfo(runner.language_model.dtype).eps,
            model=runner.language_model.info["name"],
        )
        return with_statistics(results)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Of each site the effects by layer and role, both ways; and by head."""
        return drawing.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """The strongest cells of each site, with intervals and corrected p values."""
        return words.tables(results, self.top)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the runs differ by, the strongest cells, the layers at which roles take over, and the control."""
        return words.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return told.claims(results)

    def _pairs(self, runner: Runner) -> ListPairs:
        data = self.data(runner)
        return list_pairs(
            data,
            self.adjective,
            self.at,
            factor=self.factor,
            fewer=self.fewer,
            count_from=self.count_from,
            role_items=self.role_items,
        )

    def _grids(self) -> Iterator[tuple[Site, Literal["position", "head_position"]]]:
        for site in self.sites:
            yield site, "head_position" if self.per_head and site in HEAD_SITES else "position"

    def _null(self, runner: Runner, pairs: ListPairs, site: Site, per: str) -> xr.DataArray:
        """Effects of the same sweep of some lists where what is put in differs in the order of items alone."""
        chosen = spread(len(pairs.topic), NULL_LISTS)
        arguments, found = pairs.arguments(SIDES[0], site, per), []
        for draw in range(self.null_pairs):
            # All sites have the same orders.
            generator = runner.numpy_generator(f"items in another order {draw}")
            made = patch_cells(runner, pairs.irrelevant(arguments, SIDES[0], generator).select(chosen))
            found.append((made["patched"] - made["base"]).astype(np.float32).rename(prompt="null_list"))
        topics = [visible(pairs.topic[i]) for i in chosen]
        joined = xr.concat(found, dim="draw").assign_coords(null_topic=("null_list", topics))
        return joined.rename(head="kv_head") if site in KEY_VALUE_SITES and "head" in joined.dims else joined
