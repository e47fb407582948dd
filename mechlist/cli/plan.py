"""`mechlist plan NAME|study.yaml`: what a run would take, before it runs."""

from typing import Any

from mechlist.cli.target import read_target
from mechlist.errors import InputError

USAGE = """usage: mechlist plan NAME|study.yaml [flags]

What a run would take: tokens through the model, operations, peak memory and time, and whether it fits the device. The
model is loaded, and a sample of the work is computed and timed; nothing is written. Where a step of a study takes files
from an earlier one, examples are in their place: a few lists are really written, and stand for all. Flags are those of
`mechlist run`, and one more:

  --device-memory 24GiB   memory of the device to run on; by default that of the device which is used here

  mechlist plan patch                                the built-in list model
  mechlist plan patch --model gpt2 --data ioi --site z --per head_position
  mechlist plan experiments/list_ending/study.yaml   each step, and all together
  mechlist plan study.yaml --model google/gemma-2-2b-it --dtype bfloat16 --device-memory 24GiB"""

FLAG = "--device-memory"


def main(argv: list[str]) -> int:
    """Plan what the first argument names."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    rest, device_memory = _device_memory(argv[1:])
    target = read_target("plan", argv[0], rest)
    if target.job is not None:
        _plan_job(target.job, device_memory)
    else:
        _plan_study(target.study, device_memory)
    return 0


def _device_memory(flags: list[str]) -> tuple[list[str], int | None]:
    """The other flags, and the bytes of a device if they are given."""
    from mechlist.types import parse_bytes

    rest, size = [], None
    waiting = iter(flags)
    for flag in waiting:
        name, _, value = flag.partition("=")
        if name.replace("_", "-") != FLAG:
            rest.append(flag)
            continue
        text = value or next(waiting, "")
        try:
            size = parse_bytes(text)
        except InputError:
            raise InputError(f"device-memory must be a size such as 24GiB, not {text!r}.") from None
    return rest, size


def _plan_job(job: Any, device_memory: int | None) -> None:
    from mechlist.cli.plan_text import fit_lines, plan_lines
    from mechlist.engine.dry_run import plan_job
    from mechlist.engine.local import complete, load_runner

    job = complete(job)
    plan = plan_job(job, load_runner)
    if plan is None:
        raise InputError(f"{job.name} needs no model, so there is nothing to plan.")
    fits = fit_lines(job.settings, [plan], device_memory)
    print("\n".join(plan_lines(job.name, job.settings, plan) + fits))


def _plan_study(study: Any, device_memory: int | None) -> None:
    """Each step as it comes, and all together."""
    from mechlist.cli.plan_text import fit_lines, plan_lines, sum_lines
    from mechlist.engine.local import OneModel
    from mechlist.study import plan_study

    steps = []
    for step in plan_study(study, OneModel()):
        if step.plan is None:
            print(f"{step.name}: {step.reason}", flush=True)
        else:
            print("\n".join(plan_lines(step.name, step.settings, step.plan)), flush=True)
        steps.append(step)
    plans = [step.plan for step in steps if step.plan is not None]
    if not plans:
        return
    settings = steps[0].settings
    lacking = [step.name for step in steps if step.plan is None and step.needs_model]
    print("\n".join([*sum_lines(plans, lacking), *fit_lines(settings, plans, device_memory)]))
