"""One rule for the token that begins prompts, and tokens beyond the embedding."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from mechlist.errors import InputError, ModelError
from mechlist.models.load import load
from mechlist.runner import Runner
from tests.conftest import HfDirectory
from tests.models.tiny import copy, edit_config


@pytest.fixture
def llama(hf_directory: HfDirectory, tmp_path: Path) -> Path:
    return copy(hf_directory("llama"), tmp_path / "llama")


def add_tokenizer(directory: Path, **special: Any) -> None:
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w96"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(directory)


def runner_of(directory: Path, **options: Any) -> Runner:
    return Runner.load(str(directory), device="cpu", progress=False, **options)


def test_the_tokenizers_own_bos_once(llama: Path):
    add_tokenizer(llama, bos_token="w11", eos_token="w12")
    runner = runner_of(llama)
    assert runner.to_tokens("w1 w2") == [11, 1, 2]
    assert runner.to_tokens("w11 w1 w2") == [11, 1, 2]
    assert runner.to_tokens("w1 w2", prepend_bos=False) == [1, 2]
    assert runner.language_model.info["bos"] == 11


def test_no_token_stands_in_for_a_bos(llama: Path):
    add_tokenizer(llama, eos_token="w12", pad_token="w13")
    edit_config(llama, "generation_config.json", bos_token_id=3)
    runner = runner_of(llama)
    assert runner.bos_token_id is None
    assert runner.to_tokens("w1") == [1]
    with pytest.raises(InputError, match="The model's prompts begin with no BOS token"):
        runner.to_tokens("w1", prepend_bos=True)


def test_a_tokenizer_without_special_tokens(llama: Path):
    add_tokenizer(llama)
    runner = runner_of(llama)
    assert runner.to_tokens("w1 w2") == [1, 2]
    assert runner.token_texts([1])[0].strip() == "w1"


def test_bos_may_be_asked_for_or_left_out(llama: Path):
    add_tokenizer(llama, bos_token="w11")
    assert runner_of(llama, bos=True).to_tokens("w1") == [11, 1]
    without = runner_of(llama, bos=False)
    assert without.to_tokens("w1") == [1]
    assert without.language_model.info["bos"] is None
    add_tokenizer(llama)
    with pytest.raises(ModelError, match="The model's tokenizer has no BOS token, so prompts cannot begin with one"):
        load(str(llama), device="cpu", bos=True)


def test_a_token_beyond_the_embedding_is_refused_where_it_is_used(llama: Path):
    add_tokenizer(llama, bos_token="w11", additional_special_tokens=["<image>"])
    runner = runner_of(llama)
    assert runner.to_tokens("w1 <image>") == [11, 1, 97]
    with pytest.raises(InputError, match="Prompt 0 has the token id 97, outside the vocabulary of 97"):
        runner.logits([runner.to_tokens("w1 <image>")])
    assert runner.logits([runner.to_tokens("w1")]).shape == (1, 2, 97)
