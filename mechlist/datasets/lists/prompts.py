"""Prompts that ask for a list, with the places of their parts of the list-ending study."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mechlist.datasets.chat import chat_tokens, is_unknown, model_header
from mechlist.datasets.templates import Templated, shared_start
from mechlist.errors import InputError
from mechlist.text import NO_ADJECTIVE, adjective_rank

ADJECTIVES = ("short", "long", "")
"""Of the study; "" is the prompt without an adjective."""
SWAP = {"short": "long", "long": "short"}
"""The adjective that takes the place of another."""


@dataclass(frozen=True, kw_only=True)
class ListPrompt:
    """A prompt for a list up to the prefilled hyphen, its last token."""

    topic: str
    adjective: str
    tokens: tuple[int, ...]
    adjective_index: int | None
    """Index of the adjective's one token; None without an adjective."""
    topic_span: range
    header: range
    """Tokens that open the model's turn; the prefilled hyphen follows."""

    def __post_init__(self) -> None:
        last = len(self.tokens) - 1
        if (self.adjective_index is None) != (self.adjective == ""):
            raise InputError(
                f"adjective_index must be given with an adjective and only then: adjective {self.adjective!r} has "
                f"adjective_index {self.adjective_index}."
            )
        if self.adjective_index is not None and not 0 <= self.adjective_index < last:
            raise InputError(f"adjective_index must be from 0 to {last - 1}, not {self.adjective_index}.")
        if not 0 <= self.topic_span.start < self.topic_span.stop <= self.header.start < self.header.stop == last:
            raise InputError(
                f"topic_span, header and prefilled hyphen must follow each other and end the {last + 1} tokens, not be "
                f"{self.topic_span}, {self.header} and {last}."
            )

    @property
    def hyphen(self) -> int:
        """Index of the prefilled hyphen, at which the list begins."""
        return len(self.tokens) - 1

    @property
    def adjective_name(self) -> str:
        """The adjective as labels show it: `none` for none."""
        return self.adjective or NO_ADJECTIVE

    def with_completion(self, completion: Sequence[int]) -> tuple[int, ...]:
        """The whole sequence; the completion is what follows the prefilled hyphen."""
        return (*self.tokens, *completion)

    def completion_of(self, sequence: Sequence[int]) -> tuple[int, ...]:
        """What follows the prefilled hyphen in a whole sequence.

        Raises:
            InputError: a sequence that does not begin with this prompt.
        """
        shared = shared_start(self.tokens, sequence)
        if shared < len(self.tokens):
            raise InputError(
                f"sequence must begin with the {len(self.tokens)} tokens of its prompt for {self.topic!r}, and leaves "
                f"it at index {shared}."
            )
        return tuple(sequence[len(self.tokens) :])

    def with_adjective(self, adjective: str, token: int) -> "ListPrompt":
        """The same prompt with another adjective of one token.

        Raises:
            InputError: a prompt without an adjective, or an empty one to put in its place.
        """
        if self.adjective_index is None or not adjective:
            raise InputError(f"adjective must be swapped for another one, not {self.adjective!r} for {adjective!r}.")
        i = self.adjective_index
        return replace(self, adjective=adjective, tokens=(*self.tokens[:i], token, *self.tokens[i + 1 :]))


def list_sentence(topic: str, adjective: str) -> str:
    """The study's request for a list."""
    described = f"a {adjective} list" if adjective else "a list"
    return f"Provide me with {described} of {topic}. Just provide the names, no need for any other information."


def list_text_tokens(tokenizer: Any, topic: str, adjective: str, prefill: str) -> tuple[int, ...]:
    """Token ids of the request for a list, with the beginning of the list: in the chat template, or in one's own.

    Raises:
        InputError: as `chat_tokens`.
    """
    if isinstance(tokenizer, Templated):
        return tokenizer.tokens(topic, adjective, prefill)
    return chat_tokens(tokenizer, list_sentence(topic, adjective), prefill)


