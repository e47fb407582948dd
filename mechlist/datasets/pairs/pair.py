"""Pairs of prompts for patching: from flags, from a file, or built in."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mechlist.datasets.answers import Texts, answer_token, likely_mistakes
from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.lists.role_positions import role_positions
from mechlist.datasets.lists.roles import list_roles
from mechlist.datasets.pairs.induction import induction_pairs
from mechlist.datasets.pairs.ioi import OBJECTS, PLACES, ioi_pairs
from mechlist.datasets.pairs.irrelevant import Change, changes, instruction_words, same_kind
from mechlist.datasets.topics import choose_topics
from mechlist.errors import InputError
from mechlist.text_files import TwiceError, json_lines, parse_json, read_file

KEYS = ("clean", "corrupt", "answer", "wrong")
MOST_BYTES = 200_000_000
"""Of a file of pairs."""
LIST_ITEMS = 8
"""Of the list after which a short prompt ends and a long one goes on."""


@dataclass(frozen=True)
class Pair:
    """One pair of prompts, in tokens."""

    clean: Sequence[int]
    corrupt: Sequence[int]
    answer: int
    wrong: int


@dataclass(frozen=True)
class Pairs:
    """Pairs, and where in each of them the positions of each role are."""

    pairs: list[Pair]
    roles: Mapping[str, list[list[int]]] | None = None
    clusters: list[str] | None = None
    """What pairs have in common: those of one topic or template are not independent."""
    irrelevant: list[list[Change]] | None = None
    """Of each pair, the ways to change a token of both its prompts that should not matter."""

    def in_draws(self, prompts: int) -> "list[Pairs]":
        """Pairs of a null in groups as large as the estimate's: means over fewer prompts are larger by chance.

        Raises:
            InputError: pairs that do not make whole groups.
        """
        if len(self.pairs) % prompts:
            raise InputError(
                f"null_file must hold as many pairs as there are prompts ({prompts}), or a multiple for several draws "
                f"of the null, not {len(self.pairs)}."
            )
        return [Pairs(self.pairs[i : i + prompts]) for i in range(0, len(self.pairs), prompts)]


def list_pairs(tokenizer: Any, topics: Sequence[str]) -> Pairs:
    """Lists of well-known items with a filler on the last: at its last line break a short list ends, a long one not.

    Raises:
        InputError: a topic that there is not; a tokenizer without chat template.
    """
    marks = list_tokens(tokenizer)
    pairs, roles, others = [], [], []
    words = instruction_words(tokenizer)
    for topic, items in choose_topics((), topics).items():
        lines = [tokenizer.encode(item, add_special_tokens=False) for item in items[:LIST_ITEMS]]
        written = [token for line in lines for token in (marks.hyphen, *line, marks.line_break)]
        completion = [*written[1:-1], marks.blank, marks.line_break]
        prompt, other = (list_prompt(tokenizer, topic, adjective) for adjective in ("short", "long"))
        clean, corrupt = (p.with_completion(completion) for p in (prompt, other))
        pairs.append(Pair(clean, corrupt, marks.end_of_turn, marks.hyphen))
        roles.append(list_roles(prompt, completion, marks))
        others.append(changes(clean, words, roles[-1].where("prompt").tolist()))
    return Pairs(pairs, role_positions(roles), list(topics), others)


def name_pairs(tokenizer: Any, examples: int, *, bos: int | None, generator: np.random.Generator) -> Pairs:
    """Indirect object identification; the corrupt prompt swaps the two names' parts (Wang et al. 2022).

    Raises:
        InputError: a tokenizer that does not write names as one token.
    """
    found = ioi_pairs(tokenizer, examples, generator, bos=bos)
    roles = {name: [[pair.positions[name]] for pair in found] for name in found[0].positions}
    pairs = [Pair(p.clean, p.corrupt, p.answer, p.wrong) for p in found]
    words = same_kind(tokenizer, PLACES, OBJECTS)
    others = [changes(p.clean, words, range(len(p.clean))) for p in found]
    return Pairs(pairs, roles, [f"template {p.template}" for p in found], others)


def block_pairs(
    examples: int, period: int, *, d_vocab: int, n_ctx: int, bos: int | None, generator: torch.Generator
) -> Pairs:
    """Random blocks begun again; the corrupt prompt differs in what induction reads; see `induction_pairs`.

    Raises:
        InputError: a block that is too short, or too long for the model.
    """
    found = induction_pairs(examples, period, d_vocab, bos, generator, n_ctx=n_ctx)
    columns = (found.clean, found.corrupt, found.answer, found.wrong)
    return Pairs([Pair(*row) for row in zip(*(column.tolist() for column in columns), strict=True)])


def own_pairs(model: Texts, texts: Sequence[Mapping[str, str]], *, vocabulary: int) -> Pairs:
    """Pairs given as text, of a model that can predict so many tokens; what looks like a slip in them is warned of.

    Raises:
        InputError: prompts of unequal length or that do not differ, an answer that is not one token.
    """
    pairs = [_tokens(model, pair, number, vocabulary) for number, pair in enumerate(texts, start=1)]
    for number, pair in enumerate(texts, start=1):
        where = "" if len(texts) == 1 else f"In pair {number} "
        for said in likely_mistakes(model, pair["clean"], pair["answer"], where=where):
            warnings.warn(said[:1].upper() + said[1:], stacklevel=2)
    return Pairs(pairs)


def read_pairs(file: Path) -> list[dict[str, str]]:
    """Pairs from lines of JSON with clean, corrupt, answer and wrong.

    Raises:
        InputError: a file that cannot be read, or a line that is no pair.
    """
    pairs = []
    for number, line in json_lines(read_file(file.expanduser(), MOST_BYTES, "a file of pairs")):
        try:
            pair = parse_json(line)
        except TwiceError as error:
            raise InputError(f"{file}, line {number}: {error}.") from error
        except ValueError as error:
            raise InputError(f"{file}, line {number}, is not JSON: {error}.") from error
        if not isinstance(pair, dict) or any(not isinstance(pair.get(name), str) or not pair[name] for name in KEYS):
            raise InputError(f"{file}, line {number}, must hold {', '.join(KEYS)} as text.")
        pairs.append({name: pair[name] for name in KEYS})
    if not pairs:
        raise InputError(f"{file} must hold one pair at least, one a line.")
    return pairs


def _tokens(model: Texts, pair: Mapping[str, str], number: int, vocabulary: int) -> Pair:
    clean, corrupt = model.to_tokens(pair["clean"]), model.to_tokens(pair["corrupt"])
    if len(clean) != len(corrupt):
        raise InputError(
            f"clean and corrupt must have the same number of tokens; in pair {number} they have {len(clean)} and "
            f"{len(corrupt)}: {model.token_texts(clean)} and {model.token_texts(corrupt)}."
        )
    if clean == corrupt:
        raise InputError(f"clean and corrupt must differ; in pair {number} they are the same tokens.")
    answer, wrong = (
        answer_token(model, name, pair[name], vocabulary=vocabulary, prompt=pair["clean"], where=f"in pair {number} ")
        for name in ("answer", "wrong")
    )
    if answer == wrong:
        raise InputError(f"answer and wrong must be different tokens; in pair {number} both are {pair['answer']!r}.")
    return Pair(clean, corrupt, answer, wrong)
