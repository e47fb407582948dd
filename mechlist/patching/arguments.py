"""What is asked of patching, as one value; and the checked task that follows from it."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Metric, in_tokens
from mechlist.models.language_model import require_eval
from mechlist.models.sites import ATTENTION_SITES
from mechlist.patching.replacements import Given, Replacement, Resample, Source, Target
from mechlist.patching.sweep.cells import by_role, check_site, grid, hook_name, named
from mechlist.patching.sweep.parts import Parts
from mechlist.patching.sweep.task import Task, whole_passes
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts, pad_right, real_lengths
from mechlist.text import visible
from mechlist.types import ModelShape


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchArguments:
    """Which parts of which runs are replaced by what, and what is measured; nothing is checked yet."""

    base: Int[Tensor, "..."]
    """Prompts that are run and changed."""
    source: Int[Tensor, "..."] | Replacement
    """What is put in: the runs of these prompts, position for position; or `Zero()`, `Mean(...)`, `Resample(...)`,
    `Given(...)`."""
    site: str
    """resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pattern or attn_scores."""
    per: str
    """position, head or head_position; for patterns and scores the position is the query's."""
    metric: Metric
    """What is measured."""
    lengths: Int[Tensor, "..."] | None = None
    """Real tokens of prompts that are padded on the right."""
    cells: Mapping[str, Iterable[Any]] | None = None
    """Named sets of (layer, position), (layer, head) or (layer, head, position), in place of the whole grid."""
    roles: Mapping[str, Sequence[Sequence[int]]] | None = None
    """Named sets of positions, given for each prompt, in place of the single positions."""
    source_positions: Int[Tensor, "..."] | None = None
    """Of each position of the base run, the position of the source run that is put in there; -1 where nothing is."""

    def select(self, prompts: Sequence[int]) -> "PatchArguments":
        """For some of the prompts, in this order: each keeps its source, metric, length and roles."""
        chosen, source = list(prompts), self.source
        own = source[chosen] if isinstance(source, Tensor) else source
        return dataclasses.replace(
            self,
            base=self.base[chosen],
            source=own.select(chosen) if isinstance(own, Given) else own,
            metric=self.metric.select(chosen),
            lengths=None if self.lengths is None else self.lengths[chosen],
            roles=None if self.roles is None else {name: [of[i] for i in chosen] for name, of in self.roles.items()},
            source_positions=None if self.source_positions is None else self.source_positions[chosen],
        )

    def with_source(self, source: Int[Tensor, "..."] | Replacement) -> "PatchArguments":
        """The same with something else put in, position for position."""
        return dataclasses.replace(self, source=source, source_positions=None)

    def at(self, site: str, per: str) -> "PatchArguments":
        """The same at another site."""
        return dataclasses.replace(self, site=site, per=per)

    def drawn(self, runner: Runner) -> "PatchArguments":
        """The same with what chance decides decided, so that it can be asked again in another order."""
        if not isinstance(self.source, Resample):
            return self
        return self.with_source(self.source.ready(self.target(runner)).tokens)

    def target(self, runner: Runner) -> Target:
        """What the replacement is made ready for."""
        hooks = [hook_name(self.site, layer) for layer in range(runner.shape.n_layers)]
        return Target(runner, self.base, real_lengths(self.base, self.lengths), hooks)


def read_runs(
    runner: Runner,
    base: Prompts,
    source: Prompts | Replacement,
    metric: Metric,
    lengths: Int[Tensor, "..."] | None,
) -> dict[str, Any]:
    """Prompts as `PatchArguments` has them, of texts or of what else `Runner.rows` takes; a metric's answers as tokens.

    Returns:
        `base`, `source`, `metric` and `lengths` of `PatchArguments`; prompts of several lengths are padded.

    Raises:
        InputError: prompts that do not have as many tokens as those they are patched with, which are shown.
    """
    metric = in_tokens(metric, runner.single_token)
    sides = [base] if isinstance(source, Replacement) else [base, source]
    if all(isinstance(side, Tensor) and side.ndim != 1 for side in sides):
        return {"base": base, "source": source, "metric": metric, "lengths": lengths}
    if lengths is not None:
        raise InputError("lengths are for tensors that are padded on the right; of these prompts they are known.")
    rows = [runner.rows(side) for side in sides]
    if len({len(of) for of in rows}) > 1:
        raise InputError(f"base and source must be as many prompts, not {len(rows[0])} and {len(rows[1])}.")
    for n, pair in enumerate(zip(*rows, strict=True)):
        if len({len(row) for row in pair}) > 1:
            shown = [f"{name}, {len(row)}: {_shown(runner, row)}" for name, row in zip(_SIDES, pair, strict=True)]
            raise InputError(
                f"base and source must have as many tokens, position for position; those of prompt {n} do not. "
                f"{'; '.join(shown)}. Say both in as many tokens (mechlist.datasets.pairs.align shows where they part)."
            )
    sizes = torch.tensor([len(row) for row in rows[0]])
    return {
        "base": pad_right(rows[0]),
        "source": source if isinstance(source, Replacement) else pad_right(rows[1]),
        "metric": metric,
        "lengths": None if bool((sizes == sizes.max()).all()) else sizes,
    }


