"""Circuits: which edges between heads and MLPs carry a behaviour, and how much of it they carry by themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from mechlist.datasets.pairs.pair import Pairs, block_pairs
from mechlist.errors import InputError
from mechlist.experiment import Option
from mechlist.experiments.circuit import figures as circuit_figures
from mechlist.experiments.circuit import findings as circuit_output
from mechlist.experiments.circuit.find import Choice, find_circuit
from mechlist.experiments.circuit.graph_json import graph_file
from mechlist.experiments.circuit.statistics import with_statistics
from mechlist.experiments.pair_experiment import PairExperiment, metric_of, only_with, padded_pairs, pair_options
from mechlist.experiments.pair_look import look_at, look_findings, look_table
from mechlist.patching.circuits.eap_ig import read_eap_ig, sizes_of
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.circuits.selection import connected
from mechlist.patching.edges import EdgeTask, edge_task, nodes_of
from mechlist.patching.gradients.gradient import Rule
from mechlist.patching.replacements import Mean
from mechlist.registry import register
from mechlist.runner import Runner


def _chosen_otherwise(experiment: "Circuit") -> str:
    """Where the size of the circuit does not follow from its faithfulness."""
    given = experiment.chosen_by
    return "" if given == "faithful" else f"with {given}"


@register("circuit")
@dataclass(frozen=True, kw_only=True)
class Circuit(PairExperiment):
    """Score every edge between heads, MLPs, input and logits; find the circuit, and test it exactly (EAP-IG)."""

    needs_tokenizer: ClassVar[bool] = False
    default_model: ClassVar[str] = "induction-tiny"
    options: ClassVar[Mapping[str, Option]] = {
        **pair_options(data="induction"),
        "period": Option(only_with("induction"), 20),
        "steps": Option(lambda experiment: "with rule relp" if experiment.rule == "relp" else "", 5),
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
    rule: Rule = "gradient"
    """What runs back from the metric: gradients, or relevance, in which norms, activation functions and gates are
    taken as linear with the coefficients of the clean run (RelP)."""
    steps: int | None = None
    """Runs between the corrupt and the clean prompt whose gradients are averaged (EAP-IG); 1 is EAP; by default 5."""
    ablation: Literal["counterfactual", "mean"] = "counterfactual"
    """What edges outside the circuit carry: what they carry in the corrupt prompt, or on average over all prompts."""
    select: Literal["greedy", "top"] = "greedy"
    """Grow the circuit from the logits, or take the strongest edges and drop what is not connected."""
    signed: bool = False
    """Rank edges by how much they hold the metric up, and not by the size of their effect either way."""
    edges: int | Literal["mib"] | None = None
    """Edges that are chosen; by default as few as reach --faithful. With mib these, too, of a graph whose edges are
    counted as in MIB and EAP-IG: keys and values that heads share are each head's own."""
    threshold: float | None = None
    """Choose all edges with this score or more, instead of a number of edges."""
    circuit_file: Path | None = None
    """Measure the circuit in this file, as EAP-IG and MIB write it in JSON, and rank edges by the file's scores; where
    it has scores alone, a circuit is chosen by them. Edges are counted as with mib."""
    faithful: float | None = None
    """Faithfulness that the circuit must reach where no size, threshold or file is given; by default 0.9."""
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
            if self.value_of(name) < minimum:
                raise InputError(f"{name} must be at least {minimum}, not {getattr(self, name)}.")
        if self._size is not None and self._size < 1:
            raise InputError(f"edges must be at least 1, not {self.edges}.")
        given = self._given
        if len(given) > 1:
            raise InputError(f"{given[0]} and {given[1]} exclude each other: give one of them.")
        if not 0 < self.value_of("faithful") <= 1:
            raise InputError(f"faithful must be above 0 and at most 1, not {self.faithful}.")

    @property
    def chosen_by(self) -> str:
        """The parameter by which the circuit is chosen."""
        return (*self._given, "faithful")[0]

    @property
    def _given(self) -> list[str]:
        """The parameters that say which circuit it is, instead of its faithfulness."""
        given = {"edges": self._size, "threshold": self.threshold, "circuit_file": self.circuit_file}
        return [name for name, value in given.items() if value is not None]

    @property
    def _size(self) -> int | None:
        return None if self.edges == "mib" else self.edges

    def run(self, runner: Runner) -> xr.Dataset:
        """Scores of all edges and prompts, and the metric of circuits, of all but them, and of controls."""
        nodes = nodes_of(runner, ungrouped=self._ungrouped)
        given, ranking = (None, None) if self.circuit_file is None else _read(self.circuit_file, nodes)
        found = self._pairs(runner)
        seen = look_at(runner, found.pairs)
        faithful = self.value_of("faithful")
        choice = Choice(self.select, self.signed, self._size, self.threshold, faithful, given, ranking)
        steps = 1 if self.rule == "relp" else self.value_of("steps")
        results = find_circuit(
            self._task(runner, found),
            rule=self.rule,
            steps=steps,
            choice=choice,
            random_circuits=self.random_circuits,
            verify_top=self.verify_top,
            verify=self.verify,
            clusters=None if found.clusters is None else np.array(found.clusters),
            units=metric_of(self.metric, found.pairs).unit,
        )
        if found.clusters is not None:
            results["cluster"] = ("prompt", np.array(found.clusters))
        return (
            with_statistics(results)
            .merge(seen)
            .assign_attrs(
                data=self.origin,
                metric=self.metric,
                rule=self.rule,
                steps=steps,
                ablation=self.ablation,
                select=self.select,
                signed=self.signed,
                faithful=choice.faithful,
                chosen_by=self.chosen_by if given is not None or ranking is None else "faithful",
                ranked_by="score" if ranking is None else "circuit_file",
                model=runner.language_model.info["name"],
                shared=int(nodes.shape.n_heads != nodes.shape.n_key_value_heads),
                ungrouped=int(self._ungrouped),
                **{name: int(size) for name, size in sizes_of(nodes).items()},
            )
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The circuit, its faithfulness by size, its scores against exact patching, and its nodes."""
        return circuit_figures.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """The circuit's edges and the strongest of all, circuits by size, and nodes."""
        return circuit_output.tables(results) | look_table(results)

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """The circuit as JSON; the whole graph as EAP-IG reads it, and as Neuronpedia and circuit-tracer do."""
        return circuit_output.files(results) | graph_file(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How small the circuit is, what it does by itself and what is left without it, and what the controls say."""
        first, *more = circuit_output.findings(results)
        return [first, *look_findings(results), *more]

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
        return edge_task(runner, base=clean, source=source, metric=metric, lengths=lengths, ungrouped=self._ungrouped)

    @property
    def _ungrouped(self) -> bool:
        return self.edges == "mib" or self.circuit_file is not None


def _read(file: Path, nodes: Nodes) -> tuple[Bool[Tensor, "sender receiver"] | None, Tensor | None]:
    """What is connected of the circuit in a file, and its scores; None for what it has not.

    Raises:
        InputError: nothing is connected; neither edges of a circuit nor scores.
    """
    scores, inside = read_eap_ig(file, nodes)
    ranking = scores if scores.any() else None
    if not inside.any():
        if ranking is None:
            raise InputError(f"{file} holds neither scores nor an edge that is in_graph.")
        return None, ranking
    circuit = connected(nodes, inside)
    if not circuit.any():
        raise InputError(f"The edges of {file} that are in_graph hold no way from the input to the logits.")
    return circuit, ranking
