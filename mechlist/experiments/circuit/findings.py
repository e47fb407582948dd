"""Tables, sentences and JSON of a circuit, from saved results alone."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.circuit.published import published, roc_area
from mechlist.experiments.circuit.stability import RESAMPLES
from mechlist.experiments.circuit.statistics import interval, scores, shares, verified
from mechlist.experiments.rules import FEWEST, by_rule_words, reach_words
from mechlist.metrics.faithfulness import model_distance, performance_ratio
from mechlist.metrics.statistics import rank_correlation
from mechlist.patching.circuits.eap_ig import to_eap_ig
from mechlist.patching.circuits.nodes import ARROW
from mechlist.text import between
from mechlist.types import readable

STABLE = 0.9
"""Share of resamples from which on an edge counts as stable."""
STRONGEST = 30
"""Edges in the table besides the circuit's own."""


def many(results: xr.Dataset) -> bool:
    """Whether there is anything to resample: two prompts, or two clusters of them."""
    return len(np.unique(results["cluster"])) > 1 if "cluster" in results else results.sizes["prompt"] > 1


def ends(edge: str) -> tuple[str, str, str]:
    """Sender, the node that it leads to, and `q`, `k`, `v` or ""."""
    sender, receiver = edge.split(ARROW)
    node, _, entry = receiver.partition("<")
    return sender, node, entry.rstrip(">")


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """The circuit's edges and the strongest others, circuits by size, and the circuit's nodes."""
    return {"edges": _edges(results), "sizes": _sizes(results), "nodes": _nodes(results)}


def _edges(results: xr.Dataset) -> pd.DataFrame:
    cells, inside = scores(results), results["in_circuit"].values.astype(bool)
    order = np.argsort(-np.abs(cells["estimate"].values), kind="stable")
    chosen = order[inside[order] | (np.arange(len(order)) < STRONGEST)]
    cells, names = cells.isel(edge=chosen), results["edge"].values[chosen].tolist()
    columns = {"edge": list(map(readable, names)), "in_circuit": inside[chosen], "score": cells["estimate"].values}
    table = pd.DataFrame(columns)
    if many(results):
        table = table.assign(**{name: cells[name].values for name in ("low", "high", "n", "p_corrected")})
    if "selected" in results:
        table["selected"] = results["selected"].values[chosen]
    exact = dict(verified(results)[["edge", "exact"]].to_numpy().tolist())
    return table.assign(exact=[exact.get(name, np.nan) for name in names])


def _sizes(results: xr.Dataset) -> pd.DataFrame:
    low, high = interval(results, "circuit_metric")
    return pd.DataFrame(
        {
            "edges_asked": results["size"].values,
            "edges": results["n_edges"].values,
            "faithfulness": shares(results, "circuit_metric"),
            "low": low,
            "high": high,
            "left_without": shares(results, "complement_metric"),
        }
    )


def _nodes(results: xr.Dataset) -> pd.DataFrame:
    mean = scores(results)["estimate"].values
    rows: dict[str, dict[str, float]] = {}
    for edge, score, inside in zip(results["edge"].values, mean, results["in_circuit"].values, strict=True):
        if inside:
            sender, node, _ = ends(str(edge))
            rows.setdefault(sender, {"edges_in": 0, "edges_out": 0, "score_out": 0.0})["edges_out"] += 1
            rows[sender]["score_out"] += float(score)
            rows.setdefault(node, {"edges_in": 0, "edges_out": 0, "score_out": 0.0})["edges_in"] += 1
    return pd.DataFrame([{"node": readable(name), **row} for name, row in rows.items()])


def head_strength(results: xr.Dataset) -> dict[str, float]:
    """Of every head the largest size of a score on its way out."""
    out: dict[str, float] = {}
    for edge, score in zip(results["edge"].values, scores(results)["estimate"].values, strict=True):
        sender = str(edge).split(ARROW)[0]
        if sender.startswith("a"):
            out[sender] = max(out.get(sender, 0.0), abs(float(score)))
    return out


def files(results: xr.Dataset) -> dict[str, str]:
    """The circuit with its nodes, edges, scores and faithfulness; and all edges as EAP-IG has them, in `eap-ig.json`.

    Not the latter where edges lead to keys and values that heads share: there it has more of them.
    """
    mean = scores(results)["estimate"].values
    kept = np.flatnonzero(results["in_circuit"].values)
    nodes = dict.fromkeys(name for i in kept for name in ends(str(results["edge"].values[i]))[:2])
    edges = []
    for i in kept:
        sender, receiver = str(results["edge"].values[i]).split(ARROW)
        edges.append({"sender": sender, "receiver": receiver, "score": float(mean[i])})
    value = {
        **{name: results.attrs[name] for name in ("model", "data", "metric", "rule", "steps", "ablation", "select")},
        "units": results["base"].attrs.get("units", ""),
        "faithfulness": float(shares(results, "chosen")),
        "nodes": list(nodes),
        "edges": edges,
    }
    written = {"circuit.json": json.dumps(value, indent=1) + "\n"}
    if results.attrs["shared"]:
        return written
    sizes = {name: int(results.attrs[name]) for name in ("n_layers", "n_heads", "d_model")}
    graph = to_eap_ig(
        {**sizes, "parallel_attn_mlp": bool(results.attrs["parallel_attn_mlp"])},
        results["edge"].values.tolist(),
        mean.tolist(),
        results["in_circuit"].values.astype(bool).tolist(),
    )
    return written | {"eap-ig.json": json.dumps(graph) + "\n"}


