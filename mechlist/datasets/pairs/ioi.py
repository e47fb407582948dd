"""Indirect object identification: pairs of prompts for activation patching (Wang et al. 2022, arXiv 2211.00593)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from mechlist.datasets.chat import is_unknown
from mechlist.errors import InputError

Order = Literal["ABBA", "BABA"]
"""ABBA names the indirect object first, BABA the subject."""
Corruption = Literal["subject", "random"]
ROLES = ("io", "s1", "s1+1", "s2", "end")
"""The indirect object, the subject at first, the token after it, the subject again, and the prompt's last token."""
LEAST_NAMES = 5
"""Two for a prompt, and three others for its corruption."""

TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave a {object} to",
    "Then, {first} and {second} had a great time at the {place}. {subject} gave a {object} to",
    "After {first} and {second} came back from the {place}, {subject} handed a {object} to",
    "While {first} and {second} were working at the {place}, {subject} passed a {object} to",
    "Afterwards, {first} and {second} met at the {place}. {subject} decided to give a {object} to",
    "Friends {first} and {second} found a {object} at the {place}. {subject} gave it to",
    "When {first} and {second} bought a {object} at the {place}, {subject} wanted to give it to",
    "The {place} that {first} and {second} visited had a {object}. {subject} gave the {object} to",
    "Yesterday {first} and {second} were on their way to the {place}, and {subject} showed a {object} to",
    "Then, {first} and {second} were thinking about the {place}. {subject} offered a {object} to",
)
"""Every one has all of `_SLOTS`, so that there are equally many prompts of each."""
_SLOTS: tuple[str, ...] = ("first", "second", "subject", "place", "object")
PLACES = (
    *("store", "garden", "restaurant", "school", "hospital", "office", "house", "station", "park", "market"),
    *("library", "museum", "beach", "church", "bank", "hotel", "airport", "theater", "farm", "stadium"),
)
OBJECTS = (
    *("ring", "book", "ball", "phone", "drink", "snack", "letter", "map", "camera", "basket", "gift", "bottle"),
    *("hat", "pen", "key", "coat", "necklace", "computer", "basketball", "sandwich", "ticket", "candle"),
)
"""All take the article "a"."""
NAMES = (
    *("Aaron", "Adam", "Alexander", "Alice", "Alicia", "Allison", "Amanda", "Amy", "Andrea", "Andrew", "Angela"),
    *("Anna", "Anne", "Anthony", "Arthur", "Ashley", "Ben", "Benjamin", "Bradley", "Brandon", "Brian", "Bryan", "Carl"),
    *("Catherine", "Charles", "Christina", "Christine", "Christopher", "Claire", "Courtney", "Daniel", "Danielle"),
    *("David", "Diana", "Dustin", "Edward", "Elizabeth", "Ellen", "Emily", "Emma", "Eric", "Erica", "Erin", "Fred"),
    *("George", "Gregory", "Hannah", "Harry", "Heather", "Helen", "Henry", "Jack", "Jacob", "James", "Jamie", "Jane"),
    *("Jason", "Jeffrey", "Jennifer", "Jeremy", "Jesse", "Jessica", "John", "Jonathan", "Joseph", "Joshua", "Julia"),
    *("Justin", "Karen", "Kate", "Katherine", "Katie", "Keith", "Kelly", "Kenneth", "Kevin", "Kimberly", "Kyle"),
    *("Laura", "Lauren", "Lily", "Linda", "Lisa", "Lucy", "Luke", "Maria", "Martin", "Mary", "Matthew", "Megan"),
    *("Melissa", "Mia", "Michael", "Michelle", "Nathan", "Neil", "Nicholas", "Nicole", "Oliver", "Patrick", "Paul"),
    *("Peter", "Philip", "Rachel", "Rebecca", "Richard", "Robert", "Roger", "Ruth", "Ryan", "Sam", "Samantha"),
    *("Sandra", "Sara", "Sarah", "Scott", "Sean", "Shannon", "Simon", "Sophie", "Stephanie", "Stephen", "Steven"),
    *("Susan", "Thomas", "Tiffany", "Tim", "Timothy", "Tom", "Travis", "Tyler", "Vanessa", "Victoria", "William"),
)


