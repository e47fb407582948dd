"""`mechlist look TEXT`: the first thing one does with a prompt."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from mechlist.cli.parse import parse
from mechlist.errors import InputError
from mechlist.types import DType

if TYPE_CHECKING:
    import pandas as pd

    from mechlist.lens.look import Look


@dataclass(frozen=True)
class LookFlags:
    """Flags of `mechlist look`."""

    text: tyro.conf.Positional[str]
    """The prompt."""
    model: str = "list-tiny"
    """Model: a Hugging Face name, a directory, or a built-in model with a tokenizer."""
    every: bool = False
    """Look at every token, not at the last one alone."""
    open: bool = False
    """Make a page of it in runs/ as well, and open it in the browser."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: DType = "float32"
    """Type of weights and activations."""
    bos: bool | None = None
    """Begin the prompt with the tokenizer's BOS token; by default where it has one."""


def main(argv: list[str]) -> int:
    """Print what is seen, and write the page if one is wanted."""
    flags = parse(LookFlags, argv, prog="mechlist look", description="The first look at a prompt.")
    if not flags.text:
        raise InputError("TEXT is empty: give a prompt to look at.")
    from rich.console import Console
    from rich.markup import escape

    from mechlist.cli.tables import print_table
    from mechlist.lens.look import look
    from mechlist.lens.look_words import look_findings, look_tables
    from mechlist.runner import Runner

    runner = Runner.load(flags.model, device=flags.device, dtype=flags.dtype, bos=flags.bos)
    seen = look(runner, flags.text, every=flags.every)
    tables, sentences = look_tables(runner, seen), look_findings(runner, seen)
    console = Console()
    for title, frame in tables.items():
        print_table(console, title, frame)
    for sentence in sentences:
        console.print(f"- {escape(sentence)}", highlight=False)
    if flags.open:
        print(_page(flags.text, seen, tables, sentences))
    return 0


def _page(text: str, seen: "Look", tables: "dict[str, pd.DataFrame]", sentences: list[str]) -> str:
    """Write the page, open it, and give its path."""
    import webbrowser

    from mechlist.report.html import render
    from mechlist.report.model import Report, Section
    from mechlist.results import write_text
    from mechlist.runs import RUNS
    from mechlist.text import shortened, visible

    sections = tuple(Section(title=title.capitalize(), tables={title: frame}) for title, frame in tables.items())
    title = f"A look at {shortened(visible(text), 60)}"
    page = RUNS / f"look-{time.strftime('%Y%m%d-%H%M%S')}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, render(Report(title=title, subtitle=seen.model, findings=tuple(sentences), sections=sections)))
    webbrowser.open(page.resolve().as_uri())
    return str(page)
