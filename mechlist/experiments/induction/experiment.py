"""Induction heads: attention to the token that followed this one last time."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.repeated import fitting_period, repeated_tokens
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.induction import circuit as induction_circuit
from mechlist.experiments.induction import figures as induction_figures
from mechlist.experiments.induction import findings as induction_words
from mechlist.experiments.induction import scores as induction_steps
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.types import head_name


@register("induction")
@dataclass(frozen=True, kw_only=True)
class Induction(Experiment):
    """Score every head on a random block shown twice (Olsson et al. 2022)."""

    period: int | None = None
    """Length of the repeated block, in tokens; by default the largest up to 50 that fits the context."""
    batch: int = 30
    """Number of random sequences."""
    top_heads: int = 6
    """Number of heads whose attention patterns are kept and drawn."""
    twins: int = 1
    """Number of untrained models of the same shape that serve as the null; each takes as much memory as the model."""
    random_sets: int = 5
    """Number of matched random sets of heads that the found heads' ablation is compared with; 0 ablates nothing."""
    mlp_sequences: int = 2
    """Number of sequences on which every MLP output is replaced; 0 replaces none."""
    text: str = ""
    """Natural text that shows a passage twice; without, a passage of the package, for models with a tokenizer."""
    previous_head: str = ""
    """A previous-token head such as L4H11, to look at its K-composition circuit with --induction-head."""
    induction_head: str = ""
    """An induction head such as L5H5, in a later layer than --previous-head."""
    circuit_tokens: int | None = None
    """Tokens on which the circuit is read, drawn at random; 0 for all, by default all that take about a minute."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch must be at least 1 sequence, not {self.batch}.")
        if self.period is not None and self.period < 2:
            raise InputError(f"period must be at least 2 tokens, not {self.period}.")
        for name in ("top_heads", "twins", "random_sets", "mlp_sequences"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        if self.circuit_tokens is not None and self.circuit_tokens < 0:
            raise InputError(f"circuit_tokens must be 0 (all tokens) or more, not {self.circuit_tokens}.")
        if bool(self.previous_head) != bool(self.induction_head):
            raise InputError("previous_head and induction_head must be given together, or neither.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Scores with intervals and null, both halves, patterns, ablations, MLP replacement and the circuit."""
        bos = runner.bos_token_id
        period = fitting_period(self.period, runner.shape.n_ctx, bos is not None)
        pair = induction_circuit.hand_pair(runner, self.previous_head, self.induction_head)
        tokens = repeated_tokens(self.batch, period, runner.shape.d_vocab, bos, runner.generator("repeated tokens"))
        results = induction_steps.scores(runner, tokens, period)
        results = results.merge(induction_steps.null(runner, tokens, period, self.twins))
        results.attrs = {"period": period, "batch": self.batch, "bos": bos is not None}
        results.attrs |= {"hand_pair": list(map(head_name, pair)) if pair else []}
        steps = (
            induction_steps.patterns(runner, results, tokens[:1], self.top_heads),
            induction_steps.ablations(runner, results, tokens, self.random_sets),
            induction_steps.mlp(runner, tokens, period, self.mlp_sequences),
            induction_circuit.circuit(runner, results, pair, self.circuit_tokens),
            induction_steps.natural_text(runner, self.text),
        )
        for step in steps:
            results = results.assign(step.variables).assign_attrs(step.attrs)
        return results

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """In the order of the argument: behaviour, heads, patterns, ablations, MLPs, circuit, natural text."""
        return induction_figures.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Every head ranked by its induction score; the pairs of heads that compose most."""
        return induction_words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the results say, with what the controls say."""
        return induction_words.findings(results)
