"""Circuits: which edges between heads and MLPs carry a behaviour, and how much of it they carry by themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.datasets.pairs.pair import Pairs, block_pairs
from mechlist.errors import InputError
from mechlist.experiment import Option
from mechlist.experiments.circuit import figures as circuit_figures
from mechlist.experiments.circuit import findings as circuit_output
from mechlist.experiments.circuit.find import Choice, find_circuit
from mechlist.experiments.circuit.statistics import with_statistics
from mechlist.experiments.pair_experiment import PairExperiment, metric_of, only_with, padded_pairs, pair_options
from mechlist.patching.edges import EdgeTask, edge_task
from mechlist.patching.replacements import Mean
from mechlist.registry import register
from mechlist.runner import Runner


def _chosen_otherwise(experiment: "Circuit") -> str:
    """Where the size of the circuit does not follow from its faithfulness."""
    given = [name for name in ("edges", "threshold") if getattr(experiment, name) is not None]
    return f"with {given[0]}" if given else ""


@register("circuit")
@dataclass(frozen=True, kw_only=True)
class Circuit(PairExperiment):
    """Score every edge between heads, MLPs, input and logits; find the circuit, and test it exactly (EAP-IG)."""

    needs_tokenizer: ClassVar[bool] = False
    default_model: ClassVar[str] = "induction-tiny"
    options: ClassVar[Mapping[str, Option]] = {
        **pair_options(data="induction"),
        "period": Option(only_with("induction"), 20),
        "faithful": Option(_chosen_otherwise, 0.9),
    }

    data: Literal["induction", "ioi", "list"] | None = None
    """Pairs of prompts that are built in: a random block begun again, two people's names, or a finished list after
    "short" and after "long" (chat models); by default induction."""
    examples: int | None = None
    """Pairs of random blocks, or of prompts with two people's names; by default 32."""
    period: int | None = None
    """Length of the random block, in tokens; by default 20."""
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
    faithful: float | None = None
    """Faithfulness that the circuit must reach where neither --edges nor --threshold is given; by default 0.9."""
    random_circuits: int = 10
    """Random connected circuits of the same size that the found one is compared with."""
    verify_top: int = 20
    """Edges, the strongest by their score, that are patched exactly."""
    verify: tuple[str, ...] = ()
    """Other edges that are, by name, such as "L0H1->L1H3.k" or "input->m0"."""

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
        if not 0 < self.value_of("faithful") <= 1:
            raise InputError(f"faithful must be above 0 and at most 1, not {self.faithful}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Scores of all edges and prompts, and the metric of circuits, of all but them, and of controls."""
        found = self._pairs(runner)
        choice = Choice(self.select, self.signed, self.edges, self.threshold, self.value_of("faithful"))
        results = find_circuit(
            self._task(runner, found),
            steps=self.steps,
            choice=choice,
            random_circuits=self.random_circuits,
            verify_top=self.verify_top,
            verify=self.verify,
            units=metric_of(self.metric, found.pairs).unit,
        )
        if found.clusters is not None:
            results["cluster"] = ("prompt", np.array(found.clusters))
        return with_statistics(results).assign_attrs(
            data=self.origin,
            metric=self.metric,
            steps=self.steps,
            ablation=self.ablation,
            select=self.select,
            signed=self.signed,
            faithful=choice.faithful,
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

    def _pairs(self, runner: Runner) -> Pairs:
        if self.origin != "induction":
            return self.found_pairs(runner)
        return block_pairs(
            self.value_of("examples"),
            self.value_of("period"),
            d_vocab=runner.shape.d_vocab,
            n_ctx=runner.shape.n_ctx,
            bos=runner.bos_token_id,
            generator=runner.generator("induction pairs"),
        )

    def _task(self, runner: Runner, found: Pairs) -> EdgeTask:
        """The clean prompts, what patched edges carry in them, and the metric."""
        clean, corrupt, lengths = padded_pairs(found.pairs)
        source = Mean(torch.cat([clean, corrupt]), lengths.repeat(2)) if self.ablation == "mean" else corrupt
        metric = metric_of(self.metric, found.pairs)
        return edge_task(runner, base=clean, source=source, metric=metric, lengths=lengths)
