import re

import pytest
import transformers

from mechlist.datasets.chat import chat_tokens, list_tokens, model_header
from mechlist.datasets.lists.parse import ListTokens
from mechlist.errors import InputError
from tests.datasets.tokenizers_for_tests import CHATML, LLAMA_2, PHI_3, byte_level, gemma_like


def chatml(**kwargs):
    return byte_level(CHATML, "<|im_start|>", "<|im_end|>", **kwargs)


@pytest.fixture
def gpt2(shared):
    directory = shared / "models" / "gpt2-tokenizer"
    if not directory.is_dir():
        pytest.skip("GPT-2's tokenizer is not at hand")
    return transformers.AutoTokenizer.from_pretrained(directory)


def test_gemmas_turns_when_there_is_no_template():
    tokens = chat_tokens(gemma_like(), "Provide me with names", "- City")
    assert tokens == (2, 106, 1645, 108, 70029, 682, 675, 4752, 107, 108, 106, 2516, 108, 235290, 3922)


def test_the_tokenizers_own_template():
    tokenizer = chatml()
    text = tokenizer.decode(chat_tokens(tokenizer, "names", "-"))
    assert text == "<|im_start|>user\nnames<|im_end|>\n<|im_start|>assistant\n-"


@pytest.mark.parametrize("puts_bos", [True, False])
def test_bos_stands_in_front_once(puts_bos):
    tokenizer = gemma_like(puts_bos=puts_bos)
    tokens = chat_tokens(tokenizer, "names")
    assert tokens[0] == 2
    assert tokens.count(2) == 1


@pytest.mark.parametrize("template", [CHATML, "{{ bos_token }}" + CHATML])
def test_bos_that_only_the_tokenizer_puts_stands_in_front_once(template):
    tokenizer = byte_level(template, "<|im_start|>", "<|im_end|>", bos="<s>")
    tokens = chat_tokens(tokenizer, "names", "-")
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens.count(tokenizer.bos_token_id) == 1


def test_a_template_that_writes_no_bos_gets_none_from_a_tokenizer_that_puts_none():
    tokenizer = gemma_like(puts_bos=False)
    tokenizer.chat_template = "{{ '<start_of_turn>user\\n' + messages[0]['content'] }}"
    assert 2 not in chat_tokens(tokenizer, "names")


def test_a_date_in_the_template_is_always_the_same():
    tokenizer = chatml()
    tokenizer.chat_template = "{{ date_string }}" + CHATML
    assert tokenizer.decode(chat_tokens(tokenizer, "names")).startswith("26 Jul 2024<|im_start|>user")


def test_a_clock_in_the_template_stands_still():
    tokenizer = chatml()
    clock = "{% set day = '%-d %B' %}{{ strftime_now(day) }} {{ strftime_now('%Y-%m-%d %H:%M:%S') }}"
    tokenizer.chat_template = clock + CHATML
    expected = "26 July 2024-07-26 00:00:00<|im_start|>user"
    assert tokenizer.decode(chat_tokens(tokenizer, "names")).startswith(expected)


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (gemma_like(), "<start_of_turn>model\n"),
        (chatml(), "<|im_start|>assistant\n"),
        (byte_level(PHI_3, "<|user|>", "<|assistant|>"), "<|assistant|>\n"),
        (byte_level(LLAMA_2, bos="<s>"), " [/INST]"),
    ],
)
def test_the_header_is_what_the_template_opens_the_models_turn_with(tokenizer, text):
    header = model_header(tokenizer)
    assert tokenizer.decode(header) == text
    prompt = chat_tokens(tokenizer, "Provide me with names", "-")
    assert prompt[-1 - len(header) : -1] == header


def test_gemmas_header_and_list_tokens():
    assert model_header(gemma_like()) == (106, 2516, 108)
    assert list_tokens(gemma_like()) == ListTokens(
        hyphen=235290, line_break=108, end_of_turn=107, blank=235248, bos=2, eos=1
    )


