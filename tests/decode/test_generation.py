"""Generation: against full forward passes without a cache, and against itself in other batches."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mechlist.decode import Completion, Sampling, generate
from mechlist.errors import InputError, MechlistError
from mechlist.runner import Runner, replace
from mechlist.runner.journal import Journal

GREEDY = Sampling(greedy=True)
ARCHITECTURES = ["gpt2", "llama", "gemma", "gemma2", "pythia", "qwen2", "stablelm"]


def prompts(runner: Runner, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, runner.shape.d_vocab, (n,), generator=generator).tolist() for n in lengths]


def slow_greedy(runner: Runner, prompt: list[int], new: int, stop: tuple[int, ...] = ()) -> Completion:
    """One whole forward pass a token."""
    tokens, log_probs = list(prompt), []
    for _ in range(new):
        logits = runner.logits([tokens])[0, -1]
        tokens.append(int(logits.argmax()))
        log_probs.append(float(logits.log_softmax(0)[tokens[-1]]))
        if tokens[-1] in stop:
            break
    chosen = tuple(tokens[len(prompt) :])
    return Completion(chosen, tuple(log_probs), bool(stop) and chosen[-1] in stop)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_whole_forward_passes(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    # Longer than the window of 8 that Gemma 2's local layers have here, and of unequal length.
    given = prompts(runner, [5, 12, 5, 9])
    found = generate(runner, given, max_new_tokens=10, sampling=GREEDY)
    for prompt, (completion,) in zip(given, found, strict=True):
        expected = slow_greedy(runner, prompt, 10)
        assert completion.tokens == expected.tokens
        assert completion.log_probs == pytest.approx(expected.log_probs, abs=1e-4)
        assert not completion.stopped


def test_a_stop_token_ends_its_row_alone(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    given = prompts(runner, [6, 6, 6, 7])
    free = generate(runner, given, max_new_tokens=12, sampling=GREEDY)
    stop = (free[0][0].tokens[2], free[1][0].tokens[5])
    found = generate(runner, given, max_new_tokens=12, sampling=GREEDY, stop_tokens=stop)
    for prompt, (completion,) in zip(given, found, strict=True):
        expected = slow_greedy(runner, prompt, 12, stop)
        assert (completion.tokens, completion.stopped) == (expected.tokens, expected.stopped)
    assert found[0][0].stopped
    assert len(found[0][0].tokens) <= 3


def test_samples_do_not_depend_on_the_batch(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    runner = loaded("gemma2")
    given = prompts(runner, [6, 6, 9, 6])
    together = generate(runner, given, max_new_tokens=15, samples=3)
    alone = [generate(runner, [prompt], max_new_tokens=15, samples=3)[0] for prompt in given]
    monkeypatch.setattr("mechlist.decode.generation.CPU_ROWS", 2)
    small = generate(runner, given[::-1], max_new_tokens=15, samples=3)[::-1]
    tokens = [[c.tokens for c in of_prompt] for of_prompt in together]
    assert tokens == [[c.tokens for c in of_prompt] for of_prompt in alone]
    assert tokens == [[c.tokens for c in of_prompt] for of_prompt in small]
    assert len({c.tokens for c in together[0]}) == 3
    assert len({together[i][0].tokens for i in (0, 1, 3)}) == 3


def test_more_samples_begin_with_the_same(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    given = prompts(runner, [6])
    few, many = (generate(runner, given, max_new_tokens=8, samples=n)[0] for n in (2, 4))
    assert [c.tokens for c in few] == [c.tokens for c in many[:2]]


def test_the_seed_decides(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    other = Runner(runner.model, seed=runner.seed + 1, progress=False)
    given = prompts(runner, [6])
    again = generate(runner, given, max_new_tokens=8)
    assert generate(runner, given, max_new_tokens=8) == again
    assert generate(other, given, max_new_tokens=8) != again


def test_draws_follow_the_model(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    (prompt,) = prompts(runner, [4])
    sampling = Sampling(temperature=0.5, top_k=4)
    drawn = [c.tokens[0] for c in generate(runner, [prompt], max_new_tokens=1, samples=3000, sampling=sampling)[0]]
    expected = sampling.probabilities(runner.logits([prompt])[:, -1])[0]
    share = torch.bincount(torch.tensor(drawn), minlength=runner.shape.d_vocab) / 3000
    torch.testing.assert_close(share.double(), expected, atol=0.03, rtol=0)
    assert (share > 0).sum() == 4


def test_memory_splits_batches_and_changes_nothing(loaded: Callable[[str], Runner]):
    runner = loaded("llama")
    given = prompts(runner, [6] * 9)
    wide = generate(runner, given, max_new_tokens=10)
    narrow = Runner(runner.model, memory=60_000, progress=False)
    assert [c[0].tokens for c in generate(narrow, given, max_new_tokens=10)] == [c[0].tokens for c in wide]
    narrow = Runner(runner.model, memory=100, progress=False)
    with pytest.raises(InputError, match="memory is too small: one completion needs"):
        generate(narrow, given, max_new_tokens=10)


def test_running_out_of_memory_halves_the_batch(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    runner = loaded("llama")
    given = prompts(runner, [6] * 8)
    expected = generate(runner, given, max_new_tokens=6)
    decoder = runner.language_model.decoder
    sizes = []

    def small(rows: int, capacity: int):
        sizes.append(rows)
        if rows > 3:
            raise MemoryError
        return decoder(rows, capacity)

    monkeypatch.setattr(runner.language_model, "decoder", small)
    assert [c[0].tokens for c in generate(runner, given, max_new_tokens=6)] == [c[0].tokens for c in expected]
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_finished_batches_are_not_drawn_again(
    loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    runner = Runner(loaded("llama").model, progress=False)
    given = prompts(runner, [6, 7, 8])
    expected = generate(runner, given, max_new_tokens=6)
    decoder = runner.language_model.decoder
    calls = []

    def stops(rows: int, capacity: int):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decoder(rows, capacity)

    monkeypatch.setattr(runner.language_model, "decoder", stops)
    runner.restart(Journal(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        generate(runner, given, max_new_tokens=6)
    runner.restart(Journal(tmp_path))
    assert generate(runner, given, max_new_tokens=6) == expected
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens and samples must be at least 1"),
        ({"samples": 0}, "max_new_tokens and samples must be at least 1"),
        ({"max_new_tokens": 10_000}, "leaves room for"),
        ({"stop_tokens": (-1,)}, "stop_tokens must be token ids"),
        ({"stop_tokens": (10_000,)}, "stop_tokens must be token ids"),
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [[]]}, "is empty"),
    ],
)
def test_bad_input_is_refused(loaded: Callable[[str], Runner], changes: dict[str, object], words: str):
    given = {"prompts": [[3, 4, 5]], "max_new_tokens": 2, **changes}
    with pytest.raises(InputError, match=words):
        generate(loaded("gpt2"), **given)


def test_an_intervention_in_place_is_refused(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    with (
        runner.intervene(replace("blocks.0.hook_resid_pre", 0.0)),
        pytest.raises(InputError, match="does not take interventions"),
    ):
        generate(runner, [[3, 4, 5]], max_new_tokens=2)


def test_what_is_no_number_is_no_token(loaded: Callable[[str], Runner]):
    """In float16 a residual stream beyond 65,504 is infinite, and its norm no number."""
    runner = Runner(copy.deepcopy(loaded("gpt2").model), progress=False)
    runner.language_model.one_by_one()
    runner.model.blocks[2].mlp.b_out.data += torch.inf
    with pytest.raises(MechlistError, match=r"is not a number after a prompt: .* too large for float32"):
        generate(runner, [[5, 6, 7]], max_new_tokens=3, sampling=Sampling(greedy=True))
