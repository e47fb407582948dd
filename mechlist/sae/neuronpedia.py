"""Features on Neuronpedia: their pages, lists of them that it opens, and labels from a file."""

import json
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from mechlist.errors import InputError

DOMAIN = "https://www.neuronpedia.org"
_SITES = {"hook_resid_post": "res", "attn.hook_z": "att", "hook_mlp_out": "mlp"}


def page(neuronpedia: str, feature: int) -> str:
    """Address of a feature's page; "" for an SAE that Neuronpedia does not have."""
    return f"{DOMAIN}/{neuronpedia}/{feature}" if neuronpedia else ""


def quick_list(name: str, features: Sequence[tuple[str, int, str]]) -> str:
    """Address at which Neuronpedia opens a list of features; "" where it has none of them.

    Args:
        name: of the list.
        features: the SAE's id on Neuronpedia ("" for none), the feature, and a description.
    """
    known = [(id_.split("/", 1), number, text) for id_, number, text in features if "/" in id_]
    rows = [
        {"modelId": model, "layer": layer, "index": str(number), "description": text}
        for (model, layer), number, text in known
    ]
    if not rows:
        return ""
    return f"{DOMAIN}/quick-list/?name={urllib.parse.quote(name)}&features={urllib.parse.quote(json.dumps(rows))}"


def read_labels(file: Path) -> dict[str, str]:
    """Labels by `SITE_LAYER_FEATURE` (site res, att or mlp), from JSON whose keys may end with `.json`.

    Raises:
        InputError: a file that cannot be read, or that holds anything else.
    """
    path = file.expanduser()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"labels cannot be read from {path} ({error.strerror or error}).") from error
    except ValueError as error:
        raise InputError(f"labels must be JSON; {path} is not ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"labels must be an object of labels by SITE_LAYER_FEATURE, not {type(value).__name__}.")
    out = {}
    for key, label in value.items():
        name = str(key).removesuffix(".json")
        if not re.fullmatch(r"(res|att|mlp)_\d+_\d+", name) or not isinstance(label, str):
            raise InputError(f"labels must have keys such as res_20_8573 with a text each, not {key!r:.60}.")
        out[name] = label.strip()
    return out


def label_key(hook: str, feature: int) -> str:
    """Key of a feature's label; "" where its hook has none."""
    _, layer, name = hook.split(".", 2)
    return f"{_SITES[name]}_{layer}_{feature}" if name in _SITES else ""
