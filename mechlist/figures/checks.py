"""What a figure needs of its data, said in one sentence when it is not so."""

import numpy as np
import xarray as xr

from mechlist.errors import InputError


def matrix(values: xr.DataArray, dims: tuple[str, ...], parameter: str) -> np.ndarray:
    """Values as floats with axes in the order of `dims`; missing stays NaN.

    Raises:
        InputError: other dimensions, or no values.
    """
    if set(values.dims) != set(dims) or len(values.dims) != len(dims):
        raise InputError(f"{parameter} must have the dimensions {_named(dims)}; received {_named(values.dims)}.")
    if values.size == 0:
        raise InputError(f"{parameter} must hold at least one value; received shape {values.shape}.")
    return np.asarray(values.transpose(*dims).values, dtype=float)


def _named(dims: tuple[object, ...]) -> str:
    return "(" + ", ".join(str(dim) for dim in dims) + ")"


def coordinate(values: xr.DataArray, dim: str) -> list:
    """Labels along a dimension as plain Python values; 0, 1, 2, ... where there are none."""
    return values[dim].values.tolist() if dim in values.coords else list(range(values.sizes[dim]))
