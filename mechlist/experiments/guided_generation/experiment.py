"""Answers that begin with a text or follow a grammar, with what the plain model thinks of them beside."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.chat import stop_tokens
from mechlist.decode import Completion, Sampling, generate
from mechlist.decode.guided import GrammarKind, GrammarRule, Seam, allowed_mass
from mechlist.decode.records import Record
from mechlist.decode.strategies import answer_log_prob
from mechlist.decode.token_texts import NONE, TokenTexts
from mechlist.decode.tree import Tree
from mechlist.errors import InputError
from mechlist.experiments.guided_generation import report
from mechlist.experiments.prompt_experiment import PromptExperiment
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import escaped
from mechlist.text_files import read_file

MOST_BYTES = 10**6
"""Of a file with a schema or a grammar."""


@register("guided-generation")
@dataclass(frozen=True, kw_only=True)
class GuidedGeneration(PromptExperiment):
    """Make answers begin with a text or follow a grammar, and see how much of the distribution that leaves."""

    prompts: tuple[str, ...] = ()
    """Prompts; without, three lists are asked for."""
    tokenised: Literal["together", "apart"] = "together"
    """Whether the prefix is tokenised together with the prompt, or apart from it, as when texts are put together."""
    regex: str = ""
    """Regular expression that what follows the prefix must match."""
    json_schema: Path | None = None
    """File with a JSON schema that what follows the prefix must be valid under."""
    grammar: Path | None = None
    """File with a grammar, in llguidance's dialect of Lark, that what follows the prefix must belong to."""
    max_new_tokens: int = 60
    """Tokens after which an answer is cut off."""
    temperature: float | int = 0.0
    """0 takes the most probable token."""
    top_p: float | int = 1.0
    """Nucleus, of what the grammar allows."""
    samples: int = 1
    """Answers of each prompt, where they are drawn."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        given = [name for name in ("regex", "json_schema", "grammar") if getattr(self, name)]
        if len(given) > 1:
            raise InputError(f"Only one of regex, json_schema and grammar can be given, not {' and '.join(given)}.")
        if self.samples > 1 and self.temperature == 0:
            raise InputError("samples differ only where they are drawn: give a temperature above 0.")
        _ = self._sampling

    def run(self, runner: Runner) -> xr.Dataset:
        """Guided answers and the model's own, token by token."""
        seams = self.seams_of(runner, self.prompts)
        rule = self._rule(runner)
        prompts = [self._chosen(one) for _, one in seams]
        asked = {
            "max_new_tokens": self.max_new_tokens,
            "samples": self.samples,
            "sampling": self._sampling,
            "stop_tokens": stop_tokens(runner.tokenizer),
        }
        guided = generate(runner, prompts, rule=rule, **asked, label="Guided answers")
        free = generate(runner, [one.prompt for _, one in seams], **asked, label="Free answers")
        answers = []
        for number, ((_, one), prompt) in enumerate(zip(seams, prompts, strict=True)):
            answers += [_guided(runner, number, one, prompt, completion, rule) for completion in guided[number]]
            answers += [_free(number, completion) for completion in free[number]]
        results = _dataset(runner, answers)
        results["prompt"] = ("prompt_number", np.array([escaped(text) for text, _ in seams], dtype=object))
        results["seam_differs"] = ("prompt_number", [one.differ for _, one in seams])
        for name in ("together", "apart"):
            pieces = [escaped("│".join(_at_seam(runner, one, getattr(one, name)))) for _, one in seams]
            results[f"seam_{name}"] = ("prompt_number", np.array(pieces, dtype=object))
        return results.assign_attrs(
            model=runner.language_model.info["name"],
            prefix=escaped(self.prefix or ("" if self.prompts else "-")),
            guide="" if rule is None else rule.kind.replace("_", " "),
            tokenised=self.tokenised,
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Answers coloured by what the plain model gave, and the mass that was allowed along them."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Answers with their log-probabilities, and every token."""
        return report.tables(results)

    def exhibits(self, results: xr.Dataset) -> dict[str, Record | Tree]:
        """Each prompt's first guided answer, and the model's own."""
        return dict(report.records(results))

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the guide cost, and a warning where tokenising together and apart differ."""
        return report.findings(results)

    @property
    def _sampling(self) -> Sampling:
        if self.temperature == 0:
            return Sampling(greedy=True)
        return Sampling(temperature=self.temperature, top_p=self.top_p)

    def _chosen(self, one: Seam) -> tuple[int, ...]:
        return one.together if self.tokenised == "together" else one.apart

    def _rule(self, runner: Runner) -> GrammarRule | None:
        kind: GrammarKind
        if self.regex:
            kind, text = "regex", self.regex
        elif self.json_schema is not None:
            kind, text = "json_schema", read_file(self.json_schema, MOST_BYTES, "a schema")
        elif self.grammar is not None:
            kind, text = "lark", read_file(self.grammar, MOST_BYTES, "a grammar")
        else:
            return None
        return GrammarRule(runner.tokenizer, runner.shape.d_vocab, kind, text, stop_tokens(runner.tokenizer))


@dataclass(frozen=True)
class _Answer:
    """Tokens of an answer, its prefix among them."""

    prompt: int
    guided: bool
    tokens: tuple[int, ...]
    log_prob: np.ndarray
    """Of each token under the plain model."""
    mass: np.ndarray
    """That the plain model gave to what was allowed."""
    prefix: int
    """Tokens that were given."""
    stopped: bool


def _guided(
    runner: Runner,
    number: int,
    one: Seam,
    prompt: Sequence[int],
    completion: Completion,
    rule: GrammarRule | None,
) -> _Answer:
    """Where a prefix is given, each of its tokens is all that is allowed."""
    shared = next((i for i, (a, b) in enumerate(zip(prompt, one.prompt, strict=False)) if a != b), len(one.prompt))
    given = tuple(prompt[shared:])
    of_prefix = np.zeros(0)
    if given:
        of_prefix = answer_log_prob(runner, prompt[:shared], given).double().numpy()
    written = np.array(completion.log_probs)
    mass = np.ones(len(written))
    if rule is not None:
        mass = allowed_mass(runner, prompt, completion.tokens, rule).numpy()
    return _Answer(
        number,
        True,
        given + completion.tokens,
        np.concatenate([of_prefix, written]),
        np.concatenate([np.exp(of_prefix), mass]),
        len(given),
        completion.stopped,
    )


def _free(number: int, completion: Completion) -> _Answer:
    size = len(completion.tokens)
    return _Answer(
        number, False, completion.tokens, np.array(completion.log_probs), np.ones(size), 0, completion.stopped
    )


def _dataset(runner: Runner, answers: list[_Answer]) -> xr.Dataset:
    """Answers token by token; NaN and -1 beyond their ends."""
    texts, size = TokenTexts(), (len(answers), max(len(a.tokens) for a in answers))
    ids = sorted({token for answer in answers for token in answer.tokens})
    text_of = dict(zip(ids, runner.token_texts(ids), strict=True))
    entry, log_prob, mass = np.full(size, NONE), np.full(size, np.nan), np.full(size, np.nan)
    for i, answer in enumerate(answers):
        width = len(answer.tokens)
        entry[i, :width] = [texts.number(text_of[token], token) for token in answer.tokens]
        log_prob[i, :width], mass[i, :width] = answer.log_prob, answer.mass
    dims = ("answer", "token")
    return xr.Dataset(
        {
            "entry": (dims, entry),
            "log_prob": (dims, log_prob, {"units": "nats"}),
            "allowed_mass": (dims, mass),
            "guided_log_prob": (dims, log_prob - np.log(mass), {"units": "nats"}),
            "guided": ("answer", [answer.guided for answer in answers]),
            "prompt_of": ("answer", [answer.prompt for answer in answers]),
            "prefix_tokens": ("answer", [answer.prefix for answer in answers]),
            "stopped": ("answer", [answer.stopped for answer in answers]),
            **texts.variables(),
        },
        coords={"answer": np.arange(size[0]), "token": np.arange(size[1])},
    )


def _at_seam(runner: Runner, one: Seam, tokens: Sequence[int]) -> list[str]:
    """The tokens around the seam, from the last one of the prompt that stands in both on."""
    same = [i for i, (a, b) in enumerate(zip(one.together, one.apart, strict=False)) if a != b]
    start = max(0, min(same[0] if same else len(one.prompt), len(one.prompt)) - 2)
    return runner.token_texts(list(tokens[start : start + 8]))
