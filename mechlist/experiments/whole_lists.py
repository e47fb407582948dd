"""Lists of all kinds, those that were cut off too: recorded, written by the model now, or made of given items."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.parse import ListTokens, ParsedList, parse_list
from mechlist.datasets.lists.prompts import ListPrompt, list_prompt
from mechlist.datasets.lists.recorded import RecordedLists, read_recorded, recorded_files
from mechlist.datasets.lists.roles import recorded_lists
from mechlist.decode import HeadEdit, Sampling, generate
from mechlist.errors import InputError
from mechlist.experiments.list_sources import adjective_tokens, written_list
from mechlist.experiments.list_statistics.lists import survival_time
from mechlist.runner import Runner
from mechlist.text import visible

NO_ADJECTIVE = "none"
ORDER = ("short", "long", NO_ADJECTIVE)


@dataclass(frozen=True)
class WholeList:
    """A prompt and what followed it, to the end of turn or to where it was cut off."""

    prompt: ListPrompt
    completion: tuple[int, ...]
    """What follows the prefilled hyphen."""
    marks: ListTokens
    sampling: Sampling | None = None
    """How it was drawn; None where that is not known, or where nothing was drawn."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The whole sequence."""
        return self.prompt.with_completion(self.completion)

    @cached_property
    def parsed(self) -> ParsedList:
        """Its items, in indices from the prefilled hyphen."""
        return parse_list((self.marks.hyphen, *self.completion), self.marks)

    @property
    def time(self) -> int:
        """Items that it has, or after which it is known to go on; see `survival_time`."""
        return survival_time((self.marks.hyphen, *self.completion), self.parsed, self.marks)

    @property
    def adjective(self) -> str:
        """As labels show it."""
        return self.prompt.adjective or NO_ADJECTIVE

    @property
    def temperature(self) -> float:
        """Of the drawing; NaN where it is not known."""
        return math.nan if self.sampling is None else float(self.sampling.temperature)


Lists = list[WholeList]


def recorded(runner: Runner, paths: Sequence[Path], topics: Sequence[str], temperature: float | int | None) -> Lists:
    """Every recorded list, whether it ended or not, cut behind its end, and in the order short, long, none.

    Raises:
        InputError: files that cannot be read, are of another tokenizer, or hold no list of these topics and this
            temperature.
    """
    own = list_tokens(runner.tokenizer)
    lists: Lists = []
    for file in (read_recorded(file) for file in recorded_files(paths)):
        _check_marks(file, own)
        if temperature is None or (file.temperature is not None and math.isclose(file.temperature, temperature)):
            lists += _of_file(file, runner.tokenizer)
    wanted = [one for one in lists if not topics or one.prompt.topic in topics]
    if not wanted:
        at = "" if temperature is None else f" at temperature {temperature:g}"
        of = f" of {', '.join(topics)}" if topics else ""
        raise InputError(f"recorded must hold one list at least{of}{at}, and holds none.")
    missing = [topic for topic in topics if all(one.prompt.topic != topic for one in wanted)]
    if missing:
        raise InputError(f"There is no recorded list of the topic {missing[0]!r}.")
    return sorted(wanted, key=lambda one: ORDER.index(one.adjective))


def first_of_each(lists: Lists, at_most: int) -> Lists:
    """Of each topic, adjective and temperature the first `at_most` lists."""
    seen: dict[tuple[str, str, str], int] = {}
    kept: Lists = []
    for one in lists:
        key = (one.prompt.topic, one.adjective, repr(one.temperature))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= at_most:
            kept.append(one)
    return kept


def prompts_of(runner: Runner, topics: Sequence[str], adjectives: Sequence[str]) -> list[ListPrompt]:
    """A prompt for every adjective and topic."""
    words = ["" if adjective == NO_ADJECTIVE else adjective for adjective in adjectives]
    return [list_prompt(runner.tokenizer, topic, word) for word in words for topic in topics]


def write(
    runner: Runner,
    prompts: Sequence[ListPrompt],
    *,
    sampling: Sampling,
    samples: int,
    max_new_tokens: int,
    edit: HeadEdit | None = None,
    label: str = "Writing lists",
) -> Lists:
    """Lists that the model writes, `samples` for each prompt; with the same random numbers whatever `edit` says."""
    marks = list_tokens(runner.tokenizer)
    stop = [token for token in (marks.end_of_turn, marks.eos) if token is not None]
    written = generate(
        runner,
        [prompt.tokens for prompt in prompts],
        max_new_tokens=max_new_tokens,
        samples=samples,
        sampling=sampling,
        stop_tokens=stop,
        edit=edit,
        label=label,
    )
    return [
        WholeList(prompt, completion.tokens, marks, sampling)
        for prompt, of_prompt in zip(prompts, written, strict=True)
        for completion in of_prompt
    ]


