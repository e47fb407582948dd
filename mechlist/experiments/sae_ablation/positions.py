"""Which tokens of prompts and lists features are changed at: along given lists, and in those that are being written."""

from collections.abc import Sequence
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Where:
    """Tokens with chosen roles; all that are not special if none is chosen.

    In a list the token alone decides: any hyphen is a `hyphen`, any blank a `filler`, any other token of a line `item`.
    """

    prompts: Sequence[ListPrompt]
    special: ListTokens
    never: Sequence[int]
    """Special tokens, at which nothing is changed."""
    at: Sequence[str] = ()
    written: bool = True
    """Whether tokens behind the prompt count."""

    def __post_init__(self) -> None:
        check_roles(self.at)

    @property
    def name(self) -> str:
        """What results depend on."""
        return f"{sorted(self.at)} {self.written}"

    def __call__(self, tokens: Int[Tensor, "row token"], first: int, last: int) -> Bool[Tensor, "row token"]:
        """Of tokens from position `first` on, in texts whose prompts end at position `last`."""
        found = self._of_list(tokens.cpu())
        if first == 0:
            of_prompt = min(last + 1, tokens.shape[1])
            for row, own in enumerate(tokens[:, : last + 1].tolist()):
                found[row, :of_prompt] = self._of_prompt[tuple(own)][:of_prompt]
        return found

    def along(self, lists: ListSet) -> Bool[Tensor, "list position"]:
        """Of whole lists; nothing in padding."""
        found = self._of_list(lists.tokens)
        for row, (prompt, length) in enumerate(zip(lists.prompts, lists.lengths.tolist(), strict=True)):
            own = self._of_prompt[prompt.tokens]
            found[row, : len(own)] = own
            found[row, length:] = False
        return found

    @cached_property
    def _of_prompt(self) -> dict[tuple[int, ...], Bool[Tensor, " position"]]:
        out = {}
        for prompt in self.prompts:
            tokens = torch.tensor(prompt.tokens)
            plain = ~torch.isin(tokens, torch.tensor(list(self.never)))
            if self.at:
                masks = list_roles(prompt, (), self.special).masks
                plain &= torch.from_numpy(masks[[ROLES.index(r) for r in OF_PROMPT if r in self.at]].any(axis=0))
            out[prompt.tokens] = plain
        return out

    def _of_list(self, tokens: Int[Tensor, "row token"]) -> Bool[Tensor, "row token"]:
        if not self.written:
            return torch.zeros(tokens.shape, dtype=torch.bool)
        plain = ~torch.isin(tokens, torch.tensor(list(self.never)))
        if not self.at:
            return plain
        own = {"hyphen": self.special.hyphen, "filler": self.special.blank, "line_break": self.special.line_break}
        kinds = {role: tokens == token for role, token in own.items()}
        kinds["item"] = ~torch.stack(list(kinds.values())).any(dim=0)
        chosen = [kinds[role] for role in OF_LIST if role in self.at]
        return plain & torch.stack(chosen).any(dim=0) if chosen else torch.zeros_like(plain)
