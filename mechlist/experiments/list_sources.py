"""Lists to run a model on: recorded ones that ended, or ones written from the items of topics."""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mechlist.datasets.chat import chat_tokens, list_tokens
from mechlist.datasets.lists.parse import ListTokens, parse_list
from mechlist.datasets.lists.prompts import ADJECTIVES, ListPrompt, PromptedList, list_prompt, list_sentence
from mechlist.datasets.lists.recorded import RecordedLists, read_recorded, recorded_files
from mechlist.datasets.lists.roles import recorded_lists
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.errors import InputError

SWAP = {"short": "long", "long": "short"}
"""The adjective that takes the place of another."""


def read_lists(
    paths: Sequence[Path],
    *,
    topics: Sequence[str],
    temperature: float | int | None,
    at_most: int,
    tokenizer: Any,
) -> tuple[list[PromptedList], ListTokens]:
    """Of each topic and adjective the first `at_most` recorded lists that ended with an item, cut at their end.

    Raises:
        InputError: files that cannot be read or do not fit together or the tokenizer; a topic or temperature that they
            do not have; no list that ended.
    """
    files = [read_recorded(file) for file in recorded_files(paths)]
    marks = _shared_marks(files, tokenizer)
    files = _at_temperature(files, temperature)
    _check_topics(topics, list(dict.fromkeys(topic for file in files for topic in file.topics)))
    found: dict[tuple[str, str], list[PromptedList]] = {}
    for file in files:
        for one in _prompted(file, tokenizer):
            of_kind = found.setdefault((one.prompt.adjective, one.prompt.topic), [])
            ended = _cut(one, marks)
            if ended is not None and len(of_kind) < at_most and (not topics or one.prompt.topic in topics):
                of_kind.append(ended)
    lists = [one for adjective in ADJECTIVES for key, kept in found.items() if key[0] == adjective for one in kept]
    if not lists:
        raise InputError("recorded must hold one list at least that ended after an item, and holds none.")
    return lists, marks


def write_lists(
    tokenizer: Any, topics: Sequence[str], *, at_most: int, items: int
) -> tuple[list[PromptedList], ListTokens]:
    """Lists of well-known items after each adjective: the first has a topic's first `items`, the second the next.

    A topic of fewer items makes fewer lists, but one at least. Without `topics`, those of the study.

    Raises:
        InputError: a topic that there is not; a tokenizer without chat template, or one that does not write lists so
            that their lines can be told apart.
    """
    marks = list_tokens(tokenizer)
    chosen = choose_topics((), topics) if topics else choose_topics((STUDY,))
    lists = []
    for adjective in ADJECTIVES:
        for topic, names in chosen.items():
            prompt = list_prompt(tokenizer, topic, adjective)
            starts = range(0, max(len(names) - items, 0) + 1, items)[:at_most]
            lists += [written_list(tokenizer, prompt, names[start : start + items], marks) for start in starts]
    return lists, marks


def written_list(
    tokenizer: Any, prompt: ListPrompt, items: Sequence[str], marks: ListTokens, *, filler: bool = True
) -> PromptedList:
    """A list of given items, one a line, closed by a line break and the end of the turn.

    Args:
        tokenizer: of the model that is to read it.
        prompt: as the tokenizer writes it.
        items: texts.
        marks: of the tokenizer.
        filler: a blank behind the last item.

    Raises:
        InputError: items that the tokenizer does not write as lines of their own behind the prompt.
    """
    text = "\n".join(f"-{item}" for item in items) + (" \n" if filler else "\n")
    tokens = chat_tokens(tokenizer, list_sentence(prompt.topic, prompt.adjective), text)
    size = len(prompt.tokens)
    completion = (*tokens[size:], marks.end_of_turn)
    parsed = parse_list((marks.hyphen, *completion), marks)
    whole = tokens[:size] == prompt.tokens and len(parsed.items) == len(items) and parsed.filler_on_last == filler
    if not whole or parsed.ended != len(completion):
        raise InputError(f"The tokenizer does not write the items of {prompt.topic!r} as lines of their own.")
    return PromptedList(prompt, completion)


def adjective_tokens(prompts: Sequence[ListPrompt], tokenizer: Any) -> dict[str, int]:
    """The ids of " short" and " long" where the prompts or the tokenizer tell them."""
    found = {p.adjective: p.tokens[p.adjective_index] for p in prompts if p.adjective_index is not None}
    for adjective, prompt in ((SWAP[p.adjective], p) for p in prompts if p.adjective in SWAP):
        if adjective not in found and tokenizer is not None:
            other = list_prompt(tokenizer, prompt.topic, adjective)
            if other.adjective_index is not None:
                found[adjective] = other.tokens[other.adjective_index]
    return found


def _shared_marks(files: Sequence[RecordedLists], tokenizer: Any) -> ListTokens:
    """The marks of all files, which must be those of the tokenizer."""
    marks = files[0].tokens
    other = next((file for file in files if file.tokens != marks), None)
    if other is not None:
        raise InputError(f"recorded lists must be of one tokenizer: those of {other.model} have other marks.")
    if tokenizer is None:
        return marks
    own = list_tokens(tokenizer)
    for name in ("hyphen", "line_break", "end_of_turn", "blank"):
        if getattr(own, name) != getattr(marks, name):
            raise InputError(
                f"recorded lists must be in the model's own tokens: the {name.replace('_', ' ')} is "
                f"{getattr(marks, name)} in those of {files[0].model} and {getattr(own, name)} for the model."
            )
    return marks


def _at_temperature(files: Sequence[RecordedLists], temperature: float | int | None) -> list[RecordedLists]:
    if temperature is None:
        return list(files)
    kept = [f for f in files if f.temperature is not None and math.isclose(f.temperature, temperature)]
    if not kept:
        there = sorted({f"{f.temperature:g}" if f.temperature is not None else "unknown" for f in files})
        raise InputError(f"temperature must be one of the recorded lists' ({', '.join(there)}), not {temperature:g}.")
    return kept


def _check_topics(topics: Sequence[str], there: Sequence[str]) -> None:
    for topic in topics:
        if topic not in there:
            close = difflib.get_close_matches(topic, there, n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise InputError(f"There is no topic {topic!r} among the {len(there)} of the recorded lists.{hint}")


def _prompted(file: RecordedLists, tokenizer: Any) -> tuple[PromptedList, ...]:
    return recorded_lists(
        file.topics,
        adjective=file.adjective,
        adjective_index=file.adjective_index,
        header=file.model_header,
        hyphen=file.tokens.hyphen,
        **_around_topic(file, tokenizer),
    )


def _around_topic(file: RecordedLists, tokenizer: Any) -> Mapping[str, int]:
    """How many tokens stand before and after the topic, where the tokenizer writes the prompts of the file."""
    if tokenizer is None:
        return {}
    topic, lists = next(iter(file.topics.items()))
    try:
        prompt = list_prompt(tokenizer, topic, file.adjective)
    except InputError:
        return {}
    if tuple(lists[0][: len(prompt.tokens)]) != prompt.tokens:
        return {}
    return {"before": prompt.topic_span.start, "after": len(prompt.tokens) - prompt.topic_span.stop}


def _cut(one: PromptedList, marks: ListTokens) -> PromptedList | None:
    """The list up to its end of turn; None where it has no end or no item."""
    parsed = parse_list((marks.hyphen, *one.completion), marks)
    if parsed.ended is None or not parsed.items:
        return None
    return PromptedList(one.prompt, one.completion[: parsed.ended])
