"""`mechlist plan NAME|study.yaml`: what a run would take, before it runs."""

import functools
from typing import Any

from mechlist.cli.target import read_target
from mechlist.errors import InputError

USAGE = """usage: mechlist plan NAME|study.yaml [flags]

What a run would take: cells, operations against a loop of whole forward passes, peak memory and time. The model is
loaded, and a sample of the work is timed; nothing is written. Flags are those of `mechlist run`.

  mechlist plan patch                                the built-in list model
  mechlist plan patch --model gpt2 --data ioi --site z --per head_position
  mechlist plan experiments/list_ending/study.yaml   each step"""


def main(argv: list[str]) -> int:
    """Plan what the first argument names."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    target = read_target("plan", argv[0], argv[1:])
    from mechlist.engine.local import load_runner

    if target.job is not None:
        print("\n".join(_job(target.job, load_runner, target.job.name)))
        return 0
    load = functools.cache(load_runner)
    for step in target.study.steps:
        print("\n".join(_step(step, load)), flush=True)
    return 0


def _step(step: Any, load: Any) -> list[str]:
    """Of a study: what has no plan says so, and the others go on."""
    if not type(step.job.experiment).needs_model:
        return [f"{step.name}: needs no model"]
    try:
        return _job(step.job, load, step.name)
    except InputError as error:
        return [f"{step.name}: {error}"]


def _job(job: Any, load: Any, name: str) -> list[str]:
    from mechlist.engine.local import complete, runner_for

    job = complete(job)
    if not type(job.experiment).needs_model:
        raise InputError(f"{job.name} needs no model, so there is nothing to plan.")
    return _shown(name, job, job.experiment.plan(runner_for(job, load)))


def _shown(name: str, job: Any, plan: Any) -> list[str]:
    from mechlist.types import format_bytes

    settings = job.settings
    rows = {
        "cells": f"{plan.cells:,}, of which {plan.runs:,} need a run",
        "path": plan.path,
        "forward tokens": f"{plan.forward_tokens:,.0f}",
        "operations": f"{plan.flops:.3g} FLOPs, 1/{plan.loop_flops / max(1, plan.flops):.1f} of a loop's",
        "peak memory": f"{format_bytes(plan.peak_bytes)} beyond the model's {format_bytes(plan.model_bytes)}",
        "time": f"about {_time(plan.seconds)}",
    }
    head = f"{name} on {settings.model} ({settings.device}, {settings.dtype})"
    return [head, *(f"  {label:<16}{text}" for label, text in rows.items())]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
