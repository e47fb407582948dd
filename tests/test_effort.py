"""Loops and draws: all of them in a run, and under a meter a few that stand for all."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from mechlist import effort
from mechlist.metrics.multiple import max_t
from mechlist.metrics.ratios import ratio_draws, ratio_interval
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.metrics.survival import survival_intervals
from mechlist.metrics.trend import trend_test


@dataclass
class Clock:
    """A meter on which every step takes one second."""

    seconds: float = 0.0
    labels: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.seconds

    def seconds_since(self, before: float) -> float:
        return self.seconds - before

    def stretch(self, before: float, factor: float | int, label: str = "") -> None:
        self.seconds += (self.seconds - before) * (factor - 1)
        self.labels.append(label)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_meter_everything_is_done():
    assert list(effort.steps(100)) == list(range(100))
    with effort.draws(5000) as draws:
        assert draws == 5000


@pytest.mark.parametrize("total", [0, 1, 2, 3, 4, 1000])
def test_a_few_steps_stand_for_all(clock: Clock, total: int):
    done = []
    with effort.measured_by(clock):
        for step in effort.steps(total, "steps"):
            clock.seconds += 1
            done.append(step)
    assert done == list(range(min(total, 1 + effort.FEW)))
    assert clock.seconds == pytest.approx(total)
    assert clock.labels == ["steps"]
    assert len(list(effort.steps(total))) == total


def test_the_first_step_stands_for_itself_alone(clock: Clock):
    with effort.measured_by(clock):
        for step in effort.steps(1001):
            clock.seconds += 10 if step == 0 else 1
    assert clock.seconds == pytest.approx(1010)


def test_steps_go_on_while_they_are_quick(clock: Clock):
    with effort.measured_by(clock):
        done = [step for step in effort.steps(1000) if setattr(clock, "seconds", clock.seconds + 0.01) is None]
    assert len(done) == pytest.approx(1 + effort.SECONDS / 0.01, abs=1)
    assert clock.seconds == pytest.approx(10)


def test_loops_within_loops_multiply(clock: Clock):
    with effort.measured_by(clock):
        for _ in effort.steps(50):
            for _ in effort.steps(40):
                clock.seconds += 1
            with effort.draws(1000) as draws:
                clock.seconds += draws
    assert clock.seconds == pytest.approx(50 * (40 + 1000))


def test_what_is_looked_at_once_a_model_counts_for_nothing(clock: Clock):
    with effort.measured_by(clock):
        clock.seconds += 1
        with effort.once():
            clock.seconds += 5
        clock.seconds += 1
    assert clock.seconds == pytest.approx(2)
    with effort.once():
        pass


def test_slices_are_small_under_a_meter(clock: Clock):
    assert list(effort.slices(10, 4)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    with effort.measured_by(clock):
        for part in effort.slices(6400, 5000):
            clock.seconds += part.stop - part.start
            assert part.stop - part.start == 6400 / effort.PIECES
    assert clock.seconds == pytest.approx(6400)


def test_few_draws_stand_for_all(clock: Clock):
    with effort.measured_by(clock):
        with effort.draws(2000) as draws:
            clock.seconds += draws
        with effort.draws(effort.RESAMPLES) as few:
            assert few == effort.RESAMPLES
    assert draws == effort.RESAMPLES
    assert clock.seconds == pytest.approx(2000)


def test_draws_are_as_many_as_were_asked_for(clock: Clock):
    drawn = np.arange(6).reshape(3, 2)
    assert effort.as_many(drawn, 3) is drawn
    assert effort.as_many(drawn, 5).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    values, labels = np.ones((8, 3)), np.arange(8) // 2
    with effort.measured_by(clock):
        found = ratio_draws(values, values, labels, resamples=1000, generator=np.random.default_rng(0))
    assert found.again.shape == (1000, 3)


def test_statistics_of_a_plan_have_the_form_of_the_run_s(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(effort, "RESAMPLES", 7)
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(12, 4)), np.arange(12) // 2

    def found() -> list[np.ndarray]:
        seeded = np.random.default_rng(1)
        time = np.arange(12) % 3
        tests = max_t(values, clusters=labels, resamples=100, generator=seeded), max_t(values, generator=seeded)
        return [
            np.stack(bootstrap_interval(values, clusters=labels, generator=seeded)),
            np.stack(ratio_interval(values, np.ones_like(values), labels, generator=seeded)),
            *(np.stack([test.p, test.p_corrected]) for test in tests),
            np.stack(survival_intervals(time, time > 0, labels, 3, generator=seeded).hazard),
            np.array(trend_test(np.arange(12) % 2, values[:, 0], labels, labels, generator=seeded)),
        ]

    with effort.measured_by(clock):
        planned = found()
    run = found()
    assert [one.shape for one in planned] == [one.shape for one in run]
    assert all((np.isfinite(a) == np.isfinite(b)).all() for a, b in zip(planned, run, strict=True))
    assert len(clock.labels) >= len(run)
    # And the run is not what the plan is.
    assert any((a != b).any() for a, b in zip(planned, run, strict=True))
