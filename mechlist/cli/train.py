"""`mechlist train NAME --out DIR`: train a built-in model again, with the script that made it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from mechlist.cli.parse import parse
from mechlist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """Flags of `mechlist train`."""

    name: tyro.conf.Positional[str]
    """A built-in model."""
    out: Path
    """New directory for the model."""
    seed: int = 0
    """Seed of the initial weights and of the data."""
    steps: int | None = None
    """Optimiser steps; the schedules stretch with it."""
    layers: int | None = None
    """Layers of the model; for list-saes those that get an SAE, from the first."""
    width: int | None = None
    """Size of the residual stream, a multiple of 64 (of 32 for induction-tiny); for list-saes features of each SAE."""


def main(argv: list[str]) -> int:
    """Train, and print what the model scores."""
    flags = parse(TrainFlags, argv, prog="mechlist train", description="Train a built-in model again.")
    from mechlist.runner.progress import Bar
    from mechlist.training import TRAINERS, trainer

    if flags.name not in TRAINERS:
        raise InputError(f"There is no built-in model {flags.name!r} to train; there is {', '.join(TRAINERS)}.")
    size = {name: value for name in ("steps", "layers", "width") if (value := getattr(flags, name)) is not None}
    bar: Bar | None = None

    def progress(step: int, steps: int, loss: float) -> None:  # noqa: ARG001
        nonlocal bar
        bar = bar or Bar(f"Training {flags.name}", steps).__enter__()
        bar.advance(1)
        if step == steps:
            # What comes after has bars of its own.
            bar.__exit__(None, None, None)

    try:
        scores = trainer(flags.name)(flags.out, seed=flags.seed, progress=progress, **size)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped; what was done is saved, and the same command goes on from there.") from stop
    finally:
        if bar is not None:
            bar.__exit__(*sys.exc_info())
    for name, value in scores.items():
        print(f"{name}: {value:.4g}")
    print(flags.out)
    return 0
