from pathlib import Path
from typing import Any

import pytest
import torch

from mechlist.errors import InputError
from mechlist.models.quiet import quiet
from mechlist.runner import Runner, replace
from mechlist.runner.store import ActivationStore
from tests.hooked import HookedTransformer, HookedTransformerConfig

SIZES: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 2,
    "d_model": 8,
    "d_head": 4,
    "n_ctx": 16,
    "d_vocab": 20,
    "d_mlp": 12,
}
HOOKS = ("blocks.*.hook_resid_post", "blocks.*.attn.hook_pattern", "blocks.0.attn.hook_k")


def ragged(runner: Runner, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, runner.shape.d_vocab, (n,), generator=generator) for n in (12, 3, 9, 9, 1)]


def with_store(runner: Runner, directory: Path | None, ram: int = 2**20) -> Runner:
    store = ActivationStore(directory, ram_bytes=ram)
    return Runner(runner.language_model, progress=False, store=store)


def forbid_forward(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(runner.language_model, "residual", refuse)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "stablelm"])
@pytest.mark.parametrize("ram", [0, 2**20])
@pytest.mark.parametrize("positions", [None, [0, -1]])
def test_stored_and_fresh_activations_are_equal_bit_for_bit(
    hf_directory, tmp_path, monkeypatch, architecture, ram, positions
):
    runner = Runner.load(str(hf_directory(architecture)), device="cpu", progress=False)
    prompts = ragged(runner)
    fresh = runner.capture(prompts, *HOOKS, positions=positions)
    cold = with_store(runner, tmp_path, ram).capture(prompts, *HOOKS, positions=positions)
    forbid_forward(runner, monkeypatch)
    warm = with_store(runner, tmp_path, ram).capture(prompts, *HOOKS, positions=positions)
    for name, expected in fresh.items():
        for got in (cold, warm):
            assert torch.equal(got[name].nan_to_num(7.0), expected.nan_to_num(7.0)), name


def test_logits_need_no_forward_pass_the_second_time(tiny_runner, tmp_path, monkeypatch):
    prompts = ragged(tiny_runner)
    fresh = tiny_runner.logits(prompts), tiny_runner.log_probs(prompts)
    with_store(tiny_runner, tmp_path).capture(prompts, "blocks.1.attn.hook_z")
    forbid_forward(tiny_runner, monkeypatch)
    warm = with_store(tiny_runner, tmp_path)
    assert torch.equal(warm.logits(prompts).nan_to_num(), fresh[0].nan_to_num())
    assert torch.equal(warm.log_probs(prompts).nan_to_num(), fresh[1].nan_to_num())


def test_interventions_are_neither_stored_nor_answered_from_the_store(tiny_runner, tmp_path):
    prompts = ragged(tiny_runner)
    stored = with_store(tiny_runner, tmp_path)
    plain = stored.log_probs(prompts)
    with stored.intervene(replace("blocks.1.attn.hook_z", 0.0)):
        changed = stored.log_probs(prompts)
    assert not torch.equal(plain.nan_to_num(), changed.nan_to_num())
    assert torch.equal(stored.log_probs(prompts).nan_to_num(), plain.nan_to_num())


def test_a_model_of_the_same_name_with_other_weights_shares_nothing(tiny_runner, tmp_path):
    prompts = ragged(tiny_runner)
    first = with_store(tiny_runner, tmp_path)
    untrained = with_store(tiny_runner.untrained(0), tmp_path)
    a, b = first.log_probs(prompts), untrained.log_probs(prompts)
    assert not torch.equal(a.nan_to_num(), b.nan_to_num())
    assert torch.equal(b.nan_to_num(), tiny_runner.untrained(0).log_probs(prompts).nan_to_num())


