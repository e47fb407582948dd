import pytest
import torch

from mechlist.errors import InputError
from mechlist.patching.ablation import ablated_next_tokens, matched_random_heads
from mechlist.runner import Runner


def tokens(runner: Runner, prompts: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randint(0, runner.shape.d_vocab, (prompts, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_ablation_equals_transformer_lens_hooks_prompt_by_prompt(hf_directory, architecture, mode):
    runner = Runner.load(str(hf_directory(architecture)), device="cpu", progress=False)
    prompts, heads = tokens(runner), [(0, 1), (2, 0), (2, 3)]
    _, cache = runner.model.run_with_cache(prompts)
    got = ablated_next_tokens(runner, prompts, heads, mode)
    for i, prompt in enumerate(prompts):

        def ablate(z, hook):
            for layer, head in heads:
                if layer == hook.layer():
                    # Zero in the model as published; see tests/models/test_zero.py.
                    nothing = runner.language_model.nothing("z", layer)
                    zero = 0.0 if nothing is None else nothing[head]
                    z[:, :, head] = zero if mode == "zero" else cache["z", layer][:, :, head].mean(dim=0)
            return z

        hooks = [(f"blocks.{layer}.attn.hook_z", ablate) for layer in {layer for layer, _ in heads}]
        logits = runner.model.run_with_hooks(prompt.unsqueeze(0), fwd_hooks=hooks)[0, :-1]
        expected = logits.log_softmax(-1).gather(-1, prompt[1:, None]).squeeze(-1)
        assert torch.allclose(got.log_prob[i], expected, atol=1e-4)
        assert torch.equal(got.correct[i], logits.argmax(-1) == prompt[1:])


def test_a_head_that_is_not_there_is_refused(tiny_runner):
    with pytest.raises(InputError, match="heads 0 to 3, not 4"):
        ablated_next_tokens(tiny_runner, tokens(tiny_runner), [(1, 4)], "zero")
    with pytest.raises(InputError, match=r"no hook 'blocks\.7"):
        ablated_next_tokens(tiny_runner, tokens(tiny_runner), [(7, 0)], "mean")


def test_random_heads_match_the_layers_while_they_last():
    generator = torch.Generator().manual_seed(0)
    chosen = matched_random_heads([(1, 0), (1, 1)], [(0, 0)], (2, 4), generator)
    assert {layer for layer, _ in chosen} == {1}
    assert len(set(chosen)) == 2
    assert not {(1, 0), (1, 1)} & set(chosen)
    more = matched_random_heads([(1, 0), (1, 1), (1, 2)], [(0, 0)], (2, 4), generator)
    assert (1, 3) in more
    assert len(set(more)) == 3
    assert (0, 0) not in more
    everything = [(layer, head) for layer in range(2) for head in range(4)]
    assert matched_random_heads(everything, [], (2, 4), generator) == []
