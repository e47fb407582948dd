"""Plans in words, and whether what they need fits a device."""

import os
from collections.abc import Sequence

import torch

from mechlist.options import Settings
from mechlist.text import time_text
from mechlist.types import Plan, format_bytes, parse_bytes

WIDTH = 16
"""Of the labels."""


def plan_lines(name: str, settings: Settings, plan: Plan) -> list[str]:
    """What one run takes."""
    rows: list[tuple[str, str]] = []
    if plan.cells:
        rows.append(("cells", f"{plan.cells:,}, of which {plan.runs:,} need a run"))
    against = f", 1/{plan.loop_flops / max(1, plan.flops):.1f} of a loop's" if plan.loop_flops else ""
    rows += [
        ("path", plan.path),
        ("forward tokens", f"{plan.forward_tokens:,.0f}"),
        ("operations", f"{plan.flops:.3g} FLOPs{against}"),
        ("peak memory", f"{format_bytes(plan.peak_bytes)} beyond the model's {format_bytes(plan.model_bytes)}"),
        ("time", f"about {time_text(plan.seconds)}"),
        *(("note", note) for note in plan.notes),
    ]
    return [f"{name} on {settings.model} ({settings.device}, {settings.dtype})", *_labelled(rows)]


def sum_lines(plans: Sequence[Plan], lacking: Sequence[str]) -> list[str]:
    """What all steps of a study take; `lacking` are those whose plan is not known."""
    peak = max(plan.peak_bytes for plan in plans)
    without = f", without {', '.join(lacking)}" if lacking else ""
    rows = [
        ("forward tokens", f"{sum(plan.forward_tokens for plan in plans):,.0f}"),
        ("operations", f"{sum(plan.flops for plan in plans):.3g} FLOPs"),
        ("peak memory", f"{format_bytes(peak)} beyond the model's {format_bytes(plans[0].model_bytes)}"),
        ("time", f"about {time_text(sum(plan.seconds for plan in plans))}"),
    ]
    return [f"all steps{without}", *_labelled(rows)]


def fit_lines(settings: Settings, plans: Sequence[Plan], device_memory: int | None) -> list[str]:
    """Whether the weights and the most that a batch may take fit the memory of a device, and what to do if not."""
    size = device_bytes(torch.device(settings.device)) if device_memory is None else device_memory
    weights, peak = (max(getattr(plan, name) for plan in plans) for name in ("model_bytes", "peak_bytes"))
    bound = parse_bytes(settings.memory)
    # Most batches keep to the bound by being smaller; gradients of one long prompt may need more.
    more = max(bound, peak)
    need = f"{format_bytes(weights)} of weights and at most {format_bytes(more)} more"
    need += " (--memory)" if bound >= peak else ""
    if weights + more <= size:
        return _labelled([("fits", f"into {format_bytes(size)}: {need}")])
    remedy = _remedy(settings, size, weights, bound, peak)
    return _labelled([("does not fit", f"into {format_bytes(size)}: {need}; {remedy}")])


def device_bytes(device: torch.device) -> int:
    """Memory of the device: of the GPU, or else of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _remedy(settings: Settings, size: int, weights: int, bound: int, peak: int) -> str:
    """What makes the work smaller, where something does."""
    ways = []
    if size - weights >= peak:
        ways.append(f"--memory {_rounded(size - weights)}")
    if settings.dtype == "float32":
        # The weights, and most of what batches hold, take half.
        half = weights // 2
        if half + max(bound, peak // 2) <= size:
            ways.append("--dtype bfloat16")
        elif size - half >= peak // 2:
            ways.append(f"--dtype bfloat16 with --memory {_rounded(size - half)}")
    return f"take {' or '.join(ways)}" if ways else "take a smaller model, or a device with more memory"


def _rounded(size: int) -> str:
    """At most `size`, as --memory takes it."""
    return f"{size // 2**30}GiB" if size >= 2**31 else f"{max(1, size // 2**20)}MiB"


def _labelled(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"  {label:<{WIDTH}}{text}" for label, text in rows]
