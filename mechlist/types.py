"""Small value types shared by every layer: processing choices, model shapes, sizes in bytes."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mechlist.errors import InputError

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Processing:
    """Weight processing on conversion from Hugging Face; none of it changes log-probabilities."""

    fold_ln: bool = True
    """Fold the gain and bias of layer norms into the following weights."""
    center_writing_weights: bool = True
    """Subtract the mean of weights that write to the residual stream (layer-norm models only)."""
    center_unembed: bool = True
    """Subtract the mean over the vocabulary from the unembedding (not under a logit softcap)."""
    fold_value_biases: bool = True
    """Move value biases into the output bias of attention."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a model, in the field's names."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    attn_only: bool
    gated_mlp: bool = False
    d_vocab_out: int = 0
    """Tokens that have a logit; by default those that there are."""

    def __post_init__(self) -> None:
        """Logits are of the whole vocabulary where nothing else is said."""
        if not self.d_vocab_out:
            object.__setattr__(self, "d_vocab_out", self.d_vocab)

    def ungrouped(self) -> "ModelShape":
        """The same with keys and values for every head."""
        return dataclasses.replace(self, n_key_value_heads=self.n_heads)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take, before it runs."""

    path: str
    """How it is computed."""
    forward_tokens: float | int
    """Tokens that go through all layers of the model in plain passes, with their padding; and for patching and
    gradients, those that could for the same operations."""
    flops: int
    """Of matrix products."""
    peak_bytes: int
    """Beyond the model's weights."""
    model_bytes: int
    """The weights."""
    seconds: float | int
    """Estimated from a sample of the work itself."""
    cells: int = 0
    """Of a sweep over all prompts together; 0 where nothing is swept."""
    runs: int = 0
    """Cells that need a run; the others put in what is there already, or come after what is measured."""
    loop_flops: int = 0
    """Of one whole forward pass a cell, logits of all positions included."""
    notes: tuple[str, ...] = ()
    """What was assumed."""


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `4GiB`, `500MB` or `1000000`.

    Raises:
        InputError: not a positive number with one of the units B, kB, MB, GB, KiB, MiB, GiB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match.group(2).upper() if match else ""
    size = int(float(match.group(1)) * _UNITS[unit]) if match and unit in _UNITS else 0
    if size <= 0:
        raise InputError(f"memory must be a size such as 4GiB or 500MB, not {text!r}.")
    return size


def format_bytes(size: float | int) -> str:
    """A size in bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


@dataclass(frozen=True)
class Guard:
    """One check of a model: what was measured, against which tolerance."""

    name: str
    passed: bool | None
    """None where the check was not run; `detail` says why."""
    measured: float = math.nan
    """NaN where nothing was."""
    tolerance: float = math.nan
    detail: str = ""


Head = tuple[int, int]
"""Layer and head."""
_HEAD = re.compile(r"(?:[Ll]?(\d+)[Hh.]|a(\d+)\.h)(\d+)(?:\.([qkv])|<([qkv])>)?")
_LABEL = re.compile(r"\ba(\d+)\.h(\d+)(?:<([qkv])>)?")


def head_name(head: Head, entry: str = "") -> str:
    """L4H11; with `q`, `k` or `v`, what it reads: L4H11.q."""
    return f"L{head[0]}H{head[1]}{f'.{entry}' if entry else ''}"


def read_head(text: str) -> tuple[Head, str] | None:
    """A head, and its `q`, `k` or `v` or "", of `L4H11`, `4.11`, `a4.h11`, `L4H11.q`, `a4.h11<q>`; None of all else."""
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        return None
    return (int(match[1] or match[2]), int(match[3])), match[4] or match[5] or ""


def parse_head(text: str, parameter: str, shape: tuple[int, int] | None = None) -> Head:
    """The head that is named, among those of a model of `shape` (layers, heads a layer) where that is known.

    Raises:
        InputError: a text of another form, or a head that there is not.
    """
    head, entry = read_head(text) or (None, "")
    if head is not None and not entry and (shape is None or (head[0] < shape[0] and head[1] < shape[1])):
        return head
    there = "such as L4H11" if shape is None else f"from L0H0 to {head_name((shape[0] - 1, shape[1] - 1))}"
    what = "" if parameter in ("head", "heads") else "heads " if parameter.endswith("s") else "a head "
    raise InputError(f"{parameter} must be {what}{there}, not {text!r}.")


def parse_heads(names: Sequence[str], parameter: str, shape: tuple[int, int] | None = None) -> tuple[Head, ...]:
    """The heads that are named, each once; as `parse_head`.

    Raises:
        InputError: as `parse_head`, or a head that stands twice.
    """
    found = tuple(parse_head(name, parameter, shape) for name in names)
    if len(set(found)) < len(found):
        raise InputError(f"{parameter} must hold each head once, not {list(names)}.")
    return found


def readable(label: str) -> str:
    """A saved label of nodes as people read it: `a0.h1->a1.h3<k>` is L0H1->L1H3.k."""
    return _LABEL.sub(lambda match: head_name((int(match[1]), int(match[2])), match[3] or ""), label)
