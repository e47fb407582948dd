"""Reference numbers: published, or measured on the shipped weights; read from a file and compared with a model.

`references/NAME.yaml` names the models it is for and lists checks; a check says which quantity, of which prompt or
tokens, from which source. To add a model, add a file.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import yaml
from pydantic import TypeAdapter, ValidationError

from mechlist.errors import InputError
from mechlist.models.language_model import LanguageModel
from mechlist.models.quantities import QUANTITIES
from mechlist.models.sources.files import first_line
from mechlist.models.tl import is_hooked
from mechlist.types import Guard, Processing

REFERENCES = Path(__file__).parent / "references"

ROUNDING = 2e-5
"""What float32 may change between machines in a logit, a loss or a score; added to half a unit of the last digit."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One number, or list of numbers, that a model must give."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    id: str
    quantity: str
    """Name of a function in `mechlist.models.quantities`."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments: prompts, tokens, heads, recipes of random tokens."""
    expected: float | list[float]
    digits: int | None = None
    """Decimals that the source prints: half a unit of the last one is allowed."""
    tolerance: float | None = None
    """What is allowed, where it does not follow from `digits`."""
    kind: Literal["deterministic", "seeded", "loose"]
    """No random choice; random tokens from a known seed; a published number whose recipe or seed is not known whole."""
    processing: Literal["any", "default"] = "any"
    """Whether the number is the same under every weight processing, or holds for the default alone."""
    source: str
    """Where the number is from, with the version."""
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what could only fail later.

        Raises:
            ValueError: tolerance, quantity or parameters that cannot be used.
        """
        if (self.digits is None) == (self.tolerance is None):
            raise ValueError("one of digits and tolerance must be given, not both or neither")
        if not self.values or not all(math.isfinite(x) for x in self.values):
            raise ValueError("expected must be finite numbers, at least one")
        if not (0 <= self.allowed < math.inf):
            raise ValueError(f"tolerance must be a number of at least 0, not {self.tolerance}")
        if self.quantity not in QUANTITIES:
            close = difflib.get_close_matches(self.quantity, QUANTITIES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(QUANTITIES)}"
            raise ValueError(f"quantity {self.quantity!r} is unknown; {hint}")
        self.arguments()

    @property
    def values(self) -> list[float]:
        """The expected numbers as a list."""
        return self.expected if isinstance(self.expected, list) else [self.expected]

    @property
    def allowed(self) -> float:
        """Largest deviation that passes."""
        return self.tolerance if self.tolerance is not None else 0.5 * 10.0 ** -(self.digits or 0) + ROUNDING

    def arguments(self) -> dict[str, Any]:
        """The parameters in the types that the quantity takes.

        Raises:
            ValueError: a parameter is missing, unknown or of the wrong type.
        """
        try:
            parsed = TypeAdapter(_parameters(self.quantity)).validate_python(self.parameters)
        except ValidationError as error:
            raise ValueError(f"parameters.{_first(error)}") from None
        return {f.name: getattr(parsed, f.name) for f in fields(parsed)}


@dataclass(frozen=True, kw_only=True)
class References:
    """A reference file."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    models: list[str]
    """Names that the file is for, in lower case."""
    checks: list[Reference]


def find_references(name: str) -> Path | None:
    """The reference file for a built-in model or a hub name (aliases included), or None."""
    files = sorted(REFERENCES.glob("*.yaml"))
    return next((file for file in files if name.lower() in load_references(file).models), None)


def load_references(file: Path) -> References:
    """Read and validate a reference file.

    Raises:
        InputError: naming the file and the field that is wrong.
    """
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not readable YAML ({first_line(error)}); correct it.") from error
    try:
        references = TypeAdapter(References).validate_python(read)
    except ValidationError as error:
        raise InputError(f"{file} is not a reference file: {_first(error)}; correct it.") from None
    ids = [check.id for check in references.checks]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise InputError(f"{file} is not a reference file: checks have the same id {twice[0]!r}; correct it.")
    return references


def run_references(view: LanguageModel, references: Sequence[Reference]) -> list[Guard]:
    """Compare the model with every reference; `measured` is the largest deviation, `passed` None where not run."""
    return [_run(view, reference) for reference in references]


def _run(view: LanguageModel, reference: Reference) -> Guard:
    name, allowed = f"reference {reference.id}", reference.allowed
    reason = _unfit(view, reference)
    if reason is None:
        try:
            with torch.inference_mode():
                measured = QUANTITIES[reference.quantity](view, **reference.arguments()).cpu()
        except InputError as error:
            # The model lacks something that the check needs; that is no wrong number.
            reason = str(error)
        else:
            expected = torch.tensor(reference.values, dtype=torch.float64)
            if measured.shape != expected.shape:
                raise InputError(
                    f"{name} expects {len(expected)} numbers, and {reference.quantity} gives {len(measured)}."
                )
            # torch's max, unlike Python's, never drops a NaN, and NaN passes nothing.
            deviation = (measured.double() - expected).abs().max().item()
            return Guard(name, deviation <= allowed, deviation, allowed, _detail(reference, measured.tolist()))
    return Guard(name, None, math.nan, allowed, f"not run: {reason} ({reference.source})")


def _unfit(view: LanguageModel, reference: Reference) -> str | None:
    """Why the number cannot be expected of this model, if it cannot."""
    if not is_hooked(view.module):
        return "reference numbers are for a HookedTransformer"
    if view.dtype != torch.float32:
        return f"reference numbers are for float32, not {str(view.dtype).removeprefix('torch.')}"
    done = view.info.get("processing")
    if reference.processing == "default" and isinstance(done, dict) and done != vars(Processing()):
        return "the number holds under the default weight processing only"
    return None


def _detail(reference: Reference, measured: list[float]) -> str:
    shown = ", ".join(f"{value:.6g}" for value in measured)
    expected = ", ".join(f"{value:.6g}" for value in reference.values)
    return f"{reference.quantity} is {shown}, {reference.kind} reference {expected} ({reference.source}); deviation"


@functools.cache
def _parameters(quantity: str) -> type[Any]:
    """A dataclass with a quantity's keyword parameters as fields."""
    signature = inspect.signature(QUANTITIES[quantity])
    keywords = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    listed = [(p.name, p.annotation, field(default=MISSING if p.default is p.empty else p.default)) for p in keywords]
    strict = {"__pydantic_config__": {"extra": "forbid"}}
    return make_dataclass(quantity, listed, namespace=strict, frozen=True, kw_only=True)


def _first(error: ValidationError) -> str:
    """Field and complaint of the first error, as a part of a sentence."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{where}: {first_line(ValueError(first['msg'].removeprefix('Value error, ')))}"