def list_prompt(tokenizer: Any, topic: str, adjective: str) -> ListPrompt:
    """The study's request in the chat template, with the prefilled hyphen.

    A token that holds the end of the topic and the full stop after it counts as part of the topic.

    Raises:
        InputError: an adjective or a hyphen that is not one token of its own in the prompt; a topic that is empty, has
            blanks around it, or has words that are not in the vocabulary; a tokenizer without chat template.
    """
    for name, text in {"topic": topic, "adjective": adjective}.items():
        if text != text.strip() or (name == "topic" and not text):
            raise InputError(f"{name} must be text without blanks around it, not {text!r}.")
    tokens, header = list_text_tokens(tokenizer, topic, adjective, "-"), model_header(tokenizer)
    last = len(tokens) - 1
    if tokens[last - len(header) : last] != header:
        raise InputError("The prefilled hyphen must be one token of its own after the model header, and is not.")
    prompt = ListPrompt(
        topic=topic,
        adjective=adjective,
        tokens=tokens,
        adjective_index=_adjective_index(tokenizer, topic, adjective, tokens),
        topic_span=_topic_span(tokenizer, topic, adjective, tokens),
        header=range(last - len(header), last),
    )
    _check_known(tokenizer, prompt)
    return prompt


def list_prompts(tokenizer: Any, topics: Sequence[str], adjectives: Sequence[str]) -> list[ListPrompt]:
    """A prompt for every adjective (`none` or "" for none) and topic; as `list_prompt`."""
    words = ["" if adjective == NO_ADJECTIVE else adjective for adjective in adjectives]
    return [list_prompt(tokenizer, topic, word) for word in words for topic in topics]


def in_order(adjectives: Iterable[str]) -> list[str]:
    """Each adjective once, as labels show them: short, long, other words as they come, none."""
    return sorted(dict.fromkeys(adjectives), key=adjective_rank)


def adjective_tokens(prompts: Sequence[ListPrompt], tokenizer: Any) -> dict[str, int]:
    """The ids of " short" and " long" where the prompts tell them, or a tokenizer that writes each as one token."""
    found = {p.adjective: p.tokens[p.adjective_index] for p in prompts if p.adjective_index is not None}
    for adjective, topic in dict.fromkeys((SWAP[p.adjective], p.topic) for p in prompts if p.adjective in SWAP):
        if adjective in found or tokenizer is None:
            continue
        try:
            other = list_prompt(tokenizer, topic, adjective)
        except InputError:
            continue  # Of another topic the tokenizer may know the words.
        if other.adjective_index is not None:
            found[adjective] = other.tokens[other.adjective_index]
    return found


def swapped_prompt(prompt: ListPrompt, ids: Mapping[str, int]) -> ListPrompt:
    """The prompt with long in place of short, or the other way round; nothing but the adjective's token changes.

    Args:
        prompt: with one of the two.
        ids: of both adjectives, as `adjective_tokens` gives them.

    Raises:
        InputError: a prompt with another adjective or none, or an adjective whose token is not known.
    """
    other = SWAP.get(prompt.adjective)
    if other is None:
        raise InputError(f"Only short and long can be swapped for each other, not {prompt.adjective_name!r}.")
    if other not in ids:
        raise InputError(
            f"To swap {prompt.adjective!r} for {other!r}, the recorded lists must hold both, or the model have a "
            "tokenizer that writes each as one token."
        )
    return prompt.with_adjective(other, ids[other])


