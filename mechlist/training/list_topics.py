"""Which topics `list-tiny` is trained on, and what they look like in tokens."""

from typing import Any

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.process import FAME
from mechlist.datasets.lists.prompts import ADJECTIVES, list_prompt, list_sentence
from mechlist.datasets.topics import STUDY, load_topics
from mechlist.training.list_data import Material
from mechlist.training.list_tokenizer import SPECIAL, train_tokenizer

HELD_OUT = ("Herbs", "Deserts", "Board Games", "Football Clubs", "Moons", "Bones")
"""Topics whose lists the model never sees."""
STUDY_WEIGHT = 2
"""How often a topic of the study is drawn for each time another one is."""


def material(tokenizer: Any) -> Material:
    """Prompts and items of the topics that are not held out, as token ids of this tokenizer."""
    topics = {name: items for name, items in load_topics().items() if name not in HELD_OUT}
    study = load_topics(STUDY)
    return Material(
        prompts={(t, a): list_prompt(tokenizer, t, a).tokens for t in topics for a in ADJECTIVES},
        items={t: [tokenizer.encode(i, add_special_tokens=False) for i in items] for t, items in topics.items()},
        topics=[t for t in topics for _ in range(STUDY_WEIGHT if t in study else 1)],
        special=list_tokens(tokenizer),
        words=range(len(SPECIAL), len(tokenizer)),
    )


def tokenizer_for_lists() -> Any:
    """The tokenizer, made of all topics (the held-out ones too) with the items as often as they are drawn."""
    topics, study = load_topics(), load_topics(STUDY)
    items = [
        item
        for topic, entries in topics.items()
        for rank, item in enumerate(entries)
        for _ in range(max(1, round((STUDY_WEIGHT if topic in study else 1) * 60 / (rank + FAME))))
    ]
    return train_tokenizer((list_sentence(t, a) for t in topics for a in ADJECTIVES), items)
