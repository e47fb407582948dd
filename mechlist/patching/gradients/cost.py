"""What a forward pass takes that is kept for its gradients, counted from the model's sizes.

TransformerLens's modules keep more than a plain forward pass does: norms and activation functions are several
operations each, and a rearranged copy of most weights stays for the way back.
"""

from mechlist.patching.sweep.cost import WIDE, Sizes

NORMS = 8
"""Copies of the residual stream that a layer's norms keep in float32 where the model is in half precision."""
SOFTMAX = 12
"""Patterns in float64 that an exact softmax takes, one layer at a time."""


def weight_copies(sizes: Sizes) -> int:
    """Bytes of the copies of weights that stay for the way back, however many prompts there are."""
    shape = sizes.shape
    mlp = 3 * shape.d_mlp if shape.gated_mlp else 0
    return sizes.element * shape.n_layers * shape.d_model * (2 * sizes.heads + 2 * sizes.key_values + mlp)


def gradient_bytes(sizes: Sizes, site: str, length: int, *, fix_qk: bool = False) -> int:
    """Bytes that one prompt takes at most, besides: every layer's activations, and a layer's on its way back.

    At the site there are what was there, what is put in and the gradient.
    """
    shape, pattern = sizes.shape, sizes.shape.n_heads * length
    numbers = 5 * shape.d_model + 3 * sizes.heads + 5 * shape.d_mlp + 3 * pattern
    here = sizes.site_width(site, length)
    back = sizes.element * (2 * numbers) + 4 * 8 * here + SOFTMAX * 8 * pattern * fix_qk
    norms = WIDE * NORMS * shape.d_model if sizes.element < WIDE else 0
    return length * (shape.n_layers * (sizes.element * (numbers + 3 * here) + norms) + back)
