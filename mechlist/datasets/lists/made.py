"""Lists of given items, as a person writes them down, in the tokens of a model that is to read them."""

from collections.abc import Sequence
from typing import Any

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.list_set import ListSet, Provenance, list_set
from mechlist.datasets.lists.parse import ListTokens, parse_list
from mechlist.datasets.lists.prompts import ADJECTIVES, ListPrompt, adjective_tokens, list_prompt, list_text_tokens
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.errors import InputError


def made_lists(
    tokenizer: Any, prompts: Sequence[ListPrompt], items: Sequence[Sequence[str]], *, filler: bool
) -> ListSet:
    """A list for every prompt, of the items given for it.

    Args:
        tokenizer: of the model that is to read them.
        prompts: as the tokenizer writes them.
        items: texts, for each prompt.
        filler: a blank behind the last item of each list.

    Raises:
        InputError: a tokenizer without chat template, or as `made_completion`.
    """
    special = list_tokens(tokenizer)
    completions = [
        made_completion(tokenizer, prompt, names, special, filler=filler)
        for prompt, names in zip(prompts, items, strict=True)
    ]
    ids = adjective_tokens(prompts, tokenizer)
    return list_set(prompts, completions, Provenance(origin="made", special=special), adjective_tokens=ids)


def well_known_lists(tokenizer: Any, topics: Sequence[str], *, at_most: int, items: int) -> ListSet:
    """Lists of well-known items after each adjective: the first has a topic's first `items`, the second the next.

    A topic of fewer items makes fewer lists, but one at least. Without `topics`, those of the study. The last item of
    each list has a filler.

    Raises:
        InputError: a topic that there is not; a tokenizer without chat template, or one that does not write lists so
            that their lines can be told apart.
    """
    chosen = choose_topics((), topics) if topics else choose_topics((STUDY,))
    prompts, parts = [], []
    for adjective in ADJECTIVES:
        for topic, names in chosen.items():
            prompt = list_prompt(tokenizer, topic, adjective)
            for start in range(0, max(len(names) - items, 0) + 1, items)[:at_most]:
                prompts.append(prompt)
                parts.append(names[start : start + items])
    return made_lists(tokenizer, prompts, parts, filler=True)


def example_completion(tokenizer: Any, limit: int) -> tuple[int, ...]:
    """What follows the prefilled hyphen in the longest list of well-known items that ends within `limit` tokens.

    It stands for a list that a model will write, so that what is done with it can be planned. Items stand in it several
    times where the topic has too few. A list of one item may be longer than the limit.

    Raises:
        InputError: a tokenizer without chat template, or one that does not write lists line by line.
    """
    topic, names = next(iter(choose_topics((STUDY,)).items()))
    prompt, special = list_prompt(tokenizer, topic, ""), list_tokens(tokenizer)
    best = made_completion(tokenizer, prompt, names[:1], special)
    for items in range(2, limit + 1):
        longer = made_completion(tokenizer, prompt, [names[i % len(names)] for i in range(items)], special)
        if len(longer) > limit:
            break
        best = longer
    return best


def made_completion(
    tokenizer: Any, prompt: ListPrompt, items: Sequence[str], special: ListTokens, *, filler: bool = True
) -> tuple[int, ...]:
    """What follows the prefilled hyphen: items, one a line, closed by a line break and the end of the turn.

    Raises:
        InputError: items that the tokenizer does not write as lines of their own behind the prompt.
    """
    text = "\n".join(f"-{item}" for item in items) + (" \n" if filler else "\n")
    tokens = list_text_tokens(tokenizer, prompt.topic, prompt.adjective, text)
    size, whole = len(prompt.tokens), (*tokens, special.end_of_turn)
    parsed = parse_list(whole, special, start=prompt.hyphen)
    lines = len(parsed.items) == len(items) and parsed.filler_on_last == filler
    if whole[:size] != prompt.tokens or not lines or parsed.ended != len(tokens):
        raise InputError(f"The tokenizer does not write the items of {prompt.topic!r} as lines of their own.")
    return whole[size:]
