import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mechlist.errors import InputError, ModelError
from mechlist.runner import Batch, Runner
from tests.hooked import needs_hooked

ROUNDING = 5e-6
"""Bound on the difference between a row of a padded batch and the prompt alone, as a share of the largest logit."""


def logits_alone(runner: Runner, prompt: Tensor) -> Tensor:
    with torch.no_grad():
        return runner.model(prompt.unsqueeze(0))[0]


def assert_rows_equal(runner: Runner, prompts: list[Tensor]) -> None:
    together = runner.logits(prompts)
    assert together.shape == (len(prompts), max(map(len, prompts)), runner.shape.d_vocab)
    for row, prompt in zip(together, prompts, strict=True):
        alone = logits_alone(runner, prompt)
        assert (row[: len(prompt)] - alone).abs().max() <= ROUNDING * alone.abs().max()
        assert row[len(prompt) :].isnan().all()


@pytest.mark.parametrize("seed", range(4))
def test_every_row_of_a_padded_batch_equals_the_prompt_alone(tiny: Runner, prompts: Callable, seed: int) -> None:
    assert_rows_equal(tiny, prompts(count=17, longest=30, seed=seed))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "stablelm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_equals_the_prompt_alone_with_grouped_queries_windows_and_bridges(
    loaded: Callable[[str], Runner], prompts: Callable, architecture: str, seed: int
) -> None:
    runner = loaded(architecture)
    assert_rows_equal(runner, prompts(count=8, longest=40, vocabulary=97, seed=seed))


@needs_hooked
def test_the_real_small_model_runs_in_batches_as_alone(shared: Path, prompts: Callable) -> None:
    runner = Runner.load(str(shared / "models" / "induction-2l"), device="cpu", progress=False)
    longest = min(40, runner.shape.n_ctx)
    assert_rows_equal(runner, prompts(count=6, longest=longest, vocabulary=runner.shape.d_vocab))


def test_many_small_batches_give_the_results_in_the_order_of_the_prompts(build: Callable, prompts: Callable) -> None:
    rows = prompts(count=40, longest=30)
    sizes: list[int] = []

    def first_token(batch: Batch) -> dict[str, Tensor]:
        sizes.append(len(batch.tokens))
        return {"first": batch.tokens[:, 0], "number": batch.rows.index, "length": batch.rows.lengths}

    out = Runner(build(), memory="200KB", progress=False).map(rows, first_token)
    assert len(sizes) > 5
    assert out["first"].tolist() == [int(r[0]) for r in rows]
    assert out["number"].tolist() == list(range(40))
    assert out["length"].tolist() == [len(r) for r in rows]


def test_prompts_may_be_lists_tensors_or_one_tensor(tiny: Runner) -> None:
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    expected = tiny.logits(tokens)
    assert torch.equal(tiny.logits(tokens.tolist()), expected)
    assert torch.equal(tiny.logits(list(tokens)), expected)


@pytest.mark.parametrize("positions", [-1, 0, [0, -1], [-2, 1, 1]])
@pytest.mark.parametrize("architecture", ["gemma2", "stablelm"])
def test_logits_at_positions_and_columns_are_entries_of_the_full_logits(
    loaded: Callable[[str], Runner], prompts: Callable, architecture: str, positions: Any
) -> None:
    runner = loaded(architecture)
    rows = [p for p in prompts(count=12, longest=20, vocabulary=97) if len(p) > 2]
    columns = torch.tensor([5, 90, 5])
    out = runner.logits(rows, positions=positions, columns=columns)
    at = [positions] if isinstance(positions, int) else positions
    assert out.shape == (len(rows), len(at), 3)
    for i, row in enumerate(rows):
        full = logits_alone(runner, row)
        assert torch.allclose(out[i], full[at][:, columns], rtol=0, atol=float(ROUNDING * full.abs().max()))


def test_logits_at_positions_of_each_prompt_are_entries_of_the_full_logits(tiny: Runner, prompts: Callable) -> None:
    rows = [p for p in prompts(count=12) if len(p) > 2]
    positions = torch.tensor([[len(p) - 1, i % 3] for i, p in enumerate(rows)])
    out = tiny.logits(rows, positions=positions)
    for i, row in enumerate(rows):
        full = logits_alone(tiny, row)
        assert torch.allclose(out[i], full[positions[i]], rtol=0, atol=float(ROUNDING * full.abs().max()))


def test_softcapped_logits_stay_within_the_cap(loaded: Callable[[str], Runner], prompts: Callable) -> None:
    runner = loaded("gemma2")
    cap = runner.model.cfg.output_logits_soft_cap
    assert cap > 0
    out = runner.logits(prompts(vocabulary=97), positions=-1)
    assert out.abs().max() < cap


