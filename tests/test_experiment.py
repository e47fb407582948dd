"""Parameters that count in some cases only: their defaults, and their refusal elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import plotly.graph_objects as go
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment, Option, filled


def _unless(data: str) -> Option:
    return Option(lambda probe: "" if probe.data == data else f"with data {probe.data}", 7)


@dataclass(frozen=True, kw_only=True)
class Probe(Experiment):
    """A probe."""

    options: ClassVar[Mapping[str, Option]] = {
        "period": _unless("blocks"),
        "names": Option(lambda probe: "" if probe.data == "names" else f"with data {probe.data}", ("Ann", "Bob")),
        "reverse": _unless("blocks"),
        "share": _unless("names"),
    }

    data: Literal["blocks", "names"] = "blocks"
    period: int | None = None
    names: tuple[str, ...] | None = None
    reverse: bool = False
    share: float = 0.5

    def __post_init__(self) -> None:
        self.check_options()

    def run(self, runner: object) -> xr.Dataset:
        """Nothing."""
        return xr.Dataset()

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """None."""
        return {}


def test_what_counts_has_a_default_and_what_does_not_stays_out():
    assert Probe().value_of("period") == 7
    assert Probe(period=3).value_of("period") == 3
    assert filled(Probe()) == Probe(period=7)
    assert filled(Probe(data="names", share=0.1)) == Probe(data="names", names=("Ann", "Bob"), share=0.1)
    # What is written out may be given again.
    assert filled(filled(Probe())) == filled(Probe())


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"data": "names", "period": 7}, "period"),
        ({"data": "names", "reverse": True}, "reverse"),
        ({"names": ("Eve",)}, "names"),
        ({"share": 0.2}, "share"),
    ],
)
def test_what_does_nothing_is_refused(given: dict[str, object], name: str):
    with pytest.raises(InputError) as raised:
        Probe(**given)  # pyright: ignore[reportArgumentType]
    assert str(raised.value) == f"{name} does nothing with data {given.get('data', 'blocks')}: leave it out."


def test_what_says_no_more_than_the_default_is_no_fault():
    assert Probe(data="names", reverse=False, period=None).reverse is False
