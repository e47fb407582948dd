"""Recorded files of lists that are given as text, for the tests of what reads them."""

import json
from pathlib import Path
from typing import Any

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.prompts import list_prompt


def recorded_file(tokenizer: Any, folder: Path, adjective: str, lists: dict[str, list[str]], **changes: Any) -> Path:
    """A file of lists, each given by what follows the prefilled hyphen; `$` is the end of turn, `#` eos."""
    special = list_tokens(tokenizer)
    topics, prompt = {}, list_prompt(tokenizer, "Fruits", adjective)
    for topic, texts in lists.items():
        prompt = list_prompt(tokenizer, topic, adjective)
        named = [t.replace("$", "<end_of_turn>").replace("#", "<eos>") for t in texts]
        topics[topic] = [[*prompt.tokens, *tokenizer.encode(text, add_special_tokens=False)] for text in named]
    value = {
        "model": "list-tiny",
        "adjective": adjective or None,
        "adjective_index": prompt.adjective_index,
        "temperature": 0.7,
        "token_ids_of_interest": {name: getattr(special, name) for name in special.__dataclass_fields__},
        "model_header": prompt.tokens[prompt.header.start : prompt.header.stop],
        "topics": topics,
    }
    file = folder / f"{adjective or 'none'}_{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps(value | changes))
    return file