@pytest.mark.parametrize(
    ("template", "special", "end_of_turn", "bos"),
    [
        (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", None),
        (PHI_3, ("<|user|>", "<|assistant|>"), "<|end|>", None),
        (LLAMA_2, (), "<|end|>", "<s>"),
    ],
)
def test_list_tokens_follow_the_template(template, special, end_of_turn, bos):
    tokenizer = byte_level(template, *special, bos=bos)
    found = list_tokens(tokenizer)
    special = (found.hyphen, found.line_break, found.blank, found.end_of_turn)
    assert tokenizer.convert_ids_to_tokens(special) == ["-", "Ċ", "Ġ", end_of_turn]
    assert (found.bos, found.eos) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_blank_that_merges_with_the_line_break_is_refused():
    tokenizer = chatml(merges=("ĠĊ",))
    assert len(tokenizer.encode(" ")) == 1
    with pytest.raises(
        InputError,
        match=r"one token of its own: blank ' ' \(between an item and a line break\) merges with the text beside it\.$",
    ):
        list_tokens(tokenizer)


def test_a_hyphen_that_merges_in_context_is_refused_though_it_is_a_token_alone():
    tokenizer = byte_level(CHATML.replace("assistant\\n", "assistant:"), "<|im_start|>", "<|im_end|>", merges=(":-",))
    assert len(tokenizer.encode("-")) == 1
    with pytest.raises(
        InputError, match=r"own: hyphen '-' \(after the model header\) merges with the text beside it\.$"
    ):
        list_tokens(tokenizer)


def test_a_hyphen_that_merges_with_the_word_after_it_is_refused():
    tokenizer = gemma_like("-▁names", pieces="-▁names")
    assert chat_tokens(tokenizer, "names", "-")[-1] == 235290
    with pytest.raises(
        InputError, match=r"own: hyphen '-' \(after the model header\) merges with the text beside it\.$"
    ):
        list_tokens(tokenizer)


def test_every_mark_that_is_not_one_token_is_named_with_its_number_of_tokens(gpt2):
    gpt2.chat_template = (
        "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '</turn>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant>:' }}{% endif %}"
    )
    whole = (
        r"hyphen '-' \(after the model header\) merges .*; end of turn '</turn>' \(after a line break\) takes 3 tokens"
    )
    with pytest.raises(InputError, match=whole):
        list_tokens(gpt2)


def test_gpt2s_tokenizer_keeps_the_marks_apart_under_a_template_that_does(gpt2):
    gpt2.chat_template = (
        "{% for m in messages %}{{ m['role'] + '\\n' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
    )
    found = list_tokens(gpt2)
    assert (found.hyphen, found.line_break, found.blank) == (12, 198, 220)
    assert found.end_of_turn == found.eos == 50256
    written = gpt2.encode("- Oak \n- Ash\n-")
    assert [written[i] for i in (0, -1)] == [12, 12]
    assert written.count(198) == 2
    assert written.count(220) == 1


def test_a_mark_outside_the_vocabulary_is_refused():
    tokenizer = gemma_like()
    vocabulary_without = gemma_like(drop=("-",))
    assert list_tokens(tokenizer).hyphen == 235290
    with pytest.raises(InputError, match=r"hyphen '-' \(after the model header\) is unknown to it"):
        list_tokens(vocabulary_without)


def test_a_tokenizer_without_chat_template_is_refused(gpt2):
    message = "has no chat template: give a chat model such as google/gemma-2-2b-it or list-tiny."
    for call in (model_header, list_tokens, lambda tokenizer: chat_tokens(tokenizer, "names")):
        for tokenizer in (gpt2, byte_level(None), None):
            with pytest.raises(InputError, match=re.escape(message)):
                call(tokenizer)


def test_a_template_that_fails_is_refused_in_one_sentence():
    tokenizer = chatml()
    tokenizer.chat_template = "{{ raise_exception('no user\nhere.') }}"
    with pytest.raises(InputError, match=r"does not take one user message \(no user here\)\.$"):
        chat_tokens(tokenizer, "names")


def test_a_template_that_opens_no_turn_or_drops_messages_is_refused():
    tokenizer = chatml()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(InputError, match="must open the model's turn, and adds nothing for it"):
        model_header(tokenizer)
    with pytest.raises(InputError, match="must write every message of a chat, and drops one"):
        list_tokens(tokenizer)


def test_a_message_cannot_hold_special_tokens():
    with pytest.raises(InputError, match=r"message must be plain text.*: it holds <end_of_turn>\.$"):
        chat_tokens(gemma_like(), "names<end_of_turn>")
    assert 3 in chat_tokens(gemma_like(), "Zebras")
