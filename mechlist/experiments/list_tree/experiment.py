"""How a list goes on behind an item: ends, fillers and next items as a tree, side by side under changes."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.prompts import SWAP
from mechlist.decode.tree import Tree, TreeConfig
from mechlist.decode.tree_dataset import dataset_trees, trees_dataset
from mechlist.decode.tree_file import tree_text
from mechlist.decode.tree_model import grow_model_tree
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.list_tree import report
from mechlist.experiments.list_tree.decisions import DECISIONS, decisions, heads_of
from mechlist.experiments.list_tree.lists import OneList, made_list, recorded_list
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import NO_ADJECTIVE, visible
from mechlist.types import head_name, parse_heads

AS_WRITTEN, SWAPPED, PATCHED = "as written", "adjective swapped", "heads patched"


@register("list-tree")
@dataclass(frozen=True, kw_only=True)
class ListTree(Experiment):
    """Grow the tree of what follows an item of a list, as written, with the adjective swapped, and with heads patched.

    Patched heads have the output z of the run with the swapped adjective, at every position of the list.
    """

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    topic: str = "Fruits"
    """Topic of the list."""
    adjective: str = "short"
    """Adjective of a list that is made of the topic's best-known items; `none` for a prompt without."""
    recorded: Path | None = None
    """File of recorded lists, of which one is taken in place of one that is made."""
    number: int = 1
    """Which of the topic's recorded lists, counted from 1."""
    item: int = 8
    """Item behind which the tree begins, counted from 1."""
    at: Literal["break", "item"] = "break"
    """Where the tree begins: at the line break behind the item, or at the item's last token."""
    filler: bool = False
    """A blank behind the item, before the line break, of a list that is made."""
    heads: tuple[str, ...] = ()
    """Heads that are patched, such as L4H5."""
    branch_threshold: float | int = 0.03
    """Probability above which a token becomes a branch."""
    max_depth: int = 4
    """Tokens that the tree follows."""
    max_nodes: int = 300
    """Nodes at which a tree stops growing."""

    def __post_init__(self) -> None:
        for name in ("item", "number"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.branch_threshold <= 1:
            raise InputError(f"branch_threshold must be above 0 and at most 1, not {self.branch_threshold}.")
        if self.recorded is None and self.number != 1:
            raise InputError("number is of recorded lists, and none are given.")
        if self.recorded is not None and self.filler:
            raise InputError("filler is of a list that is made, and a recorded one has its own.")
        if self.heads and self.recorded is None and self.adjective not in SWAP:
            raise InputError(f"heads are patched from the other adjective, which {self.adjective!r} has not.")
        _ = self._config(())

    def run(self, runner: Runner) -> xr.Dataset:
        """A tree for each condition, and the decisions at every item up to it."""
        heads = parse_heads(self.heads, "heads", (runner.shape.n_layers, runner.shape.n_heads))
        one = self._list(runner)
        lists = {AS_WRITTEN: one}
        if one.swappable:
            lists[SWAPPED] = one.swapped()
        if heads:
            lists[PATCHED] = one
        trees, values = {}, []
        for condition, of_condition in lists.items():
            changed = heads_of(runner, one.swapped(), heads) if condition == PATCHED else nullcontext()
            with changed:
                values.append(decisions(runner, of_condition))
                trees[condition] = self._tree(runner, of_condition)
        told = np.stack(values)
        columns = {name: (("condition", "item"), told[..., i]) for i, name in enumerate(DECISIONS)}
        results = trees_dataset(trees).merge(
            xr.Dataset(columns, {"condition": list(lists), "item": 1 + np.arange(told.shape[1])}), join="exact"
        )
        return results.assign_attrs(
            model=runner.language_model.info["name"],
            topic=visible(self.topic),
            adjective=one.adjective,
            heads=[head_name(head) for head in heads],
            at=self.at,
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The trees below each other, the decisions at the item, and along the items."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Decisions by condition and item."""
        return report.tables(results)

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """The trees as JSON."""
        return {f"{name.replace(' ', '-')}.json": tree_text(tree) for name, tree in dataset_trees(results).items()}

    def findings(self, results: xr.Dataset) -> list[str]:
        """The decisions behind the item, and what the changes do to them."""
        return report.findings(results)

    def _config(self, stops: tuple[int, ...]) -> TreeConfig:
        return TreeConfig(
            min_branch_threshold=self.branch_threshold,
            max_branch_threshold=self.branch_threshold,
            max_depth=self.max_depth,
            max_completed_paths=self.max_nodes,
            max_nodes=self.max_nodes,
            stop_tokens=stops,
        )

    def _list(self, runner: Runner) -> OneList:
        """The list up to the line break behind the item."""
        if self.recorded is None:
            adjective = "" if self.adjective == NO_ADJECTIVE else self.adjective
            return made_list(runner.tokenizer, self.topic, adjective, self.item, filler=self.filler)
        one = recorded_list(runner.tokenizer, self.recorded, self.topic, self.number)
        if self.item > len(one.places):
            raise InputError(f"item must be at most {len(one.places)}, the items of this list, not {self.item}.")
        return one.cut(self.item)

    def _tree(self, runner: Runner, one: OneList) -> Tree:
        last, line_break = one.places[-1]
        end = 1 + (line_break if self.at == "break" else last)
        text = "".join(runner.token_texts(list(one.tokens[one.start : end])))
        return grow_model_tree(runner, one.tokens[:end], self._config(one.special.ends), text=text)
