"""Which weights a job's model is loaded with, and that one model at a time is held."""

import gc
import weakref
from dataclasses import asdict, replace

import pytest

from mechlist.engine import local
from mechlist.engine.local import OneModel, as_loaded, runner_for
from mechlist.experiments.hidden_state.experiment import HiddenState
from mechlist.experiments.induction.experiment import Induction
from mechlist.options import Settings
from mechlist.runner import Runner
from mechlist.runner.raw import RAW, raw_runner
from mechlist.runs import Job


def test_weights_are_loaded_as_published_where_an_experiment_reads_them_so():
    settings = Settings(model="list-tiny")
    raw = Job("hidden-state", HiddenState(), settings)
    assert as_loaded(raw).processing == RAW
    assert replace(as_loaded(raw), **asdict(settings.processing)) == settings
    assert as_loaded(Job("induction", Induction(), settings)) == settings
    runner = runner_for(raw, OneModel())
    # No second model is loaded for what the first one is already.
    assert raw_runner(runner) is runner


def test_one_model_is_dropped_before_the_next_is_loaded(monkeypatch: pytest.MonkeyPatch):
    held: list[weakref.ref[Runner]] = []

    def load(settings: Settings) -> Runner:
        gc.collect()
        assert all(one() is None for one in held), "the model before is still held"
        runner = Runner.load("induction-tiny", seed=settings.seed, progress=False, guards=False)
        held.append(weakref.ref(runner))
        return runner

    monkeypatch.setattr(local, "load_runner", load)
    keeping = OneModel()
    first, second = Settings(seed=1), Settings(seed=2)
    assert keeping(first) is keeping(first)
    keeping(second)
    keeping(first)
    assert len(held) == 3
