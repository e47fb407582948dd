"""What the experiments on lists share: where their lists come from, directions of one's own, and pairs for patching."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.directions import Direction
from mechlist.datasets.lists.list_set import ListSet, Provenance, list_set
from mechlist.datasets.lists.made import example_completion, well_known_lists
from mechlist.datasets.lists.prompts import ListPrompt, adjective_tokens, list_prompts
from mechlist.datasets.lists.read import read_lists
from mechlist.datasets.lists.role_positions import CountFrom, named_roles
from mechlist.datasets.lists.roles import positions
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.decode import HeadEdit, Sampling, generate
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.metrics.answers import LogitDifference
from mechlist.runner import Runner
from mechlist.text import NO_ADJECTIVE, visible

At = Literal["break", "item"]
Side = Literal["denoising", "noising"]


@dataclass(frozen=True, kw_only=True)
class ListExperiment(Experiment):
    """Base of the experiments on lists: recorded ones, or what a variant puts in their place."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    recorded: tuple[Path, ...] = ()
    """Files of recorded lists, or folders of them, such as `exports/lists` of a generate-lists run."""
    topics: tuple[str, ...] = ()
    """Topics to use; by default all that are recorded, or those of the study."""

    @abstractmethod
    def data(self, runner: Runner) -> ListSet:
        """The lists to run on.

        Raises:
            InputError: files that cannot be read or do not fit the model; topics that there are not.
        """


