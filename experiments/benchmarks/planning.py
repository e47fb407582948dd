"""`mechlist plan` against the runs that it plans: seconds of every step of the shipped studies, back to back.

Each step is planned twice: given the files that its earlier steps really wrote, and, as `mechlist plan` does it before
anything has run, with examples in their place. A random model with a large vocabulary shows that a plan stays quick
where the run is not.
"""

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechlist.engine.dry_run import plan_experiment, plan_job
from mechlist.engine.local import complete, load_runner, runner_for, write_results
from mechlist.experiments.induction.experiment import Induction
from mechlist.models.quiet import quiet
from mechlist.runner import Runner
from mechlist.study import Study, plan_study, read_study, read_yaml, ready

STUDIES = sorted(Path("experiments").glob("*/study.yaml"))
T = TypeVar("T")


def run() -> Iterator[str]:
    """Lines of the table, study by study; the store of activations is empty at first, as on a new machine."""
    before = os.environ.get("MECHLIST_CACHE")
    with tempfile.TemporaryDirectory() as store:
        os.environ["MECHLIST_CACHE"] = store
        try:
            for file in STUDIES:
                yield from of_study(read_study(file, read_yaml(file)))
        finally:
            os.environ.pop("MECHLIST_CACHE")
            os.environ |= {} if before is None else {"MECHLIST_CACHE": before}
    yield from of_large_vocabulary()


def of_study(study: Study) -> Iterator[str]:
    """Planned and run seconds of each step, and of the whole study."""
    load = functools.cache(load_runner)
    load(ready(study, Path()).settings)
    yield f"{study.title}: seconds of each step"
    planning, waiting, blind = [], plan_study(study, load), 0.0
    for _ in study.steps:
        step, took = timed(functools.partial(next, waiting))
        planning.append(step.plan)
        blind += took
        yield f"{step.name:<20} planned in {took:.2f}, with examples in place of what earlier steps write"
    spent, ran = 0.0, 0.0
    yield f"{'step':<20} {'planned, with examples':>24} {'planned, given the files':>26} {'run':>8}   the plan took"
    with tempfile.TemporaryDirectory() as name:
        for step, before in zip(ready(study, Path(name)).steps, planning, strict=True):
            job = complete(step.job)
            needs_model = type(job.experiment).needs_model
            planned, took = timed(functools.partial(plan_job, job, load))
            results, seconds = timed(
                lambda job=job, of=needs_model: job.experiment.run(runner_for(job, load) if of else None)
            )
            write_results(job, results, Path(name) / step.name)
            if planned is None or before is None:
                continue
            spent, ran = spent + took, ran + seconds
            shown = (_against(before.seconds, seconds), _against(planned.seconds, seconds))
            yield f"{step.name:<20} {shown[0]:>24} {shown[1]:>26} {seconds:8.2f}   {took:.2f}"
    yield f"{'all steps':<20} {'':>24} {'':>26} {ran:8.2f}   {spent:.2f}; with examples {blind:.2f}"


def of_large_vocabulary() -> Iterator[str]:
    """Induction heads of a model that hardly has layers, but the vocabulary of Gemma 3."""
    sizes: dict[str, Any] = {
        "n_layers": 2,
        "d_model": 64,
        "n_heads": 4,
        "d_head": 16,
        "d_mlp": 128,
        "d_vocab": 262_144,
        "n_ctx": 128,
    }
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        config = HookedTransformerConfig(**sizes, act_fn="gelu", normalization_type="LN", device="cpu")
        runner = Runner(HookedTransformer(config).eval(), progress=False)
    plan, took = timed(lambda: plan_experiment(Induction(), runner).plan)
    yield f"induction, vocabulary of 262,144: planned {plan.seconds:.0f} s in {took:.1f} s; {'; '.join(plan.notes)}"


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What a function gives, and how long it takes."""
    started = time.perf_counter()
    return function(), time.perf_counter() - started


def _against(planned: float, run: float) -> str:
    return f"{planned:.2f} ({planned / max(run, 1e-9):.2f}x)"


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
