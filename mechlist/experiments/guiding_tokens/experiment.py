"""Which tokens of a prompt drive the next one: eight methods on one prompt, and which of them to trust."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.answers import answer_token
from mechlist.datasets.chat import stop_tokens
from mechlist.decode import Sampling, generate
from mechlist.errors import InputError
from mechlist.experiments.guiding_tokens import report
from mechlist.experiments.guiding_tokens.scores import METHODS, TRUTH, agreement, all_scores, deletion, without_bos
from mechlist.experiments.prompt_experiment import PromptExperiment
from mechlist.patching.tokens.inputs import answer_log_probs
from mechlist.patching.tokens.tracing import causal_trace
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import escaped


@register("guiding-tokens")
@dataclass(frozen=True, kw_only=True)
class GuidingTokens(PromptExperiment):
    """Score every token of a prompt for one token of the answer: attention, gradients, removal and causal tracing."""

    prompt: str = ""
    """Prompt; without, a short list of fruits is asked for."""
    step: int = 0
    """Which token of the answer is predicted: 0 is the next one, n the n-th after n that greedy decoding writes."""
    answer: str = ""
    """Text of the token that is predicted; without, the model's most probable one."""
    layer: int = -1
    """Layer whose attention is taken; negative ones count from the last."""
    steps: int = 64
    """Gradients of integrated gradients, at most."""
    draws: int = 10
    """Draws of noise of causal tracing."""
    deviations: float | int = 3.0
    """Size of the noise, in standard deviations of embeddings."""
    subject: tuple[int, ...] = ()
    """Positions that are noised together in causal tracing; without, the token that leave-one-out finds strongest."""
    random_orders: int = 10
    """Random orders of removal, against which the methods' orders are judged."""

    def __post_init__(self) -> None:
        for name in ("draws", "random_orders"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.step < 0:
            raise InputError(f"step must be 0 or more, not {self.step}.")
        if self.steps < 2:
            raise InputError(f"steps must be at least 2, not {self.steps}.")
        if not self.deviations > 0:
            raise InputError(f"deviations must be above 0, not {self.deviations}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Scores of every token by every method, their agreement, deletion curves, and a causal trace."""
        layers = runner.shape.n_layers
        if not -layers <= self.layer < layers:
            raise InputError(f"layer must be from {-layers} to {layers - 1}, not {self.layer}.")
        tokens = self._tokens(runner)
        answer = self._answer(runner, tokens)
        scored = all_scores(
            runner,
            tokens,
            answer,
            layer=self.layer,
            steps=self.steps,
            draws=self.draws,
            deviations=self.deviations,
        )
        has_bos = tokens[0] == runner.bos_token_id
        # Without BOS in the prompt there is nothing to leave out.
        rest = without_bos(scored.score) if has_bos else scored.score
        subject = self._subject(tokens, rest)
        results = xr.Dataset(
            {
                "score": (("method", "position"), scored.score),
                "score_without_bos": (("method", "position"), rest),
                "agreement": ("method", agreement(scored.score)),
                "agreement_without_bos": ("method", agreement(rest)),
                "noise_low": ("position", scored.noise_low, {"units": "nats"}),
                "noise_high": ("position", scored.noise_high, {"units": "nats"}),
                "pattern": (("head", "query", "key"), scored.pattern),
                "token_id": ("position", tokens),
                "text": ("position", np.array([escaped(t) for t in runner.token_texts(tokens)], dtype=object)),
            },
            coords={"method": list(METHODS), "position": np.arange(len(tokens))},
        )
        curves = deletion(
            runner,
            tokens,
            answer,
            rest,
            runner.numpy_generator("orders of removal"),
            random_orders=self.random_orders,
        )
        trace = causal_trace(runner, tokens, answer, subject, draws=self.draws, deviations=self.deviations)
        (answer_text,) = runner.token_texts([answer])
        return (
            results.merge(curves, join="exact")
            .merge(trace, join="exact")
            .assign_attrs(
                model=runner.language_model.info["name"],
                answer=escaped(answer_text),
                answer_log_prob=float(answer_log_probs(runner, [tokens], answer)[0]),
                layer=self.layer % layers,
                subject=subject,
                gap=scored.gap,
                has_bos=has_bos,
                deviations=self.deviations,
            )
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The prompt coloured by each method, agreement, deletion curves, attention by head, and the causal trace."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Tokens with their scores; methods with their agreement."""
        return report.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """The strongest tokens, and which methods find them."""
        return report.findings(results)

    def _tokens(self, runner: Runner) -> list[int]:
        """The prompt, with what greedy decoding writes before the token that is predicted."""
        tokens = list(self.prompt_of(runner, self.prompt).tokens)
        if not self.step:
            return tokens
        ((one,),) = generate(
            runner,
            [tokens],
            max_new_tokens=self.step,
            sampling=Sampling(greedy=True),
            stop_tokens=stop_tokens(runner.tokenizer),
        )
        if len(one.tokens) < self.step or one.stopped:
            raise InputError(f"step must be below {len(one.tokens)}, the tokens of the answer, not {self.step}.")
        return [*tokens, *one.tokens]

    def _answer(self, runner: Runner, tokens: list[int]) -> int:
        if not self.answer:
            return int(runner.logits([tokens], positions=-1)[0, 0].argmax())
        before = "" if self.chat or self.step else f"{self.prompt}{self.prefix}"
        return answer_token(runner, "answer", self.answer, vocabulary=runner.shape.d_vocab_out, prompt=before)

    def _subject(self, tokens: list[int], score: np.ndarray) -> list[int]:
        """Positions that are noised; never the last, whose own state would be all there is to restore."""
        if self.subject:
            return list(self.subject)
        truth = np.nan_to_num(score[METHODS.index(TRUTH)], nan=-np.inf)
        return [int(truth[: max(1, len(tokens) - 1)].argmax())]
