"""mechlist: mechanistic-interpretability experiments on TransformerLens, exact, fast and replayable.

    from mechlist import LogitDifference, Runner, patch_grid, show

    runner = Runner.load("list-tiny")                  # or gpt2, google/gemma-2-2b-it, a directory
    runner.logits("Write a short list of fruits")      # text, token ids, tensors; one prompt or several
    ds = patch_grid(runner, base="Write a short list of", source="Write a long list of",
                    metric=LogitDifference(" short", " long"))
    show(ds)                                           # which layer and position carries the difference

Everything here is loaded on first use. `help(mechlist.Runner)` and `help(mechlist.patch_grid)` say more; an experiment
is a frozen dataclass (`Experiment`, `register`), and `mechlist list` on the command line shows those that there are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechlist.drawing import show
    from mechlist.experiment import Claim, Experiment
    from mechlist.metrics.answers import LogitDifference
    from mechlist.patching.attribution import attribution_grid
    from mechlist.patching.grid import patch_grid
    from mechlist.registry import register
    from mechlist.runner import Batch, Runner

__all__ = [
    "Batch",
    "Claim",
    "Experiment",
    "LogitDifference",
    "Runner",
    "attribution_grid",
    "patch_grid",
    "register",
    "show",
]
__version__ = "0.1.0"

_HOMES = {
    "Batch": "mechlist.runner",
    "Claim": "mechlist.experiment",
    "Experiment": "mechlist.experiment",
    "LogitDifference": "mechlist.metrics.answers",
    "Runner": "mechlist.runner",
    "attribution_grid": "mechlist.patching.attribution",
    "patch_grid": "mechlist.patching.grid",
    "register": "mechlist.registry",
    "show": "mechlist.drawing",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: torch and TransformerLens take seconds, `mechlist --help` must not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mechlist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