def findings(results: xr.Dataset) -> list[str]:
    """What the circuit does by itself, what is left without it, and what the controls say."""
    unit = results["base"].attrs.get("units", "")
    count, total = int(results["in_circuit"].sum()), results.sizes["edge"]
    whole, empty = float(results["base"].mean()), float(results["empty"].mean())
    prompts = results.sizes["prompt"]
    own = float(shares(results, "chosen"))
    sentences = [
        f"The metric is {whole:.3f} {unit} in the model and {empty:.3f} with every edge patched (mean over {prompts} "
        f"prompt{'s' if prompts > 1 else ''}).",
        f"A circuit of {count} of the model's {total} edges has a faithfulness of {own:.3f}"
        f"{_between(results, 'chosen')}; with its edges patched and all others kept, "
        f"{float(shares(results, 'without')):.3f} is left.",
    ]
    if results.attrs["ungrouped"]:
        sentences.append("Edges are counted as in MIB and EAP-IG: keys and values are every head's own.")
    if results.attrs["ranked_by"] == "circuit_file":
        sentences.append("Circuits of other sizes are made of the edges that the file ranks first.")
    if results.attrs["chosen_by"] == "faithful" and own < results.attrs["faithful"]:
        sentences.append(f"No circuit reaches a faithfulness of {results.attrs['faithful']:g}.")
    if not many(results):
        what = "one prompt" if prompts == 1 else "one cluster of prompts"
        sentences.append(f"With {what} there is no interval and no test.")
    sentences += _stable(results)
    if results.sizes["random"]:
        values = shares(results, "random")
        sentences.append(
            f"{len(values)} random connected circuits of as many edges or a few more have a faithfulness of "
            f"{values.mean():.3f} on average, {values.max():.3f} at most."
        )
    sentences += [_mib(results), *_checked(results, unit), *by_rule_words(results, "edges", _names(results))]
    return [*sentences, *_reference(results)]


def _stable(results: xr.Dataset) -> list[str]:
    """What becomes of the circuit on prompts that it was not chosen on, and on prompts drawn again."""
    if "held_out" not in results:
        return []
    what = "clusters of prompts" if "cluster" in results else "prompts"
    often = results["selected"].values[results["in_circuit"].values.astype(bool)]
    return [
        f"Chosen on one half of the {what} and measured on the other, both ways, circuits of as many edges have a "
        f"faithfulness of {float(shares(results, 'held_out')):.3f}{_between(results, 'held_out')}; the two share "
        f"{float(results['halves_jaccard']):.0%} of the edges that either has. Of the circuit's {len(often)} edges "
        f"{int((often >= STABLE).sum())} are chosen in {STABLE:.0%} or more of {RESAMPLES} resamples of {what}."
    ]


def _mib(results: xr.Dataset) -> str:
    """The areas that MIB's code gives."""
    ratio, left = (performance_ratio(shares(results, name)) for name in ("mib_metric", "mib_complement"))
    return (
        f"At MIB's sizes, as its code has them, CPR is {ratio:.3f} (more is better, a perfect circuit has .999; edges "
        f"are taken by how much they hold the metric up) and CMD {model_distance(shares(results, 'mib_absolute')):.3f} "
        "(0 is best; by the size of their score); the area under the curve of what is left without CPR's circuits is "
        f"{left:.3f} (less is more complete)."
    )


def _between(results: xr.Dataset, name: str) -> str:
    low, high = interval(results, name)
    return between(float(low), float(high), ".3f")


def _checked(results: xr.Dataset, unit: str) -> list[str]:
    table = verified(results)
    if len(table) < FEWEST:
        return ["Too few edges were patched one by one to say how good the scores are."]
    rank = rank_correlation(table["score"].to_numpy(), table["exact"].to_numpy())
    worst = table.loc[(table["score"] - table["exact"]).abs().idxmax()]
    rest = scores(results)["estimate"].drop_sel(edge=table["edge"].tolist())
    return [
        f"Of the {len(table)} edges that were patched one by one, the rank correlation of score and "
        f"exact effect is {rank:.2f}; the worst is {readable(worst['edge'])}: score {worst['score']:+.3f}, exact "
        f"{worst['exact']:+.3f} {unit}. {reach_words(table['score'], table['exact'], rest, 'edge', unit)}"
    ]


def _names(results: xr.Dataset) -> dict[str, str]:
    """What the rules by which edges are scored are called; only the one that was chosen takes several steps."""
    steps = int(results.attrs["steps"])
    return {"gradient": f"EAP-IG with {steps} steps" if steps > 1 else "EAP", "relp": "RelP"}


def _reference(results: xr.Dataset) -> list[str]:
    known = published(results.attrs["model"], results.attrs["data"])
    if known is None:
        return []
    kept = results["edge"].values[results["in_circuit"].values.astype(bool)]
    inside = {name for edge in kept for name in ends(str(edge))[:2] if name.startswith("a")}
    both = len(inside & known.names)
    return [
        f"{both} of the {len(known.names)} heads that {known.source} published are in the circuit, which has "
        f"{len(inside)} heads; heads ranked by their strongest edge tell the published ones from the others with an "
        f"area under the ROC curve of {roc_area(head_strength(results), known.names):.2f}."
    ]
