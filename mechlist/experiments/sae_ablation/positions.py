"""Which tokens of prompts and lists features are changed at: along given lists, and in those that are being written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import ListPrompt
from mechlist.datasets.lists.roles import ROLES, list_roles
from mechlist.errors import InputError

OF_PROMPT = ("adjective", "topic", "prompt", "header", "hyphen")
OF_LIST = ("hyphen", "item", "filler", "line_break")
AT = tuple(dict.fromkeys(OF_PROMPT + OF_LIST))
"""Roles that are known while a list is written, where nobody knows yet whether a token is an item's last."""


def check_roles(at: Sequence[str]) -> None:
    """Whether features can be changed at tokens with these roles.

    Raises:
        InputError: they cannot.
    """
    wrong = next((role for role in at if role not in AT), None)
    if wrong is not None:
        raise InputError(f"at must be of {', '.join(AT)}, not {wrong!r}.")


@dataclass(frozen=True)
class Start:
    """What a list is written from."""

    prompt: ListPrompt
    begun: tuple[int, ...] = ()
    """The part of the list that stands already."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and part."""
        return self.prompt.with_completion(self.begun)


def before_last_item(lists: ListSet) -> list[Start]:
    """Lists cut just before the last token of their last item, as the original study has them.

    Raises:
        InputError: a list without an item.
    """
    out = []
    for row, prompt, parsed in zip(lists.rows, lists.prompts, lists.parsed, strict=True):
        whole = parsed.items[: parsed.n_whole_items]
        if not whole:
            raise InputError("write_from last-item needs lists with an item each.")
        out.append(Start(prompt, tuple(row[len(prompt.tokens) : whole[-1].content.stop - 1].tolist())))
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Where:
    """Tokens with chosen roles; all that are not special if none is chosen.

    In a list the token alone decides: any hyphen is a `hyphen`, any blank a `filler`, any other token of a line `item`.
    """

    starts: Sequence[Start]
    special: ListTokens
    never: Sequence[int]
    """Special tokens, at which nothing is changed."""
    at: Sequence[str] = ()
    written: bool = True
    """Whether tokens count that are written behind the start."""

    def __post_init__(self) -> None:
        check_roles(self.at)

    @property
    def name(self) -> str:
        """What results depend on."""
        return f"{sorted(self.at)} {self.written}"

    def __call__(self, tokens: Int[Tensor, "row token"], first: int, last: int) -> Bool[Tensor, "row token"]:
        """Of tokens from position `first` on, in texts whose prompts end at position `last`."""
        found = self._of_list(tokens.cpu()) if self.written else torch.zeros(tokens.shape, dtype=torch.bool)
        if first == 0:
            of_start = min(last + 1, tokens.shape[1])
            for row, own in enumerate(tokens[:, : last + 1].tolist()):
                found[row, :of_start] = self._of_start[tuple(own)][:of_start]
        return found

    def along(self, lists: ListSet, starts: Sequence[Start]) -> Bool[Tensor, "list position"]:
        """Of whole lists, each with its start; nothing in padding."""
        found = self._of_list(lists.tokens) if self.written else torch.zeros(lists.tokens.shape, dtype=torch.bool)
        for row, (start, length) in enumerate(zip(starts, lists.lengths.tolist(), strict=True)):
            own = self._of_start[start.tokens]
            found[row, : len(own)] = own
            found[row, length:] = False
        return found

    @cached_property
    def _of_start(self) -> Mapping[tuple[int, ...], Bool[Tensor, " position"]]:
        out = {}
        for start in self.starts:
            tokens = torch.tensor(start.prompt.tokens)
            plain = ~torch.isin(tokens, torch.tensor(list(self.never)))
            if self.at:
                masks = list_roles(start.prompt, (), self.special).masks
                plain &= torch.from_numpy(masks[[ROLES.index(r) for r in OF_PROMPT if r in self.at]].any(axis=0))
            begun = torch.tensor([start.begun], dtype=torch.long)
            out[start.tokens] = torch.cat([plain, self._of_list(begun)[0]])
        return out

    def _of_list(self, tokens: Int[Tensor, "row token"]) -> Bool[Tensor, "row token"]:
        plain = ~torch.isin(tokens, torch.tensor(list(self.never)))
        if not self.at:
            return plain
        own = {"hyphen": self.special.hyphen, "filler": self.special.blank, "line_break": self.special.line_break}
        kinds = {role: tokens == token for role, token in own.items()}
        kinds["item"] = ~torch.stack(list(kinds.values())).any(dim=0)
        chosen = [kinds[role] for role in OF_LIST if role in self.at]
        return plain & torch.stack(chosen).any(dim=0) if chosen else torch.zeros_like(plain)
