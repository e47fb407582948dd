"""`attribution_grid`: what `patch_grid` would find, to first order, from one backward pass."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Metric
from mechlist.models.layers.layers import Layers
from mechlist.patching.arguments import PatchArguments, prepare, read_runs
from mechlist.patching.gradients.gradient import Rule, require_gradients
from mechlist.patching.gradients.work import Attribution
from mechlist.patching.replacements import Replacement
from mechlist.patching.sweep.task import Task
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts

SOFTMAX_SITES = ("q", "k")


def attribution_grid(
    runner: Runner,
    *,
    base: Prompts,
    source: Prompts | Replacement,
    site: str = "resid_pre",
    per: str = "position",
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    roles: Mapping[str, Sequence[Sequence[int]]] | None = None,
    source_positions: Int[Tensor, "..."] | None = None,
    steps: int = 1,
    fix_qk: bool = False,
    rule: Rule = "gradient",
) -> xr.Dataset:
    """Estimate what replacing each part of the base run would do to the metric, to first order.

    The effect of a cell is the sum over its entries of (gradient of the metric with respect to the activation) x
    (what is put in - what is there), with the gradient of the base run: attribution patching (Nanda 2023; Kramar et
    al. 2024, arXiv 2403.00745). It costs one forward and one backward pass of the base prompts, and one forward pass
    of the source prompts where there are any, whatever the number of cells; `patch_grid` is exact.

    With `steps` above 1 the gradient is averaged over the path from the base run's activation to what is put in,
    all cells of one layer moving together, at the midpoints of `steps` equal parts: integrated gradients of that layer
    (Sundararajan et al. 2017). A layer's effects then add up to what replacing all of it does, as `steps` grows. It
    takes n_layers x steps forward and backward passes.

    With `fix_qk`, at q and k, the softmax of attention is not made linear: the effect is the sum of (gradient with
    respect to the attention pattern) x (the exact change of the pattern when the cell's queries, or keys, are
    replaced) (Kramar et al. 2024, section 3.1.1). Keys that one cell replaces together change the pattern together.

    With the rule `relp` the gradient is replaced by relevance, at the same price: norms' scales are constants,
    activation functions are f(x) / x, and gates and what they multiply get half each (RelP, Jafari et al. 2025, arXiv
    2508.21258; `mechlist.models.layers.relevance`).

    Entries that the causal mask or a window hides (scores of minus infinity) count as unchanged.

    Args:
        runner: with the model; its interventions are in place in every pass, before anything is put in.
        base: prompts that are run and changed, as for `patch_grid`.
        source: prompts whose runs the replacements come from, position for position; or `Zero()`, `Mean(...)`,
            `Resample(...)` or `Given(...)`.
        site: as for `patch_grid`.
        per: position, head or head_position; for patterns and scores the position is the query's.
        metric: what is measured; it must change smoothly with the logits.
        lengths: real tokens of prompts that are padded on the right; cells beyond them are NaN.
        roles: named sets of positions, given for each prompt, that take the place of the single positions. NaN where a
            prompt lacks the role.
        source_positions: as for `patch_grid`.
        steps: gradients a layer; 1 takes the gradient of the base run.
        fix_qk: keep the softmax exact.
        rule: what runs back.

    Returns:
        `effect(prompt, layer, head, position)`, the estimate of patched - base, with the axes that `per` names and
        `role` in the place of `position` if there are roles; `base(prompt)`; and with source runs `source(prompt)`.

    Raises:
        InputError: as `patch_grid`; weights or a metric without a gradient; `fix_qk` at another site, with several
            steps, or on a model whose attention cannot be run by itself; the rule `relp` with several steps, or on a
            model through whose layers no relevance runs back; scores that become minus infinity.
        ModelError: a model in train mode whose dropout would make every number noise.
    """
    runs = read_runs(runner, base, source, metric, lengths)
    arguments = PatchArguments(site=site, per=per, roles=roles, source_positions=source_positions, **runs)
    return estimate_cells(runner, arguments, steps=steps, fix_qk=fix_qk, rule=rule)


@torch.inference_mode(mode=False)
def estimate_cells(
    runner: Runner, arguments: PatchArguments, *, steps: int = 1, fix_qk: bool = False, rule: Rule = "gradient"
) -> xr.Dataset:
    """`attribution_grid` with its arguments as one value; they may not name `cells`."""
    if steps < 1:
        raise InputError(f"steps must be 1 or more, not {steps}.")
    require_gradients(runner.language_model)
    task = prepare(runner, arguments)
    if fix_qk:
        _check_softmax(task, steps)
    back = relevant_layers(task, steps) if rule == "relp" else None
    if task.measure.needs_base and steps == 1:
        warnings.warn(
            "The metric compares with the base run, where such a comparison can be at its minimum, with a gradient of "
            "zero: take steps=2 or more, or another metric.",
            stacklevel=4,
        )
    places = _places(task, arguments.roles)
    found = Attribution(task, places, steps, fix_qk, back, _digest(arguments)).run()
    effect = task.of_cells(_by_cell(found["effect"], task).masked_fill(task.outside, torch.nan))
    units = {"units": arguments.metric.unit}
    variables: dict[str, Any] = {"effect": effect.assign_attrs(units)}
    variables |= {name: ("prompt", found[name].double().numpy(), units) for name in ("base", "source") if name in found}
    return xr.Dataset(variables, attrs={"site": task.site, "method": _method(steps, fix_qk, rule)})


def _check_softmax(task: Task, steps: int) -> None:
    if task.site not in SOFTMAX_SITES:
        raise InputError(f"fix_qk is for the sites {' and '.join(SOFTMAX_SITES)}, not {task.site}.")
    if steps > 1:
        raise InputError(f"fix_qk takes the gradient of the base run alone: steps must be 1, not {steps}.")
    if task.reason is not None:
        raise InputError(f"fix_qk needs a model whose attention can be run by itself, but {task.reason}.")


def relevant_layers(task: Task, steps: int = 1) -> Layers:
    """Layers through which relevance runs back to a site.

    Raises:
        InputError: there is no such way, or several steps.
    """
    if steps > 1:
        raise InputError(f"rule relp takes the relevance of the base run alone: steps must be 1, not {steps}.")
    if task.reason is not None:
        raise InputError(f"rule relp needs a model whose layers can be run one by one, but {task.reason}.")
    return task.runner.language_model.require_layers("Relevance").relevance()


def _places(
    task: Task, roles: Mapping[str, Sequence[Sequence[int]]] | None
) -> Bool[Tensor, "prompt place position"] | None:
    """The positions of each set that is replaced together; None where every position is a set of its own."""
    prompts, width = task.base.shape
    if roles is not None:
        out = torch.zeros(prompts, len(roles), width, dtype=torch.bool)
        for number, of_prompts in enumerate(roles.values()):
            for prompt, positions in enumerate(of_prompts):
                out[prompt, number, list(positions)] = True
        return out
    return None if "position" in task.labels else (torch.arange(width) < task.lengths[:, None])[:, None]


def _by_cell(effect: Float[Tensor, "prompt layer place head"], task: Task) -> Float[Tensor, "prompt cell"]:
    """The effects in the order of the cells: by head, or of all heads together."""
    by_head = effect.transpose(2, 3) if "head" in task.labels else effect.sum(dim=3)
    return by_head.reshape(len(effect), -1)


def _method(steps: int, fix_qk: bool, rule: Rule) -> str:
    if steps > 1:
        return f"integrated gradients of each layer, {steps} steps"
    what = "relevance patching" if rule == "relp" else "attribution patching"
    return what + (", with the softmax of attention exact" if fix_qk else "")


def _digest(arguments: PatchArguments) -> str:
    """Of what is put in; it names the results in a run's journal."""
    source, aligned = arguments.source, arguments.source_positions
    digest = hashlib.sha256(type(source).__name__.encode())
    own = [source] if isinstance(source, Tensor) else [getattr(source, field.name) for field in fields(source)]
    own += [] if aligned is None else [aligned]
    for value in own:
        for part in value if isinstance(value, list | tuple) else [value]:
            whole = isinstance(part, Tensor)
            data = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy() if whole else None
            digest.update(repr(part).encode() if data is None else data.tobytes())
    return digest.hexdigest()
