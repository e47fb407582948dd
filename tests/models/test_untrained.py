import pytest
import torch

from mechlist.errors import ModelError
from mechlist.models.identity import fingerprint
from mechlist.runner import Runner
from tests.hooked import needs_hooked


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
@needs_hooked
def test_an_untrained_model_has_the_shape_and_none_of_the_weights(hf_directory, architecture):
    runner = Runner.load(str(hf_directory(architecture)), device="cpu", progress=False)
    before, state = runner.fingerprint(), torch.get_rng_state()
    untrained = runner.untrained(0)
    assert untrained.shape == runner.shape
    assert untrained.fingerprint() != before
    assert fingerprint(runner.language_model) == before
    assert runner.logits([[1, 2, 3]]).isfinite().all()
    assert untrained.logits([[1, 2, 3]]).isfinite().all()
    assert torch.equal(torch.get_rng_state(), state)


def test_untrained_models_follow_from_the_seed_and_their_number(tiny_runner):
    assert tiny_runner.untrained(0).fingerprint() == tiny_runner.untrained(0).fingerprint()
    assert tiny_runner.untrained(0).fingerprint() != tiny_runner.untrained(1).fingerprint()


def test_a_bridge_has_no_untrained_model(hf_directory):
    runner = Runner.load(str(hf_directory("stablelm")), device="cpu", progress=False)
    with pytest.raises(ModelError, match="needs a HookedTransformer"):
        runner.untrained(0)
