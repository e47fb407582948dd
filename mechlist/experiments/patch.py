"""Activation patching of one or more pairs of prompts, exactly and over a whole grid."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.figures import head_heatmap, position_heatmap, token_labels, visible
from mechlist.metrics.answers import LogitDifference
from mechlist.patching.cells import Per, Site
from mechlist.patching.grid import patch_grid
from mechlist.prompts.chat import list_tokens
from mechlist.prompts.list_prompts import list_prompt
from mechlist.prompts.topics import choose_topics
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.batching import pad_right

KEYS = ("clean", "corrupt", "answer", "wrong")
IOI = {
    "clean": "When John and Mary went to the shops, John gave the bag to",
    "corrupt": "When John and Mary went to the shops, Mary gave the bag to",
    "answer": " Mary",
    "wrong": " John",
}
"""Indirect object identification (Wang et al. 2022)."""
LIST_ITEMS = 8
"""Of the list after which a short prompt ends and a long one goes on."""


@dataclass(frozen=True)
class Pair:
    """One pair of prompts, in tokens."""

    clean: list[int]
    corrupt: list[int]
    answer: int
    wrong: int


@register("patch")
@dataclass(frozen=True, kw_only=True)
class Patch(Experiment):
    """Patch a clean run into a corrupt one, every cell of a grid, and see what brings the answer back."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    clean: str = ""
    """Prompt that has the answer as its continuation; without, a pair of --data."""
    corrupt: str = ""
    """Prompt of as many tokens that has the wrong answer as its continuation."""
    answer: str = ""
    """Continuation of the clean prompt: one token, with its leading blank."""
    wrong: str = ""
    """Continuation of the corrupt prompt: one token, with its leading blank."""
    pairs: Path | None = None
    """File of pairs, in place of the four: lines of JSON with clean, corrupt, answer and wrong."""
    data: Literal["list", "ioi"] = "list"
    """Pair that is built in: a finished list after "short" and after "long" (chat models), or John and Mary."""
    topic: str = "Fruits"
    """Topic of the list."""
    site: Site = "resid_pre"
    """Activation that is replaced."""
    per: Per = "position"
    """Cells of the grid, in each layer."""
    noising: bool = False
    """Patch corrupt activations into the clean run, instead of clean ones into the corrupt run."""
    top: int = 20
    """Rows of the table of cells with the largest effect."""

    def __post_init__(self) -> None:
        given = [name for name in KEYS if getattr(self, name)]
        if given and (len(given) < len(KEYS) or self.pairs is not None):
            raise InputError("clean, corrupt, answer and wrong must be given together, and without pairs.")
        if self.top < 1:
            raise InputError(f"top must be at least 1, not {self.top}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The metric of every cell and prompt, with the tokens of the prompts that are changed."""
        pairs = self._pairs(runner)
        clean, corrupt = (pad_right([torch.tensor(getattr(p, name)) for p in pairs]) for name in ("clean", "corrupt"))
        lengths = torch.tensor([len(p.clean) for p in pairs])
        base, source = (clean, corrupt) if self.noising else (corrupt, clean)
        metric = LogitDifference(
            answer=torch.tensor([p.answer for p in pairs]), wrong=torch.tensor([p.wrong for p in pairs])
        )
        results = patch_grid(
            runner, base=base, source=source, site=self.site, per=self.per, metric=metric, lengths=lengths
        )
        texts = [runner.token_texts(row[:n].tolist()) for row, n in zip(base, lengths.tolist(), strict=True)]
        width = base.shape[1]
        labels = np.array([[*map(visible, row), *[""] * (width - len(row))] for row in texts])
        results["token"] = (("prompt", "token_position"), labels)
        return results.assign_attrs(noising=self.noising, per=self.per, model=runner.language_model.info["name"])

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The share of the effect that each cell recovers, averaged over the prompts."""
        values = results["recovered"].mean("prompt")
        what = "corrupt into clean" if results.attrs["noising"] else "clean into corrupt"
        words: dict[str, Any] = {
            "title": f"{results.attrs['site']}: {what}",
            "caption": "0 is the run that is changed, 1 the run that replacements come from; mean over the prompts.",
            "unit": "recovered",
        }
        if results.attrs["per"] == "head":
            return {"heads": head_heatmap(values, diverging=True, **words)}
        if results.attrs["per"] == "head_position":
            strongest = values.isel(position=abs(values).fillna(0).argmax("position"))
            words["caption"] = "At each head's strongest position. " + words["caption"]
            return {"heads": head_heatmap(strongest, diverging=True, **words)}
        labels = token_labels(results["token"].values[0].tolist())
        return {"positions": position_heatmap(values, labels, **words)}

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Cells by the size of their effect, and the prompts."""
        mean = results[["recovered", "patched"]].mean("prompt")
        cells = mean.to_dataframe().reset_index().dropna(subset=["recovered"])
        cells = cells.sort_values("recovered", key=abs, ascending=False, ignore_index=True)
        if "position" in cells:
            cells["token"] = [results["token"].values[0, int(p)] for p in cells["position"]]
        prompts = pd.DataFrame(
            {
                "prompt": ["".join(row) for row in results["token"].values],
                "base": results["base"].values,
                "source": results["source"].values,
            }
        )
        return {"cells": cells.head(self.top), "prompts": prompts}

    def findings(self, results: xr.Dataset) -> list[str]:
        """The two runs, and the cell that moves the metric most."""
        base, source = float(results["base"].mean()), float(results["source"].mean())
        sentences = [
            f"The logit difference is {base:.3f} in the run that is changed and {source:.3f} in the run that the "
            f"replacements come from (mean over {results.sizes['prompt']} prompts)."
        ]
        cells = self.tables(results)["cells"]
        if len(cells):
            best = cells.iloc[0]
            where = " ".join(f"{name} {int(best[name])}" for name in ("layer", "head", "position") if name in cells)
            token = f" ({best['token']!r})" if "token" in cells else ""
            sentences.append(f"The largest effect is at {where}{token}: it recovers {best['recovered']:.1%}.")
        return sentences

    def _pairs(self, runner: Runner) -> list[Pair]:
        if self.pairs is None and not self.clean and self.data == "list":
            return [_list_pair(runner, self.topic)]
        own = [{name: getattr(self, name) for name in KEYS} if self.clean else IOI]
        texts = own if self.pairs is None else _read(self.pairs)
        return [_tokens(runner, pair, number) for number, pair in enumerate(texts, start=1)]


def _read(file: Path) -> list[dict[str, str]]:
    """Pairs from lines of JSON."""
    try:
        lines = [line for line in file.expanduser().read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        try:
            pair = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number}, is not JSON: {error}.") from error
        if not isinstance(pair, dict) or any(not isinstance(pair.get(name), str) or not pair[name] for name in KEYS):
            raise InputError(f"{file}, line {number}, must hold {', '.join(KEYS)} as text.")
        pairs.append({name: pair[name] for name in KEYS})
    if not pairs:
        raise InputError(f"{file} must hold one pair at least, one a line.")
    return pairs


def _list_pair(runner: Runner, topic: str) -> Pair:
    """A list of well-known items with a filler on the last: at its last line break a short list ends."""
    marks = list_tokens(runner.tokenizer)
    items = choose_topics((), (topic,))[topic][:LIST_ITEMS]
    lines = [runner.tokenizer.encode(item, add_special_tokens=False) for item in items]
    written = [token for line in lines for token in (marks.hyphen, *line, marks.line_break)]
    completion = [*written[1:-1], marks.blank, marks.line_break]
    clean, corrupt = (
        list(list_prompt(runner.tokenizer, topic, adjective).with_completion(completion))
        for adjective in ("short", "long")
    )
    return Pair(clean, corrupt, marks.end_of_turn, marks.hyphen)


def _tokens(runner: Runner, pair: dict[str, str], number: int) -> Pair:
    clean, corrupt = runner.to_tokens(pair["clean"]), runner.to_tokens(pair["corrupt"])
    if len(clean) != len(corrupt):
        raise InputError(
            f"clean and corrupt must have the same number of tokens; in pair {number} they have {len(clean)} and "
            f"{len(corrupt)}."
        )
    if clean == corrupt:
        raise InputError(f"clean and corrupt must differ; in pair {number} they are the same tokens.")
    return Pair(clean, corrupt, *(_single(runner, name, pair[name], number) for name in ("answer", "wrong")))


def _single(runner: Runner, name: str, text: str, number: int) -> int:
    tokens: Sequence[int] = runner.to_tokens(text, prepend_bos=False)
    if len(tokens) != 1:
        raise InputError(
            f"{name} must be one token; in pair {number} {text!r} is {len(tokens)}: {runner.token_texts(tokens)}."
        )
    return tokens[0]
