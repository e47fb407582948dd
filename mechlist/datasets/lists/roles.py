"""Roles of the positions of a prompt and its list, so that no analysis counts tokens by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mechlist.datasets.lists.parse import Item, ListTokens, parse_list
from mechlist.datasets.lists.prompts import ListPrompt
from mechlist.errors import InputError

ROLES = (
    *("bos", "adjective", "topic", "prompt", "header"),
    *("hyphen", "item_first", "item_inner", "item_last", "filler", "line_break"),
    *("end_of_turn", "other", "after"),
)
"""`prompt` is any other token of the prompt, `other` a token of a line that is no item, `after` all beyond the end."""


@dataclass(frozen=True, eq=False)
class Roles:
    """What each position of a sequence is, by the definitions of `parse_list`; the arrays are read-only.

    Every position has one role, except that the one token of a single-token item is `item_first` and `item_last`. An
    item's hyphen, content, filler and line break carry its index; -1 is outside items, as for the hyphen and the line
    break of a line without content. The last item may lack its line break: the model can end its turn without one.
    """

    masks: Bool[np.ndarray, "role position"]
    """Rows as in `ROLES`."""
    item_from_start: Int[np.ndarray, " position"]
    """0 is the first item."""
    item_from_end: Int[np.ndarray, " position"]
    """0 is the last item; in a list that did not end, the last one that it has."""
    n_items: int
    ended: bool
    """Whether the list has an end of turn or eos."""

    def mask(
        self, role: str, *, item_from_start: int | None = None, item_from_end: int | None = None
    ) -> Bool[np.ndarray, " position"]:
        """Positions with this role, of all items or of one.

        Raises:
            InputError: a role that does not exist, or a negative item.
        """
        if role not in ROLES:
            raise InputError(f"role must be one of {', '.join(ROLES)}, not {role!r}.")
        mask = self.masks[ROLES.index(role)].copy()
        chosen = {"item_from_start": item_from_start, "item_from_end": item_from_end}
        for name, number in chosen.items():
            if number is not None and number < 0:
                raise InputError(f"{name} must be 0 or more, not {number}.")
            if number is not None:
                mask &= getattr(self, name) == number
        return mask

    def where(
        self, role: str, *, item_from_start: int | None = None, item_from_end: int | None = None
    ) -> Int[np.ndarray, " match"]:
        """All positions with this role, in order; as `mask`."""
        return np.flatnonzero(self.mask(role, item_from_start=item_from_start, item_from_end=item_from_end))


def list_roles(
    prompt: ListPrompt, completion: Sequence[int], special: ListTokens, *, length: int | None = None
) -> Roles:
    """Roles of the prompt's tokens and of the completion that follows its prefilled hyphen.

    A whole sequence is given as `prompt.completion_of(sequence)`.

    Args:
        prompt: up to the prefilled hyphen.
        completion: what follows; may be empty, or go on beyond the end of turn.
        special: ids of the special tokens.
        length: positions in all, for sequences padded on the right; by default as many as there are tokens.

    Raises:
        InputError: a prompt that does not end with the hyphen, or a length below the number of tokens.
    """
    tokens = prompt.with_completion(completion)
    size = len(tokens) if length is None else length
    if size < len(tokens):
        raise InputError(f"length must be at least the {len(tokens)} tokens of prompt and completion, not {length}.")
    if tokens[prompt.hyphen] != special.hyphen:
        raise InputError(f"The prompt must end with the hyphen {special.hyphen}, not {tokens[prompt.hyphen]}.")
    parsed = parse_list(tokens, special, start=prompt.hyphen)
    end = len(tokens) if parsed.ended is None else parsed.ended
    labels = _prompt_labels(prompt, special) + _line_labels(tokens[prompt.hyphen : end], special)
    labels += ["after"] * (size - len(labels))
    if parsed.ended is not None:
        labels[end] = "end_of_turn"
    masks = np.array([[label == role for label in labels] for role in ROLES])
    from_start = np.full(size, -1)
    for number, item in enumerate(parsed.items):
        _place(masks, from_start, number, item)
    from_end = np.where(from_start >= 0, len(parsed.items) - 1 - from_start, -1)
    for array in (masks, from_start, from_end):
        array.setflags(write=False)
    return Roles(masks, from_start, from_end, len(parsed.items), parsed.ended is not None)


def positions(
    roles: Sequence[Roles], role: str, *, item_from_start: int | None = None, item_from_end: int | None = None
) -> Int[np.ndarray, " list"]:
    """The position with a role in each list; -1 where a list has none, for want of such an item or of its filler.

    `positions(roles, "item_last", item_from_end=0)` is the last token of the last item, whatever follows it.

    Raises:
        InputError: a list with several such positions (`Roles.where` gives them all), or as `Roles.mask`.
    """
    found = np.full(len(roles), -1)
    for number, one in enumerate(roles):
        where = one.where(role, item_from_start=item_from_start, item_from_end=item_from_end)
        if len(where) > 1:
            raise InputError(
                f"role must stand at one position of a list, and {role!r} stands at {len(where)} of list {number}: "
                "choose an item, or take all with `Roles.where`."
            )
        found[number] = where[0] if len(where) else -1
    return found


def gather(
    values: Float[np.ndarray, "list position *cell"],
    roles: Sequence[Roles],
    role: str,
    *,
    item_from_start: int | None = None,
    item_from_end: int | None = None,
) -> Float[np.ndarray, "list *cell"]:
    """Values at the position with a role in each list, NaN where a list has none; as `positions`.

    Raises:
        InputError: values of other lists, of fewer positions than the role needs, or as `positions`.
    """
    if len(values) != len(roles):
        raise InputError(f"values must hold the {len(roles)} lists that roles describe, not {len(values)}.")
    where = positions(roles, role, item_from_start=item_from_start, item_from_end=item_from_end)
    if where.max(initial=-1) >= values.shape[1]:
        raise InputError(f"values must reach to position {where.max()}, and have {values.shape[1]} positions.")
    found = np.full((len(values), *values.shape[2:]), np.nan, dtype=values.dtype)
    found[where >= 0] = values[where >= 0, where[where >= 0]]
    return found


def _prompt_labels(prompt: ListPrompt, special: ListTokens) -> list[str]:
    """Roles of the prompt before the prefilled hyphen."""
    labels = ["prompt"] * prompt.hyphen
    if prompt.tokens[0] == special.bos:
        labels[0] = "bos"
    for name, span in {"topic": prompt.topic_span, "header": prompt.header}.items():
        labels[span.start : span.stop] = [name] * len(span)
    if prompt.adjective_index is not None:
        labels[prompt.adjective_index] = "adjective"
    return labels


def _line_labels(lines: Sequence[int], special: ListTokens) -> list[str]:
    """Roles of a list's tokens as far as their lines alone tell; what items are made of is `other` here."""
    labels = ["line_break" if token == special.line_break else "other" for token in lines]
    for i, token in enumerate(lines):
        if token == special.hyphen and (i == 0 or lines[i - 1] == special.line_break):
            labels[i] = "hyphen"
    return labels


def _place(
    masks: Bool[np.ndarray, "role position"], item_from_start: Int[np.ndarray, " position"], number: int, item: Item
) -> None:
    """Write an item's roles and its number over what its lines alone told."""
    content = list(item.content)
    parts = {"item_first": content[:1], "item_inner": content[1:-1], "item_last": content[-1:]}
    parts["filler"] = [] if item.filler is None else [item.filler]
    for role, where in parts.items():
        masks[ROLES.index("other"), where] = False
        masks[ROLES.index(role), where] = True
    last = content[-1] if item.line_break is None else item.line_break
    item_from_start[item.hyphen : last + 1] = number
