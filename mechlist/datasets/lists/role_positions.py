"""Positions of many lists by the name of their role, so that lists of unequal length share one axis."""

from collections.abc import Sequence
from typing import Literal, get_args

from mechlist.datasets.lists.roles import ROLES, Roles
from mechlist.errors import InputError
from mechlist.text import from_last

CountFrom = Literal["start", "end"]
_PROMPT = ("bos", "adjective", "topic", "prompt", "header")
_PARTS = {
    "hyphen": "hyphen",
    "item_first": "first token",
    "item_inner": "inner tokens",
    "item_last": "last token",
    "filler": "filler",
    "line_break": "line break",
}
"""Of an item, in the order of its text."""
_REST = {
    "hyphen": "hyphen outside items",
    "other": "text outside items",
    "line_break": "line break outside items",
    "end_of_turn": "end of turn",
}
"""Of the list, but of no item."""
_OUTSIDE = -1
EARLIER, LATER = "earlier items", "later items"
"""Roles of all items without roles of their own."""

_Key = tuple[str, int]
"""Role, and item by its distance from the first or the last; `_OUTSIDE` for none."""


def role_positions(
    roles: Sequence[Roles], *, count_from: CountFrom = "start", items: int | None = None
) -> dict[str, list[list[int]]]:
    """Positions in each list by the name of their role, which reads as the label of an axis; names in the text's order.

    - `bos`, `prompt`, `adjective`, `topic`, `header`: of the prompt, in the order of their first tokens.
    - `item 1 hyphen`, `item 1 first token`, `item 1 inner tokens`, `item 1 last token`, `item 1 filler`,
      `item 1 line break`, and so on for item 2; counted from the end, `last - 1 item hyphen` and so on, then `last item
      hyphen`. The one token of a single-token item is its last token, and not its first.
    - `hyphen outside items`, `text outside items`, `line break outside items`: of lines that are no items, as the
      prefilled hyphen is where nothing follows it.
    - `end of turn`.

    A position has at most one name. Without `items`, all have one but those after the end of a list. A name that no
    list has a position for is left out, and a list that lacks a role has no positions there.

    Args:
        roles: of one list each.
        count_from: whether items go by their distance from the first item, or from the last that the list has.
        items: how many items of a list have names, the nearest ones; all by default.

    Raises:
        InputError: no lists, fewer than 0 items, or an unknown `count_from`.
    """
    if count_from not in get_args(CountFrom):
        raise InputError(f"count_from must be one of {', '.join(get_args(CountFrom))}, not {count_from!r}.")
    if not roles:
        raise InputError("roles must hold one list at least, not none.")
    if items is not None and items < 0:
        raise InputError(f"items must be 0 or more, not {items}.")
    found = [_positions(one, count_from) for one in roles]
    keys = dict.fromkeys(key for of_list in found for key in of_list if items is None or key[1] < items)
    first = {key: min(of_list[key][0] for of_list in found if key in of_list) for key in keys}
    prompt = sorted((key for key in keys if key[0] in _PROMPT), key=lambda key: first[key])
    parts = list(_PARTS)
    listed = sorted(
        (key for key in keys if key[1] != _OUTSIDE),
        key=lambda key: (key[1] if count_from == "start" else -key[1], parts.index(key[0])),
    )
    rest = [(role, _OUTSIDE) for role in _REST if (role, _OUTSIDE) in keys]
    return {_name(key, count_from): [of_list.get(key, []) for of_list in found] for key in [*prompt, *listed, *rest]}


def named_roles(
    roles: Sequence[Roles], lengths: Sequence[int], count_from: CountFrom, items: int
) -> dict[str, list[list[int]]]:
    """As `role_positions` before each length, with one role for all items but the nearest: nothing is left out.

    That role is `earlier items`, before those counted from the end, or `later items`, behind all others. Roles that no
    list has before its length are left out.

    Raises:
        InputError: fewer than one item, or as `role_positions`.
    """
    if items < 1:
        raise InputError(f"role_items must be at least 1, not {items}.")
    every = role_positions(roles, count_from=count_from)
    named = role_positions(roles, count_from=count_from, items=items)
    others = [where for name, where in every.items() if name not in named]
    pooled = [sorted(p for where in others for p in where[i]) for i in range(len(roles))]
    out: dict[str, list[list[int]]] = {}
    for name, where in named.items():
        # Items counted from the end stand behind the earlier ones, and from the start before the later ones.
        if count_from == "end" and EARLIER not in out and name.startswith("last "):
            out[EARLIER] = pooled
        out[name] = where
    if count_from == "start":
        out[LATER] = pooled
    cut = {
        name: [[p for p in of_list if p < length] for of_list, length in zip(where, lengths, strict=True)]
        for name, where in out.items()
    }
    return {name: where for name, where in cut.items() if any(where)}


def _positions(one: Roles, count_from: CountFrom) -> dict[_Key, list[int]]:
    """Positions of a list by role and item, each once; those after its end too, which get no name."""
    # The last role of a position in the order of ROLES: `item_last` where it is `item_first` too.
    last = len(ROLES) - 1 - one.masks[::-1].argmax(axis=0)
    items = one.item_from_start if count_from == "start" else one.item_from_end
    found: dict[_Key, list[int]] = {}
    for position, (role, item) in enumerate(zip(last.tolist(), items.tolist(), strict=True)):
        found.setdefault((ROLES[role], item), []).append(position)
    return found


def _name(key: _Key, count_from: CountFrom) -> str:
    role, item = key
    if item == _OUTSIDE:
        return role if role in _PROMPT else _REST[role]
    if count_from == "start":
        return f"item {item + 1} {_PARTS[role]}"
    return f"{from_last(item)} item {_PARTS[role]}"
