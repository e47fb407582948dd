"""Ways of choosing tokens, side by side: what they write, and how far they move the model's distribution."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.chat import stop_tokens
from mechlist.datasets.prompts import KINDS, read_prompts, shipped_prompts
from mechlist.decode import Sampling
from mechlist.decode.rules import word_rule
from mechlist.decode.strategies import Strategy
from mechlist.errors import InputError
from mechlist.experiments.decode_compare import report
from mechlist.experiments.decode_compare.compare import GREEDY, MEASURES, STEERED, Told, against_first, first_word, tell
from mechlist.experiments.prompt_experiment import PromptExperiment
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import escaped


@register("decode-compare")
@dataclass(frozen=True, kw_only=True)
class DecodeCompare(PromptExperiment):
    """Compare greedy decoding, beams, sampling, banned words and a steering text on the same prompts."""

    prompts: tuple[str, ...] = ()
    """Prompts of one's own, in place of those that come with mechlist."""
    kinds: tuple[str, ...] = KINDS
    """Kinds of the prompts that come with mechlist."""
    prompt_files: tuple[Path, ...] = ()
    """YAML files of prompts, each a kind of its own, in place of those that come with mechlist."""
    per_kind: int = 3
    """Prompts of each kind, the first ones."""
    max_new_tokens: int = 24
    """Tokens after which a text is cut off."""
    samples: int = 4
    """Texts of each prompt that strategies draw, and beams that are kept."""
    beams: int = 5
    """Paths of beam search."""
    temperature: float | int = 0.7
    """Of the strategy that samples at a temperature, from all tokens."""
    top_k: int = 40
    """Of the strategy that samples from the most probable tokens."""
    top_p: float | int = 0.8
    """Of the strategy that samples from the nucleus."""
    min_p: float | int = 0.1
    """Of the strategy that samples from tokens with at least this share of the first one's probability."""
    banned: tuple[str, ...] = ()
    """Words that greedy decoding may not write; without, for each prompt the token that it begins with."""
    penalised: tuple[str, ...] = ()
    """Words that are held back by `penalty`; without, for each prompt the token that greedy decoding begins with."""
    penalty: float | int = 2.0
    """What a penalised word loses, in logits."""
    logit_bias: tuple[str, ...] = ()
    """Texts with what is added to their logits, such as " Paris=2.5": another strategy."""
    steering: str = "Please respond in a neutral, balanced manner. "
    """Text in front of the prompt, for the strategy that steers."""

    def __post_init__(self) -> None:
        for name in ("per_kind", "max_new_tokens", "samples", "beams"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.beams < 2:
            raise InputError("beams must be at least 2: a single one is greedy decoding.")
        if self.penalty <= 0:
            raise InputError(f"penalty must be above 0, not {self.penalty}.")
        if self.prompts and self.prompt_files:
            raise InputError("prompts and prompt_files exclude each other: give one of them.")
        if not self.steering:
            raise InputError("steering must hold a text.")
        if not self.prompts and not self.prompt_files:
            shipped_prompts(self.kinds)
        _ = self._bias, self._plain()

    def run(self, runner: Runner) -> xr.Dataset:
        """Texts and measures by prompt and strategy."""
        texts, kinds = self._texts()
        prompts = [prompt.tokens for prompt in self.prompts_of(runner, texts)]
        steered = [prompt.tokens for prompt in self.prompts_of(runner, [self.steering + text for text in texts])]
        stops, told = stop_tokens(runner.tokenizer), []
        for prompt, with_steering in zip(prompts, steered, strict=True):
            asked = {"samples": self.samples, "max_new_tokens": self.max_new_tokens, "stop_tokens": stops}
            strategies = self._strategies(runner, prompt, stops)
            row = {name: tell(runner, strategy, prompt, (), **asked) for name, strategy in strategies.items()}
            told.append(row | {STEERED: tell(runner, strategies[GREEDY], prompt, with_steering, **asked)})
        results = _dataset(runner, told)
        results["prompt_text"] = ("prompt", np.array([escaped(text) for text in texts], dtype=object))
        return results.assign_coords(kind=("prompt", list(kinds))).assign_attrs(
            model=runner.language_model.info["name"], steering=escaped(self.steering)
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Log-probability, diversity and the move of the distribution, by strategy and kind of prompt."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Strategies, and every text."""
        return report.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Which strategy moves the distribution most, and what beams gain."""
        return report.findings(results)

    def _plain(self) -> dict[str, Strategy]:
        """Strategies that are the same for every prompt."""
        return {
            GREEDY: Strategy(),
            "beams": Strategy(beams=self.beams),
            "temperature": Strategy(sampling=Sampling(temperature=self.temperature)),
            "top-k": Strategy(sampling=Sampling(top_k=self.top_k)),
            "top-p": Strategy(sampling=Sampling(top_p=self.top_p)),
            "min-p": Strategy(sampling=Sampling(min_p=self.min_p)),
        }

    def _strategies(self, runner: Runner, prompt: tuple[int, ...], stops: tuple[int, ...]) -> dict[str, Strategy]:
        tokenizer, d_vocab = runner.tokenizer, runner.shape.d_vocab
        out = self._plain() | against_first(first_word(runner, prompt, stops), self.penalty)
        named = {
            "banned": word_rule(tokenizer, d_vocab, banned=self.banned),
            "penalised": word_rule(tokenizer, d_vocab, penalised=self.penalised, penalty=self.penalty),
            "logit bias": word_rule(tokenizer, d_vocab, bias=self._bias),
        }
        return out | {name: Strategy(rule=rule) for name, rule in named.items() if rule is not None}

    @property
    def _bias(self) -> dict[str, float]:
        out = {}
        for entry in self.logit_bias:
            text, _, value = entry.rpartition("=")
            try:
                out[text] = float(value)
            except ValueError:
                out[text] = np.nan
            if not text or not np.isfinite(out[text]):
                raise InputError(f'logit_bias must be a text, = and a number, such as " Paris=2.5", not {entry!r}.')
        return out

    def _texts(self) -> tuple[list[str], list[str]]:
        """Prompts and their kinds."""
        if self.prompts:
            return list(self.prompts), ["own"] * len(self.prompts)
        files = {file.stem: read_prompts(file) for file in self.prompt_files}
        by_kind = files or shipped_prompts(self.kinds)
        pairs = [(text, kind) for kind, texts in by_kind.items() for text in texts[: self.per_kind]]
        return [text for text, _ in pairs], [kind for _, kind in pairs]


def _dataset(runner: Runner, told: list[dict[str, Told]]) -> xr.Dataset:
    names = list(told[0])
    samples = max(len(one.texts) for row in told for one in row.values())
    texts = np.full((len(told), len(names), samples), "", dtype=object)
    for i, row in enumerate(told):
        for j, name in enumerate(names):
            for k, tokens in enumerate(row[name].texts):
                texts[i, j, k] = escaped(runner.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
    units = {"log_prob": "nats", "log_prob_per_token": "nats", "kl": "nats", "kl_first": "nats", "tokens": "tokens"}
    measures = {
        measure: (
            ("prompt", "strategy"),
            np.array([[row[name].measures[measure] for name in names] for row in told]),
            {"units": units[measure]} if measure in units else {},
        )
        for measure in MEASURES
    }
    coords = {"strategy": names, "prompt": np.arange(len(told))}
    return xr.Dataset({**measures, "text": (("prompt", "strategy", "sample"), texts)}, coords)
