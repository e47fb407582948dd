"""The logit lens against Hugging Face's own hidden states, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from mechlist.errors import InputError, MechlistError
from mechlist.lens.logit_lens import lens_differences, lens_logits, stage_hooks
from mechlist.models.quiet import quiet
from mechlist.runner import Runner
from mechlist.runner.interventions import Intervention
from tests.conftest import HfDirectory
from tests.hooked import HookedTransformer, HookedTransformerConfig

NORMS = {
    "gpt2": "transformer.ln_f",
    "llama": "model.norm",
    "gemma2": "model.norm",
    "pythia": "gpt_neox.final_layer_norm",
    "stablelm": "model.norm",
}
PROMPTS = [[5, 9, 33, 71, 8, 8, 2], [96, 1, 14, 15]]
WHERE = torch.tensor([[6, 2], [3, -1]])


def _hugging_face(directory: Any, architecture: str, prompt: list[int]) -> Tensor:
    """Logits [stage position vocab] before any softcap, from the hidden states; the last is normed already."""
    with quiet(), torch.inference_mode():
        model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
        hidden = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        norm = model.get_submodule(NORMS[architecture])
        normed = [*(norm(state) for state in hidden[:-1]), hidden[-1]]
        unembed: Any = model.get_output_embeddings()
        return torch.stack([unembed(state)[0] for state in normed])


@pytest.mark.parametrize("architecture", list(NORMS))
def test_every_stage_is_what_hugging_face_shows(
    architecture: str, hf_directory: HfDirectory, loaded: Callable[[str], Runner]
):
    runner, rows = loaded(architecture), [torch.tensor(prompt) for prompt in PROMPTS]
    answer, wrong = [[3, 4], [7]], [[50], [51, 52, 53]]
    found = lens_differences(runner, rows, WHERE, answer, wrong)
    assert found.shape == (2, 2, runner.shape.n_layers + 1)
    for number, prompt in enumerate(PROMPTS):
        logits = _hugging_face(hf_directory(architecture), architecture, prompt)
        expected = logits[:, :, answer[number]].mean(-1) - logits[:, :, wrong[number]].mean(-1)
        for slot, position in enumerate(WHERE[number].tolist()):
            if position < 0:
                assert found[number, slot].isnan().all()
            else:
                assert torch.allclose(found[number, slot], expected[:, position], atol=2e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_the_last_stage_is_the_model(architecture: str, loaded: Callable[[str], Runner]):
    runner, rows = loaded(architecture), [torch.tensor(PROMPTS[0])]
    columns = torch.tensor([0, 40, 96])
    own = runner.logits(rows, positions=[6, 2], columns=columns)
    capped = lens_logits(runner, rows, WHERE[:1], columns, softcap=True)[:, :, -1]
    assert torch.allclose(capped, own, atol=1e-5)
    plain = lens_logits(runner, rows, WHERE[:1], columns)[:, :, -1]
    cap = runner.language_model.module.cfg.output_logits_soft_cap if architecture == "gemma2" else None
    assert torch.allclose(plain if cap is None else cap * torch.tanh(plain / cap), own, atol=1e-5)
    assert (cap is None) == torch.equal(plain, capped)


def test_a_model_that_does_more_after_its_last_layer_is_refused(loaded: Callable[[str], Runner]):
    runner, rows = loaded("gpt2"), [torch.tensor(PROMPTS[0])]
    more = Intervention("ln_final.hook_normalized", lambda activation, rows: 2 * activation)
    with runner.intervene(more), pytest.raises(MechlistError, match="misses the model's own logits by"):
        lens_logits(runner, rows, WHERE[:1], torch.tensor([1]))
    broken = Intervention("blocks.2.hook_resid_post", lambda activation, rows: activation * torch.nan)
    with runner.intervene(broken), pytest.raises(MechlistError, match="misses the model's own logits by nan"):
        lens_logits(runner, rows, WHERE[:1], torch.tensor([1]))


def test_what_is_asked_must_be_there(loaded: Callable[[str], Runner]):
    runner, rows = loaded("gpt2"), [torch.tensor(PROMPTS[0])]
    with pytest.raises(InputError, match=r"columns must be token ids from 0 to 96, not \[97\]"):
        lens_logits(runner, rows, WHERE[:1], torch.tensor([97]))
    with pytest.raises(InputError, match="answer and wrong must be different tokens; for prompt 0 both have 4"):
        lens_differences(runner, rows, WHERE[:1], [[3, 4]], [[4]])
    with pytest.raises(InputError, match="Position 7 is outside prompt 0, which has 7 tokens"):
        lens_logits(runner, rows, torch.tensor([[7]]), torch.tensor([1]))
    assert stage_hooks(runner)[-1] == "blocks.2.hook_resid_post"


def test_a_model_without_norms_is_read_as_it_is():
    sizes: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_head": 4, "d_mlp": 12, "n_ctx": 16}
    cfg = HookedTransformerConfig(**sizes, d_vocab=20, act_fn="gelu", normalization_type=None, device="cpu", seed=0)
    with quiet(), torch.random.fork_rng():
        model = HookedTransformer(cfg).eval()
    runner, rows = Runner(model, progress=False), [torch.tensor([1, 2, 3])]
    found = lens_logits(runner, rows, torch.tensor([[2]]), torch.tensor([4, 5]))
    with torch.no_grad():
        _, cache = model.run_with_cache(rows[0][None])
        expected = [cache[hook][0, 2] @ model.W_U[:, 4:6] + model.b_U[4:6] for hook in stage_hooks(runner)]
    assert torch.allclose(found[0, 0], torch.stack(expected), atol=1e-6)
