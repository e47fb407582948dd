"""Generation with changed heads: against whole forward passes with interventions, and with common random numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mechlist.decode import ClassMeans, HeadEdit, Sampling, generate
from mechlist.errors import InputError
from mechlist.runner import Runner, replace

GREEDY = Sampling(greedy=True)
HEADS = ((0, 1), (2, 3), (2, 0))
NEW = 8


def prompts(runner: Runner, lengths: list[int], seed: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, runner.shape.d_vocab, (n,), generator=generator).tolist() for n in lengths]


def some_means(runner: Runner) -> ClassMeans:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(runner.shape.d_vocab) % 3
    size = (2, 3, runner.shape.d_head)
    return ClassMeans(kinds, {head: torch.randn(size, generator=generator) for head in HEADS})


def edits(runner: Runner, given: list[list[int]]) -> dict[str, HeadEdit]:
    donors = prompts(runner, [len(p) for p in given], seed=9)
    return {
        "zero": HeadEdit(heads=HEADS, mode="zero"),
        "mean": HeadEdit(heads=HEADS, mode="mean", means=some_means(runner)),
        "swap": HeadEdit(heads=HEADS, mode="swap", donors=donors),
    }


def slow_interventions(runner: Runner, edit: HeadEdit, number: int, prompt: list[int], tokens: list[int]) -> list[Any]:
    """The change as interventions on a whole sequence."""
    out = []
    for layer, head in edit.heads:
        hook = f"blocks.{layer}.attn.hook_z"
        if edit.mode == "zero":
            # Zero in the model as published; see tests/models/test_zero.py.
            nothing = runner.language_model.nothing("z", layer)
            value = 0.0 if nothing is None else nothing[head].expand(1, len(tokens), 1, -1)
            out.append(replace(hook, value, heads=[head]))
        elif edit.mode == "swap":
            assert edit.donors is not None
            other = [*edit.donors[number], *tokens[len(prompt) :]]
            out.append(replace(hook, runner.capture([other], hook)[hook][:, :, [head]], heads=[head]))
        else:
            assert edit.means is not None
            rows = []
            for position, token in enumerate(tokens):
                part = 1 if position >= len(prompt) - 1 else 0
                rows.append(edit.means.values[layer, head][part, int(edit.means.class_of_token[token])])
            out.append(replace(hook, torch.stack(rows)[None, :, None], heads=[head]))
    return out


@pytest.mark.parametrize("mode", ["zero", "mean", "swap"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_greedy_equals_whole_forward_passes(loaded: Callable[[str], Runner], architecture: str, mode: str):
    runner = loaded(architecture)
    # Two prompts of one length share a batch, and each has a donor of its own.
    given = prompts(runner, [5, 11, 5])
    edit = edits(runner, given)[mode]
    found = generate(runner, given, max_new_tokens=NEW, sampling=GREEDY, edit=edit)
    plain = generate(runner, given, max_new_tokens=NEW, sampling=GREEDY)
    assert [c[0].log_probs for c in found] != [c[0].log_probs for c in plain]
    for number, (prompt, (completion,)) in enumerate(zip(given, found, strict=True)):
        tokens, log_probs = list(prompt), []
        for _ in range(NEW):
            with runner.intervene(*slow_interventions(runner, edit, number, prompt, tokens)):
                logits = runner.logits([tokens])[0, -1]
            tokens.append(int(logits.argmax()))
            log_probs.append(float(logits.log_softmax(0)[tokens[-1]]))
        assert completion.tokens == tuple(tokens[len(prompt) :])
        assert completion.log_probs == pytest.approx(log_probs, abs=1e-4)


@pytest.mark.parametrize("mode", ["zero", "mean", "swap"])
def test_rows_that_stop_leave_the_others_as_they_are(loaded: Callable[[str], Runner], mode: str):
    runner = loaded("gemma2")
    given = prompts(runner, [6] * 6)
    edit = edits(runner, given)[mode]
    free = generate(runner, given, max_new_tokens=12, samples=2, edit=edit)
    stop = {free[i][0].tokens[2 + i] for i in range(4)}
    found = generate(runner, given, max_new_tokens=12, samples=2, edit=edit, stop_tokens=sorted(stop))
    for whole, cut in zip(free, found, strict=True):
        for a, b in zip(whole, cut, strict=True):
            first = next((i for i, token in enumerate(a.tokens) if token in stop), len(a.tokens) - 1)
            assert b.tokens == a.tokens[: first + 1]


def test_a_change_that_changes_nothing_draws_the_same(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    given = prompts(runner, [6, 9])
    plain = generate(runner, given, max_new_tokens=10, samples=3)
    same = HeadEdit(heads=HEADS, mode="swap", donors=given)
    assert [[c.tokens for c in of] for of in generate(runner, given, max_new_tokens=10, samples=3, edit=same)] == [
        [c.tokens for c in of] for of in plain
    ]


def test_the_name_tells_edits_apart(loaded: Callable[[str], Runner]):
    given = prompts(loaded("gpt2"), [6])
    made = edits(loaded("gpt2"), given)
    other = HeadEdit(heads=HEADS, mode="swap", donors=[[*given[0]]])
    assert len({edit.name for edit in (*made.values(), other, HeadEdit(heads=HEADS[:1]))}) == 5
    assert edits(loaded("gpt2"), given)["mean"].name == made["mean"].name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"heads": ()}, "heads must hold one head at least"),
        ({"heads": ((0, 1), (0, 1))}, "each once"),
        ({"heads": ((0, 1),), "mode": "mean"}, "means must be given for the mode mean"),
        ({"heads": ((0, 1),), "donors": [[1]]}, "donors for the mode swap, and only then"),
        (
            {"heads": ((0, 1),), "mode": "mean", "means": ClassMeans(torch.zeros(3, dtype=torch.long), {})},
            "means must hold every head that is changed; L0H1 is missing",
        ),
    ],
)
def test_edits_that_are_not_whole_are_refused(given: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        HeadEdit(**given)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (HeadEdit(heads=((7, 0),)), "heads must be from L0H0 to L2H3, not 'L7H0'"),
        (HeadEdit(heads=((0, 0),), mode="swap", donors=[[3, 4]]), "donors must be one for each prompt"),
    ],
)
def test_edits_that_do_not_fit_are_refused(loaded: Callable[[str], Runner], edit: HeadEdit, words: str):
    with pytest.raises(InputError, match=words):
        generate(loaded("gpt2"), [[3, 4, 5]], max_new_tokens=2, edit=edit)
