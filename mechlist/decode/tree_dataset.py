"""Token trees as one Dataset of nodes, and back."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import xarray as xr

from mechlist.decode.token_texts import NONE, TokenTexts, token_texts
from mechlist.decode.tree import Candidate, Node, Tree, TreeConfig
from mechlist.text import escaped, unescaped


def trees_dataset(trees: Mapping[str, Tree]) -> xr.Dataset:
    """Nodes of one tree behind the other.

    `tree`, `parent` and `merged_into` (numbers of nodes, -1 none), `prob`, `log_prob` in nats, `depth`, `finished`,
    `entry` of the texts, and the candidates' `candidate_entry` and `candidate_prob`.
    """
    texts = TokenTexts()
    rows: dict[str, list[float]] = {name: [] for name in (*_COLUMNS, "entry", "tree")}
    candidates: list[list[tuple[int, float]]] = []
    for number, tree in enumerate(trees.values()):
        first = len(candidates)
        for node in tree.nodes:
            rows["tree"].append(number)
            rows["parent"].append(NONE if node.parent is None else first + node.parent)
            rows["merged_into"].append(NONE if node.merged_into is None else first + node.merged_into)
            rows["entry"].append(texts.number(node.text, node.token_id))
            for name in ("prob", "log_prob", "depth"):
                rows[name].append(getattr(node, name))
            rows["finished"].append(node.is_finished)
            candidates.append([(texts.number(c.text, c.token_id), float(c.prob)) for c in node.candidates])
    width = max(map(len, candidates))
    entries = np.full((len(candidates), width), NONE)
    probs = np.full((len(candidates), width), np.nan)
    for row, of_node in enumerate(candidates):
        entries[row, : len(of_node)] = [entry for entry, _ in of_node]
        probs[row, : len(of_node)] = [prob for _, prob in of_node]
    columns = {name: ("node", np.array(values, dtype=_COLUMNS.get(name, int))) for name, values in rows.items()}
    both = {"candidate_entry": (("node", "candidate"), entries), "candidate_prob": (("node", "candidate"), probs)}
    prompts = np.array([escaped(tree.prompt) for tree in trees.values()], dtype=object)
    results = xr.Dataset({**columns, **both, **texts.variables(), "tree_prompt": ("tree_name", prompts)})
    results["log_prob"].attrs["units"] = "nats"
    configs = [dataclasses.asdict(tree.config) for tree in trees.values()]
    return results.assign_coords(tree_name=list(trees)).assign_attrs(tree_config=configs)


def dataset_trees(results: xr.Dataset) -> dict[str, Tree]:
    """The trees that `trees_dataset` made a Dataset of."""
    texts, out = token_texts(results), {}
    columns = {name: results[name].values.tolist() for name in (*_COLUMNS, "entry", "tree")}
    entries, probs = results["candidate_entry"].values, results["candidate_prob"].values
    for number, name in enumerate(results["tree_name"].values.tolist()):
        chosen = [i for i, tree in enumerate(columns["tree"]) if tree == number]
        first = chosen[0]
        children: dict[int, list[int]] = {}
        for i in chosen:
            children.setdefault(columns["parent"][i] - first, []).append(i - first)
        nodes = []
        for i in chosen:
            text, token_id = texts[columns["entry"][i]]
            parent, merged = columns["parent"][i], columns["merged_into"][i]
            pairs = [(texts[e], float(p)) for e, p in zip(entries[i], probs[i], strict=True) if e != NONE]
            nodes.append(
                Node(
                    parent=None if parent == NONE else parent - first,
                    token_id=None if parent == NONE else token_id,
                    text=text,
                    prob=columns["prob"][i],
                    log_prob=columns["log_prob"][i],
                    depth=columns["depth"][i],
                    children=tuple(children.get(i - first, ())),
                    candidates=tuple(Candidate(id_ or 0, t, p) for (t, id_), p in pairs),
                    is_finished=bool(columns["finished"][i]),
                    merged_into=None if merged == NONE else merged - first,
                )
            )
        config = results.attrs["tree_config"][number]
        config = TreeConfig(**{**config, "stop_tokens": tuple(config["stop_tokens"])})
        out[name] = Tree(unescaped(str(results["tree_prompt"].values[number])), config, tuple(nodes))
    return out


_COLUMNS = {"parent": int, "merged_into": int, "prob": float, "log_prob": float, "depth": int, "finished": bool}
