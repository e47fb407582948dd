"""Training of the built-in models, by `mechlist train NAME`."""

from collections.abc import Callable

TRAINERS: dict[str, str] = {
    "induction-tiny": "mechlist.training.induction_tiny:train_induction_tiny",
    "list-saes": "mechlist.training.list_saes:train_list_saes",
    "list-tiny": "mechlist.training.list_tiny:train_list_tiny",
}
"""Model, or SAEs of one, to its function, as module:name; imported when it is called for."""


def trainer(name: str) -> Callable[..., dict[str, float]]:
    """The function that trains the built-in model `name`."""
    from importlib import import_module

    module, _, function = TRAINERS[name].partition(":")
    return getattr(import_module(module), function)