def made_of(
    runner: Runner, prompts: Sequence[ListPrompt], topics: Mapping[str, Sequence[str]], items: Sequence[int]
) -> Lists:
    """Lists of the first items of each prompt's topic, without fillers, as a person writes them down.

    Args:
        runner: with the model that is to read them.
        prompts: of topics among `topics`.
        topics: items by topic.
        items: how many items for each prompt, at most.
    """
    marks = list_tokens(runner.tokenizer)
    lists: Lists = []
    for prompt, number in zip(prompts, items, strict=True):
        made = written_list(runner.tokenizer, prompt, topics[prompt.topic][:number], marks, filler=False)
        lists.append(WholeList(prompt, made.completion, marks))
    return lists


def opposite(runner: Runner, prompts: Sequence[ListPrompt]) -> list[ListPrompt]:
    """The prompts with " long" in place of " short" and the other way round; each must have one of the two."""
    ids = adjective_tokens(prompts, runner.tokenizer)
    other = {"short": "long", "long": "short"}
    odd = next((prompt for prompt in prompts if other.get(prompt.adjective) not in ids), None)
    if odd is not None:
        raise InputError(f"Only short and long can be swapped for each other, not {odd.adjective or NO_ADJECTIVE!r}.")
    return [prompt.with_adjective(other[prompt.adjective], ids[other[prompt.adjective]]) for prompt in prompts]


def with_prompts(lists: Lists, prompts: Sequence[ListPrompt]) -> Lists:
    """The same lists behind other prompts."""
    return [replace(one, prompt=prompt) for one, prompt in zip(lists, prompts, strict=True)]


def labels(lists: Lists) -> dict[str, tuple[str, Any]]:
    """Coordinates along the dimension `list`."""
    return {
        "topic": ("list", [visible(one.prompt.topic) for one in lists]),
        "adjective": ("list", [one.adjective for one in lists]),
        "temperature": ("list", [one.temperature for one in lists]),
    }


def clusters(lists: Lists) -> np.ndarray:
    """The topic of each list."""
    return np.array([one.prompt.topic for one in lists])


def n_items(lists: Lists) -> Int[np.ndarray, " list"]:
    """Items of each list."""
    return np.array([len(one.parsed.items) for one in lists])


def adjectives_in(lists: Lists) -> list[str]:
    """Those there are, in the order short, long, none."""
    there = {one.adjective for one in lists}
    return [adjective for adjective in ORDER if adjective in there]


def _check_marks(file: RecordedLists, own: ListTokens) -> None:
    for name in ("hyphen", "line_break", "end_of_turn", "blank"):
        if getattr(own, name) != getattr(file.tokens, name):
            raise InputError(
                f"recorded lists must be in the model's own tokens: the {name.replace('_', ' ')} is "
                f"{getattr(file.tokens, name)} in those of {file.model} and {getattr(own, name)} for the model."
            )


def _of_file(file: RecordedLists, tokenizer: Any) -> Lists:
    topic, sequences = next(iter(file.topics.items()))
    try:
        prompt = list_prompt(tokenizer, topic, file.adjective)
    except InputError:
        prompt = None
    around: dict[str, int] = {}
    if prompt is not None and tuple(sequences[0][: len(prompt.tokens)]) == prompt.tokens:
        around = {"before": prompt.topic_span.start, "after": len(prompt.tokens) - prompt.topic_span.stop}
    found = recorded_lists(
        file.topics,
        adjective=file.adjective,
        adjective_index=file.adjective_index,
        header=file.model_header,
        hyphen=file.tokens.hyphen,
        **around,
    )
    return [_cut(WholeList(one.prompt, one.completion, file.tokens, _sampling(file))) for one in found]


def _sampling(file: RecordedLists) -> Sampling | None:
    if file.temperature is None or file.temperature == 0:
        return None
    return Sampling(temperature=file.temperature, top_p=1.0 if file.top_p is None else file.top_p)


def _cut(one: WholeList) -> WholeList:
    """Without what stands behind the end of the turn."""
    end = one.parsed.ended
    return one if end is None else replace(one, completion=one.completion[:end])
