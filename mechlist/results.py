"""Results on disk: one NetCDF4 file of named axes, and Parquet tables; every write is whole or does not happen."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.errors import InputError


@contextmanager
def atomic(file: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `file` when the block ends well, and vanishes when it does not."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        # mkstemp makes files private; results are as readable as any other file.
        part.chmod(0o666 & ~_umask())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    with atomic(file) as part:
        part.write_text(text, encoding="utf-8")


def write_json(file: Path, value: object) -> None:
    """Write JSON whole."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_dataset(dataset: xr.Dataset, file: Path) -> None:
    """Save a Dataset as NetCDF4; its attributes go into one JSON string.

    Raises:
        InputError: a label that NetCDF cannot hold (None, NUL, lone surrogates); token text belongs into tables, or
            through `mechlist.text.visible` first.
    """
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "OU":
            _check_labels(str(name), variable.values)
    plain = dataset.copy()
    plain.attrs = {"metadata": json.dumps(dataset.attrs, sort_keys=True)}
    with atomic(file) as part:
        plain.to_netcdf(part, engine="h5netcdf", format="NETCDF4")


def load_dataset(file: Path) -> xr.Dataset:
    """Load a Dataset that `save_dataset` wrote, attributes included.

    Raises:
        InputError: the file is missing or not NetCDF.
    """
    try:
        with xr.open_dataset(file, engine="h5netcdf") as opened:
            dataset = opened.load()
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not a results file that can be read: {error}") from error
    dataset.attrs = json.loads(dataset.attrs.get("metadata", "{}"))
    return dataset


def save_table(table: pd.DataFrame, file: Path) -> None:
    """Save a table as Parquet."""
    with atomic(file) as part:
        table.to_parquet(part, index=False)


def _check_labels(name: str, values: np.ndarray) -> None:
    for value in values.ravel():
        if not isinstance(value, str):
            raise InputError(f"Labels of {name!r} must be strings, not {value!r}.")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"A label of {name!r} holds a character that NetCDF cannot: {value!r}.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
