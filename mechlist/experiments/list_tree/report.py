"""Figures, table and sentences of `list-tree`, from its saved results alone."""

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.decode.tree_dataset import dataset_trees
from mechlist.decode.tree_drawing import tree_branches
from mechlist.figures import grouped_bars, position_lines
from mechlist.figures.word_tree import Branch, word_tree
from mechlist.text import joined, visible

NAMES = {"filler": "P(filler)", "end": "P(end)", "next_item": "P(next item)"}
PLACES = {"break": "the line break behind", "item": "the last token of"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The trees below each other, the decisions at the item, and along the items."""
    branches: list[Branch] = []
    for name, tree in dataset_trees(results).items():
        own = tree_branches(tree, above=len(branches))
        root = own[0]
        # Every tree begins with the same list: its name tells them apart.
        branches += [
            Branch(_title(results, name), None, 1.0, root.weight, f"{visible(tree.prompt)}\n{root.hover}"),
            *own[1:],
        ]
    item, last = int(results["item"].values[-1]), results.isel(item=-1)
    values = xr.DataArray(
        [[float(last[name].sel(condition=c)) for c in results["condition"].values] for name in NAMES],
        dims=("category", "series"),
        coords={"category": list(NAMES.values()), "series": [_title(results, c) for c in results["condition"].values]},
    )
    drawn = {
        "trees": word_tree(
            branches,
            title=f"What follows {PLACES[results.attrs['at']]} item {item}",
            caption=f"List of {results.attrs['topic']}, {_words(results)}. Chains of one child are drawn as one edge, "
            "coloured by the probability of their first token. ■ ends, … goes on beyond the tree.",
            most_leaves=60,
        ),
        "decisions": grouped_bars(
            values,
            title=f"Decisions at item {item}",
            caption="Filler: a blank behind the item's last token. End and next item: end of turn and hyphen behind "
            "the line break.",
            y_title="probability",
        ),
    }
    if item > 2:
        for name, title in NAMES.items():
            lines = {_title(results, c): results[name].sel(condition=c) for c in results["condition"].values}
            drawn[f"along-{name.replace('_', '-')}"] = position_lines(
                {label: line.drop_vars("condition") for label, line in lines.items()},
                title=f"{title} along the list",
                caption=f"List of {results.attrs['topic']}, {_words(results)}, read with its items as they are.",
                x_title="item",
                y_title=title,
            )
    return drawn


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Decisions by condition and item."""
    return {"decisions": results[list(NAMES)].to_dataframe().reset_index()}


def findings(results: xr.Dataset) -> list[str]:
    """The decisions behind the item as written, and under each change."""
    item, last = int(results["item"].values[-1]), results.isel(item=-1)
    said = []
    for condition in results["condition"].values.tolist():
        told = [f"{title} = {float(last[name].sel(condition=condition)):.3f}" for name, title in NAMES.items()]
        where = f"Behind item {item} of the list of {results.attrs['topic']}, {_words(results)}" if not said else ""
        title = _title(results, condition)
        said.append(f"{where or title[0].upper() + title[1:]}: {joined(told)}.")
    return said


def _words(results: xr.Dataset) -> str:
    adjective = results.attrs["adjective"]
    return "asked for without an adjective" if adjective == "none" else f"asked for as a {adjective} list"


def _title(results: xr.Dataset, condition: str) -> str:
    heads = results.attrs["heads"]
    return f"{joined(heads)} patched" if condition == "heads patched" and len(heads) <= 4 else condition