def topic_spans(
    prompts: Sequence[Sequence[int]],
    *,
    adjective_index: int | None = None,
    before: int | None = None,
    after: int | None = None,
) -> list[range]:
    """Where the topic stands in each prompt of one template, from token ids alone: what varies over the prompts.

    Topics that all begin or end alike hide that part of themselves in what the prompts share. The sentence says what
    stands before the topic once ("list of"), so with `adjective_index` a repetition ("list of Types of") is known to
    belong to the topics. Where that is not enough ("Famous Writers", "Famous Scientists"), give prompts of more topics,
    or `before` and `after`.

    Args:
        prompts: with the same adjective, from BOS to the prefilled hyphen.
        adjective_index: a place before the topic, after which no token of the sentence comes twice before the topic.
        before: number of tokens before the topic, where it is known.
        after: number of tokens after the topic, where it is known.

    Raises:
        InputError: no prompts; prompts that are all the same, without `before` and `after`; more tokens before or after
            the topic than the prompts share; a topic of which nothing is left.
    """
    if not prompts:
        raise InputError("prompts must hold one prompt at least, not none.")
    first = prompts[0]
    start = min(shared_start(first, prompt) for prompt in prompts)
    if all(tuple(prompt) == tuple(first) for prompt in prompts) and (before is None or after is None):
        raise InputError(
            f"prompts must be of two topics at least, or come with `before` and `after`: the {len(prompts)} given are "
            "all the same."
        )
    _check_known_length("before", before, start)
    if before is not None:
        start = before
    elif adjective_index is not None and adjective_index < start:
        start = list(first).index(first[start - 1], adjective_index) + 1
    end = min(shared_start(first[::-1], prompt[::-1]) for prompt in prompts)
    _check_known_length("after", after, end)
    end = end if after is None else after
    spans = [range(start, len(prompt) - end) for prompt in prompts]
    empty = next((i for i, span in enumerate(spans) if len(span) == 0), None)
    if empty is not None:
        raise InputError(
            f"Topics must differ from each other at both ends; of the one in prompt {empty} nothing is left between "
            f"the {start} and {end} tokens that all prompts begin and end with: give more, or `before` and `after`."
        )
    return spans


def _check_known_length(name: str, given: int | None, shared: int) -> None:
    if given is not None and not 0 <= given <= shared:
        side = "begin" if name == "before" else "end"
        raise InputError(f"{name} must be from 0 to the {shared} tokens that all prompts {side} with, not {given}.")


def _check_known(tokenizer: Any, prompt: ListPrompt) -> None:
    """Topic and adjective must be made of words in the vocabulary."""
    if not is_unknown(tokenizer, tokenizer.unk_token_id):
        return
    i = prompt.adjective_index
    spans = {"topic": prompt.topic_span, "adjective": range(0) if i is None else range(i, i + 1)}
    for name, span in spans.items():
        unknown = sum(prompt.tokens[i] == tokenizer.unk_token_id for i in span)
        if unknown:
            raise InputError(
                f"{name} must be made of words in the model's vocabulary, and {unknown} of the {len(span)} tokens of "
                f"{getattr(prompt, name)!r} are unknown to it."
            )


def _topic_span(tokenizer: Any, topic: str, adjective: str, tokens: tuple[int, ...]) -> range:
    if isinstance(tokenizer, Templated):
        return tokenizer.topic_span(topic, adjective)
    without_topic = list_sentence(topic, adjective).replace(f" of {topic}.", " of.")
    return _inserted(tokens, chat_tokens(tokenizer, without_topic, "-"))


def _adjective_index(tokenizer: Any, topic: str, adjective: str, tokens: tuple[int, ...]) -> int | None:
    if not adjective:
        return None
    plain = list_text_tokens(tokenizer, topic, "", "-")
    span = _inserted(tokens, plain)
    if len(tokens) - len(plain) != 1 or len(span) != 1:
        raise InputError(
            f"adjective must be one token of its own in the prompt, and ' {adjective}' makes it "
            f"{len(tokens) - len(plain)} tokens longer, with {len(span)} new ones."
        )
    return span.start


def _inserted(whole: Sequence[int], without: Sequence[int]) -> range:
    """The tokens that `whole` has and `without` lacks: all between what both begin and end with."""
    start = shared_start(whole, without)
    end = shared_start(whole[::-1], without[start:][::-1])
    return range(start, len(whole) - end)
