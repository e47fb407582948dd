"""Recorded lists as a `ListSet`: the one reader, for every experiment."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mechlist.datasets.chat import list_tokens, model_header
from mechlist.datasets.lists.list_set import ListSet, Provenance, list_set
from mechlist.datasets.lists.parse import until_end
from mechlist.datasets.lists.prompts import ListPrompt, adjective_tokens, in_order, list_prompt, topic_spans
from mechlist.datasets.lists.recorded import RecordedLists, read_recorded, recorded_files
from mechlist.errors import InputError

_File = tuple[Path, RecordedLists]


def read_lists(
    paths: Sequence[Path],
    *,
    topics: Sequence[str] = (),
    adjectives: Sequence[str] = (),
    temperature: float | int | None = None,
    at_most: int | None = None,
    per_temperature: bool = False,
    keep_cut_off: bool = False,
    located: bool = True,
    tokenizer: Any = None,
) -> ListSet:
    """Recorded lists in the order of their files, each up to its end.

    Args:
        paths: files, or folders of them.
        topics: only these; all by default.
        adjectives: only these, as labels show them; all by default.
        temperature: only lists drawn at it.
        at_most: of each topic and adjective, the first so many of the lists that count.
        per_temperature: `at_most` is counted for each temperature by itself.
        keep_cut_off: lists that were cut off count, too; without, those that ended after an item do.
        located: tell where the parts of every prompt are. Without, prompts may be of any form, lists may lack the
            prefilled hyphen, and files of several tokenizers may stand side by side.
        tokenizer: of the model that is to read the lists, if there is one.

    Raises:
        InputError: files that cannot be read or do not fit together or the tokenizer; topics, adjectives or a
            temperature that they do not have; no list that counts.
    """
    files = [(path, read_recorded(path)) for path in recorded_files(paths)]
    if located:
        _check_special([file for _, file in files], tokenizer)
    files = _at_temperature(files, temperature)
    _check_topics(topics, list(dict.fromkeys(topic for _, file in files for topic in file.topics)))
    found = _joined([_located(path, file, tokenizer) if located else _plain(path, file) for path, file in files])
    chosen = _of_adjectives(
        found, [i for i, topic in enumerate(found.topic) if not topics or topic in topics], adjectives
    )
    if not keep_cut_off:
        counts = found.ended & (found.n_items > 0)
        chosen = [i for i in chosen if counts[i]]
    if not chosen:
        of = f" of {', '.join(topics)}" if topics else ""
        at = "" if temperature is None else f" at temperature {temperature:g}"
        which = "" if keep_cut_off else " that ended after an item"
        raise InputError(f"recorded must hold one list at least{of}{at}{which}, and holds none.")
    kept = found.of(_first(found, chosen, at_most, per_temperature=per_temperature))
    return replace(kept, adjective_tokens=adjective_tokens(found.prompts, tokenizer))


def _check_special(files: Sequence[RecordedLists], tokenizer: Any) -> None:
    """All files must have the same special tokens, which must be those of the tokenizer."""
    special = files[0].tokens
    other = next((file for file in files if file.tokens != special), None)
    if other is not None:
        raise InputError(f"recorded lists must be of one tokenizer: those of {other.model} have other special tokens.")
    if tokenizer is None:
        return
    try:
        own = list_tokens(tokenizer)
    except InputError:
        return  # It writes no lists itself, and the files say what theirs are made of.
    # Lists that were not asked for in the chat template end with a token of their own.
    asked = files[0].model_header == model_header(tokenizer)
    for name in ("hyphen", "line_break", *(["end_of_turn"] if asked else []), "blank"):
        if getattr(own, name) != getattr(special, name):
            raise InputError(
                f"recorded lists must be in the model's own tokens: the {name.replace('_', ' ')} is "
                f"{getattr(special, name)} in those of {files[0].model} and {getattr(own, name)} for the model."
            )


def _at_temperature(files: Sequence[_File], temperature: float | int | None) -> list[_File]:
    if temperature is None:
        return list(files)
    known = [file.temperature for _, file in files]
    kept = [f for f, at in zip(files, known, strict=True) if at is not None and math.isclose(at, temperature)]
    if not kept:
        there = sorted({f"{at:g}" if at is not None else "unknown" for at in known})
        raise InputError(f"temperature must be one of the recorded lists' ({', '.join(there)}), not {temperature:g}.")
    return kept


def _check_topics(topics: Sequence[str], there: Sequence[str]) -> None:
    for topic in topics:
        if topic not in there:
            close = difflib.get_close_matches(topic, there, n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise InputError(f"There is no topic {topic!r} among the {len(there)} of the recorded lists.{hint}")


def _of_adjectives(found: ListSet, chosen: Sequence[int], adjectives: Sequence[str]) -> list[int]:
    kept = [i for i in chosen if not adjectives or found.adjective[i] in adjectives]
    if chosen and not kept:
        there = ", ".join(in_order(found.adjective[i] for i in chosen))
        raise InputError(
            f"adjectives must be among those of the recorded lists ({there}), not {', '.join(adjectives)}."
        )
    return kept


def _first(found: ListSet, chosen: Sequence[int], at_most: int | None, *, per_temperature: bool) -> list[int]:
    """Of each topic and adjective, and perhaps temperature, the first `at_most` of the chosen lists."""
    seen: dict[tuple[Any, ...], int] = {}
    kept = []
    for i in chosen:
        at = found.provenance[i].temperature if per_temperature else None
        key = (found.topic[i], found.adjective[i], at)
        seen[key] = seen.get(key, 0) + 1
        if at_most is None or seen[key] <= at_most:
            kept.append(i)
    return kept


def _provenance(path: Path, file: RecordedLists) -> Provenance:
    return Provenance(
        origin="recorded",
        special=file.tokens,
        model=file.model,
        path=path,
        temperature=file.temperature,
        top_p=file.top_p,
        max_new_tokens=file.max_new_tokens,
    )


def _plain(path: Path, file: RecordedLists) -> ListSet:
    """Every list of a file, without the places of what its prompt is made of."""
    flat = [(topic, number, ids) for topic, lists in file.topics.items() for number, ids in enumerate(lists, start=1)]
    starts = [len(ids) - len(file.completion(ids)) for _, _, ids in flat]
    return ListSet(
        rows=tuple(
            torch.tensor(until_end(ids, file.tokens, start=start))
            for (_, _, ids), start in zip(flat, starts, strict=True)
        ),
        starts=tuple(starts),
        topic=tuple(topic for topic, _, _ in flat),
        adjective=(file.adjective_name,) * len(flat),
        number=tuple(number for _, number, _ in flat),
        provenance=(_provenance(path, file),) * len(flat),
    )


def _located(path: Path, file: RecordedLists, tokenizer: Any) -> ListSet:
    """Every list of a file, with its prompt.

    Raises:
        InputError: as `recorded_prompts`, or a list without prefilled hyphen.
    """
    _check_adjective(path, file, tokenizer)
    prompts = recorded_prompts(
        file.topics,
        adjective=file.adjective,
        adjective_index=file.adjective_index,
        header=file.model_header,
        hyphen=file.tokens.hyphen,
        **_around_topic(file, tokenizer),
    )
    flat = [(prompts[topic], n, ids) for topic, lists in file.topics.items() for n, ids in enumerate(lists, start=1)]
    return list_set(
        [prompt for prompt, _, _ in flat],
        [prompt.completion_of(ids) for prompt, _, ids in flat],
        _provenance(path, file),
        numbers=[number for _, number, _ in flat],
    )


def _check_adjective(path: Path, file: RecordedLists, tokenizer: Any) -> None:
    """The token at the adjective's place must be the adjective, and lists begin as the tokenizer's prompts begin."""
    if tokenizer is None:
        return
    topic, lists = next(iter(file.topics.items()))
    if file.adjective_index is not None and file.adjective:
        written = tokenizer.decode([lists[0][file.adjective_index]]).strip()
        if written != file.adjective:
            raise InputError(
                f"{path}: adjective_index must be the place of {file.adjective!r}; the token at "
                f"{file.adjective_index} is {written!r}."
            )
    try:
        own = list_prompt(tokenizer, topic, file.adjective).tokens
    except InputError:
        return
    bos = tokenizer.bos_token_id
    if bos is not None and (own[:1] == (bos,)) != (lists[0][:1] == [bos]):
        has, lacks = ("the model's prompts", "the lists") if own[:1] == (bos,) else ("the lists", "the model's prompts")
        raise InputError(f"{path}: {has} begin with BOS and {lacks} do not: they are of another model, or were cut.")


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


def recorded_prompts(
    topics: Mapping[str, Sequence[Sequence[int]]],
    *,
    adjective: str,
    adjective_index: int | None,
    header: Sequence[int],
    hyphen: int,
    before: int | None = None,
    after: int | None = None,
) -> dict[str, ListPrompt]:
    """The prompt of each topic's recorded sequences, told from token ids alone; topics without lists have none.

    Args:
        topics: whole sequences by topic, all with the same adjective.
        adjective: "" for none.
        adjective_index: index of its token.
        header: token ids that open the model's turn.
        hyphen: id of the token that is prefilled after the header.
        before: as in `topic_spans`.
        after: as in `topic_spans`.

    Raises:
        InputError: a sequence without header and prefilled hyphen, two prompts of one topic, or as in `topic_spans`.
    """
    opening = (*header, hyphen)
    prompts = {topic: _prompt(topic, lists, opening) for topic, lists in topics.items() if lists}
    spans = topic_spans(list(prompts.values()), adjective_index=adjective_index, before=before, after=after)
    return {
        topic: ListPrompt(
            topic=topic,
            adjective=adjective,
            tokens=tokens,
            adjective_index=adjective_index,
            topic_span=span,
            header=range(len(tokens) - len(opening), len(tokens) - 1),
        )
        for (topic, tokens), span in zip(prompts.items(), spans, strict=True)
    }


def _prompt(topic: str, sequences: Sequence[Sequence[int]], opening: tuple[int, ...]) -> tuple[int, ...]:
    """What all lists of a topic begin with, up to the first model header and the prefilled hyphen."""
    prompts = [tuple(seq[: _prompt_length(topic, i, seq, opening)]) for i, seq in enumerate(sequences)]
    odd = next((i for i, prompt in enumerate(prompts) if prompt != prompts[0]), None)
    if odd is not None:
        raise InputError(f"All lists of a topic must have one prompt; list {odd} of {topic!r} has another than list 0.")
    return prompts[0]


def _prompt_length(topic: str, number: int, sequence: Sequence[int], opening: tuple[int, ...]) -> int:
    """Tokens up to the first model header and the prefilled hyphen, both included."""
    width = len(opening) - 1
    starts = range(len(sequence) - width + 1)
    found = next((i for i in starts if tuple(sequence[i : i + width]) == opening[:-1]), None)
    if found is None or tuple(sequence[found + width : found + width + 1]) != opening[-1:]:
        lacks = "no model header" if found is None else "no hyphen after the model header"
        raise InputError(
            f"Every list must hold the model header {list(opening[:-1])} and the prefilled hyphen {opening[-1]}; list "
            f"{number} of {topic!r} has {lacks}."
        )
    return found + len(opening)


def _joined(parts: Sequence[ListSet]) -> ListSet:
    """All lists of the parts, one after the other."""
    columns: dict[str, Any] = {
        name: tuple(entry for part in parts for entry in getattr(part, name)) for name in parts[0].columns
    }
    return replace(parts[0], **columns)
