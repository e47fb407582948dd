import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from mechlist.errors import InputError
from mechlist.runner.batching import SMALL, WASTE, check_prompts, pad_right, plan_batches


def lengths_of(seed: int, count: int = 200, longest: int = 60) -> list[int]:
    return torch.randint(1, longest + 1, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def row_bytes(length: int) -> int:
    return 10 * length + length**2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("memory", "max_tokens"), [(5_000, 10_000), (40_000, 600), (10**9, 10**9)])
def test_plans_hold_every_prompt_once_within_both_bounds(seed: int, memory: int, max_tokens: int) -> None:
    lengths = lengths_of(seed)
    plan = plan_batches(lengths, row_bytes, memory, max_tokens)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        width = max(lengths[i] for i in batch)
        assert len(batch) * row_bytes(width) <= memory
        assert len(batch) * width <= max_tokens


@pytest.mark.parametrize("seed", range(5))
def test_padding_is_bounded_in_every_batch_that_is_not_small(seed: int) -> None:
    lengths = lengths_of(seed)
    for batch in plan_batches(lengths, row_bytes, 10**9, 10**9):
        tokens = len(batch) * max(lengths[i] for i in batch)
        assert tokens <= SMALL or tokens - sum(lengths[i] for i in batch) <= WASTE * tokens


def test_the_longest_prompts_come_first_and_equal_ones_in_their_order() -> None:
    plan = plan_batches([3, 9, 3, 9, 5], row_bytes, 10**9, 10**9)
    assert plan == [[1, 3, 4, 0, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_follows_from_the_lengths_alone(seed: int) -> None:
    lengths = lengths_of(seed)
    assert plan_batches(lengths, row_bytes, 40_000, 600) == plan_batches(list(lengths), row_bytes, 40_000, 600)


def test_equal_lengths_fill_batches_up_to_the_bound() -> None:
    assert [len(b) for b in plan_batches([10] * 25, lambda n: n, 100, 10**9)] == [10, 10, 5]
    assert [len(b) for b in plan_batches([10] * 25, lambda n: n, 10**9, 100)] == [10, 10, 5]


def test_a_prompt_above_the_token_bound_runs_alone() -> None:
    assert plan_batches([500, 500, 3], lambda n: n, 10**9, 400) == [[0], [1], [2]]


def test_a_prompt_above_the_memory_bound_is_refused() -> None:
    with pytest.raises(InputError) as raised:
        plan_batches([4, 3000, 2], lambda n: 1024 * n, 1024 * 1024, 10**9)
    assert str(raised.value) == (
        "memory is too small: one prompt of 3000 tokens needs about 2.9 MiB, and 1.0 MiB of the bound are for it."
    )


def test_padding_goes_to_the_right() -> None:
    padded = pad_right([torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert padded.tolist() == [[1, 2, 3], [4, 0, 0]]


def test_prompts_come_back_as_integer_tensors() -> None:
    rows = check_prompts([[1, 2], [3]], n_ctx=2, d_vocab=4)
    assert [r.tolist() for r in rows] == [[1, 2], [3]]
    assert all(r.dtype == torch.long for r in rows)


IDS = [3, 1, 2]


@pytest.mark.parametrize(
    "prompts",
    [
        *(IDS, [IDS], tuple(IDS), torch.tensor(IDS), [torch.tensor(IDS)], torch.tensor([IDS], dtype=torch.int32)),
        *(np.array(IDS), np.array([IDS]), list(np.array(IDS)), list(torch.tensor(IDS)), "text", ["text"]),
        *({"input_ids": [IDS]}, {"input_ids": IDS}, [{"input_ids": IDS}]),
    ],
    ids=repr,
)
def test_one_prompt_in_any_form_is_one_row(prompts) -> None:
    rows = check_prompts(prompts, n_ctx=4, d_vocab=5, encode=lambda text: IDS)
    assert [(row.tolist(), row.dtype) for row in rows] == [(IDS, torch.long)]


@pytest.mark.parametrize("made", [torch.tensor, np.array, list])
def test_padding_on_either_side_goes_by_the_attention_mask(made) -> None:
    encoded = {"input_ids": made([[0, 0, 3], [1, 2, 0]]), "attention_mask": made([[0, 1, 1], [1, 1, 0]])}
    assert [row.tolist() for row in check_prompts(encoded, 4, 5)] == [[0, 3], [1, 2]]


def test_what_transformers_gives_is_taken_as_it_is() -> None:
    encoded = BatchEncoding({"input_ids": [[1, 2], [3, 0]], "attention_mask": [[1, 1], [1, 0]]})
    assert [row.tolist() for row in check_prompts(encoded, 4, 5)] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([[1.0, 2.0]], "Prompt 0 must hold token ids, which are integers, not torch.float32"),
        ([[True, False]], "integers, not torch.bool"),
        ([[1], [[1], [1, 2]]], r"Prompt 1 must be a text or one sequence of token ids, not \[\[1\], \[1, 2\]\]"),
        ({"ids": [1]}, r"must hold input_ids, as tokenizers give them, not \['ids'\]"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "attention_mask must have the shape of input_ids"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "Prompt 0 is empty"),
        ("text", "Prompt 0 is text, and token ids are wanted here"),
        ([], "at least one prompt, not none"),
        ([[]], "Prompt 0 is empty"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_sentence(prompts, words) -> None:
    with pytest.raises(InputError, match=words):
        check_prompts(prompts, n_ctx=4, d_vocab=5)
