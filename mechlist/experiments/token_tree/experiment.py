"""The tree of a prompt's likely continuations, with the choices that part them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.chat import stop_tokens
from mechlist.decode.importance import Importance, branchings, leaf_importance, resampled_importance
from mechlist.decode.records import Record
from mechlist.decode.tree import Order, Tree, TreeConfig
from mechlist.decode.tree_dataset import dataset_trees, trees_dataset
from mechlist.decode.tree_file import read_tree, tree_text
from mechlist.decode.tree_model import grow_model_tree
from mechlist.errors import InputError
from mechlist.experiments.prompt_experiment import PromptExperiment
from mechlist.experiments.token_tree import report
from mechlist.registry import register
from mechlist.runner import Runner


@register("token-tree")
@dataclass(frozen=True, kw_only=True)
class TokenTree(PromptExperiment):
    """Follow every likely continuation of a prompt at once, and see which choices matter."""

    instead_of_model: ClassVar[str] = "recorded"

    recorded: Path | None = None
    """File of a token tree, which is shown in place of one grown from a model."""
    prompt: str = ""
    """Prompt; without, a short list of fruits is asked for."""
    min_branch_threshold: float | int = TreeConfig.min_branch_threshold
    """Probability above which a token becomes a branch, while no other path waits."""
    max_branch_threshold: float | int = TreeConfig.max_branch_threshold
    """The same once as many paths wait as soft_queue_limit."""
    soft_queue_limit: int = TreeConfig.soft_queue_limit
    """Waiting paths at which the threshold is highest."""
    candidate_threshold: float | int = TreeConfig.candidate_threshold
    """Probability above which tokens are kept as candidates, ten at most."""
    max_depth: int = 60
    """Tokens behind the prompt after which a path is left as it is."""
    max_completed_paths: int = TreeConfig.max_completed_paths
    """Finished paths at which the tree stops growing."""
    max_nodes: int = 3000
    """Nodes at which the tree stops growing."""
    order: Order = "breadth"
    """Which path goes on next: the one that waited longest, so that the shortest finish first, or the most probable."""
    merge: bool = False
    """Do not go on with a path whose text another path has already, in other tokens."""
    resample: int = 0
    """Continuations that are drawn behind each alternative of the strongest choices, to see how far these part; 0 takes
    the tree's own leaves alone."""
    resample_tokens: int = 20
    """Tokens of a continuation that is drawn."""
    resample_choices: int = 20
    """Choices behind whose alternatives continuations are drawn: those that are reached most often."""
    top: int = 20
    """Rows of the table of choices."""

    def __post_init__(self) -> None:
        _ = self._config(())
        for name in ("resample_tokens", "resample_choices", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.resample < 0 or self.resample == 1:
            raise InputError(f"resample must be 0, or 2 and more, not {self.resample}: one says nothing of a spread.")
        if self.recorded is not None and (self.prompt or self.resample):
            raise InputError("recorded takes the place of prompt, and needs a model for resample: leave them out.")

    def run(self, runner: Runner | None) -> xr.Dataset:
        """The tree, and the importance of its choices."""
        drawn: list[Importance] = []
        if self.recorded is not None or runner is None:
            tree, model = read_tree(self.recorded or Path()), ""
        else:
            prompt, model = self.prompt_of(runner, self.prompt), runner.language_model.info["name"]
            text = prompt.text + self.prefix
            config = self._config(stop_tokens(runner.tokenizer))
            tree = grow_model_tree(runner, prompt.tokens, config, text=text)
            drawn = self._resampled(runner, tree, prompt.tokens)
        results = trees_dataset({"tree": tree}).merge(_importances(leaf_importance(tree), drawn), join="exact")
        return results.assign_attrs(
            model=model,
            source="" if self.recorded is None else str(self.recorded),
            tree_config=results.attrs["tree_config"],
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The compact tree, and the choices that part the continuations most."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Paths, and choices by their importance."""
        return report.tables(results, self.top)

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """The tree as JSON, in the format of recorded trees."""
        return {"tree.json": tree_text(dataset_trees(results)["tree"])}

    def exhibits(self, results: xr.Dataset) -> dict[str, Record | Tree]:
        """The tree."""
        return {"the tree": dataset_trees(results)["tree"]}

    def findings(self, results: xr.Dataset) -> list[str]:
        """How much of the probability the tree covers, its likeliest end, and the choice that matters most."""
        return report.findings(results)

    def _config(self, stops: tuple[int, ...]) -> TreeConfig:
        return TreeConfig(
            min_branch_threshold=self.min_branch_threshold,
            max_branch_threshold=self.max_branch_threshold,
            soft_queue_limit=self.soft_queue_limit,
            candidate_threshold=self.candidate_threshold,
            max_depth=self.max_depth,
            max_completed_paths=self.max_completed_paths,
            stop_tokens=stops,
            order=self.order,
            merge=self.merge,
            max_nodes=self.max_nodes,
        )

    def _resampled(self, runner: Runner, tree: Tree, prompt: tuple[int, ...]) -> list[Importance]:
        if not self.resample:
            return []
        reached = sorted(branchings(tree), key=lambda n: -tree.nodes[n].log_prob)[: self.resample_choices]
        room = runner.shape.n_ctx - len(prompt) - 1
        nodes = [n for n in reached if tree.nodes[n].depth + 1 + self.resample_tokens <= room]
        return resampled_importance(
            runner, tree, prompt, nodes=nodes, samples=self.resample, max_new_tokens=self.resample_tokens
        )


def _importances(leaves: list[Importance], drawn: list[Importance]) -> xr.Dataset:
    """By choice: the spread of continuations and what of it the choice explains, from leaves and from draws."""
    nodes = [one.node for one in leaves]
    of_draws = {one.node: one for one in drawn}
    columns = {"spread": [one.spread.total for one in leaves], "importance": [one.spread.between for one in leaves]}
    for name, part in (("resampled_spread", "total"), ("resampled_importance", "between")):
        columns[name] = [getattr(of_draws[n].spread, part) if n in of_draws else np.nan for n in nodes]
    columns["continuations"] = [one.continuations for one in leaves]
    return xr.Dataset({name: ("choice", np.array(values)) for name, values in columns.items()}, {"choice": nodes})
