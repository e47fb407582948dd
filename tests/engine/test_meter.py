"""The meter: what stands for more is counted more often, and what is done apart not at all."""

import time

import pytest
import torch

from mechlist.engine.meter import Call, Meter, Taken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still unless a test moves it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def meter() -> Meter:
    return Meter(torch.device("cpu"))


def test_what_some_work_takes_adds_up():
    one = Taken(seconds=1.0, tokens=10, flops=100, cells=2, runs=1, loop_flops=5)
    assert one.plus(one) == one.times(2) == Taken(seconds=2, tokens=20, flops=200, cells=4, runs=2, loop_flops=10)
    assert one.plus(one, -1) == Taken()


def test_time_operations_and_tokens_are_what_was_done_and_what_is_added(meter: Meter, clock: list[float]):
    before = meter.now()
    with meter.counter:
        _ = torch.ones(2, 3) @ torch.ones(3, 4)
    clock[0] += 5
    meter.embedded += 7
    meter.add(Taken(seconds=2.0, tokens=3, runs=1))
    assert meter.since(before) == Taken(seconds=7, tokens=10, flops=2 * 2 * 3 * 4, runs=1)
    assert meter.seconds_since(before) == 7


def test_parts_of_parts_multiply(meter: Meter, clock: list[float]):
    start = meter.now()
    outer = meter.now()
    clock[0] += 1
    inner = meter.now()
    clock[0] += 2
    meter.stretch(inner, 10)
    meter.stretch(outer, 3, "a loop")
    assert meter.since(start).seconds == 3 * (1 + 20)
    assert meter.loops == {"a loop": 63}


def test_what_is_done_apart_is_not_counted(meter: Meter, clock: list[float]):
    start = meter.now()
    with meter.apart():
        clock[0] += 4
        meter.add(Taken(flops=9))
        meter.calls.append(Call("sample", 1, 1))
        meter.paths.append("layer by layer")
        meter.stretch(start, 2, "a loop")
    assert meter.since(start) == Taken()
    assert (meter.calls, meter.paths, meter.loops) == ([], [], {})


def test_counting_takes_no_time(meter: Meter):
    product, rounds = torch.ones(4, 4), 300
    with meter.counter:
        start, began = meter.now(), time.perf_counter()
        for _ in range(rounds):
            product = product @ product.sign()
        counted, real = meter.since(start).seconds, time.perf_counter() - began
    assert 0 < counted < real
    assert meter.counter.own_seconds == pytest.approx(real - counted, rel=0.05)
