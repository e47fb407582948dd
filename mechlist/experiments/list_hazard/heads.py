"""What chosen heads do to the length of lists: given lists read with them changed, and lists written again."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import ListPrompt, adjective_tokens, swapped_prompt
from mechlist.decode import ClassMeans, HeadEdit, HeadMode, Sampling
from mechlist.errors import InputError
from mechlist.experiments.effects import strongest_heads
from mechlist.experiments.list_experiment import sample_lists
from mechlist.experiments.list_predictions import Predictions, predict
from mechlist.patching.ablation import matched_random_heads
from mechlist.runner import Intervention, Runner, replace
from mechlist.runner.batch import Batch
from mechlist.runner.interventions import Rows
from mechlist.runs import results_of
from mechlist.types import Head

CLEAN, CHOSEN = "clean", "heads"
_OTHER = 0
"""The class of all tokens that are not special."""


def heads_from(files: Sequence[Path], count: int) -> tuple[Head, ...]:
    """The strongest heads of each of some list-heads runs, each head once.

    Raises:
        InputError: a file that holds no results of list-heads.
    """
    return tuple(dict.fromkeys(head for file in files for head in _strongest(file, count)))


def _strongest(file: Path, count: int) -> list[Head]:
    return strongest_heads(results_of(file, "list-heads", "heads_from"), count)


def check_heads(runner: Runner, heads: Sequence[Head]) -> None:
    """Whether the model has the heads.

    Raises:
        InputError: it has not.
    """
    if heads:
        HeadEdit(heads=tuple(heads)).check((runner.shape.n_layers, runner.shape.n_heads), [])


def head_sets(runner: Runner, heads: Sequence[Head], controls: int) -> dict[str, tuple[Head, ...]]:
    """None (`clean`), the heads, and for each control as many others at random, of the same layers while they last.

    Controls share no head while the model has enough.
    """
    sets: dict[str, tuple[Head, ...]] = {CLEAN: (), CHOSEN: tuple(heads)}
    used: list[Head] = []
    shape = (runner.shape.n_layers, runner.shape.n_heads)
    for number in range(1, controls + 1):
        generator = runner.generator(f"random heads {number}")
        chosen = matched_random_heads(heads, used, shape, generator)
        if len(chosen) < len(heads):
            chosen = matched_random_heads(heads, [], shape, generator)
        if len(chosen) < len(heads):
            raise InputError(
                f"controls must be 0 here: beside the {len(heads)} heads the model has {len(chosen)}, too few."
            )
        used += chosen
        sets[f"control {number}"] = tuple(chosen)
    return sets


def class_means(runner: Runner, lists: ListSet, heads: Sequence[Head]) -> ClassMeans:
    """Mean z of heads by class of token (each special token, and all else), in the prompt and in the list.

    Adjectives count alike, however long their lists are. A class that the lists lack has the mean of its part.
    """
    classes = _token_classes(lists.special, runner.shape.d_vocab)
    number = int(classes.max()) + 1
    layers = sorted({layer for layer, _ in heads})
    hooks = {layer: runner.hooks(f"blocks.{layer}.attn.hook_z")[0] for layer in layers}
    starts = torch.tensor(lists.starts)

    def sums(batch: Batch) -> dict[str, Tensor]:
        tokens = batch.tokens.cpu()
        part = (torch.arange(tokens.shape[1]) >= starts[batch.rows.index][:, None]).long()
        cell = torch.nn.functional.one_hot(part * number + classes[tokens], 2 * number).float()
        cell *= batch.real.cpu()[..., None]
        z = torch.stack([batch[hooks[layer]][:, :, head].float().cpu() for layer, head in heads], dim=2)
        return {"sum": torch.einsum("rpc,rphd->rchd", cell, z), "count": cell.sum(1)}

    found = runner.map(lists.rows, sums, capture=list(hooks.values()), label="Mean outputs of heads")
    of_adjective: list[tuple[Tensor, Tensor]] = []
    for adjective in lists.adjectives:
        rows = torch.tensor([one == adjective for one in lists.adjective])
        of_adjective.append((found["sum"][rows].sum(0), found["count"][rows].sum(0)))
    means = _balanced(of_adjective, number)
    return ClassMeans(classes, {head: means[:, :, i] for i, head in enumerate(heads)})


def predict_changed(
    runner: Runner,
    lists: ListSet,
    heads: tuple[Head, ...],
    mode: HeadMode,
    means: ClassMeans | None,
    label: str,
    rules: Sequence[Sampling | None] | None = None,
) -> Predictions:
    """What the model with changed heads predicts along given lists; with `rules` of drawing also by these."""
    with _changed(runner, lists, heads, mode, means):
        return predict(runner, lists, rules=rules, label=label)


def sample_changed(
    runner: Runner,
    prompts: Sequence[ListPrompt],
    special: ListTokens,
    sets: Mapping[str, tuple[Head, ...]],
    mode: HeadMode,
    means: ClassMeans | None,
    *,
    sampling: Sampling,
    samples: int,
    max_new_tokens: int,
    clean: ListSet | None = None,
) -> dict[str, ListSet]:
    """Lists with each set of heads changed (none is the model as it is), all drawn with the same random numbers.

    `clean` are those of the model as it is, where they have been written already.
    """
    written: dict[str, ListSet] = {}
    for name, heads in sets.items():
        if not heads and clean is not None:
            written[name] = clean
            continue
        written[name] = sample_lists(
            runner,
            prompts,
            special,
            sampling=sampling,
            samples=samples,
            max_new_tokens=max_new_tokens,
            edit=_edit(runner, heads, mode, means, prompts) if heads else None,
            label=f"Writing lists ({name})",
        )
    return written


def _edit(
    runner: Runner, heads: tuple[Head, ...], mode: HeadMode, means: ClassMeans | None, prompts: Sequence[ListPrompt]
) -> HeadEdit:
    """The change for lists that are written after `prompts`."""
    donors = None
    if mode == "swap":
        ids = adjective_tokens(prompts, runner.tokenizer)
        donors = [swapped_prompt(prompt, ids).tokens for prompt in prompts]
    return HeadEdit(heads=heads, mode=mode, means=means, donors=donors)


def _changed(
    runner: Runner, lists: ListSet, heads: tuple[Head, ...], mode: HeadMode, means: ClassMeans | None
) -> AbstractContextManager[None]:
    if not heads:
        return nullcontext()
    hooks = {layer: runner.hooks(f"blocks.{layer}.attn.hook_z")[0] for layer in sorted({layer for layer, _ in heads})}
    if mode == "swap":
        return runner.intervene(*_swaps(runner, lists.swapped(), heads, hooks))
    made = HeadEdit(heads=heads, mode=mode, means=means)
    return runner.intervene(*[_along(hook, layer, made, lists) for layer, hook in hooks.items()])


def _along(hook: str, layer: int, edit: HeadEdit, lists: ListSet) -> Intervention:
    """The edit of a layer on whole sequences, whose prompts end at different positions."""

    def change(activation: Tensor, rows: Rows) -> Tensor:
        width = activation.shape[1]
        changed = [
            edit.changed(layer, activation[row : row + 1], lists.tokens[i : i + 1, :width], 0, lists.starts[i])
            for row, i in enumerate(rows.index.tolist())
        ]
        return torch.cat(changed)

    return Intervention(hook, change)


def _swaps(runner: Runner, donors: ListSet, heads: Sequence[Head], hooks: Mapping[int, str]) -> list[Intervention]:
    """Each head's z from the same list behind the other prompt."""
    chosen = {layer: [head for at, head in heads if at == layer] for layer in hooks}

    def taken(batch: Batch) -> dict[str, Tensor]:
        return {str(layer): batch[hook][:, :, chosen[layer]] for layer, hook in hooks.items()}

    found = runner.map(donors.rows, taken, capture=list(hooks.values()), label="Heads under the other adjective")
    return [replace(hook, found[str(layer)], heads=chosen[layer]) for layer, hook in hooks.items()]


def _token_classes(special: ListTokens, d_vocab: int) -> Int[Tensor, " vocab"]:
    own = [special.hyphen, special.line_break, special.blank, special.end_of_turn, special.bos]
    classes = torch.full((d_vocab,), _OTHER)
    for number, token in enumerate(dict.fromkeys(token for token in own if token is not None), start=1):
        classes[token] = number
    return classes


def _balanced(groups: Sequence[tuple[Tensor, Tensor]], classes: int) -> Float[Tensor, "part class head d_head"]:
    """Mean over groups of the mean of each part and class."""
    means, weights = [], []
    for total, count in groups:
        means.append(total / count.clamp(min=1)[:, None, None])
        weights.append((count > 0).float())
    weight = torch.stack(weights)
    mean = (torch.stack(means) * weight[..., None, None]).sum(0) / weight.sum(0).clamp(min=1)[:, None, None]
    mean, told = mean.unflatten(0, (2, classes)), weight.sum(0).view(2, classes) > 0
    for part in range(2):
        mean[part, ~told[part]] = mean[part, told[part]].mean(0)
    return mean
