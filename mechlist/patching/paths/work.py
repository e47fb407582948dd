"""Runs path patching: pairs of a prompt and a sender in batches, each with all sets of receivers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.models.language_model import LanguageModel
from mechlist.patching.circuits.nodes import LOGITS, Receiver, Sender
from mechlist.patching.paths.inputs import BEFORE, Frozen, Inputs, Runs, Tokens, differences, inputs
from mechlist.patching.paths.receivers import PathEditor, Recipes, put, recipes
from mechlist.patching.sweep.readout import Readout
from mechlist.patching.sweep.sweep import Sweep
from mechlist.patching.sweep.task import Task


@dataclass(frozen=True)
class Paths:
    """What is patched."""

    senders: tuple[Sender, ...]
    sets: tuple[tuple[Receiver, ...], ...]
    """Receivers that are replaced together; `logits` are alone in theirs."""
    frozen: Frozen
    n_layers: int

    @cached_property
    def reached(self) -> Bool[Tensor, "sender set"]:
        """Whether the sender comes before any receiver of the set."""
        last = torch.tensor([max(one.stage for one in receivers) for receivers in self.sets])
        return torch.tensor([sender.stage for sender in self.senders])[:, None] <= last

    @cached_property
    def wanted(self) -> frozenset[tuple[str, int]]:
        """Kind and layer of every receiver."""
        return frozenset((one.kind, one.layer) for receivers in self.sets for one in receivers)

    @cached_property
    def is_logits(self) -> Bool[Tensor, " set"]:
        """Sets that need no further run."""
        return torch.tensor([receivers[0].kind == LOGITS for receivers in self.sets])

    @cached_property
    def recipes(self) -> Recipes:
        """What is replaced for them."""
        return recipes(self.sets, self.n_layers)


def runs_of(task: Task, prompts: slice) -> Runs:
    """Base and source runs of a block of prompts, with what path patching keeps of them."""
    layers = task.runner.language_model.require_layers("Path patching")
    count, length = prompts.stop - prompts.start, task.base.shape[1]
    mlp_in: list[Tensor] = []
    mlp_out: list[Tensor] = []

    def watch(name: str, activation: Tensor) -> None:
        if name == "mlp_in":
            mlp_in.append(activation.view(-1, length, activation.shape[-1])[:count].clone())
        if name == "mlp_out":
            mlp_out.append(activation.view(-1, length, activation.shape[-1]))

    assert task.source is not None
    source = task.source[prompts].to(task.runner.language_model.device)
    with torch.no_grad():
        made = task.trace(layers, prompts, watch)
        return Runs(layers, made, layers.embed(source), mlp_in, mlp_out)


@dataclass(frozen=True)
class PathWork:
    """All pairs of a prompt of one block and a sender."""

    task: Task
    """Of z, from which what heads send follows."""
    paths: Paths
    block: slice
    runs: Runs

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self.task.runner.language_model

    @property
    def prompts(self) -> Sequence[Tensor]:
        """Tokens of each pair."""
        return self._prompts

    @cached_property
    def _prompts(self) -> list[Tensor]:
        tokens = self.task.base[self.block].unbind()
        return [tokens[pair // len(self.paths.senders)] for pair in self.pairs.tolist()]

    @cached_property
    def pairs(self) -> Int[Tensor, " pair"]:
        """The pairs that are run: pair p is sender p % n_senders on the block's prompt p // n_senders."""
        wanted = (self._width[:, None] > 0) & self.paths.reached.any(dim=1)
        return wanted.flatten().nonzero()[:, 0]

    @cached_property
    def readout(self) -> Readout:
        """What is measured."""
        return Readout(
            self.task.runner, self.task.measure.block(self.block), self.runs.made, self.task.source_read[self.block]
        )

    @cached_property
    def _start(self) -> Int[Tensor, " prompt"]:
        """The first position at which the two prompts differ: nothing changes before it."""
        assert self.task.source is not None
        changed = self.task.base[self.block] != self.task.source[self.block]
        return torch.where(changed.any(dim=1), changed.long().argmax(dim=1), changed.shape[1])

    @cached_property
    def _width(self) -> Int[Tensor, " prompt"]:
        """Positions from there to the last that the metric reads."""
        return (self.task.last_read[self.block] + 1 - self._start).clamp(min=0)

    def values(self) -> Float[Tensor, "prompt sender set"]:
        """The metric of every pair and set; NaN where the sender comes too late."""
        paths, base = self.paths, self.readout.base
        out = base[:, None, None].repeat(1, len(paths.senders), len(paths.sets))
        if len(self.pairs):
            found = self.task.runner.execute(self, *self._plan(), "Path patching")["value"]
            out.view(-1, len(paths.sets))[self.pairs] = found
        return out.masked_fill(~paths.reached, torch.nan)

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """The metric of some pairs with every set of receivers; the base run's where nothing reaches a set."""
        with torch.no_grad():
            return {"value": self._computed(self.pairs[members])}

    def _computed(self, pairs: Int[Tensor, " pair"]) -> Float[Tensor, "pair set"]:
        paths, n_senders = self.paths, len(self.paths.senders)
        senders = [paths.senders[number] for number in (pairs % n_senders).tolist()]
        stage, prompt = torch.tensor([sender.stage for sender in senders]), pairs // n_senders
        tokens = self._tokens(prompt, stage)
        out = self.readout.base[prompt][:, None].repeat(1, len(paths.sets))
        difference = differences(self.runs, senders, tokens)
        differs = (difference != 0).any(dim=1).cpu()
        changed = torch.zeros(len(pairs), dtype=torch.bool)
        changed[tokens.pair[differs]] = True
        kept = changed[tokens.pair].nonzero()[:, 0]
        if not len(kept):
            return out
        tokens, difference = tokens[kept], difference[kept.to(difference.device)]
        read = (self.readout.measure.read[tokens.prompt] == tokens.position[:, None]).any(dim=1)
        found = inputs(self.runs, tokens, difference, read, paths.frozen, paths.wanted)
        first = torch.full((len(pairs),), len(kept)).scatter_reduce(0, tokens.pair, torch.arange(len(kept)), "amin")
        pending = _Pending(prompt, stage, changed, first, read.cumsum(0) - 1)
        self._put_in(out, pending, found)
        if found.final is not None:
            out[changed[:, None] & paths.is_logits] = self._at_logits(pending, found.final).repeat_interleave(
                int(paths.is_logits.sum())
            )
        return out

    def _tokens(self, prompt: Int[Tensor, " pair"], stage: Int[Tensor, " pair"]) -> Tokens:
        order = stage.argsort(stable=True)
        width = self._width[prompt[order]]
        which = torch.arange(len(order)).repeat_interleave(width)
        within = torch.arange(len(which)) - (width.cumsum(0) - width)[which]
        pair = order[which]
        return Tokens(pair, prompt[pair], self._start[prompt[pair]] + within, stage[pair])

    def _put_in(self, out: Float[Tensor, "pair set"], pending: "_Pending", found: Inputs) -> None:
        """Run every pair and set in which a receiver's value changes."""
        made = self.paths.recipes
        every = torch.arange(made.n_sets)
        counts = made.counts(pending.stage[:, None], every)
        pair, of_set = ((counts > 0) & pending.changed[:, None]).nonzero().T
        order = pending.prompt[pair].argsort(stable=True)
        pair, of_set = pair[order], of_set[order]
        ends = self._width[pending.prompt[pair]].cumsum(0)
        # A piece ends where the next row would be one too many, and holds one row at least.
        begin = 0
        while begin < len(pair):
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(torch.searchsorted(ends, before + self.task.most_tokens, right=True)))
            rows = slice(begin, end)
            out[pair[rows], of_set[rows]] = self._swept(pending, pair[rows], of_set[rows], found)
            begin = end

    def _swept(self, pending: "_Pending", pair: Tensor, of_set: Tensor, found: Inputs) -> Float[Tensor, " row"]:
        prompt, made = pending.prompt[pair], self.runs.made
        own, rows = put(
            self.paths.recipes,
            found.values,
            len(self._start),
            prompt=prompt,
            stage=pending.stage[pair],
            of_set=of_set,
            start=self._start[prompt],
            token=pending.first[pair],
            width=self._width[prompt],
        )
        read, editor = self.readout.measure.read, partial(PathEditor, own)
        sweep = Sweep(self.runs.layers, BEFORE, made, own.parts, read, editor, self.task.grain)
        finals, where = sweep.finals(rows)
        return self.readout.changed(finals, where, prompt)

    def _at_logits(self, pending: "_Pending", change: Float[Tensor, "read_token d_model"]) -> Float[Tensor, " pair"]:
        """The metric where the unembedding reads the base run's residual stream and each changed pair's difference."""
        pair = pending.changed.nonzero()[:, 0]
        prompt = pending.prompt[pair]
        slot = self.readout.measure.read[prompt] - self._start[prompt][:, None]
        row, column = (slot >= 0).nonzero().T
        where = torch.full(slot.shape, -1)
        where[row, column] = torch.arange(len(row))
        token = pending.among_read[pending.first[pair][row] + slot[row, column]].to(change.device)
        place = prompt[row].to(change.device), self.readout.measure.read[prompt][row, column].to(change.device)
        finals = self.runs.layers.final(self.runs.made.residual[-1][place] + change[token])
        return self.readout.changed(finals, where, prompt)

    @cached_property
    def _most_sent(self) -> int:
        """Tokens of the first pass at a time."""
        return max(1, self.task.runner.shares.paths // sent_bytes(self.task, self.paths))

    def _plan(self) -> tuple[list[list[int]], str]:
        """Batches of pairs by the tokens of both passes, pairs that begin at the same position together; what is asked.

        A pair with more rows than fit is a batch of its own, run in pieces.
        """
        prompt, sender = self.pairs // len(self.paths.senders), self.pairs % len(self.paths.senders)
        rows = (self.paths.reached & ~self.paths.is_logits).sum(dim=1)[sender]
        width, most, most_sent = self._width[prompt], self.task.most_tokens, min(self.task.most_tokens, self._most_sent)
        order = self._start[prompt].argsort(stable=True)
        plan: list[list[int]] = []
        sent = used = most + most_sent
        columns = (order, width[order], (rows * width)[order])
        for pair, tokens, swept in zip(*(column.tolist() for column in columns), strict=True):
            if sent + tokens > most_sent or used + swept > most:
                plan.append([])
                sent = used = 0
            plan[-1].append(pair)
            sent, used = sent + tokens, used + swept
        return plan, "" if self.task.runner.journal is None else f"{self._digest()} {plan}"

    def _digest(self) -> str:
        """Of what is patched, and of what is read."""
        measure = self.readout.measure
        whole = f"{self.paths} {self.task.measure.of.__qualname__} {measure.columns} {measure.read.tolist()}"
        assert self.task.source is not None
        tokens = self.task.source[self.block].numpy().tobytes()
        return hashlib.sha256(whole.encode() + tokens).hexdigest()


@dataclass(frozen=True)
class _Pending:
    """Pairs of one batch."""

    prompt: Int[Tensor, " pair"]
    stage: Int[Tensor, " pair"]
    """Of the sender."""
    changed: Bool[Tensor, " pair"]
    """Whether the sender adds anything else in the source run."""
    first: Int[Tensor, " pair"]
    """The first of its tokens."""
    among_read: Int[Tensor, " token"]
    """Number of each token that is read among these."""


def sent_bytes(task: Task, paths: Paths) -> int:
    """Bytes that a token of the first pass takes at most.

    These are what all heads of its layer add in both runs with copies, the change on its way, and the values.
    """
    sizes = task.sizes
    width = {"q": sizes.heads, "k": sizes.key_values, "v": sizes.key_values, "mlp": 2 * task.runner.shape.d_model}
    kept = sum(width.get(kind, 0) for kind, _ in paths.wanted)
    shape = task.runner.shape
    passing = 4 * shape.n_heads * shape.d_model + 8 * shape.d_model + 2 * shape.d_mlp
    return sizes.element * (passing + kept) + 8 * shape.d_model


def kept_bytes(task: Task) -> int:
    """Bytes of the runs of one prompt beyond their trace."""
    shape, length = task.runner.shape, task.base.shape[1]
    return task.sizes.element * length * shape.d_model * (3 * shape.n_layers + 1)
