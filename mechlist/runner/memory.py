"""What a forward pass needs, and how to tell that memory ran out."""

from collections.abc import Iterable

from mechlist.types import ModelShape

CPU_TOKENS = 512
GPU_TOKENS = 65536
"""Padded tokens beyond which a larger batch is no faster: on a CPU the tensors of a larger one are fresh pages each
time, which cost more than the larger matrix product saves (experiments/benchmarks)."""


def bytes_per_row(shape: ModelShape, length: int, element: int) -> int:
    """Peak bytes that one row of `length` tokens takes in a forward pass without gradients.

    One layer is live at a time: the residual stream with its normalised copies, and the larger of attention (queries,
    keys, values, outputs; scores and pattern, each with a copy where masked or cleared of NaN, and one byte an entry
    for where that is) and the MLP (before, within and after the non-linearity, or gated). In half precision, norms
    make copies in float32.
    """
    stream = 4 * length * shape.d_model
    attention = 5 * length * shape.n_heads * shape.d_head + 4 * shape.n_heads * length * length
    mlp = 4 * length * shape.d_mlp
    norm = 0 if element >= 4 else 4 * 2 * length * shape.d_model
    return norm + max(element * (stream + attention) + shape.n_heads * length * length, element * (stream + mlp))


def captured_bytes(shape: ModelShape, hooks: Iterable[str], length: int, kept: int, element: int) -> int:
    """Bytes that the captured activations of one row take; `kept` of its `length` positions are kept."""
    return element * sum(kept * _width(shape, hook, length) for hook in hooks)


def _width(shape: ModelShape, hook: str, length: int) -> int:
    name = hook.rsplit(".", 1)[-1]
    if name in ("hook_pattern", "hook_attn_scores"):
        return shape.n_heads * length
    if name in ("hook_q", "hook_z", "hook_rot_q"):
        return shape.n_heads * shape.d_head
    if name in ("hook_k", "hook_v", "hook_rot_k"):
        return shape.n_key_value_heads * shape.d_head
    if name == "hook_result":
        return shape.n_heads * shape.d_model
    if ".mlp." in hook and name != "hook_out":
        return shape.d_mlp
    return max(shape.d_model, shape.n_heads * shape.d_head)
