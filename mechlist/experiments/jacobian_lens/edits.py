"""Edits along the lens's directions at one stage at a time, with edits along random directions as the control."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechlist.lens.jacobian import JacobianLens
from mechlist.lens.jacobian_edits import ablate, lens_directions, random_like, steer, swap
from mechlist.lens.logit_lens import stage_hooks
from mechlist.metrics.significance import effect_table
from mechlist.runner import Runner
from mechlist.runner.interventions import Intervention
from mechlist.weights.output import OutputWeights

EDITS = ("steer towards the second", "ablate the first", "swap the two")


def edited(
    runner: Runner,
    rows: Sequence[Sequence[int]],
    lens: JacobianLens,
    output: OutputWeights,
    *,
    stages: Sequence[int],
    strength: float | int,
    controls: int,
    generator: torch.Generator,
) -> xr.Dataset:
    """What edits at the last token do to the log-odds of the model's second choice against its first.

    The two are each prompt's own; steering goes towards the second, ablation takes out the first, and a swap exchanges
    their coordinates. `edit_effect` is the change in nats, `edit_control` the mean of it for random directions of the
    same norms and angle.
    """
    logits = runner.logits(rows, positions=-1)[:, 0].float()
    first, second = logits.topk(2, dim=-1).indices.unbind(-1)
    base = _log_odds(logits, first, second)
    hooks = stage_hooks(runner)
    shape = (len(EDITS), len(stages), len(rows))
    effect, control = np.zeros(shape), np.zeros(shape)
    for place, stage in enumerate(stages):
        pairs = torch.stack([_directions(lens, stage, output, ids) for ids in (first, second)], dim=1)
        size = runner.capture(rows, hooks[stage], positions=-1)[hooks[stage]][:, 0].float().norm(dim=-1)
        randoms = [random_like(pairs, generator) for _ in range(controls)]
        for number, directions in enumerate([pairs, *randoms]):
            for kind, intervention in enumerate(_interventions(hooks[stage], directions, strength * size)):
                with runner.intervene(intervention):
                    changed = _log_odds(runner.logits(rows, positions=-1)[:, 0].float(), first, second)
                change = (changed - base).double().numpy()
                if number == 0:
                    effect[kind, place] = change
                else:
                    control[kind, place] += change / controls
    dims = ("edit", "edit_stage", "prompt")
    return xr.Dataset(
        {
            "edit_effect": (dims, effect, {"units": "nats"}),
            "edit_control": (dims, control if controls else control * np.nan, {"units": "nats"}),
            "first_choice": ("prompt", first.numpy()),
            "second_choice": ("prompt", second.numpy()),
            "base_log_odds": ("prompt", base.double().numpy(), {"units": "nats"}),
        },
        coords={"edit": list(EDITS), "edit_stage": list(stages)},
    )


def tested(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Means over prompts with intervals, and the test of effect less control over all edits and stages at once."""
    out, dims = xr.Dataset(), ("edit", "edit_stage")
    for name in ("edit_effect", "edit_control"):
        values = np.moveaxis(results[name].values, -1, 0)
        if np.isnan(values).all():
            continue
        table = effect_table(values, generator=generator)
        for end, array in (("mean", table.estimate), ("low", table.low), ("high", table.high)):
            out[f"{name}_{end}"] = (dims, array, {"units": "nats"})
    gap = np.moveaxis((results["edit_effect"] - results["edit_control"]).values, -1, 0)
    if not np.isnan(gap).all():
        table = effect_table(gap, generator=generator)
        out["edit_p_corrected"] = (dims, table.p_corrected)
        out = out.assign_attrs(edit_reason=table.reason)
    return out


def _directions(lens: JacobianLens, stage: int, output: OutputWeights, tokens: Tensor) -> Tensor:
    columns = output.weight[:, tokens.to(output.weight.device)].float().cpu()
    return lens_directions(lens, stage, columns, output.gain)


def _interventions(hook: str, pairs: Tensor, strength: Tensor) -> tuple[Intervention, ...]:
    return (
        steer(hook, pairs[:, 1], strength, last=True),
        ablate(hook, pairs[:, :1], last=True),
        swap(hook, pairs, last=True),
    )


def _log_odds(logits: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Of the second choice against the first."""
    pair = logits.gather(1, torch.stack([first, second], dim=1))
    return pair[:, 1] - pair[:, 0]
