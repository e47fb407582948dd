"""Figures, tables and sentences of `token-tree`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.decode.tree import Tree
from mechlist.decode.tree_dataset import dataset_trees
from mechlist.decode.tree_drawing import tree_branches
from mechlist.figures import grouped_bars
from mechlist.figures.word_tree import word_tree
from mechlist.text import number, number_of, visible

BARS = 10
"""Choices that get a bar."""
SHOWN = 40
"""Letters of a text in a label or a sentence."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The compact tree; the choices that part the continuations most."""
    tree = dataset_trees(results)["tree"]
    drawn = {
        "tree": word_tree(
            tree_branches(tree, importance=_importance(results)),
            title=f"Likely continuations of “{_short(tree.prompt, 60)}”",
            caption="Chains of one child are drawn as one edge, coloured by the probability of their first token. "
            "■ ends, … goes on beyond the tree. Hover for what was not taken.",
        )
    }
    order = _order(results)[:BARS]
    if len(order):
        names = ["importance", "resampled_importance"] if _resampled(results) else ["importance"]
        labels = [f"{n + 1}. {_behind(tree, int(results['choice'][i]))}" for n, i in enumerate(order)]
        drawn["choices"] = grouped_bars(
            xr.DataArray(
                np.stack([results[name].values[order] for name in names], axis=1),
                dims=("category", "series"),
                coords={"category": labels, "series": [_SERIES[name] for name in names]},
            ),
            title="Choices that part the continuations most",
            caption="Mean distance of two continuations (0: the same tokens, 1: none shared) less the mean distance "
            "within one alternative. Each label ends with the text before the choice.",
            y_title="distance that the choice explains",
        )
    return drawn


_SERIES = {"importance": "from the tree's leaves", "resampled_importance": "from continuations drawn again"}


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """Paths, the most probable first; and the `top` choices by importance."""
    tree = dataset_trees(results)["tree"]
    paths = pd.DataFrame(
        {
            "text": [visible(tree.text(i)) for i in tree.leaves],
            "log_prob": [tree.nodes[i].log_prob for i in tree.leaves],
            "tokens": [tree.nodes[i].depth for i in tree.leaves],
            "end": [_end(tree, i) for i in tree.leaves],
        }
    )
    order = _order(results)[:top]
    nodes = [int(n) for n in results["choice"].values[order]]
    columns = ["importance", "spread", *(["resampled_importance", "resampled_spread"] if _resampled(results) else [])]
    choices = pd.DataFrame(
        {
            "behind": [visible(tree.text(n)) for n in nodes],
            "alternatives": [", ".join(_alternatives(tree, n)) for n in nodes],
            **{name: results[name].values[order] for name in (*columns, "continuations")},
            "log_prob": [tree.nodes[n].log_prob for n in nodes],
        }
    )
    return {"paths": paths.sort_values("log_prob", ascending=False, ignore_index=True), "choices": choices}


def findings(results: xr.Dataset) -> list[str]:
    """Size and mass of the tree, its likeliest finished path, and the choice that matters most."""
    tree = dataset_trees(results)["tree"]
    mass, ended = tree.mass, [i for i in tree.leaves if tree.nodes[i].is_finished]
    waits = sum(tree.nodes[i].is_open for i in tree.leaves)
    said = [
        f"The tree has {number_of(len(tree.nodes), 'nodes')} and {number_of(len(tree.leaves), 'leaves')}: "
        f"{len(ended)} ended, {waits} were left as they were.",
        f"Paths that ended hold {number(mass.finished)} of the probability, paths that were left {number(mass.open)}; "
        f"{number(mass.left)} turned off the tree"
        + (f", and {number(mass.merged)} went on under another branch." if mass.merged else "."),
    ]
    if ended:
        best = max(ended, key=lambda i: tree.nodes[i].log_prob)
        said.append(
            f"Likeliest path that ended: “{_short(tree.text(best), 100)}” with {tree.nodes[best].log_prob:.2f} nats."
        )
    order = _order(results)
    if len(order):
        node, best = int(results["choice"][order[0]]), order[0]
        said.append(
            f"The choice that parts the tree's leaves most stands behind “{_behind(tree, node, SHOWN)}”: "
            f"{' or '.join(_alternatives(tree, node)[:3])} explains {number(float(results['importance'][best]))} of a "
            f"mean distance of {number(float(results['spread'][best]))}."
        )
    return said


def _importance(results: xr.Dataset) -> dict[int, float]:
    return dict(zip(results["choice"].values.tolist(), results["importance"].values.tolist(), strict=True))


def _resampled(results: xr.Dataset) -> bool:
    return bool(np.isfinite(results["resampled_importance"].values).any())


def _order(results: xr.Dataset) -> np.ndarray:
    """Choices, those that part the continuations most first: by draws where there are any."""
    by = results["resampled_importance" if _resampled(results) else "importance"].values
    return np.argsort(-np.nan_to_num(by, nan=-1.0), kind="stable")


def _end(tree: Tree, leaf: int) -> str:
    node = tree.nodes[leaf]
    return "ended" if node.is_finished else "left" if node.is_open else "merged"


def _alternatives(tree: Tree, node: int) -> list[str]:
    children = [tree.nodes[child] for child in tree.nodes[node].children]
    return [f"“{visible(child.text)}” ({child.prob:.3f})" for child in children]


def _behind(tree: Tree, node: int, most: int = 16) -> str:
    """The last letters before a choice."""
    text = visible(tree.text(node)) or "the prompt"
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _short(text: str, most: int) -> str:
    shown = visible(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
