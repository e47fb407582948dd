"""Which TransformerLens is there: version 3 has HookedTransformer and TransformerBridge, version 4 the bridge alone."""

import importlib.util
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

HAS_HOOKED = importlib.util.find_spec("transformer_lens.HookedTransformer") is not None


def model_aliases() -> dict[str, str]:
    """The hub's name by each name that TransformerLens knows a model under, in small letters."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    known = {alias.lower(): name for name in OFFICIAL_MODEL_NAMES for alias in MODEL_ALIASES.get(name, [])}
    return known | {name.lower(): name for name in OFFICIAL_MODEL_NAMES}


def is_hooked(module: Any) -> bool:
    """Whether it is a HookedTransformer."""
    if not HAS_HOOKED:
        return False
    from transformer_lens import HookedTransformer

    return isinstance(module, HookedTransformer)


def is_bridge(module: Any) -> bool:
    """Whether it is a TransformerBridge."""
    return isinstance(module, TransformerBridge)