@dataclass(frozen=True, kw_only=True)
class IOIPair:
    """A prompt that ends where the indirect object's name comes, and its corruption, position for position."""

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answer: int
    """Token of the indirect object of clean (IO)."""
    wrong: int
    """Token of the subject of clean (S)."""
    template: int
    """Index in `TEMPLATES`."""
    order: Order
    positions: Mapping[str, int] = field(hash=False)
    """Index of each of `ROLES` in clean and corrupt, BOS counted; whose names they are holds for clean."""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupt):
            raise InputError(
                f"clean and corrupt must have the same number of tokens, not {len(self.clean)} and {len(self.corrupt)}."
            )
        if self.clean == self.corrupt:
            raise InputError("clean and corrupt must differ in a token, and are the same.")
        if set(self.positions) != set(ROLES):
            raise InputError(f"positions must be of {', '.join(ROLES)}, not of {', '.join(self.positions)}.")
        outside = {role: i for role, i in self.positions.items() if not 0 <= i < len(self.clean)}
        if outside:
            raise InputError(f"positions must be indices of the {len(self.clean)} tokens, not {outside}.")


def ioi_pairs(
    tokenizer: Any,
    count: int,
    generator: np.random.Generator,
    *,
    bos: int | None = None,
    corruption: Corruption = "subject",
) -> list[IOIPair]:
    """Pairs with distinct clean prompts, drawn uniformly within each template and order.

    Templates take turns, and so do the two orders: in any number of pairs from the first on, their counts, and those of
    a template in an order, differ by one at most. Prompts of several templates differ in length.

    Args:
        tokenizer: of Hugging Face; only names that are one token with a blank in front of them are used.
        count: number of pairs.
        generator: decides all that is drawn.
        bos: put in front of every prompt.
        corruption: `subject` puts the indirect object in the place of the subject's second mention, so that the right
            answer is the other name; `random` puts three other names in the places of the three (the paper's ABC), so
            that neither is.

    Raises:
        InputError: a count below 1 or beyond the distinct prompts there are; an unknown corruption; a tokenizer that
            writes too few of the names as one token, or does not know the words of the prompts.
    """
    if corruption not in get_args(Corruption):
        raise InputError(f"corruption must be one of {', '.join(get_args(Corruption))}, not {corruption!r}.")
    names = single_token_names(tokenizer)
    if len(names) < LEAST_NAMES:
        found = f" ({', '.join(names)})" if names else ""
        raise InputError(
            f"The tokenizer must write at least {LEAST_NAMES} of the {len(NAMES)} names as one token, not "
            f"{len(names)}{found}."
        )
    _check_words(tokenizer)
    sizes = (len(names), len(names) - 1, len(PLACES), len(OBJECTS))
    most = math.prod(sizes) * len(TEMPLATES) * len(get_args(Order))
    if not 1 <= count <= most:
        raise InputError(
            f"count must be from 1 to {most}, the distinct prompts that {len(names)} names make, not {count}."
        )
    plan = _plan(count, generator)
    # One number a prompt, without replacement: no two clean prompts are the same.
    drawn = {cell: generator.choice(math.prod(sizes), plan.count(cell), replace=False) for cell in dict.fromkeys(plan)}
    numbers = {cell: iter(of_cell.tolist()) for cell, of_cell in drawn.items()}
    pairs = []
    for template, order in plan:
        io, subject, place, thing = (int(i) for i in np.unravel_index(next(numbers[template, order]), sizes))
        scene = _Scene(template, order, PLACES[place], OBJECTS[thing])
        shown = list(names)
        clean = (shown.pop(io), shown.pop(subject))
        corrupt = (*clean, clean[0]) if corruption == "subject" else _others(shown, generator)
        pairs.append(_pair(tokenizer, scene, names, clean, corrupt, bos))
    return pairs


