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
    name: str = ""
    """Of a step, by which sentences refer to it; the title without."""
    text: str = ""
    """What was done, in paragraphs."""
    findings: tuple[str, ...] = ()
    """What came out, one sentence each."""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    """Name, which makes the anchor, to a figure from `mechlist.figures.finish`."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Name to rows; `attrs["caption"]` says what they hold, else the name does."""
    exhibits: Mapping[str, Record | Tree] = field(default_factory=dict)
    """Title to a response or a token tree, which the page lets a reader click through."""
    folder: str | None = None
    """Where `tables/NAME.parquet` lies, from the page's own folder on; None where there are no such files."""
    folded: bool = False
    """Whether all but the title, the text and the figure `lead` is to unfold."""
    lead: str = ""
    """Name of the figure that the title is about; the first without."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence of the answer, and where its evidence is."""

    text: str
    section: str = ""
    """Name of the section that shows it."""
    figure: str = ""
    """Name of the figure in it."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report over one or more experiments. Every string is plain text."""

    title: str
    subtitle: str = ""
    about: str = ""
    """What the model is."""
    question: str = ""
    """What was asked."""
    answer: tuple[Sentence, ...] = ()
    """What a study says in the end; it stands before everything else."""
    answer_figures: Mapping[str, go.Figure] = field(default_factory=dict)
    """Figures beside the answer."""
    answer_tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Tables below it, to unfold."""
    findings: tuple[str, ...] = ()
    """The findings of a single run, before anything else."""
    sections: tuple[Section, ...] = ()
    guards: tuple[Guard, ...] = ()
    config_yaml: str = ""
    """What to run for the same result."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Model, device, versions, duration: name to value."""
