"""HookedTransformer for tests; with TransformerLens 4, which has none, a test that builds one is skipped."""

from typing import TYPE_CHECKING, Any

import pytest

from mechlist.models.tl import HAS_HOOKED

__all__ = ["HookedTransformer", "HookedTransformerConfig", "needs_hooked"]

needs_hooked = pytest.mark.skipif(
    not HAS_HOOKED, reason="what it is compared with goes by a HookedTransformer, which TransformerLens 4 has not"
)

if TYPE_CHECKING or HAS_HOOKED:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
else:

    class HookedTransformer:
        """Skips the test that builds it."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            pytest.skip("TransformerLens 4 has no HookedTransformer")

    HookedTransformerConfig = HookedTransformer