def single_token_names(tokenizer: Any) -> dict[str, int]:
    """Those of `NAMES` that the tokenizer writes as one token after a blank, with their tokens.

    Raises:
        InputError: no tokenizer.
    """
    if tokenizer is None:
        raise InputError("Prompts with names need a tokenizer, and the model has none.")
    before = _encode(tokenizer, "and")
    written = {name: _encode(tokenizer, f"and {name}") for name in NAMES}
    return {
        name: ids[-1]
        for name, ids in written.items()
        if len(ids) == len(before) + 1 and ids[:-1] == before and not is_unknown(tokenizer, ids[-1])
    }


@dataclass(frozen=True)
class _Scene:
    """A prompt without its names."""

    template: int
    order: Order
    place: str
    thing: str

    def text(self, io: str, s1: str, s2: str) -> str:
        first, second = (io, s1) if self.order == "ABBA" else (s1, io)
        return TEMPLATES[self.template].format(
            first=first, second=second, subject=s2, place=self.place, object=self.thing
        )


def _plan(count: int, generator: np.random.Generator) -> list[tuple[int, Order]]:
    """Template and order of each pair: every round has all templates, each in the other order than the round before."""
    turns = generator.permutation(len(TEMPLATES)).tolist()
    orders: tuple[Order, ...] = get_args(Order)
    places = (divmod(i, len(turns)) for i in range(count))
    return [(turns[turn], orders[(number + turn) % len(orders)]) for number, turn in places]


def _others(names: list[str], generator: np.random.Generator) -> tuple[str, str, str]:
    """Three of the names, all different."""
    one, two, three = generator.choice(len(names), 3, replace=False).tolist()
    return names[one], names[two], names[three]


def _pair(
    tokenizer: Any,
    scene: _Scene,
    names: Mapping[str, int],
    clean: tuple[str, str],
    corrupt: tuple[str, str, str],
    bos: int | None,
) -> IOIPair:
    """The pair with these names: of clean the indirect object and the subject, of corrupt those at io, s1 and s2."""
    io, subject = clean
    text, corrupt_text = scene.text(io, subject, subject), scene.text(*corrupt)
    start = () if bos is None else (bos,)
    tokens = (*start, *_encode(tokenizer, text))
    ios, subjects = ([i for i, token in enumerate(tokens) if token == names[name]] for name in clean)
    if len(ios) != 1 or len(subjects) != 2:
        raise InputError(f"The tokenizer must write each name as one token of its own, and does not in {text!r}.")
    places = (*ios, *subjects)
    swapped = dict(zip(places, (names[name] for name in corrupt), strict=True))
    corrupt_tokens = tuple(swapped.get(i, token) for i, token in enumerate(tokens))
    if corrupt_tokens != (*start, *_encode(tokenizer, corrupt_text)):
        raise InputError(
            f"The tokenizer must write {corrupt_text!r} as {text!r} but for the names, and changes other tokens."
        )
    s1, s2 = subjects
    return IOIPair(
        clean=tokens,
        corrupt=corrupt_tokens,
        answer=names[io],
        wrong=names[subject],
        template=scene.template,
        order=scene.order,
        positions=dict(zip(ROLES, (ios[0], s1, s1 + 1, s2, len(tokens) - 1), strict=True)),
    )


def _check_words(tokenizer: Any) -> None:
    """Every word of the prompts must be in the vocabulary."""
    plain = [template.format_map(dict.fromkeys(_SLOTS, "the")) for template in TEMPLATES]
    texts = [*plain, *(f"the {word}" for word in (*PLACES, *OBJECTS))]
    unknown = [text for text in texts if any(is_unknown(tokenizer, token) for token in _encode(tokenizer, text))]
    if unknown:
        raise InputError(
            f"The tokenizer must know the words of the prompts, and does not know {len(unknown)} of {len(texts)} parts "
            f"of them, as in {unknown[0]!r}."
        )


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
