"""How the memory bound is shared out, what a forward pass needs, and how many tokens a batch is worth."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from mechlist.types import ModelShape

CPU_PADDED_TOKENS = 512
GPU_PADDED_TOKENS = 65536
"""Of a plain batch, beyond which a larger one is no faster: on a CPU the tensors of a larger one are fresh pages each
time, which cost more than the larger matrix product saves (experiments/benchmarks)."""
CPU_PACKED_TOKENS = 4096
"""Of the rows of a patching sweep, which stand one behind the other without padding, beyond which a larger batch is no
faster on a CPU. On a GPU memory alone bounds it."""


@dataclass(frozen=True)
class MemoryShares:
    """What each kind of work may take of the memory bound, in bytes; shares that are taken together fit together."""

    bound: int
    """All of it, beyond the model's weights."""

    @property
    def batch(self) -> int:
        """Activations of a batch of a plain pass, or of one that is kept for its gradients; beside `logits`."""
        return self.bound * 5 // 8

    @property
    def logits(self) -> int:
        """A piece of the logits of a batch, with its copies."""
        return self.bound // 4

    @property
    def metric_logits(self) -> int:
        """A piece of the logits that the metric of a patched or attributed run reads; beside `traces` and `rows`."""
        return self.bound // 8

    @property
    def store(self) -> int:
        """Stored activations that stay in RAM."""
        return self.bound // 8

    @property
    def kept(self) -> int:
        """Activations that are kept on the CPU for work that goes through them: to be averaged, or trained on."""
        return self.bound // 4

    @property
    def traces(self) -> int:
        """Unchanged runs of the prompts of a patching sweep, or of a circuit."""
        return self.bound // 3

    @property
    def rows(self) -> int:
        """A batch of the runs that patching changes; beside `traces`."""
        return self.bound // 3

    @property
    def paths(self) -> int:
        """What senders of path patching send at a time; beside `traces` and `rows`."""
        return self.bound // 8

    @property
    def branches(self) -> int:
        """Paths of a token tree that are read together; beside `kept`."""
        return self.bound // 2

    @property
    def edges(self) -> int:
        """A batch of prompts whose edges are scored, with their gradients."""
        return self.bound // 2


def padded_tokens(device: torch.device) -> int:
    """The most padded tokens that a plain batch is worth on a device."""
    return CPU_PADDED_TOKENS if device.type == "cpu" else GPU_PADDED_TOKENS


def packed_tokens(device: torch.device, fit: int) -> int:
    """Of the packed tokens that fit the memory, those that a batch of a sweep is worth on a device."""
    return min(fit, CPU_PACKED_TOKENS) if device.type == "cpu" else fit


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
