"""Runs what `attribution_grid` asks: blocks of prompts forward and backward, by TransformerLens's hooks.

Hooks, and not the layers one by one as in `mechlist.patching.sweep.sweep`, because gradients are then those of the
model's own forward pass, whatever its kind: HookedTransformer or TransformerBridge, with or without interventions.
Relevance runs back through the layers one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.language_model import Hook, LanguageModel
from mechlist.models.layers.layers import Layers
from mechlist.patching.gradients.cost import gradient_bytes, weight_copies
from mechlist.patching.gradients.gradient import differentiable, metric_gradient, site_gradients
from mechlist.patching.gradients.softmax import keys_replaced, queries_replaced, scores
from mechlist.patching.sweep.cells import hook_name
from mechlist.patching.sweep.packing import ATTENTION_SITES
from mechlist.patching.sweep.task import Task
from mechlist.runner import Intervention, Rows
from mechlist.runner.memory import padded_tokens
from mechlist.runner.positions import padded_axes, real_entries


@dataclass(frozen=True)
class Attribution:
    """Effects of all cells, for blocks of prompts that follow one another."""

    task: Task
    places: Bool[Tensor, "prompt place position"] | None
    """Positions that a cell replaces together; None where each is a cell's only one."""
    steps: int
    fix_qk: bool
    back: Layers | None
    """Layers through which relevance runs back; None for gradients of the model's own pass."""
    replacement: str
    """Digest of what is put in."""

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self.task.runner.language_model

    @property
    def prompts(self) -> Sequence[Tensor]:
        """Tokens of each prompt."""
        return self._prompts

    @cached_property
    def _prompts(self) -> list[Tensor]:
        return list(self.task.base)

    def run(self) -> dict[str, Tensor]:
        """`effect` [prompt layer place head], and the metric of the `base` and, if there are any, `source` runs."""
        task, plan = self.task, self._plan()
        read = f"{task.measure.read.tolist()} {task.measure.columns} {task.measure.of.__qualname__}"
        kind = "attribution" if self.back is None else "relevance"
        name = f"{kind} {task.site} {self.steps} {self.fix_qk} {self.replacement} {self.places} {read} {plan}"
        return task.runner.execute(self, plan, name, "Attribution patching")

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """Results of the prompts `members`, which follow one another."""
        block = _Block(self, slice(members[0], members[-1] + 1))
        with differentiable(self.model.module):
            return block.results()

    def _plan(self) -> list[list[int]]:
        runner, sizes, (prompts, length) = self.task.runner, self.task.sizes, self.task.base.shape
        each = gradient_bytes(sizes, self.task.site, length, fix_qk=self.fix_qk)
        each += 4 * length * runner.shape.d_vocab_out * self.model.makes_logits
        size = max(1, (runner.shares.batch - weight_copies(sizes)) // each)
        if self.model.device.type == "cpu":
            size = min(size, max(1, padded_tokens(self.model.device) // length))
        return [list(range(i, min(i + size, prompts))) for i in range(0, prompts, size)]


class _Block:
    """A few prompts."""

    def __init__(self, work: Attribution, prompts: slice) -> None:
        task, self._work, self._prompts = work.task, work, prompts
        device = work.model.device
        self._task = task
        self._hooks = [hook_name(task.site, layer) for layer in range(task.runner.shape.n_layers)]
        self._rows = Rows(torch.arange(prompts.start, prompts.stop), task.lengths[prompts].to(device))
        self._measure = task.measure.block(prompts)
        self._replacing = task.replacing(prompts)
        self._places = None if work.places is None else work.places[prompts].to(device)
        self._source: list[Tensor] = []

    def results(self) -> dict[str, Tensor]:
        """Effects, and the metric of the runs themselves."""
        source = self._source_run()
        base, effects = self._first_order() if self._work.steps == 1 else self._along_paths()
        out = {"effect": torch.stack(effects, dim=1).cpu(), "base": self._measured(base, base)}
        return out if source is None else out | {"source": self._measured(source, base)}

    def _source_run(self) -> Float[Tensor, "prompt n d_model"] | None:
        """Keep what the source run has at the site; its final residual stream."""
        if self._task.source is None:
            return None
        kept: dict[str, Tensor] = {}
        with torch.no_grad():
            changes = [(hook, partial(_keep, kept, hook)) for hook in self._hooks]
            finals = self._finals(self._task.source, changes, self._task.source_read[self._prompts])
        self._source = [kept[hook] for hook in self._hooks]
        return finals

    def _first_order(self) -> tuple[Float[Tensor, "prompt n d_model"], list[Float[Tensor, "prompt place any_head"]]]:
        """Final residual stream of the base run, and the effects by layer."""
        kept: dict[str, Tensor] = {}
        exact = self._work.fix_qk
        names = [name for layer in range(len(self._hooks)) for name in self._needed(layer)]
        finals = self._finals(self._task.base, [(name, partial(_keep, kept, name)) for name in names])
        patterns = [hook_name("pattern", layer) for layer in range(len(self._hooks))]
        gradients = self._gradients(finals, finals.detach(), [kept[n] for n in (patterns if exact else self._hooks)])
        kept = {name: activation.detach() for name, activation in kept.items()}
        effects = []
        for layer, gradient in enumerate(gradients):
            there = kept[self._hooks[layer]]
            put = self._put(layer, there)
            effects.append(
                self._through_softmax(layer, kept, put, gradient) if exact else self._effect(gradient, put, there)
            )
        return finals.detach(), effects

    def _needed(self, layer: int) -> list[str]:
        return [hook_name(name, layer) for name in ("q", "k", "pattern")] if self._work.fix_qk else [self._hooks[layer]]

    def _along_paths(self) -> tuple[Float[Tensor, "prompt n d_model"], list[Float[Tensor, "prompt place any_head"]]]:
        """The same with the gradient averaged over the path from what is there to what is put in, layer by layer."""
        with torch.no_grad():
            base = self._finals(self._task.base, [])
        return base, [self._along_path(layer, base) for layer in range(len(self._hooks))]

    def _along_path(
        self, layer: int, base: Float[Tensor, "prompt n d_model"]
    ) -> Float[Tensor, "prompt place any_head"]:
        steps, hook, kept = self._work.steps, self._hooks[layer], dict[str, Tensor]()

        def move(share: float, activation: Tensor) -> Tensor:
            kept["there"], kept["put"] = activation, self._put(layer, activation)
            change = share * _difference(kept["put"], activation)
            kept["at"] = (activation + change.to(activation)).requires_grad_()
            return kept["at"]

        gradient = 0.0
        for step in range(steps):
            finals = self._finals(self._task.base, [(hook, partial(move, (step + 0.5) / steps))])
            gradient = gradient + self._gradients(finals, base, [kept["at"]])[0].double() / steps
        return self._effect(torch.as_tensor(gradient), kept["put"], kept["there"])

    def _put(self, layer: int, there: Tensor) -> Tensor:
        """What is put in, and what is there in padding and where attention may not look."""
        put = self._replacing(layer, there, self._source[layer] if self._source else None).to(there)
        hook = self._hooks[layer]
        real = real_entries(there.shape, padded_axes(hook, there.ndim, every_position=True), self._rows.lengths)
        # TransformerBridge hides scores with the least number that there is, and not with minus infinity.
        least = torch.finfo(there.dtype).min
        put = torch.where(real & (there > least), put, there)
        if ((put <= least) & (there > least)).any():
            raise InputError(
                f"What is put in at {hook} is minus infinity where the base run's score is finite: such a change has "
                "no first-order effect. Replace the pattern, or take patch_grid."
            )
        return put

    def _effect(self, gradient: Tensor, put: Tensor, there: Tensor) -> Float[Tensor, "prompt place any_head"]:
        """Gradient x difference, added up over the entries of each place and head."""
        product = gradient.double() * _difference(put, there)
        if self._task.site in ATTENTION_SITES:
            by_head = product.sum(-1).transpose(1, 2)
        else:
            by_head = product.sum(-1) if product.ndim == 4 else product.sum(-1, keepdim=True)
        return self._by_place(by_head)

    def _through_softmax(
        self, layer: int, kept: dict[str, Tensor], put: Tensor, gradient: Float[Tensor, "prompt head query key"]
    ) -> Float[Tensor, "prompt place any_head"]:
        """Gradient of the pattern x its exact change."""
        layers = self._task.runner.language_model.require_layers("The exact change of patterns")
        q, k = (kept[hook_name(name, layer)] for name in "qk")
        before = scores(layers, layer, q, k)
        if self._task.site == "q":
            return self._by_place(queries_replaced(before, scores(layers, layer, put, k), gradient))
        return keys_replaced(before, scores(layers, layer, q, put), gradient, self._places, k.shape[2])

    def _by_place(self, x: Float[Tensor, "prompt position any_head"]) -> Float[Tensor, "prompt place any_head"]:
        return x if self._places is None else self._places.to(x) @ x

    def _finals(
        self,
        tokens: Int[Tensor, "all_prompts position"],
        changes: Sequence[tuple[str, Any]],
        read: Int[Tensor, "prompt n"] | None = None,
    ) -> Float[Tensor, "prompt n d_model"]:
        """Final, normalised residual stream at the positions that the metric reads, or at others."""
        own = tokens[self._prompts].to(self._work.model.device)
        layers = self._work.back
        normalized = self._hooked(own, changes) if layers is None else _walked(layers, own, changes)
        read = (self._measure.read if read is None else read).to(own.device)
        return normalized[torch.arange(len(read), device=own.device)[:, None], read]

    def _hooked(
        self, tokens: Int[Tensor, "prompt position"], changes: Sequence[tuple[str, Any]]
    ) -> Float[Tensor, "prompt position d_model"]:
        """By the model's own pass."""
        model, fired = self._work.model, set[str]()
        # What is put in comes after them, as in a nested `intervene`.
        placed = [(i.hook, partial(_intervened, i, self._rows)) for i in self._task.runner.interventions]
        hooks: list[Hook] = [(name, partial(_call, fired, name, change)) for name, change in (*placed, *changes)]
        normalized = model.residual(tokens, hooks)
        for name, _ in hooks:
            if name not in fired:
                raise InputError(f"The hook {name} exists but never fires with this model and its settings.")
        return normalized

    def _gradients(self, finals: Tensor, base: Float[Tensor, "prompt n d_model"], kept: list[Tensor]) -> list[Tensor]:
        model, runner = self._work.model, self._task.runner
        unembed, d_vocab = model.unembed, runner.shape.d_vocab_out
        gradient = metric_gradient(self._measure, finals, base, unembed, d_vocab, runner.shares.metric_logits)
        return site_gradients(finals, gradient, kept)

    def _measured(self, finals: Tensor, base: Tensor) -> Float[Tensor, " prompt"]:
        model, runner = self._work.model, self._task.runner
        every = torch.arange(len(finals))
        return self._measure(finals, every, base, model.unembed, runner.shape.d_vocab_out, runner.shares.metric_logits)


def _walked(
    layers: Layers, tokens: Int[Tensor, "prompt position"], changes: Sequence[tuple[str, Any]]
) -> Float[Tensor, "prompt position d_model"]:
    """Layer by layer."""
    of_hook, layer = dict(changes), -1

    def touch(site: str, activation: Tensor) -> Tensor:
        nonlocal layer
        layer += site == "resid_pre"
        change = of_hook.get(hook_name(site, layer))
        if change is None:
            return activation
        if site in ATTENTION_SITES:
            return change(activation)
        return change(activation.view(*tokens.shape, *activation.shape[1:])).flatten(0, 1)

    final = layers.run(layers.embed(tokens), touch)
    return layers.final(final.flatten(0, 1)).view(final.shape)


def _keep(kept: dict[str, Tensor], name: str, activation: Tensor) -> Tensor:
    """Keep an activation on the way; gradients begin at the first."""
    recorded = activation.requires_grad or not torch.is_grad_enabled()
    kept[name] = activation if recorded else activation.detach().requires_grad_()
    return kept[name]


def _intervened(intervention: Intervention, rows: Rows, activation: Tensor) -> Tensor:
    return intervention.change(activation, rows)


def _call(fired: set[str], name: str, change: Any, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    fired.add(name)
    return change(activation)


def _difference(put: Tensor, there: Tensor) -> Tensor:
    """What is put in less what is there, in float64; 0 where both are minus infinity."""
    return torch.where(put == there, 0.0, put.double() - there.double())
