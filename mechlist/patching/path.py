"""`path_patch`: the metric with what one sender adds replaced along its paths to chosen receivers, exactly."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Metric
from mechlist.patching.arguments import PatchArguments, prepare, read_runs
from mechlist.patching.circuits.nodes import LOGITS, Nodes, Receiver, node_label
from mechlist.patching.edges import nodes_of
from mechlist.patching.paths.inputs import FROZEN
from mechlist.patching.paths.work import Paths, PathWork, kept_bytes, runs_of
from mechlist.patching.replacements import Replacement
from mechlist.patching.sweep.task import Task
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts
from mechlist.types import readable


def path_patch(
    runner: Runner,
    *,
    base: Prompts,
    source: Prompts | Replacement,
    receivers: Mapping[str, Sequence[str]] | Sequence[str],
    senders: Sequence[str] | None = None,
    frozen: str = "all",
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
) -> xr.Dataset:
    """Replace what one sender at a time sends to a set of receivers, and measure.

    A first pass finds what the receivers compute when the sender adds to the residual stream what it adds in the source
    run, and all else is as `frozen` says:

    - `all`, the direct path: everything else keeps its base run's output, so that each receiver reads the base run's
      residual stream plus the sender's difference (Goldowsky-Dill et al. 2023, arXiv 2304.05969).
    - `heads`: heads keep their base run's output, and MLPs between sender and receiver are computed again (Wang et
      al. 2022, arXiv 2211.00593): all paths that avoid the heads between the two.

    The second pass is a run of the base prompt in which the receivers' queries, keys, values, MLP outputs or the logits
    are those of the first; everything after them follows. What a head adds has gone through the norm after attention
    where the model has one, with the scale of the head's own run.

    Equal to both passes done with hooks, up to float rounding (1e-4 in float32 on every architecture in the tests).

    Args:
        runner: with the model.
        base: prompts that are run and changed, as for `patch_grid`.
        source: prompts in whose runs the senders' outputs are taken, position for position; not a `Replacement`, in
            which MLPs and the embedding have no output.
        receivers: names of receivers (`L3H5.q`, `.k` or `.v`, `m3`, `logits`; see `mechlist.patching.circuits.nodes`),
            each by itself, or named sets that are replaced together.
        senders: names of senders (`input`, `L3H5`, `m3`); all of the model without.
        frozen: `all` or `heads`.
        metric: what is measured; `LogitDifference` or another `Metric`.
        lengths: real tokens of prompts that are padded on the right.

    Returns:
        `patched(prompt, receiver, sender)`, NaN where the sender comes before no receiver of the set; `base(prompt)`
        and `source(prompt)`. Nodes are labelled as MIB names them (`a3.h5<q>`).

    Raises:
        InputError: names of nodes that the model does not have; receivers or senders that no path joins; a model that
            cannot be run layer by layer, or one under interventions; shapes that differ.
        ModelError: a model in train mode whose dropout would make every number noise.
    """
    if isinstance(source, Replacement):
        raise InputError(f"source must be the tokens of other prompts, not {type(source).__name__}.")
    if frozen not in FROZEN:
        raise InputError(f"frozen must be one of {', '.join(FROZEN)}, not {frozen!r}.")
    runs = read_runs(runner, base, source, metric, lengths)
    # What a head sends follows from its z.
    arguments = PatchArguments(site="z", per="head", **runs)
    task = prepare(runner, arguments)
    if task.reason is not None:
        raise InputError(f"Path patching runs a model layer by layer, which is not possible here: {task.reason}.")
    nodes = nodes_of(runner)
    sets = _sets(nodes, receivers)
    named = tuple(nodes.senders[nodes.sender(name)] for name in _names("senders", senders, nodes))
    paths = Paths(named, tuple(sets.values()), frozen, runner.shape.n_layers)
    _check_order(paths, list(sets), every=senders is None)
    return _dataset(task, paths, list(sets), metric.unit)


def _names(what: str, names: Sequence[str] | None, nodes: Nodes) -> list[str]:
    """Names, each node once."""
    if names is None:
        return [sender.name for sender in nodes.senders]
    if isinstance(names, str) or not len(names):
        raise InputError(f"{what} must be a list of one name at least, not {names!r}.")
    counts = Counter(map(node_label, names))
    twice = next((name for name in names if counts[node_label(name)] > 1), None)
    if twice is not None:
        raise InputError(f"{what} must hold each name once; {twice} is there {counts[node_label(twice)]} times.")
    return list(names)


def _sets(nodes: Nodes, receivers: Mapping[str, Sequence[str]] | Sequence[str]) -> dict[str, tuple[Receiver, ...]]:
    if not isinstance(receivers, Mapping):
        receivers = {node_label(name): [name] for name in _names("receivers", receivers, nodes)}
    if not receivers:
        raise InputError("receivers must hold one receiver at least, not none.")
    sets = {
        name: tuple(nodes.receivers[nodes.receiver(one)] for one in _names(f"The set {name!r}", members, nodes))
        for name, members in receivers.items()
    }
    for name, members in sets.items():
        if len(members) > 1 and any(one.kind == LOGITS for one in members):
            raise InputError(
                f"The set {name!r} must not join {LOGITS} with other receivers: once the logits' input is replaced, "
                "nothing else matters."
            )
    return sets


def _check_order(paths: Paths, names: Sequence[str], *, every: bool) -> None:
    """Each set must come after some sender, and each sender that is named before some set."""
    reached, senders = paths.reached, [one.name for one in paths.senders]
    unreachable = [name for name, some in zip(names, reached.any(dim=0).tolist(), strict=True) if not some]
    if unreachable:
        raise InputError(
            f"The receivers {readable(unreachable[0])} come before every sender ({_listed(senders)}): nothing reaches "
            "them."
        )
    late = [name for name, early in zip(senders, reached.any(dim=1).tolist(), strict=True) if not early]
    if late and not every:
        raise InputError(
            f"The sender {readable(late[0])} comes after every receiver ({_listed(names)}): nothing is reached."
        )


def _listed(names: Sequence[str]) -> str:
    shown = [readable(name) for name in names]
    return ", ".join(shown) if len(shown) <= 4 else f"{', '.join(shown[:3])} and {len(shown) - 3} more"


def _dataset(task: Task, paths: Paths, names: list[str], unit: str) -> xr.Dataset:
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for members in task.blocks(beside=kept_bytes(task)):
        block = slice(members[0], members[-1] + 1)
        work = PathWork(task, paths, block, runs_of(task, block))
        source = work.readout.source
        assert source is not None
        found.append((work.values(), work.readout.base, source))
    patched, base, source = (torch.cat(column).double().numpy() for column in zip(*found, strict=True))
    units = {"units": unit}
    variables: dict[str, Any] = {
        "patched": (("prompt", "receiver", "sender"), patched.transpose(0, 2, 1), units),
        "base": ("prompt", base, units),
        "source": ("prompt", source, units),
    }
    coords = {"receiver": names, "sender": [sender.name for sender in paths.senders]}
    return xr.Dataset(variables, coords=coords, attrs={"frozen": paths.frozen})
