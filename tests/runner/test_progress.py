"""What is shown of long work on a terminal, in a notebook and in a log."""

import io
from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from torch import Tensor

from mechlist.decode import generate
from mechlist.runner import Runner, progress
from mechlist.runner.progress import Bar, Stage, clock, part_done, stage, told


class Seen:
    """A view that remembers."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, float, str]] = []
        self.closed = False

    def show(self, stage: Stage | None, label: str, share: float | int, estimate: str) -> None:
        self.shown.append((str(stage), label, float(share), estimate))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    view = Seen()
    monkeypatch.setattr(progress, "_view", lambda: view)
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    return view


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (70, "1:10"), (3599.6, "1:00:00"), (7270, "2:01:10")])
def test_times_are_read_as_a_clock_s(seconds: float, text: str):
    assert clock(seconds) == text


def test_the_estimate_is_what_the_rest_takes_at_the_same_pace():
    assert told(0.3, 30) == "30 %, 1:10 left"
    assert told(0, 30) == "0 %"
    assert told(1, 30) == "100 %, 0:00 left"


def test_a_batch_that_holds_everything_tells_how_far_it_is(seen: Seen):
    with Bar("Patching", 8) as bar:
        with bar.batch(6):
            part_done(0.5)
            part_done(1)
        with bar.batch(2):
            part_done(0.5)
    part_done(0.5)  # nothing is under way
    assert [share for _, _, share, _ in seen.shown] == [3 / 8, 6 / 8, 6 / 8, 7 / 8, 1]
    assert seen.closed


def test_a_bar_in_a_study_names_its_step(seen: Seen):
    with stage("generate", 3, 14), Bar("Writing lists", 2) as bar:
        bar.advance(1)
    with Bar("Reading", 2) as bar:
        bar.advance(2)
    assert [(where, label) for where, label, *_ in seen.shown] == [
        ("step 3 of 14 generate", "Writing lists"),
        ("None", "Reading"),
    ]


def test_writing_in_one_batch_tells_every_token(seen: Seen, tiny_runner: Runner):
    runner = Runner(tiny_runner.model, progress=True)
    generate(runner, [[0, 1], [0, 2]], max_new_tokens=5, label="Writing")
    shares = [share for _, label, share, _ in seen.shown if label == "Writing"]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])


def test_a_sweep_in_one_batch_tells_every_layer(seen: Seen, loaded: Callable[[str], Runner]):
    from mechlist import LogitDifference, patch_grid

    runner = Runner(loaded("gpt2").model, progress=True)
    base, source = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 9, 7, 8]])
    metric = LogitDifference(answer=3, wrong=4, position=-1)
    patch_grid(runner, base=base, source=source, site="resid_pre", per="position", metric=metric)
    shares = [share for _, label, share, _ in seen.shown if label == "Patching"]
    assert len(shares) > runner.shape.n_layers
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_log_gets_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with stage("patching", 9, 14), Bar("Patching", 100) as bar:
        for _ in range(50):
            now[0] += 0.5
            bar.advance(2)
    # At 10 and 20 of 25 seconds.
    assert capsys.readouterr().err == (
        "step 9 of 14 patching\n"
        "step 9 of 14 patching: Patching: 40 %, 0:15 left\nstep 9 of 14 patching: Patching: 80 %, 0:05 left\n"
    )


def test_what_ends_at_once_says_nothing(capsys: pytest.CaptureFixture[str]):
    with Bar("Patching", 3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_a_notebook_has_one_line_without_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    now = [0.0]
    monkeypatch.setattr(progress, "_view", progress._Notebook)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar("Patching", 4) as bar:
        for _ in range(2):
            now[0] += 2
            bar.advance(1)
    told_in_all = capsys.readouterr().err
    assert "\x1b" not in told_in_all
    assert "\n" not in told_in_all
    assert "Patching ██████░░░░░░░░░░░░░░░░░░ 25 %, 0:06 left" in told_in_all
    assert told_in_all.split("\r")[-2].strip() == ""


def test_a_terminal_shows_the_work_and_the_steps(monkeypatch: pytest.MonkeyPatch):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "_view", lambda: progress._Terminal(console))
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    with stage("generate", 3, 14), Bar("Writing lists", 2) as bar:
        bar.advance(1)
    assert "step 3 of 14 generate: Writing lists" in text.getvalue()
    assert "2 of 14 steps done" in text.getvalue()


def test_a_runner_without_progress_shows_none(seen: Seen, tiny_runner: Runner):
    Runner(tiny_runner.model, progress=False).map([[0, 1]], lambda batch: {"length": _lengths(batch.tokens)})
    assert seen.shown == []


def _lengths(tokens: Tensor) -> Tensor:
    return torch.full((len(tokens),), tokens.shape[1])
