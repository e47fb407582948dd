"""Which parts of a site a patching sweep replaces: a whole grid, or named sets."""

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.sites import HEAD_SITES, KEY_VALUE_SITES, Site, hook_name
from mechlist.patching.sweep.parts import ALL, Parts, repeated
from mechlist.types import ModelShape

Per = Literal["position", "head", "head_position"]


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
        raise InputError(f"The model has no {site}: {_missing(site, hooks)}.")


def _missing(site: str, hooks: Container[str]) -> str:
    """Why a site is not there."""
    if not any(f"blocks.0.attn.{name}" in hooks for name in ("hook_pattern", "hook_z", "hook_in")):
        return "its first layer has no attention"
    if site == "resid_mid":
        return "its layers run attention and MLP side by side"
    return "its layers do not show it"


def grid(site: str, per: str, shape: ModelShape, length: int, prompts: int) -> tuple[Parts, dict[str, int]]:
    """Every layer with every position, head, or head and position: the parts, and the axes of the cells."""
    heads = heads_of(site, shape)
    sizes = {"layer": shape.n_layers}
    sizes |= {"head": heads} if per != "position" else {}
    sizes |= {"position": length} if per != "head" else {}
    places = torch.tensor(list(product(*(range(n) for n in sizes.values()))))
    column = {name: places[:, i] for i, name in enumerate(sizes)}
    every = torch.full((len(places),), ALL)
    cell = torch.arange(len(places))
    position, head = column.get("position", every), column.get("head", every)
    return repeated(cell, column["layer"], position, head, len(places), prompts), sizes


def named(
    cells: Mapping[str, Iterable[Any]], site: str, per: str, shape: ModelShape, length: int, prompts: int
) -> Parts:
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
    return repeated(table[:, 0], table[:, 1], table[:, 2], table[:, 3], len(cells), prompts)


def by_role(
    roles: Mapping[str, Sequence[Sequence[int]]],
    site: str,
    per: str,
    shape: ModelShape,
    lengths: Int[Tensor, " prompt"],
) -> tuple[Parts, dict[str, int]]:
    """Every layer (and head) with every role: the parts of each prompt, and the axes of the cells.

    Raises:
        InputError: roles without positions of their own, not one list a prompt, or positions outside a prompt.
    """
    if per == "head":
        raise InputError("Roles are sets of positions: take them per position or per head_position, not per head.")
    if not roles:
        raise InputError("roles must hold one role at least, not none.")
    sizes = {"layer": shape.n_layers}
    sizes |= {"head": heads_of(site, shape)} if per == "head_position" else {}
    sizes |= {"role": len(roles)}
    of_prompt, of_role, position = _role_positions(roles, lengths.tolist())
    others = torch.tensor(list(product(*(range(n) for name, n in sizes.items() if name != "role"))))
    cell = torch.arange(len(others))[:, None] * len(roles) + of_role
    n_cells = len(others) * len(roles)
    row = of_prompt * n_cells + cell
    order = row.flatten().argsort(stable=True)
    layer = others[:, :1].expand_as(row).flatten()[order]
    head = others[:, 1:].expand_as(row).flatten()[order] if per == "head_position" else torch.full_like(layer, ALL)
    places = position.expand_as(row).flatten()[order]
    return Parts(row.flatten()[order], layer, places, head, n_cells, len(lengths)), sizes


def _role_positions(
    roles: Mapping[str, Sequence[Sequence[int]]], lengths: Sequence[int]
) -> tuple[Int[Tensor, " place"], Int[Tensor, " place"], Int[Tensor, " place"]]:
    """Prompt, number of the role, and position of everything that roles name."""
    places = []
    for number, (name, prompts) in enumerate(roles.items()):
        if len(prompts) != len(lengths):
            raise InputError(
                f"The role {name!r} must have a list of positions for each of the {len(lengths)} prompts, not "
                f"{len(prompts)}."
            )
        for prompt, positions in enumerate(prompts):
            outside = [p for p in positions if not 0 <= p < lengths[prompt]]
            if outside:
                raise InputError(
                    f"The role {name!r} has the position {outside[0]} in prompt {prompt}, which has "
                    f"{lengths[prompt]} tokens."
                )
            places += [(prompt, number, int(position)) for position in positions]
    if not places:
        raise InputError("No prompt has any of the roles.")
    prompt, role, position = torch.tensor(places).T
    return prompt, role, position


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