def test_log_probs_are_log_softmax_gathered_at_the_next_token(tiny: Runner, prompts: Callable) -> None:
    rows = prompts(count=12)
    out = tiny.log_probs(rows)
    assert out.shape == (12, max(map(len, rows)) - 1)
    for i, row in enumerate(rows):
        expected = logits_alone(tiny, row)[:-1].log_softmax(-1).gather(1, row[1:, None])[:, 0]
        assert torch.allclose(out[i, : len(row) - 1], expected, atol=1e-5)
        assert out[i, len(row) - 1 :].isnan().all()


def test_prompts_of_one_token_have_no_next_tokens(tiny: Runner) -> None:
    assert tiny.log_probs([[1], [2]]).shape == (2, 0)


def test_next_tokens_say_whether_the_first_choice_was_right(tiny: Runner, prompts: Callable) -> None:
    rows = prompts(count=12)
    out = tiny.map(rows, lambda batch: {"correct": batch.next_tokens().correct})["correct"]
    for i, row in enumerate(rows):
        expected = logits_alone(tiny, row)[:-1].argmax(-1) == row[1:]
        assert torch.equal(out[i, : len(row) - 1], expected)
        assert not out[i, len(row) - 1 :].any()


@pytest.mark.parametrize("architecture", ["gemma2", "stablelm"])
def test_unembedding_in_pieces_gives_the_same(
    loaded: Callable[[str], Runner], prompts: Callable, architecture: str
) -> None:
    runner = loaded(architecture)
    rows = prompts(count=6, vocabulary=97)

    def pieces(batch: Batch) -> dict[str, Tensor]:
        # So few bytes that each piece is one token.
        small = Batch(batch.rows, batch.tokens, {}, batch.normalized, None, batch.model, chunk_bytes=1)
        return {"logits": small.logits(), "log_prob": small.next_tokens().log_prob}

    def whole(batch: Batch) -> dict[str, Tensor]:
        return {"logits": batch.logits(), "log_prob": batch.next_tokens().log_prob}

    in_pieces, at_once = runner.map(rows, pieces), runner.map(rows, whole)
    for name, value in at_once.items():
        torch.testing.assert_close(in_pieces[name], value, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_small_memory_bound_gives_the_same_log_probabilities(build: Callable, prompts: Callable) -> None:
    rows = prompts(count=20, longest=30)
    small, large = (Runner(build(), memory=m, progress=False).log_probs(rows) for m in ("150KB", "4GiB"))
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_the_same_call_gives_the_same_bits(tiny: Runner, prompts: Callable) -> None:
    rows = prompts(count=20)
    assert torch.equal(tiny.log_probs(rows).nan_to_num(), tiny.log_probs(rows).nan_to_num())


def test_results_share_no_memory_with_the_model(tiny: Runner) -> None:
    out = tiny.map([[1, 2, 3]], lambda batch: {"embedding": tiny.model.W_pos[:3].unsqueeze(0)})["embedding"]
    before = tiny.model.W_pos.clone()
    out.zero_()
    assert torch.equal(tiny.model.W_pos, before)


def test_a_result_without_one_row_a_prompt_is_refused(tiny: Runner) -> None:
    with pytest.raises(InputError) as raised:
        tiny.map([[1, 2, 3], [3, 4, 5]], lambda batch: {"mean": batch.logits().mean(0)})
    assert str(raised.value) == "The function's result 'mean' must have one row a prompt (2), not shape [3, 31]."


def test_an_activation_that_was_not_captured_is_named(tiny: Runner) -> None:
    with pytest.raises(InputError) as raised:
        tiny.map([[1]], lambda batch: {"x": batch["blocks.1.hook_resid_pre"]}, capture=["blocks.0.hook_resid_pre"])
    assert str(raised.value) == ("blocks.1.hook_resid_pre was not captured; captured were blocks.0.hook_resid_pre.")


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ([], "prompts must hold at least one prompt, not none."),
        ([[1], []], "Prompt 1 is empty: a prompt needs at least one token."),
        ([[1] * 33], "Prompt 0 has 33 tokens, the model's context holds 32."),
        ([[1, 31]], "Prompt 0 has the token id 31, outside the vocabulary of 31."),
        ([[-1, 5]], "Prompt 0 has the token id -1, outside the vocabulary of 31."),
        (
            [torch.zeros(1, 2, dtype=torch.long)],
            "Prompt 0 must be one sequence of token ids, not a tensor of shape [1, 2].",
        ),
        ([torch.tensor([1.5])], "Prompt 0 must hold token ids, which are integers, not torch.float32."),
    ],
)
def test_prompts_the_model_cannot_take_are_refused(tiny: Runner, prompts: Any, text: str) -> None:
    with pytest.raises(InputError) as raised:
        tiny.logits(prompts)
    assert str(raised.value) == text


