"""`mechlist look TEXT`: the first thing one does with a prompt."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from mechlist.cli.parse import parse
from mechlist.errors import InputError
from mechlist.types import DType, head_name

if TYPE_CHECKING:
    import pandas as pd

    from mechlist.lens.look import Look
    from mechlist.runner import Runner


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
    from mechlist.runner import Runner

    runner = Runner.load(flags.model, device=flags.device, dtype=flags.dtype, bos=flags.bos)
    seen = look(runner, flags.text, every=flags.every)
    tables, sentences = dict(_tables(runner, seen)), list(_findings(runner, seen))
    console = Console()
    for title, frame in tables.items():
        print_table(console, title, frame)
    for sentence in sentences:
        console.print(f"- {escape(sentence)}", highlight=False)
    if flags.open:
        print(_page(flags.text, seen, tables, sentences))
    return 0


def _tables(runner: "Runner", seen: "Look") -> Iterator[tuple[str, "pd.DataFrame"]]:
    import pandas as pd

    if len(seen.positions) < len(seen.tokens):
        places = range(len(seen.tokens))
        yield "tokens", pd.DataFrame({"position": places, "token": _shown(seen.texts), "id": seen.tokens})
        names = _texts(runner, seen.top_token[0].tolist())
        columns = {"rank": range(1, len(names) + 1), "token": names, "id": seen.top_token[0].tolist()}
        numbers = {"probability": seen.probability[0].tolist(), "logit": seen.logit[0].tolist()}
        yield f"what comes after {_shown(seen.texts)[-1]!r}", pd.DataFrame(columns | numbers)
        said = _texts(runner, seen.stage_token[0].tolist())
        yield (
            f"what each layer would say, and the rank it gives {names[0]!r}",
            pd.DataFrame(
                {
                    "after": _stages(len(said)),
                    "token": said,
                    "probability": seen.stage_probability[0].tolist(),
                    "rank": seen.stage_rank[0].tolist(),
                }
            ),
        )
        yield from _heads(seen)
        return
    rows = [
        {
            "position": place,
            "token": _shown(seen.texts)[place],
            "id": seen.tokens[place],
            "next one's rank": int(rank) or "",
            "most probable": ", ".join(
                f"{name} {share:.2f}"
                for name, share in zip(_texts(runner, tokens[:3]), seen.probability[n].tolist(), strict=False)
            ),
            "comes first from": _stages(seen.stage_rank.shape[1])[seen.settled[n]],
        }
        for n, (place, rank, tokens) in enumerate(
            zip(seen.positions, seen.next_rank, seen.top_token.tolist(), strict=True)
        )
    ]
    yield "every token, and what comes after it", pd.DataFrame(rows)
    yield from _heads(seen)


def _heads(seen: "Look") -> Iterator[tuple[str, "pd.DataFrame"]]:
    """The heads that attend most: those of the last token, or the strongest one of every token."""
    import pandas as pd

    if not seen.weight.shape[1]:
        return
    names, one = _shown(seen.texts), len(seen.positions) == 1
    rows = [
        {"position": place, "token": names[place]}
        | {"head": head_name(tuple(seen.head[n, k].tolist())), "looks at": int(seen.attended[n, k])}
        | {"there": names[int(seen.attended[n, k])], "weight": float(seen.weight[n, k])}
        for n, place in enumerate(seen.positions)
        for k in range(seen.weight.shape[1] if one else 1)
        if seen.weight[n, k] > 0  # BOS sees nothing but itself
    ]
    frame = pd.DataFrame(rows)
    yield "heads that attend most (BOS aside)", frame.drop(columns=["position", "token"]) if one else frame


def _findings(runner: "Runner", seen: "Look") -> Iterator[str]:
    names = _texts(runner, seen.top_token[-1].tolist())
    yield (
        f"{seen.model} reads {len(seen.tokens)} tokens and expects {names[0]!r} next "
        f"({seen.probability[-1, 0]:.1%}); it comes first {_from(seen)}. "
        "One prompt says nothing about others."
    )


def _from(seen: "Look") -> str:
    stage = seen.settled[-1]
    return "from the embedding on" if stage == 0 else f"from layer {stage - 1} on"


def _stages(count: int) -> list[str]:
    return ["the embedding", *(f"layer {n}" for n in range(count - 1))]


def _texts(runner: "Runner", tokens: list[int]) -> list[str]:
    return _shown(runner.token_texts(tokens))


def _shown(texts: "list[str] | tuple[str, ...]") -> list[str]:
    from mechlist.text import visible

    return [visible(text) for text in texts]


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
