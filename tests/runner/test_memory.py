from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mechlist.errors import MechlistError
from mechlist.models.exhaustion import is_out_of_memory
from mechlist.runner import Batch, Runner, replace
from mechlist.runner import runner as runner_module
from mechlist.runner.memory import MemoryShares, bytes_per_row, captured_bytes, packed_tokens, padded_tokens

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
]


def fail_above(runner: Runner, rows: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every forward pass over more than `rows` rows raise `error`; return the sizes that were tried."""
    residual, tried = runner.language_model.residual, list[int]()

    def limited(tokens: Tensor, hooks: Any) -> Tensor:
        tried.append(len(tokens))
        if len(tokens) > rows:
            raise error
        return residual(tokens, hooks)

    monkeypatch.setattr(runner.language_model, "residual", limited)
    return tried


def everything(batch: Batch) -> dict[str, Tensor]:
    return {
        "resid": batch["blocks.1.hook_resid_pre"].mean(1),
        "log_prob": batch.next_tokens().log_prob,
        "number": batch.rows.index,
    }


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("rows", [1, 3])
def test_running_out_of_memory_halves_the_batch_and_changes_nothing_else(
    build: Callable, prompts: Callable, monkeypatch: pytest.MonkeyPatch, error: BaseException, rows: int
) -> None:
    tokens = prompts(count=11, longest=9)
    steer = replace("blocks.0.hook_resid_pre", torch.rand(11, max(map(len, tokens)), 16))
    runner = Runner(build(), progress=False)

    def results() -> dict[str, Tensor]:
        with runner.intervene(steer):
            return runner.map(tokens, everything, capture=["blocks.1.hook_resid_pre"], positions=[0, -1])

    expected = results()
    tried = fail_above(runner, rows, error, monkeypatch)
    got = results()
    assert max(tried) > rows
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_memory_may_also_run_out_in_the_function(build: Callable, prompts: Callable) -> None:
    tokens = prompts(count=6)

    def greedy(batch: Batch) -> dict[str, Tensor]:
        if len(batch.tokens) > 2:
            raise MemoryError
        return {"number": batch.rows.index}

    assert Runner(build(), progress=False).map(tokens, greedy)["number"].tolist() == list(range(6))


def test_a_single_prompt_that_does_not_fit_is_an_error_that_says_what_to_do(
    tiny: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(tiny, 0, MemoryError(), monkeypatch)
    with pytest.raises(MechlistError) as raised:
        tiny.logits([[1, 2, 3], [4, 5, 6]])
    assert str(raised.value) == (
        "Memory ran out on a single prompt of 3 tokens; use shorter prompts, fewer captured hooks, "
        "--dtype bfloat16 or a machine with more memory."
    )
    assert raised.value.exit_status == 1
    assert raised.value.__context__ is None, "the failed pass's tensors must not live on in a traceback"


def test_other_runtime_errors_pass_through_untouched(tiny: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    tried = fail_above(tiny, 0, error, monkeypatch)
    with pytest.raises(RuntimeError) as raised:
        tiny.logits([[1], [2]])
    assert raised.value is error
    assert tried == [2]


@pytest.mark.parametrize("error", ERRORS)
def test_failed_allocations_are_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyboardInterrupt()])
def test_other_errors_are_not_taken_for_failed_allocations(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.0.hook_resid_pre",
        "blocks.0.attn.hook_q",
        "blocks.0.attn.hook_k",
        "blocks.0.attn.hook_z",
        "blocks.0.attn.hook_pattern",
        "blocks.0.mlp.hook_post",
    ],
)
def test_captured_bytes_are_those_of_the_captured_tensor(loaded: Callable[[str], Runner], hook: str) -> None:
    runner = loaded("llama")
    kept = runner.capture(torch.ones(1, 12, dtype=torch.long), hook)[hook]
    assert captured_bytes(runner.shape, [hook], 12, 12, 4) == kept.nbytes
    last = runner.capture(torch.ones(1, 12, dtype=torch.long), hook, positions=[-1, -2])[hook]
    assert captured_bytes(runner.shape, [hook], 12, 2, 4) == last.nbytes


def peak_bytes(function: Callable[[], object]) -> int:
    """Largest sum of tensor memory at any time during `function`, from torch's own record of allocations."""
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = function()
    profiler: Any = record.profiler
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    del kept
    return peak


SHAPE = {"d_model": 96, "n_heads": 6, "d_head": 16, "d_mlp": 384, "n_ctx": 256, "act_fn": "gelu_new"}
ROTARY = {"normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 16, "gated_mlp": True}
MODELS = {
    "gpt2": {"normalization_type": "LNPre"},
    "attention only": {"attn_only": True, "d_mlp": None, "act_fn": None},
    "llama": ROTARY | {"act_fn": "silu", "n_key_value_heads": 3},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("rows", "length"), [(64, 16), (16, 64), (2, 256)])
def test_the_estimate_is_not_below_the_measured_peak_and_not_far_above(
    build: Callable, name: str, rows: int, length: int
) -> None:
    runner = Runner(build(**SHAPE | MODELS[name]), progress=False)
    tokens = torch.zeros(rows, length, dtype=torch.long)
    with torch.no_grad():
        peak = peak_bytes(lambda: runner.language_model.residual(tokens, []))
    # Each layer's output projection is copied once, whatever the batch.
    peak -= 4 * 96 * 96
    assert peak <= rows * bytes_per_row(runner.shape, length, 4) <= 1.5 * peak


@pytest.mark.parametrize(
    "call",
    [
        lambda runner, tokens: runner.log_probs(tokens),
        lambda runner, tokens: runner.logits(tokens, columns=torch.arange(8)),
        lambda runner, tokens: runner.logits(tokens, positions=-1),
        lambda runner, tokens: runner.capture(tokens, "blocks.*.attn.hook_pattern", positions=-1),
    ],
)
def test_a_call_over_many_batches_stays_within_its_memory_bound(build: Callable, call: Callable) -> None:
    runner = Runner(build(**SHAPE | {"d_vocab": 600}), memory="5MB", progress=False)
    tokens = torch.zeros(24, 64, dtype=torch.long)
    assert peak_bytes(lambda: call(runner, tokens)) <= 5_000_000


def test_full_logits_count_against_the_memory_bound(
    build: Callable, prompts: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[list[list[int]]] = []

    def recorded(*args: Any) -> list[list[int]]:
        plans.append(plan(*args))
        return plans[-1]

    plan = runner_module.plan_batches
    monkeypatch.setattr(runner_module, "plan_batches", recorded)
    runner = Runner(build(d_vocab=5000), memory="2MB", progress=False)
    tokens = torch.zeros(12, 20, dtype=torch.long)
    runner.logits(tokens)
    runner.logits(tokens, positions=-1)
    assert [max(map(len, p)) for p in plans] == [3, 12]


def test_shares_that_are_taken_together_fit_together():
    shares = MemoryShares(4 * 2**30 + 7)
    assert shares.batch + shares.logits + shares.store <= shares.bound
    assert shares.traces + shares.rows + max(shares.paths, shares.metric_logits) + shares.store <= shares.bound
    assert shares.edges + shares.metric_logits + shares.store <= shares.bound
    assert min(shares.kept, shares.metric_logits) > 0


def test_tokens_that_a_batch_is_worth_go_by_the_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert padded_tokens(cpu) < packed_tokens(cpu, 10**9) < padded_tokens(gpu)
    assert packed_tokens(cpu, 10) == 10
    assert packed_tokens(gpu, 10**9) == 10**9


def test_the_bound_is_bytes_or_a_size(build: Callable):
    assert Runner(build(), memory="1MiB").memory == Runner(build(), memory=2**20).memory == 2**20
