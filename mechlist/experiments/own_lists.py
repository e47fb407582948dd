"""Base of the experiments on a model's own lists: recorded ones, cut off or not, or ones that it writes now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.decode import Sampling
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments import whole_lists as list_hazard_lists
from mechlist.experiments.list_stand_in import list_stand_in
from mechlist.experiments.whole_lists import NO_ADJECTIVE, Lists
from mechlist.runner import Runner


@dataclass(frozen=True, kw_only=True)
class OwnLists(Experiment):
    """Where a model's own lists come from; lists that were cut off are among them, or lengths would be biased."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    recorded: tuple[Path, ...] = ()
    """Files of recorded lists, or folders of them, such as `exports/lists` of a generate-lists run; lists that were cut
    off count. Without, the model writes lists here."""
    topics: tuple[str, ...] = ()
    """Topics to use; by default all that are recorded, or those of the study."""
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
        return list_stand_in(runner.tokenizer, self.max_new_tokens)

    @property
    def sampling(self) -> Sampling:
        """How lists are drawn that are written here."""
        return Sampling(temperature=1.0 if self.temperature is None else self.temperature, top_p=self.top_p)

    def own_lists(self, runner: Runner, names: Sequence[str] | None = None) -> Lists:
        """The lists to run on.

        Args:
            runner: with the model.
            names: topics of lists that are written here; by default those that are asked for.

        Raises:
            InputError: files that cannot be read or do not fit the model; topics or adjectives that there are not.
        """
        if not self.recorded:
            if names is None:
                names = list(choose_topics((), self.topics) if self.topics else choose_topics((STUDY,)))
            prompts = list_hazard_lists.prompts_of(runner, names, self.adjectives)
            return list_hazard_lists.write(
                runner, prompts, sampling=self.sampling, samples=self.samples, max_new_tokens=self.max_new_tokens
            )
        found = list_hazard_lists.recorded(runner, self.recorded, self.topics, self.temperature)
        kept = list_hazard_lists.first_of_each([one for one in found if one.adjective in self.adjectives], self.lists)
        if not kept:
            there = ", ".join(list_hazard_lists.adjectives_in(found))
            raise InputError(f"adjectives must be among those of the recorded lists ({there}), not {self.adjectives}.")
        return kept
