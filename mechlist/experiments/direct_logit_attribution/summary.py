"""What figures and sentences of direct logit attribution are made of: terms by component, item and adjective."""

import numpy as np
import xarray as xr

SIDES = {"short": ("short", "long"), "long": ("long", "short"), "pairs": ("clean", "corrupt")}
"""By the adjective of lists: what their two runs are called."""


def adjectives(results: xr.Dataset) -> list[str]:
    """Of the lists, in their order; `pairs` for pairs of prompts."""
    return list(dict.fromkeys(results["adjective"].values.tolist()))


def group_name(adjective: str) -> str:
    """As figures name the lists of an adjective."""
    return {"pairs": "clean prompts", "none": "lists without adjective"}.get(adjective, f"{adjective} lists")


def of_adjective(values: xr.DataArray, adjective: str) -> xr.DataArray:
    """The values of the lists with this adjective."""
    return values.isel(list=np.flatnonzero(values["adjective"].values == adjective))


def components(results: xr.Dataset) -> xr.DataArray:
    """All terms but for heads, which attention sums, over the dimension `component`; in the order of the model."""
    parts = {"embedding": results["embedding"]}
    for layer in results["layer"].values.tolist():
        here = results.sel(layer=layer)
        parts[f"attention {layer}"] = here["heads"].sum("head", skipna=False) + here["attention_bias"]
        if "mlp" in results:
            parts[f"MLP {layer}"] = here["mlp"]
    parts["bias"] = results["bias"]
    bare = [part.drop_vars(["layer", "head"], errors="ignore") for part in parts.values()]
    return xr.concat(bare, dim="component", coords="minimal", compat="override").assign_coords(component=list(parts))


def layers_added(results: xr.Dataset) -> xr.DataArray:
    """What attention and MLP of each layer add together."""
    added = results["heads"].sum("head", skipna=False) + results["attention_bias"]
    return added + results["mlp"] if "mlp" in results else added


def accumulated(results: xr.Dataset) -> xr.DataArray:
    """The difference after 0, 1, 2, ... layers have `written`, biases included from the start; in the end the total."""
    start = results["embedding"] + results["bias"]
    added = layers_added(results)
    sums = (added.cumsum("layer") + start).rename(layer="written").assign_coords(written=added["layer"].values + 1)
    return xr.concat([start.expand_dims(written=[0]), sums], dim="written", coords="minimal", compat="override")


def from_end(values: xr.DataArray, number: int) -> xr.DataArray:
    """At the last item of each list (0), the one before it (1), and so on; NaN where a list has none."""
    place = values["n_items"] - 1 - number
    return values.where(values["item"] == place).sum("item", min_count=1)


def contrast(values: xr.DataArray) -> xr.DataArray | None:
    """How the two runs of the same list differ at the last item: short less long, or clean less corrupt.

    The lists are those of the first adjective, mostly the short ones; None where no list has one.
    """
    first = adjectives(values.to_dataset(name="values"))[0]
    if first not in SIDES:
        return None
    last = from_end(of_adjective(values, first), 0)
    difference = last.isel(run=0, drop=True) - last.isel(run=1, drop=True)
    return None if bool(difference.isnull().all()) else -difference if first == "long" else difference


def contrast_name(results: xr.Dataset) -> str:
    """As sentences name it."""
    return "clean less corrupt" if results.attrs["origin"] == "pairs" else "short less long"
