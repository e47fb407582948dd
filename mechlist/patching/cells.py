"""Which parts of a site a patching sweep replaces: a whole grid, or named sets."""

from collections.abc import Container, Iterable, Mapping
from itertools import product
from typing import Any, Literal, get_args

import torch

from mechlist.errors import InputError
from mechlist.patching.sweep import Parts
from mechlist.types import ModelShape

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "attn_scores"
]
Per = Literal["position", "head", "head_position"]
HEAD_SITES = ("z", "q", "k", "v", "pattern", "attn_scores")
KEY_VALUE_SITES = ("k", "v")
ALL = -1


def hook_name(site: str, layer: int) -> str:
    """TransformerLens's hook point of a site."""
    inside = "attn." if site in HEAD_SITES else ""
    return f"blocks.{layer}.{inside}hook_{site}"


def heads_of(site: str, shape: ModelShape) -> int:
    """Heads of a site: keys and values have as many as there are key/value heads."""
    return shape.n_key_value_heads if site in KEY_VALUE_SITES else shape.n_heads


def check_site(site: str, per: str, shape: ModelShape, hooks: Container[str]) -> None:
    """The site must exist in the model, and have heads if it is taken head by head.

    Raises:
        InputError: naming what there is.
    """
    if site not in get_args(Site):
        raise InputError(f"site must be one of {', '.join(get_args(Site))}, not {site!r}.")
    if per not in get_args(Per):
        raise InputError(f"per must be one of {', '.join(get_args(Per))}, not {per!r}.")
    if per != "position" and site not in HEAD_SITES:
        raise InputError(f"{site} has no heads: take it per position, not per {per}.")
    if shape.attn_only and site in ("resid_mid", "mlp_out"):
        raise InputError(f"The model has no MLPs, so there is no {site}.")
    if hook_name(site, 0) not in hooks:
        raise InputError(f"The model has no {site}: its layers run attention and MLP side by side.")


def grid(site: str, per: str, shape: ModelShape, length: int) -> tuple[Parts, dict[str, int]]:
    """Every layer with every position, head, or head and position: the parts, and the axes of the cells."""
    heads = heads_of(site, shape)
    sizes = {"layer": shape.n_layers}
    sizes |= {"head": heads} if per != "position" else {}
    sizes |= {"position": length} if per != "head" else {}
    places = torch.tensor(list(product(*(range(n) for n in sizes.values()))))
    column = {name: places[:, i] for i, name in enumerate(sizes)}
    every = torch.full((len(places),), ALL)
    parts = Parts(
        torch.arange(len(places)),
        column["layer"],
        column.get("position", every),
        column.get("head", every),
        len(places),
    )
    return parts, sizes


def named(cells: Mapping[str, Iterable[Any]], site: str, per: str, shape: ModelShape, length: int) -> Parts:
    """Named sets of (layer, position), (layer, head) or (layer, head, position), replaced together.

    Raises:
        InputError: an empty set, a set of the wrong shape, or a layer, head or position that does not exist.
    """
    rows: list[tuple[int, int, int, int]] = []
    for number, (name, members) in enumerate(cells.items()):
        members = [tuple(int(x) for x in member) for member in members]
        if not members:
            raise InputError(f"The cell {name!r} must hold one part at least, not none.")
        for member in members:
            rows.append((number, *_part(name, member, site, per, shape, length)))
    if not rows:
        raise InputError("cells must hold one named set at least, not none.")
    table = torch.tensor(rows)
    return Parts(table[:, 0], table[:, 1], table[:, 2], table[:, 3], len(cells))


def _part(
    name: str, member: tuple[int, ...], site: str, per: str, shape: ModelShape, length: int
) -> tuple[int, int, int]:
    """Layer, position and head of one part."""
    axes = {"position": ("layer", "position"), "head": ("layer", "head")}.get(per, ("layer", "head", "position"))
    if len(member) != len(axes):
        raise InputError(f"The cell {name!r} must hold ({', '.join(axes)}), not {member}.")
    part = dict(zip(axes, member, strict=True))
    sizes = {"layer": shape.n_layers, "head": heads_of(site, shape), "position": length}
    for axis, value in part.items():
        if not 0 <= value < sizes[axis]:
            raise InputError(
                f"The cell {name!r} has the {axis} {value}; there are {sizes[axis]}, from 0 to {sizes[axis] - 1}."
            )
    return part["layer"], part.get("position", ALL), part.get("head", ALL)
