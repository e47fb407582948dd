"""A null for patching: what the same sweep does where base and source differ in a token that should not matter."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import xarray as xr

from mechlist.datasets.pairs.irrelevant import Change
from mechlist.errors import InputError
from mechlist.patching.arguments import PatchArguments


def irrelevant_sources(
    arguments: PatchArguments,
    irrelevant: Sequence[Sequence[Change]] | None,
    draws: int,
    generator: torch.Generator,
) -> Iterator[PatchArguments]:
    """The arguments once a draw, with each base prompt's source the prompt itself but for one token; no change twice.

    Args:
        arguments: of the sweep.
        irrelevant: of each prompt, the changes that should not matter.
        draws: how many.
        generator: decides which change comes in which draw.

    Raises:
        InputError: prompts without such changes, or with fewer than draws.
    """
    most = 0 if irrelevant is None else min(map(len, irrelevant), default=0)
    if irrelevant is None or draws > most:
        raise InputError(
            f"null_pairs must be at most {most}, not {draws}: so many tokens that should not matter can be put into "
            "every prompt. For others give null_file."
        )
    orders = [torch.randperm(len(of_prompt), generator=generator).tolist() for of_prompt in irrelevant]
    for draw in range(draws):
        source = arguments.base.clone()
        for row, of_prompt, order in zip(source, irrelevant, orders, strict=True):
            for position, token in of_prompt[order[draw]].items():
                row[position] = token
        yield arguments.with_source(source)


def null(sweeps: Iterable[xr.DataArray], estimate: xr.DataArray) -> xr.DataArray:
    """The mean over prompts of each draw's effects, on the grid of the estimate; NaN beyond the end of shorter prompts.

    Args:
        sweeps: effects by prompt and cell, of each draw.
        estimate: effects by prompt and cell of the pairs themselves.

    Raises:
        InputError: prompts longer than the estimate's.
    """
    cells, means = estimate.isel(prompt=0, drop=True), []
    for effects in sweeps:
        if "position" in effects.dims and effects.sizes["position"] > cells.sizes["position"]:
            raise InputError(
                f"null_file must hold prompts of at most {cells.sizes['position']} tokens, as many as the pairs have, "
                f"not of {effects.sizes['position']}."
            )
        means.append(effects.mean("prompt").reindex_like(cells).transpose(*cells.dims).values)
    return xr.DataArray(np.stack(means), dims=("draw", *cells.dims), coords=cells.coords)