def test_columns_outside_the_vocabulary_are_refused(tiny: Runner) -> None:
    with pytest.raises(InputError) as raised:
        tiny.logits([[1]], columns=torch.tensor([0, 31]))
    assert str(raised.value) == "columns must be token ids from 0 to 30, not [0, 31]."


def test_a_memory_bound_below_one_prompt_is_refused(build: Callable) -> None:
    with pytest.raises(
        InputError, match=r"^memory is too small: one prompt of 3 tokens needs about .* of the bound are for it\.$"
    ):
        Runner(build(), memory="1KB", progress=False).logits([[1], [1, 2, 3]])


def test_memory_must_be_a_size(build: Callable) -> None:
    with pytest.raises(InputError, match="memory must be a size such as 4GiB or 500MB, not 'much'"):
        Runner(build(), memory="much")


def test_hooks_are_found_by_name_and_pattern_in_the_models_order(tiny: Runner) -> None:
    names = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    assert tiny.hooks("blocks.*.attn.hook_z") == names
    assert tiny.hooks("blocks.1.attn.hook_z", "blocks.*.attn.hook_z") == names[::-1]
    assert tiny.hooks() == []


def test_an_unknown_hook_is_refused_with_the_nearest_name(tiny: Runner) -> None:
    with pytest.raises(InputError) as raised:
        tiny.hooks("blocks.0.hook_resid_per")
    assert str(raised.value) == (
        "The model has no hook 'blocks.0.hook_resid_per'. Did you mean blocks.0.hook_resid_pre?"
    )


def test_a_bridge_that_is_already_built_can_be_wrapped(loaded: Callable[[str], Runner]) -> None:
    bridged = loaded("stablelm")
    assert type(bridged.model).__name__ == "TransformerBridge"
    wrapped = Runner(bridged.model, progress=False)
    assert torch.equal(wrapped.logits([[1, 2, 3]]), bridged.logits([[1, 2, 3]]))
    assert wrapped.shape == bridged.shape


def test_other_modules_are_refused() -> None:
    with pytest.raises(ModelError) as raised:
        Runner(torch.nn.Linear(2, 2))
    assert str(raised.value) == "Runner takes a HookedTransformer or a TransformerBridge, not Linear."


def test_dropout_in_train_mode_is_refused(build: Callable) -> None:
    model = build()
    model.drop = torch.nn.Dropout(0.1)
    assert Runner(model.eval()).model is model
    with pytest.raises(ModelError) as raised:
        Runner(model.train())
    assert str(raised.value) == (
        "The model is in train mode, where dropout makes results random; call model.eval() first."
    )


def test_a_generator_follows_from_the_seed_and_its_purpose(build: Callable) -> None:
    def draw(seed: int, purpose: str) -> list[float]:
        return torch.rand(3, generator=Runner(build(), seed=seed).generator(purpose)).tolist()

    assert draw(0, "a") == draw(0, "a")
    assert draw(0, "a") != draw(0, "b")
    assert draw(0, "a") != draw(1, "a")


def test_a_numpy_generator_is_the_documented_one(build: Callable) -> None:
    runner = Runner(build(), seed=3, progress=False)
    digest = hashlib.sha256(b"3/bootstrap").digest()
    expected = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    assert runner.numpy_generator("bootstrap").random(4).tolist() == expected.random(4).tolist()
    assert runner.numpy_generator("other").random() != runner.numpy_generator("bootstrap").random()


def test_a_model_without_tokenizer_takes_token_ids_only(tiny: Runner) -> None:
    assert tiny.token_texts([3, 4]) == ["3", "4"]
    with pytest.raises(InputError, match="The model has no tokenizer: give token ids instead of text"):
        tiny.to_tokens("hello")


def test_token_texts_keep_leading_blanks(shared: Path) -> None:
    runner = Runner.load(str(shared / "models" / "stories260K"), device="cpu", progress=False)
    tokens = runner.to_tokens("Once upon a time", prepend_bos=False)
    assert "".join(runner.token_texts(tokens)).strip() == "Once upon a time"
    assert runner.to_tokens("Once", prepend_bos=True) == [
        runner.bos_token_id,
        *runner.to_tokens("Once", prepend_bos=False),
    ]
