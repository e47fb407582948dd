"""What chosen heads do to the length of lists: given lists read with them changed, and lists written again."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import ListPrompt
from mechlist.decode import HeadEdit, HeadMode, KindMeans, Sampling
from mechlist.errors import InputError
from mechlist.experiments import whole_lists as lists_of
from mechlist.experiments.list_heads.report import strongest_heads
from mechlist.experiments.list_predictions import Readings, read
from mechlist.experiments.whole_lists import Lists, WholeList
from mechlist.patching.ablation import matched_random_heads
from mechlist.results import load_dataset
from mechlist.runner import Intervention, Runner, replace
from mechlist.runner.batch import Batch
from mechlist.runner.batching import pad_right
from mechlist.runner.interventions import Rows
from mechlist.types import Head

_NAME = re.compile(r"(?:L?(\d+)[.H])(\d+)")
CLEAN, CHOSEN = "clean", "heads"
_OTHER = 0
"""The kind of all tokens that are no mark."""


def parse_heads(names: Sequence[str]) -> tuple[Head, ...]:
    """Heads by name, such as `3.1` or `L3H1`.

    Raises:
        InputError: a name of another form, or a head that stands twice.
    """
    found: list[Head] = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(f"heads must be layer.head, such as 3.1, not {name!r}.")
        found.append((int(match[1]), int(match[2])))
    if len(set(found)) < len(found):
        raise InputError(f"heads must hold each head once, not {list(names)}.")
    return tuple(found)


def heads_from(file: Path, count: int) -> tuple[Head, ...]:
    """The strongest heads of a list-heads run.

    Raises:
        InputError: a file that holds no results of list-heads.
    """
    file = file / "results.nc" if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"{file} does not exist: heads_from must be the folder or the results.nc of a list-heads run.")
    results = load_dataset(file)
    if results.attrs.get("experiment") != "list-heads":
        raise InputError(f"{file} must be results of list-heads, not of {results.attrs.get('experiment')}.")
    return tuple(strongest_heads(results, count))


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


def kind_means(runner: Runner, lists: Lists, heads: Sequence[Head]) -> KindMeans:
    """Mean z of heads by kind of token (each mark, and all else), in the prompt and in the list.

    Adjectives count alike, however long their lists are. A kind that the lists lack has the mean of its part.
    """
    kinds = _kinds(lists[0].marks, runner.shape.d_vocab)
    number = int(kinds.max()) + 1
    layers = sorted({layer for layer, _ in heads})
    hooks = {layer: runner.hooks(f"blocks.{layer}.attn.hook_z")[0] for layer in layers}
    last = torch.tensor([one.prompt.hyphen for one in lists])

    def sums(batch: Batch) -> dict[str, Tensor]:
        tokens = batch.tokens.cpu()
        part = (torch.arange(tokens.shape[1]) >= last[batch.rows.index][:, None]).long()
        cell = torch.nn.functional.one_hot(part * number + kinds[tokens], 2 * number).float()
        cell *= batch.real.cpu()[..., None]
        z = torch.stack([batch[hooks[layer]][:, :, head].float().cpu() for layer, head in heads], dim=2)
        return {"sum": torch.einsum("rpc,rphd->rchd", cell, z), "count": cell.sum(1)}

    found = runner.map([one.tokens for one in lists], sums, capture=list(hooks.values()), label="Mean outputs of heads")
    of_adjective: list[tuple[Tensor, Tensor]] = []
    for adjective in lists_of.adjectives_in(lists):
        rows = torch.tensor([one.adjective == adjective for one in lists])
        of_adjective.append((found["sum"][rows].sum(0), found["count"][rows].sum(0)))
    means = _balanced(of_adjective, number)
    return KindMeans(kinds, {head: means[:, :, i] for i, head in enumerate(heads)})


def edit_of(
    runner: Runner, heads: tuple[Head, ...], mode: HeadMode, means: KindMeans | None, prompts: Sequence[ListPrompt]
) -> HeadEdit:
    """The change for lists that are written after `prompts`."""
    donors = [p.tokens for p in lists_of.opposite(runner, prompts)] if mode == "swap" else None
    return HeadEdit(heads=heads, mode=mode, means=means, donors=donors)


def read_changed(
    runner: Runner, lists: Lists, heads: tuple[Head, ...], mode: HeadMode, means: KindMeans | None, label: str
) -> Readings:
    """What the model with changed heads expects along given lists."""
    with _changed(runner, lists, heads, mode, means):
        return read(runner, lists, drawn=[None] * len(lists), label=label)


def write_changed(
    runner: Runner,
    prompts: Sequence[ListPrompt],
    sets: Mapping[str, tuple[Head, ...]],
    mode: HeadMode,
    means: KindMeans | None,
    *,
    sampling: Sampling,
    samples: int,
    max_new_tokens: int,
    clean: Lists | None = None,
) -> dict[str, list[WholeList]]:
    """Lists with each set of heads changed (none is the model as it is), all drawn with the same random numbers.

    `clean` are those of the model as it is, where they have been written already.
    """
    written: dict[str, list[WholeList]] = {}
    for name, heads in sets.items():
        if not heads and clean is not None:
            written[name] = clean
            continue
        edit = edit_of(runner, heads, mode, means, prompts) if heads else None
        written[name] = lists_of.write(
            runner,
            prompts,
            sampling=sampling,
            samples=samples,
            max_new_tokens=max_new_tokens,
            edit=edit,
            label=f"Writing lists ({name})",
        )
    return written


def _changed(
    runner: Runner, lists: Lists, heads: tuple[Head, ...], mode: HeadMode, means: KindMeans | None
) -> AbstractContextManager[None]:
    if not heads:
        return nullcontext()
    hooks = {layer: runner.hooks(f"blocks.{layer}.attn.hook_z")[0] for layer in sorted({layer for layer, _ in heads})}
    if mode == "swap":
        prompts = lists_of.opposite(runner, [one.prompt for one in lists])
        return runner.intervene(*_swaps(runner, lists_of.with_prompts(lists, prompts), heads, hooks))
    made = HeadEdit(heads=heads, mode=mode, means=means)
    tokens = pad_right([torch.tensor(one.tokens) for one in lists])
    return runner.intervene(*[_along(hook, layer, made, lists, tokens) for layer, hook in hooks.items()])


def _along(hook: str, layer: int, edit: HeadEdit, lists: Lists, tokens: Tensor) -> Intervention:
    """The edit of a layer on whole sequences, whose prompts end at different positions."""

    def change(activation: Tensor, rows: Rows) -> Tensor:
        width = activation.shape[1]
        changed = [
            edit.changed(layer, activation[row : row + 1], tokens[i : i + 1, :width], 0, lists[i].prompt.hyphen)
            for row, i in enumerate(rows.index.tolist())
        ]
        return torch.cat(changed)

    return Intervention(hook, change)


def _swaps(runner: Runner, donors: Lists, heads: Sequence[Head], hooks: Mapping[int, str]) -> list[Intervention]:
    """Each head's z from the same list behind the other prompt."""
    chosen = {layer: [head for at, head in heads if at == layer] for layer in hooks}

    def taken(batch: Batch) -> dict[str, Tensor]:
        return {str(layer): batch[hook][:, :, chosen[layer]] for layer, hook in hooks.items()}

    found = runner.map(
        [one.tokens for one in donors], taken, capture=list(hooks.values()), label="Heads under the other adjective"
    )
    return [replace(hook, found[str(layer)], heads=chosen[layer]) for layer, hook in hooks.items()]


def _kinds(marks: ListTokens, d_vocab: int) -> Int[Tensor, " vocab"]:
    own = [marks.hyphen, marks.line_break, marks.blank, marks.end_of_turn, marks.bos]
    kinds = torch.full((d_vocab,), _OTHER)
    for number, token in enumerate(dict.fromkeys(token for token in own if token is not None), start=1):
        kinds[token] = number
    return kinds


def _balanced(groups: Sequence[tuple[Tensor, Tensor]], kinds: int) -> Float[Tensor, "part kind head d_head"]:
    """Mean over groups of the mean of each part and kind."""
    means, weights = [], []
    for total, count in groups:
        means.append(total / count.clamp(min=1)[:, None, None])
        weights.append((count > 0).float())
    weight = torch.stack(weights)
    mean = (torch.stack(means) * weight[..., None, None]).sum(0) / weight.sum(0).clamp(min=1)[:, None, None]
    mean, told = mean.unflatten(0, (2, kinds)), weight.sum(0).view(2, kinds) > 0
    for part in range(2):
        mean[part, ~told[part]] = mean[part, told[part]].mean(0)
    return mean