@dataclass(frozen=True, kw_only=True)
class MadeListExperiment(ListExperiment):
    """Base of experiments on lists that ended: recorded ones, or lists made of well-known items."""

    recorded: tuple[Path, ...] = ()
    """Files of recorded lists, or folders of them, such as `exports/lists` of a generate-lists run; without, lists are
    written from the items of topics."""
    temperature: float | int | None = None
    """Only lists recorded at this temperature."""
    lists: int = 2
    """At most so many lists of each topic and adjective, the first ones that ended."""
    items: int = 8
    """Items of each written list; the last has a filler."""

    def __post_init__(self) -> None:
        for name in ("lists", "items"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.temperature is not None and not self.recorded:
            raise InputError("temperature chooses among recorded lists: give them with recorded.")

    def data(self, runner: Runner) -> ListSet:
        """See ListExperiment."""
        if not self.recorded:
            return well_known_lists(runner.tokenizer, self.topics, at_most=self.lists, items=self.items)
        return read_lists(
            self.recorded,
            topics=self.topics,
            temperature=self.temperature,
            at_most=self.lists,
            tokenizer=runner.tokenizer,
        ).ordered()


@dataclass(frozen=True, kw_only=True)
class SampledListExperiment(ListExperiment):
    """Base of experiments on a model's own lists: recorded ones, or lists that it writes now.

    Lists that were cut off are among them, or lengths would be biased.
    """

    recorded: tuple[Path, ...] = ()
    """Files of recorded lists, or folders of them, such as `exports/lists` of a generate-lists run; lists that were cut
    off count. Without, the model writes lists here."""
    adjectives: tuple[str, ...] = ("short", "long", NO_ADJECTIVE)
    """Adjectives to use."""
    temperature: float | int | None = None
    """Only lists recorded at this temperature; and the temperature of lists written here, 1 by default."""
    lists: int = 5
    """At most so many recorded lists of each topic, adjective and temperature: the first ones, ended or not."""
    top_p: float | int = 1.0
    """Nucleus of lists written here; recorded lists say their own."""
    samples: int = 2
    """Lists written here for each prompt."""
    max_new_tokens: int = 200
    """Tokens after which a list written here is cut off."""
    resamples: int = 2000
    """Bootstrap resamples of topics."""

    def __post_init__(self) -> None:
        for name in ("lists", "samples", "max_new_tokens", "resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.adjectives or len(set(self.adjectives)) < len(self.adjectives):
            raise InputError(f"adjectives must hold one value at least, each once, not {list(self.adjectives)}.")
        _ = self.sampling

    def stand_in(self, runner: Runner) -> tuple[int, ...]:
        """See Experiment."""
        return example_completion(runner.tokenizer, self.max_new_tokens)

    @property
    def sampling(self) -> Sampling:
        """How lists are drawn that are written here."""
        return Sampling(temperature=1.0 if self.temperature is None else self.temperature, top_p=self.top_p)

    def data(self, runner: Runner, names: Sequence[str] | None = None) -> ListSet:
        """See ListExperiment.

        Args:
            runner: with the model.
            names: topics of lists that are written here; by default those that are asked for.
        """
        if self.recorded:
            return read_lists(
                self.recorded,
                topics=self.topics,
                adjectives=self.adjectives,
                temperature=self.temperature,
                at_most=self.lists,
                per_temperature=True,
                keep_cut_off=True,
                tokenizer=runner.tokenizer,
            ).ordered()
        if names is None:
            names = list(choose_topics((), self.topics) if self.topics else choose_topics((STUDY,)))
        prompts = list_prompts(runner.tokenizer, names, self.adjectives)
        return sample_lists(
            runner, prompts, sampling=self.sampling, samples=self.samples, max_new_tokens=self.max_new_tokens
        )


def sample_lists(
    runner: Runner,
    prompts: Sequence[ListPrompt],
    *,
    sampling: Sampling,
    samples: int,
    max_new_tokens: int,
    edit: HeadEdit | None = None,
    label: str = "Writing lists",
) -> ListSet:
    """Lists that the model writes, `samples` for each prompt; with the same random numbers whatever `edit` says."""
    special = list_tokens(runner.tokenizer)
    written = generate(
        runner,
        [prompt.tokens for prompt in prompts],
        max_new_tokens=max_new_tokens,
        samples=samples,
        sampling=sampling,
        stop_tokens=special.ends,
        edit=edit,
        label=label,
    )
    provenance = Provenance(
        origin="sampled",
        special=special,
        model=runner.language_model.info["name"],
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=max_new_tokens,
    )
    return list_set(
        [prompt for prompt in prompts for _ in range(samples)],
        [completion.tokens for of_prompt in written for completion in of_prompt],
        provenance,
        adjective_tokens=adjective_tokens(prompts, runner.tokenizer),
    )


def text_direction(runner: Runner, answer: Sequence[str], wrong: Sequence[str], role: str) -> Direction:
    """A direction of one's own, from the text of its tokens with their leading blanks.

    Raises:
        InputError: a text that is not one token, or as `Direction`.
    """
    sides = {"answer": answer, "wrong": wrong}
    ids = {name: tuple(_single(runner, name, text) for text in texts) for name, texts in sides.items()}
    name = " - ".join("/".join(repr(text) for text in texts) for texts in sides.values())
    return Direction(name=name, answer=ids["answer"], wrong=ids["wrong"], role=role)


@dataclass(frozen=True, eq=False)
class ListPairs:
    """Lists after both adjectives, cut behind the position that is measured."""

    short: Int[Tensor, "list position"]
    long: Int[Tensor, "list position"]
    lengths: Int[Tensor, " list"]
    roles: dict[str, list[list[int]]]
    direction: Direction
    own: str
    """The role of the position that is measured."""
    topic: list[str]
    n_items: list[int]
    left_out: int
    """Lists without that position."""

    def asked(self, side: Side) -> dict[str, Any]:
        """Arguments of `patch_grid`: short put into long (denoising), or long into short (noising)."""
        base, source = (self.long, self.short) if side == "denoising" else (self.short, self.long)
        # A single set of tokens stands for every list.
        metric = LogitDifference(
            answer=[self.direction.answer], wrong=[self.direction.wrong], position=(self.lengths - 1).tolist()
        )
        return {"base": base, "source": source, "metric": metric, "lengths": self.lengths, "roles": dict(self.roles)}

    @property
    def coords(self) -> dict[str, Any]:
        """Labels over the dimension `list`."""
        return {"topic": ("list", [visible(topic) for topic in self.topic]), "n_items": ("list", self.n_items)}


def list_pairs(
    data: ListSet, adjective: str, at: At, *, count_from: CountFrom = "end", role_items: int = 2
) -> ListPairs:
    """The lists written after one adjective, with both, measured at their last line break or last token of an item.

    Args:
        data: lists.
        adjective: short or long: whose lists.
        at: `break` for direction A at the last item's line break, `item` for B at the last token of the last item.
        count_from: which items have roles of their own: those nearest to the last, or to the first.
        role_items: how many.

    Raises:
        InputError: no list with the adjective or with the position, or as `ListSet.swapped`.
    """
    chosen = data.select(adjective)
    other = chosen.swapped()
    direction = data.directions[0 if at == "break" else 1]
    where = torch.from_numpy(positions(chosen.roles, direction.role, item_from_end=0))
    kept = (where >= 0).nonzero()[:, 0]
    if not len(kept):
        raise InputError(f"at must be a place that some list has: none of the {len(where)} lists has its last {at}.")
    lengths, roles = where[kept] + 1, [chosen.roles[i] for i in kept.tolist()]
    width = int(lengths.max())
    own, swapped = (tokens[kept, :width] for tokens in (chosen.tokens, other.tokens))
    found = named_roles(roles, lengths.tolist(), count_from, role_items)
    return ListPairs(
        short=own if adjective == "short" else swapped,
        long=swapped if adjective == "short" else own,
        lengths=lengths,
        roles=found,
        direction=direction,
        own=_own(found, lengths.tolist()),
        topic=[chosen.topic[i] for i in kept.tolist()],
        n_items=[one.n_items for one in roles],
        left_out=len(where) - len(kept),
    )


def _own(roles: Mapping[str, list[list[int]]], lengths: Sequence[int]) -> str:
    """The role that most lists have at their last position: items counted from the start may differ."""
    found = [
        name for name, where in roles.items() for of_list, n in zip(where, lengths, strict=True) if n - 1 in of_list
    ]
    return max(dict.fromkeys(found), key=found.count)


def _single(runner: Runner, name: str, text: str) -> int:
    tokens = runner.to_tokens(text, prepend_bos=False) if text else []
    if len(tokens) != 1:
        raise InputError(f"{name} must be made of single tokens; {text!r} is {len(tokens)}.")
    return tokens[0]
