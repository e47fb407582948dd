"""A null for patching: what the same sweep does where base and source differ in a token that should not matter."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from mechlist.datasets.pairs.irrelevant import Change
from mechlist.errors import InputError
from mechlist.experiments.noise import Asked
from mechlist.experiments.patch_pairs import Pairs


def check(null_pairs: int, null_file: Path | None, replacement: str, *, own: bool, roles: bool) -> None:
    """Whether this null can be had.

    Raises:
        InputError: built-in changes for pairs of one's `own`, pairs from a file with `roles`, both at once, or a null
            for a replacement that comes from no run.
    """
    if null_pairs and null_file is not None:
        raise InputError("null_pairs and null_file exclude each other: give one of them.")
    if null_pairs and own:
        raise InputError("null_pairs are known for the built-in data only: give null_file for pairs of one's own.")
    if null_file is not None and roles:
        raise InputError("roles are not known for the pairs of null_file: take null_pairs, or leave out roles.")
    if (null_pairs or null_file is not None) and replacement in ("zero", "mean"):
        raise InputError(
            f"null_pairs and null_file are for replacements that come from a run, source or resample, not {replacement}"
            f": a token that should not matter does not say what {replacement} does."
        )


def irrelevant_sources(
    asked: Asked, irrelevant: Sequence[Sequence[Change]] | None, draws: int, generator: torch.Generator
) -> Iterator[Asked]:
    """The question once a draw, with each base prompt's source the prompt itself but for one token; no change twice.

    Args:
        asked: arguments of `patch_grid`.
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
        source = asked["base"].clone()
        for row, of_prompt, order in zip(source, irrelevant, orders, strict=True):
            for position, token in of_prompt[order[draw]].items():
                row[position] = token
        yield asked | {"source": source}


def in_draws(pairs: Pairs, prompts: int) -> list[Pairs]:
    """Pairs in groups as large as the estimate's, because means over fewer prompts are larger by chance.

    Raises:
        InputError: pairs that do not make whole groups.
    """
    if len(pairs.pairs) % prompts:
        raise InputError(
            f"null_file must hold as many pairs as there are prompts ({prompts}), or a multiple for several draws of "
            f"the null, not {len(pairs.pairs)}."
        )
    return [Pairs(pairs.pairs[i : i + prompts]) for i in range(0, len(pairs.pairs), prompts)]


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