_SIDES = ("base", "source")


def _shown(runner: Runner, row: Int[Tensor, " _"]) -> str:
    return "|".join(visible(text) for text in runner.token_texts(row.tolist()))


def token_labels_of(
    runner: Runner, tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"]
) -> np.ndarray:
    """What each token is, as labels show it; empty beyond a prompt's end."""
    texts = [runner.token_texts(row[:n].tolist()) for row, n in zip(tokens, lengths.tolist(), strict=True)]
    return np.array([[*map(visible, row), *[""] * (tokens.shape[1] - len(row))] for row in texts])


def prepare(runner: Runner, arguments: PatchArguments) -> Task:
    """The checked task, which knows the axes of its cells and their labels.

    Raises:
        InputError: shapes that differ, tokens, positions, heads or a site that the model does not have.
        ModelError: a model in train mode whose dropout would make every number noise.
    """
    shape, base, site = runner.shape, arguments.base, arguments.site
    require_eval(runner.model)
    check_site(site, arguments.per, shape, runner.language_model.hook_names)
    if site == "resid_mid" and runner.language_model.makes_logits and whole_passes(runner, site) is not None:
        raise InputError(
            "Through TransformerBridge a change of resid_mid reaches the MLP alone, and not what follows it: take "
            "attn_out, or the next layer's resid_pre."
        )
    source = arguments.source if isinstance(arguments.source, Tensor) else None
    if base.ndim != 2 or (source is not None and base.shape != source.shape):
        other = base if source is None else source
        raise InputError(
            f"base and source must have one shape [prompt, position]; received {list(base.shape)} and "
            f"{list(other.shape)}. Align prompts of unequal length first (mechlist.datasets.pairs.align)."
        )
    lengths = real_lengths(base, arguments.lengths)
    for tokens in (base, source):
        if tokens is not None:
            runner.rows(tokens)
    measure = arguments.metric.prepare(base, lengths, shape.d_vocab_out)
    parts, labels = _cells(arguments, shape, lengths)
    given, aligned = arguments.source, arguments.source_positions
    if aligned is not None:
        _check_aligned(aligned, given, base, measure.read)
    if isinstance(given, Tensor):
        ready = Source(given, aligned, by_query=site in ATTENTION_SITES)
    else:
        ready = given.ready(arguments.target(runner))
    tokens = ready.tokens if isinstance(ready, Source) else None
    return Task(runner, base, tokens, lengths, site, parts, labels, measure, ready, aligned)


def _check_aligned(
    aligned: Tensor, source: Tensor | Replacement, base: Int[Tensor, "prompt position"], read: Int[Tensor, "prompt n"]
) -> None:
    """Positions of source runs that are put in must be there, and what is measured must have its counterpart."""
    if not isinstance(source, Tensor):
        raise InputError(f"source_positions are of source runs, and {type(source).__name__}() takes none.")
    if aligned.shape != base.shape or aligned.is_floating_point():
        raise InputError(
            f"source_positions must be whole numbers of the shape {list(base.shape)}, as base is, not "
            f"{aligned.dtype} of {list(aligned.shape)}."
        )
    if len(aligned) and not (int(aligned.min()) >= -1 and int(aligned.max()) < source.shape[1]):
        raise InputError(
            f"source_positions must be from -1 (nothing is put in) to {source.shape[1] - 1}, and reach from "
            f"{int(aligned.min())} to {int(aligned.max())}."
        )
    lacking = (aligned.gather(1, read) < 0).any(dim=1).nonzero()[:, 0].tolist()
    if lacking:
        raise InputError(
            "source_positions must say where the source run is measured: the positions that the metric reads have no "
            f"counterpart in the prompts {lacking}."
        )


def _cells(
    arguments: PatchArguments, shape: ModelShape, lengths: Int[Tensor, " prompt"]
) -> tuple[Parts, dict[str, list[Any]]]:
    """What each cell replaces, and the labels of the cells along their axes."""
    cells, roles, site, per = arguments.cells, arguments.roles, arguments.site, arguments.per
    prompts, length = arguments.base.shape
    if cells is not None and roles is not None:
        raise InputError("cells and roles exclude each other: give one of them.")
    if cells is not None:
        return named(cells, site, per, shape, length, prompts), {"cell": list(cells)}
    if roles is not None:
        parts, sizes = by_role(roles, site, per, shape, lengths)
        return parts, {name: list(roles) if name == "role" else list(range(size)) for name, size in sizes.items()}
    parts, sizes = grid(site, per, shape, length, prompts)
    return parts, {name: list(range(size)) for name, size in sizes.items()}
