"""Which TransformerLens is there: version 3 has HookedTransformer and TransformerBridge, version 4 the bridge alone."""

import importlib.util
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

HAS_HOOKED = importlib.util.find_spec("transformer_lens.HookedTransformer") is not None


def is_hooked(module: Any) -> bool:
    """Whether it is a HookedTransformer."""
    if not HAS_HOOKED:
        return False
    from transformer_lens import HookedTransformer

    return isinstance(module, HookedTransformer)


def is_bridge(module: Any) -> bool:
    """Whether it is a TransformerBridge."""
    return isinstance(module, TransformerBridge)
