"""How what the adjective does gets to the heads that carry it: path patching from every sender to their inputs."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float

from mechlist.experiments.effects import SEED
from mechlist.figures import interval_rows
from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.margin import verdict
from mechlist.metrics.ratios import ratio_interval
from mechlist.patching.arguments import PatchArguments
from mechlist.patching.circuits.nodes import LOGITS, QKV
from mechlist.patching.path import path_patch
from mechlist.runner import Runner
from mechlist.text import joined, with_interval
from mechlist.types import Head, head_name, readable

NAMED = 2
"""Ways to a head that the sentence names."""
DRAWN = 16
"""That the figure shows."""


def ways(
    runner: Runner, arguments: PatchArguments, heads: list[Head], gap: Float[np.ndarray, " list"], topics: np.ndarray
) -> dict[str, xr.DataArray]:
    """`way_share(receiver, sender)`, of the mean gap between the runs, with intervals over topics.

    Receivers are the queries, keys and values of each head by itself (keys and values with the heads that share them),
    and the logits; what a sender adds in the other
    run is sent to one of them alone, everything else between the two keeps its own output.
    """
    shape = runner.shape
    per_key = shape.n_heads // shape.n_key_value_heads
    sets = {LOGITS: [LOGITS]}
    for layer, head in heads:
        for entry in QKV:
            own = head if entry == "q" else head // per_key
            sets[f"{head_name((layer, head))}.{entry}"] = [f"{head_name((layer, own))}.{entry}"]
    found = path_patch(
        runner,
        base=arguments.base,
        source=arguments.source,  # pyright: ignore[reportArgumentType]
        receivers=sets,
        frozen="heads",
        metric=arguments.metric,
        lengths=arguments.lengths,
    )
    effect = (found["patched"] - found["base"]).transpose("prompt", "receiver", "sender")
    gaps = np.broadcast_to(gap[:, None, None], effect.shape)
    # A sender behind the receiver has no effect in any list.
    known = effect.notnull().all("prompt")
    filled = np.nan_to_num(effect.values.astype(float))
    low, high = ratio_interval(filled, gaps, topics, generator=np.random.default_rng(SEED))
    cells = known.drop_vars("receiver").assign_coords(receiver=list(sets)).astype(float)
    cells = cells.assign_coords(sender=[readable(str(name)) for name in cells["sender"].values])
    parts = zip(ENDS, (filled.mean(axis=0) / gap.mean(), low, high), strict=True)
    return {
        f"way_share{end}": cells.copy(data=np.where(known, part, np.nan)).assign_attrs(units="share")
        for end, part in parts
    }


def table(results: xr.Dataset) -> pd.DataFrame:
    """A row a way, the largest share first."""
    columns = [f"way_share{end}" for end in ENDS]
    found: pd.DataFrame = results[columns].to_dataframe().reset_index().dropna(subset=["way_share"])
    found = found.rename(columns=lambda name: name.removeprefix("way_"))
    return found.sort_values("share", key=np.abs, ascending=False, ignore_index=True)


def figure(results: xr.Dataset) -> go.Figure:
    """The ways with the largest shares."""
    most = table(results).head(DRAWN)
    names = [f"{sender} to {receiver}" for sender, receiver in zip(most["sender"], most["receiver"], strict=True)]
    values = [xr.DataArray(most[f"share{end}"].to_numpy(), dims="category", coords={"category": names}) for end in ENDS]
    return interval_rows(
        values[0],
        low=values[1],
        high=values[2],
        title="Ways from the adjective to the decision",
        caption="What one sender adds in the other run, sent to one receiver alone: a head's queries, keys or values, "
        "or the logits; as a share of what the two runs differ by (1: all), with intervals over topics.",
        x_title="share",
    )


def findings(results: xr.Dataset, margin: float) -> list[str]:
    """To each head that was traced and to the logits, the senders whose share lies beyond the margin."""
    found = table(results)
    if np.isnan(found["share_low"].to_numpy()).all():
        return []
    receivers = [str(name) for name in results["receiver"].values]
    said = []
    for name in dict.fromkeys(receiver.split(".")[0] for receiver in receivers):
        own = found.loc[found["receiver"].str.split(".").str[0] == name]
        ends = own[["share_low", "share_high"]].to_numpy().tolist()
        own = own.loc[[verdict(low, high, margin) == "matters" for low, high in ends]]
        texts = [
            f"{_sender(str(row['sender']))} {with_interval(row['share'], row['share_low'], row['share_high'], '.0%')}"
            f"{_entry(str(row['receiver']))}"
            for _, row in own.head(NAMED).iterrows()
        ]
        more = f" ({len(own) - NAMED} more beyond {margin:.0%})" if len(own) > NAMED else ""
        where = "the logits" if name == LOGITS else name
        said.append(f"to {where} {joined(texts) + more if texts else f'no sender carries more than {margin:.0%}'}")
    return [
        "Of what the two runs differ by, what one sender adds carries, along one way alone (straight, or through MLPs "
        f"on the way): {'; '.join(said)}."
    ]


def _sender(name: str) -> str:
    return "the embedding" if name == "input" else name


def _entry(receiver: str) -> str:
    """What of a head is reached, in words; nothing for the logits."""
    names = {"q": " by its queries", "k": " by its keys", "v": " by its values"}
    return names.get(receiver.rpartition(".")[2], "")
