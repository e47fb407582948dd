"""A list in place of those that a model will write, so that what is done with them can be planned."""

from typing import Any

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.experiments.list_sources import written_list


def list_stand_in(tokenizer: Any, limit: int) -> tuple[int, ...]:
    """What follows the prefilled hyphen in the longest list of well-known items that ends within `limit` tokens.

    Items stand in it several times where the topic has too few. A list of one item may be longer than the limit.

    Raises:
        InputError: a tokenizer without chat template, or one that does not write lists line by line.
    """
    topic, names = next(iter(choose_topics((STUDY,)).items()))
    prompt, marks = list_prompt(tokenizer, topic, ""), list_tokens(tokenizer)
    best = written_list(tokenizer, prompt, names[:1], marks).completion
    for items in range(2, limit + 1):
        longer = [names[i % len(names)] for i in range(items)]
        made = written_list(tokenizer, prompt, longer, marks).completion
        if len(made) > limit:
            break
        best = made
    return best