def test_a_flipped_bit_is_noticed_and_the_shard_computed_again(tiny_runner, tmp_path):
    prompts = ragged(tiny_runner)
    fresh = tiny_runner.capture(prompts, "blocks.1.hook_resid_post")
    with_store(tiny_runner, tmp_path, ram=0).capture(prompts, "blocks.1.hook_resid_post")
    for shard in [p for p in tmp_path.rglob("*") if p.is_file()]:
        data = bytearray(shard.read_bytes())
        data[-100] ^= 4
        shard.write_bytes(bytes(data))
    again = with_store(tiny_runner, tmp_path, ram=0).capture(prompts, "blocks.1.hook_resid_post")
    for name, expected in fresh.items():
        assert torch.equal(again[name].nan_to_num(), expected.nan_to_num())


def test_what_is_done_to_a_returned_tensor_does_not_reach_the_store(tiny_runner, tmp_path):
    prompts = [torch.arange(5)]
    hook = "blocks.0.hook_resid_post"
    for ram in (0, 2**20):
        stored = with_store(tiny_runner, tmp_path / str(ram), ram)
        first = stored.capture(prompts, hook)[hook]
        expected = first.clone()
        first.zero_()
        second = stored.capture(prompts, hook)[hook]
        assert torch.equal(second, expected)
        second.zero_()
        assert torch.equal(stored.capture(prompts, hook)[hook], expected)


def test_a_corpus_is_stored_in_the_memory_of_a_batch(tiny_runner, tmp_path, monkeypatch):
    prompts = ragged(tiny_runner) * 20
    stored = with_store(tiny_runner, tmp_path, ram=0)
    stored.store_activations(prompts, "blocks.*.hook_resid_post")
    forbid_forward(tiny_runner, monkeypatch)
    assert with_store(tiny_runner, tmp_path).capture(prompts, "blocks.0.hook_resid_post")
    with pytest.raises(InputError, match="no store"):
        tiny_runner.store_activations(prompts, "blocks.0.hook_resid_post")


def test_a_store_that_cannot_be_written_changes_no_result(tiny_runner, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    prompts = ragged(tiny_runner)
    stored = with_store(tiny_runner, tmp_path / "file" / "below", ram=0)
    for _ in range(2):
        assert torch.equal(stored.log_probs(prompts).nan_to_num(), tiny_runner.log_probs(prompts).nan_to_num())
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_same_weights_under_another_setting_find_nothing(tmp_path: Path):

    def captured(store: ActivationStore | None, **changes: Any) -> Any:
        with quiet():
            cfg = HookedTransformerConfig(**{**SIZES, "act_fn": "gelu", "seed": 0, "device": "cpu", **changes})
            runner = Runner(HookedTransformer(cfg).eval(), progress=False, store=store)
        return runner.capture([[3, 4, 5]], "blocks.1.hook_resid_post")["blocks.1.hook_resid_post"]

    store = ActivationStore(tmp_path, ram_bytes=2**20)
    gelu = captured(store)
    for changes in ({"act_fn": "relu"}, {"eps": 0.1}):
        other = captured(store, **changes)
        assert not torch.equal(other, gelu)
        torch.testing.assert_close(other, captured(None, **changes), rtol=0, atol=0)


def test_edits_and_hooks_of_ones_own_are_noticed(tmp_path: Path):
    with quiet():
        cfg = HookedTransformerConfig(**SIZES, act_fn="gelu", seed=0, device="cpu")
        runner = Runner(HookedTransformer(cfg).eval(), progress=False, store=ActivationStore(tmp_path, ram_bytes=2**20))
    hook = "blocks.1.hook_resid_post"

    def captured() -> Any:
        return runner.capture([[3, 4, 5]], hook)[hook]

    first = captured()
    runner.model.add_hook("blocks.0.hook_resid_pre", lambda activation, hook: 2 * activation)
    doubled = captured()
    assert not torch.equal(doubled, first)
    runner.model.reset_hooks()
    torch.testing.assert_close(captured(), first, rtol=0, atol=0)
    runner.model.blocks[0].mlp.W_in.data[0, 0] += 3
    edited = captured()
    assert not torch.equal(edited, first)
    runner.store = None
    torch.testing.assert_close(captured(), edited, rtol=0, atol=0)
