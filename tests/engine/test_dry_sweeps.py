"""What a sweep is said to take, against what it takes: operations and bytes are counted while it runs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mechlist.engine.dry_run import dry_run
from mechlist.metrics.answers import LogitDifference, LogProb
from mechlist.models.quiet import quiet
from mechlist.patching.arguments import PatchArguments, prepare
from mechlist.patching.replacements import Zero
from mechlist.patching.sweep.task import Task
from mechlist.runner import Runner
from mechlist.types import Plan
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.patching.live_bytes import LiveBytes

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"act_fn": "gelu_new", "normalization_type": "LN"},
    "gated, grouped, rotary": {
        "act_fn": "silu",
        "normalization_type": "RMS",
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 32,
        "n_key_value_heads": 2,
    },
    "half precision": {"act_fn": "gelu_new", "normalization_type": "LN", "dtype": torch.bfloat16},
}


@pytest.fixture(scope="module", params=KINDS)
def runner(request: pytest.FixtureRequest) -> Runner:
    sizes = {"n_layers": 4, "d_model": 128, "n_heads": 4, "d_head": 32, "d_mlp": 512, "d_vocab": 500, "n_ctx": 64}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**sizes, **KINDS[request.param], device="cpu"))
    return Runner(model.eval(), progress=False)


def task(runner: Runner, prompts: int, length: int, **asked: Any) -> Task:
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(0, 500, (prompts, length), generator=generator) for _ in range(2))
    chosen: dict[str, Any] = {"base": base, "source": source, "metric": LogitDifference(answer=1, wrong=2)} | asked
    return prepare(runner, PatchArguments(**chosen))


def plan_patching(task: Task) -> Plan:
    return dry_run(task.runner, lambda runner: replace(task, runner=runner).values()).plan


SWEEPS: list[tuple[int, int, dict[str, Any]]] = [
    (1, 16, {"site": "resid_pre", "per": "position"}),
    (3, 40, {"site": "mlp_out", "per": "position"}),
    (2, 40, {"site": "z", "per": "head"}),
    (1, 24, {"site": "k", "per": "head_position"}),
    (2, 32, {"site": "pattern", "per": "head"}),
    (2, 24, {"site": "resid_post", "per": "position", "metric": LogProb(answer=3, position=[[5, 23]])}),
    (2, 24, {"site": "z", "per": "head", "source": Zero()}),
]


@pytest.mark.parametrize(("prompts", "length", "asked"), SWEEPS)
def test_operations_and_bytes_are_those_of_the_run(runner: Runner, prompts: int, length: int, asked: dict[str, Any]):
    sweep = task(runner, prompts, length, **asked)
    plan = plan_patching(sweep)
    with torch.no_grad(), LiveBytes() as alive, FlopCounterMode(display=False) as counted:
        values = sweep.values()
    assert plan.path == values.path == "layer by layer"
    assert plan.flops == pytest.approx(counted.get_total_flops(), rel=0.02)
    assert plan.peak_bytes == pytest.approx(alive.peak, rel=0.2)
    assert plan.cells == values.patched.numel()
    assert 0 < plan.runs <= plan.cells
    assert plan.seconds > 0
    assert plan.model_bytes == sum(p.numel() * p.element_size() for p in runner.model.parameters())


def test_what_the_loop_would_take_is_one_pass_a_cell(runner: Runner):
    sweep = task(runner, 1, 16, site="resid_pre", per="position")
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        runner.model(sweep.base)
    assert plan_patching(sweep).loop_flops == pytest.approx(4 * 16 * counted.get_total_flops(), rel=0.02)


def test_whole_passes_are_planned_too(loaded: Callable[[str], Runner]):
    runner = loaded("mpt")
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(9, runner.shape.d_vocab, (2, 10), generator=generator) for _ in range(2))
    metric = LogitDifference(answer=5, wrong=6)
    sweep = prepare(runner, PatchArguments(base=base, source=source, site="z", per="head", metric=metric))
    plan = plan_patching(sweep)
    assert plan.path.startswith("whole forward passes, because its attention favours near tokens by a bias")
    assert plan.cells == plan.runs == 2 * runner.shape.n_layers * runner.shape.n_heads
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        sweep.values()
    # Two capturing passes a prompt come on top of the runs, which are counted.
    assert plan.flops == pytest.approx(counted.get_total_flops(), rel=0.2)


def test_equal_prompts_need_no_runs(runner: Runner):
    same = torch.arange(12)[None]
    sweep = task(runner, 1, 12, base=same, source=same, site="resid_pre", per="position")
    plan = plan_patching(sweep)
    assert (plan.runs, plan.cells) == (0, 48)


@pytest.mark.parametrize("bound", ["4MiB", "16MiB"])
@pytest.mark.parametrize(("site", "per"), [("resid_pre", "position"), ("z", "head"), ("pattern", "head")])
def test_the_memory_bound_holds_and_changes_nothing(runner: Runner, site: str, per: str, bound: str):
    whole = task(runner, 4, 20, site=site, per=per, metric=LogProb(answer=3)).values()
    small = Runner(runner.model, memory=bound, progress=False)
    sweep = task(small, 4, 20, site=site, per=per, metric=LogProb(answer=3))
    with torch.no_grad(), LiveBytes() as alive:
        values = sweep.values()
    assert alive.peak <= small.memory
    tolerance = 5e-6 if runner.language_model.dtype == torch.float32 else 0.05
    torch.testing.assert_close(values.patched, whole.patched, atol=tolerance, rtol=0)
