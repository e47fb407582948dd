"""What the experiments on lists share: where their lists come from, and directions of one's own."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mechlist.datasets.answers import answer_token
from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.directions import Direction
from mechlist.datasets.lists.list_set import ListSet, Provenance, list_set
from mechlist.datasets.lists.made import example_completion, well_known_lists
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import ListPrompt, adjective_tokens, list_prompts
from mechlist.datasets.lists.read import read_lists
from mechlist.datasets.templates import list_tokenizer
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.decode import Edit, Sampling, generate
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.runner import Runner
from mechlist.text import NO_ADJECTIVE


@dataclass(frozen=True, kw_only=True)
class ListExperiment(Experiment):
    """Base of the experiments on lists: recorded ones, or what a variant puts in their place."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {"lists": ("recorded", "topics")}

    recorded: tuple[Path, ...] = ()
    """Files of recorded lists, or folders of them, such as `exports/lists` of a generate-lists run."""
    topics: tuple[str, ...] = ()
    """Topics to use; by default all that are recorded, or those of the study."""
    template: Path | None = None
    """File with the text of the prompt, for models without chat template: one {adjective}, one {topic}, and all that
    stands before the list."""
    end_tokens: tuple[int, ...] = ()
    """With template: ids of the token that ends a list after a line break, which A compares with the hyphen, and of
    another one if there is."""

    def list_tokenizer(self, runner: Runner) -> Any:
        """The tokenizer as lists are asked for: with its chat template, or with one's own.

        Raises:
            InputError: as `mechlist.datasets.templates.list_tokenizer`.
        """
        return list_tokenizer(runner.tokenizer, self.template, self.end_tokens)

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
            return well_known_lists(self.list_tokenizer(runner), self.topics, at_most=self.lists, items=self.items)
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

    def example_completion(self, runner: Runner) -> tuple[int, ...]:
        """See Experiment."""
        return example_completion(self.list_tokenizer(runner), self.max_new_tokens)

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
        tokenizer = self.list_tokenizer(runner)
        return sample_lists(
            runner,
            list_prompts(tokenizer, names, self.adjectives),
            list_tokens(tokenizer),
            sampling=self.sampling,
            samples=self.samples,
            max_new_tokens=self.max_new_tokens,
        )


def sample_lists(
    runner: Runner,
    prompts: Sequence[ListPrompt],
    special: ListTokens,
    *,
    sampling: Sampling,
    samples: int,
    max_new_tokens: int,
    begun: Sequence[Sequence[int]] | None = None,
    edit: Edit | None = None,
    label: str = "Writing lists",
) -> ListSet:
    """Lists that the model writes, `samples` for each prompt; with the same random numbers whatever `edit` says.

    With `begun`, a part of a list for each prompt, it is from there that they are written.
    """
    there = [()] * len(prompts) if begun is None else [tuple(part) for part in begun]
    written = generate(
        runner,
        [(*prompt.tokens, *part) for prompt, part in zip(prompts, there, strict=True)],
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
        [
            (*part, *completion.tokens)
            for part, of_prompt in zip(there, written, strict=True)
            for completion in of_prompt
        ],
        provenance,
        adjective_tokens=adjective_tokens(prompts, runner.tokenizer),
    )


def text_direction(runner: Runner, answer: Sequence[str], wrong: Sequence[str], role: str) -> Direction:
    """A direction of one's own, from the text of its tokens with their leading blanks.

    Raises:
        InputError: a text that is not one token, or as `Direction`.
    """
    sides = {"answer": answer, "wrong": wrong}
    ids = {
        name: tuple(answer_token(runner, name, text, vocabulary=runner.shape.d_vocab_out) for text in texts)
        for name, texts in sides.items()
    }
    name = " - ".join("/".join(repr(text) for text in texts) for texts in sides.values())
    return Direction(name=name, answer=ids["answer"], wrong=ids["wrong"], role=role)
