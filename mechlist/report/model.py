"""What a report says, before any HTML: plain text, figures and tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from mechlist.decode.records import Record
from mechlist.decode.tree import Tree
from mechlist.types import Guard


@dataclass(frozen=True, kw_only=True)
class Section:
    """One step of a report. Every string is plain text; blank lines separate paragraphs."""

    title: str
    text: str = ""
    """What was done, in paragraphs."""
    findings: tuple[str, ...] = ()
    """What came out, one sentence each."""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    """Name, which makes the anchor, to a figure from `mechlist.figures.finish`."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Caption to rows."""
    exhibits: Mapping[str, Record | Tree] = field(default_factory=dict)
    """Title to a response or a token tree, which the page lets a reader click through."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report over one or more experiments. Every string is plain text."""

    title: str
    subtitle: str = ""
    question: str = ""
    """What was asked."""
    findings: tuple[str, ...] = ()
    """The answers, one sentence each, before anything else."""
    sections: tuple[Section, ...] = ()
    guards: tuple[Guard, ...] = ()
    config_yaml: str = ""
    """What to run for the same result."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Model, device, versions, duration: name to value."""
