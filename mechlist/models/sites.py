"""Places in a model that are looked at and changed, in TransformerLens's names."""

from typing import Literal

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "attn_scores"
]
FOLDED = "folded_b_V"
"""Buffer of an attention layer: the value biases that processing has moved into the output bias, [kv_head, d_head]."""
HEAD_SITES = ("z", "q", "k", "v", "pattern", "attn_scores")
KEY_VALUE_SITES = ("k", "v")
ATTENTION_SITES = ("attn_scores", "pattern")
"""[prompt head query key]; the others are [prompt position ...]."""


def hook_name(site: str, layer: int) -> str:
    """TransformerLens's hook point of a site."""
    inside = "attn." if site in HEAD_SITES else ""
    return f"blocks.{layer}.{inside}hook_{site}"
