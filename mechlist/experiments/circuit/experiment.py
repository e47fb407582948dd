"""Circuits: which edges between heads and MLPs carry a behaviour, and how much of it they carry by themselves."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.datasets.pairs.induction import induction_pairs
from mechlist.errors import InputError
from mechlist.experiments.circuit import figures as circuit_figures
from mechlist.experiments.circuit import findings as circuit_output
from mechlist.experiments.circuit.find import Choice, find_circuit
from mechlist.experiments.pair_experiment import PairExperiment, metric_of, padded_pairs
from mechlist.experiments.patch_pairs import Pair, Pairs
from mechlist.patching.replacements import Mean
from mechlist.registry import register
from mechlist.runner import Runner


@register("circuit")
@dataclass(frozen=True, kw_only=True)
class Circuit(PairExperiment):
    """Score every edge between heads, MLPs, input and logits; find the circuit, and test it exactly (EAP-IG)."""

    needs_tokenizer: ClassVar[bool] = False
    default_model: ClassVar[str] = "induction-tiny"

    data: Literal["induction", "ioi", "list"] = "induction"
    """Pairs of prompts that are built in: a random block begun again, two people's names, or a finished list after
    "short" and after "long" (chat models)."""
    examples: int = 32
    """Pairs of random blocks, or of prompts with two people's names."""
    period: int = 20
    """Length of the random block, in tokens."""
    metric: Literal["logit_difference", "log_prob", "probability"] = "logit_difference"
    """What is measured at the end of the prompt: the answer's logit minus the wrong one's, or the answer's
    log-probability or probability."""
    steps: int = 5
    """Runs between the corrupt and the clean prompt whose gradients are averaged (EAP-IG); 1 is EAP."""
    ablation: Literal["counterfactual", "mean"] = "counterfactual"
    """What edges outside the circuit carry: what they carry in the corrupt prompt, or on average over all prompts."""
    select: Literal["greedy", "top"] = "greedy"
    """Grow the circuit from the logits, or take the strongest edges and drop what is not connected."""
    signed: bool = False
    """Rank edges by how much they hold the metric up, and not by the size of their effect either way."""
    edges: int | None = None
    """Edges that are chosen; by default as few as reach --faithful."""
    threshold: float | None = None
    """Choose all edges with this score or more, instead of a number of edges."""
    faithful: float = 0.9
    """Faithfulness that the circuit must reach where neither --edges nor --threshold is given."""
    random_circuits: int = 10
    """Random connected circuits of the same size that the found one is compared with."""
    verify_top: int = 20
    """Edges, the strongest by their score, that are patched exactly."""
    verify: tuple[str, ...] = ()
    """Other edges that are, by name, such as "a0.h1->a1.h3<k>" or "input->m0"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"steps": 1, "random_circuits": 0, "verify_top": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise InputError(f"{name} must be at least {minimum}, not {getattr(self, name)}.")
        if self.edges is not None and self.edges < 1:
            raise InputError(f"edges must be at least 1, not {self.edges}.")
        if self.edges is not None and self.threshold is not None:
            raise InputError("edges and threshold exclude each other: give one of them.")
        if not 0 < self.faithful <= 1:
            raise InputError(f"faithful must be above 0 and at most 1, not {self.faithful}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Scores of all edges and prompts, and the metric of circuits, of all but them, and of controls."""
        asked, clusters = self._asked(runner)
        choice = Choice(self.select, self.signed, self.edges, self.threshold, self.faithful)
        results = find_circuit(
            runner,
            asked,
            steps=self.steps,
            choice=choice,
            random_circuits=self.random_circuits,
            verify_top=self.verify_top,
            verify=self.verify,
        )
        if clusters is not None:
            results["cluster"] = ("prompt", np.array(clusters))
        return results.assign_attrs(
            data="pairs" if self.own else self.data,
            metric=self.metric,
            steps=self.steps,
            ablation=self.ablation,
            select=self.select,
            signed=self.signed,
            faithful=self.faithful,
            chosen_by="edges" if self.edges is not None else "threshold" if self.threshold is not None else "faithful",
            model=runner.language_model.info["name"],
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The circuit, its faithfulness by size, its scores against exact patching, and its nodes."""
        return circuit_figures.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """The circuit's edges and the strongest of all, circuits by size, and nodes."""
        return circuit_output.tables(results)

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """The circuit as JSON."""
        return circuit_output.files(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How small the circuit is, what it does by itself and what is left without it, and what the controls say."""
        return circuit_output.findings(results)

    def _asked(self, runner: Runner) -> tuple[dict[str, Any], list[str] | None]:
        """Arguments of `edge_scores`, and the clusters of the prompts."""
        if not self.own and self.data == "induction":
            bos, generator = runner.bos_token_id, runner.generator("induction pairs")
            found = induction_pairs(self.examples, self.period, runner.shape.d_vocab, bos, generator)
            rows = zip(*(column.tolist() for column in vars(found).values()), strict=True)
            pairs = Pairs([Pair(*row) for row in rows])
        else:
            pairs = self.found_pairs(runner)
        clean, corrupt, lengths = padded_pairs(pairs.pairs)
        mean = self.ablation == "mean"
        source = Mean(torch.cat([clean, corrupt]), lengths.repeat(2)) if mean else corrupt
        metric = metric_of(self.metric, pairs.pairs)
        return {"base": clean, "source": source, "lengths": lengths, "metric": metric}, pairs.clusters
