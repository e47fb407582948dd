"""mechlist: mechanistic-interpretability experiments on TransformerLens, exact, fast and replayable."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechlist.experiment import Experiment
    from mechlist.metrics.answers import LogitDifference
    from mechlist.patching.attribution import attribution_grid
    from mechlist.patching.grid import patch_grid
    from mechlist.registry import register
    from mechlist.runner import Batch, Runner

__all__ = ["Batch", "Experiment", "LogitDifference", "Runner", "attribution_grid", "patch_grid", "register"]
__version__ = "0.1.0"

_HOMES = {
    "Batch": "mechlist.runner",
    "Experiment": "mechlist.experiment",
    "LogitDifference": "mechlist.metrics.answers",
    "Runner": "mechlist.runner",
    "attribution_grid": "mechlist.patching.attribution",
    "patch_grid": "mechlist.patching.grid",
    "register": "mechlist.registry",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: torch and TransformerLens take seconds, `mechlist --help` must not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mechlist' has no attribute {name!r}")
