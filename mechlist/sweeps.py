"""One step of a study as several: a run for every value of the fields that it sweeps, and a table over all of them."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from mechlist.errors import InputError
from mechlist.registry import find

SETTINGS = ("model", "seed")
"""Of the run, what may be swept beside an experiment's own parameters."""
SUMMARY = "sweep-table"
"""The experiment that sets the runs side by side."""


@dataclass(frozen=True)
class Swept:
    """One of the steps that a sweep stands for."""

    name: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    """What differs from the study's settings."""


def swept(
    name: str, experiment: str, parameters: Mapping[str, Any], sweep: Mapping[str, Sequence[Any]]
) -> Iterator[Swept]:
    """Every combination of the values, the last field first; `NAME-period-10` names the step with period 10.

    Raises:
        InputError: a field that the experiment does not have, or one without values.
    """
    known = [field.name for field in fields(find(experiment))]  # pyright: ignore[reportArgumentType]
    for field, values in sweep.items():
        if field not in (*known, *SETTINGS):
            close = difflib.get_close_matches(field, (*known, *SETTINGS), n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join((*known, *SETTINGS))}."
            raise InputError(f"sweep.{field}: {experiment} has no such parameter{hint}")
        if not values:
            raise InputError(f"sweep.{field}: must hold at least one value, not none.")
        if field in parameters:
            raise InputError(f"sweep.{field}: it stands among the parameters too; leave one of them out.")
    names: dict[str, int] = {}
    for values in product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        called = "-".join([name, *(f"{field.replace('_', '-')}-{_word(value)}" for field, value in chosen.items())])
        names[called] = names.get(called, 0) + 1
        if names[called] > 1:
            raise InputError(f"sweep: two of its runs would be called {called!r}; give each value once.")
        yield Swept(
            called,
            {**parameters, **{field: value for field, value in chosen.items() if field not in SETTINGS}},
            {field: value for field, value in chosen.items() if field in SETTINGS},
        )


def _word(value: Any) -> str:
    """A value as part of a folder's name; of a path its last part."""
    text = "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = Path(text).name if "/" in text else text
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "none"
