import json
from dataclasses import replace
from typing import Any

import pytest

from mechlist.datasets.lists.prompts import (
    ADJECTIVES,
    ListPrompt,
    adjective_tokens,
    in_order,
    list_prompt,
    list_prompts,
    list_sentence,
    swapped_prompt,
    topic_spans,
)
from mechlist.errors import InputError
from tests.datasets.tokenizers_for_tests import CHATML, byte_level, gemma_like


def recorded(shared):
    file = shared / "recorded" / "lists" / "gemma2_short.json"
    if not file.is_file():
        pytest.skip("the recorded lists are not at hand")
    return json.loads(file.read_text())


def tokens_of(*topics, adjective="short"):
    return [list_prompt(gemma_like(), topic, adjective).tokens for topic in topics]


def text_of(tokens, span):
    return gemma_like().decode(tokens[span.start : span.stop])


def test_the_studys_sentences():
    assert ADJECTIVES == ("short", "long", "")
    end = "list of Animals. Just provide the names, no need for any other information."
    assert list_sentence("Animals", "short") == f"Provide me with a short {end}"
    assert list_sentence("Animals", "") == f"Provide me with a {end}"


@pytest.mark.parametrize("topic", ["Countries", "Animals", "City Names"])
def test_gemmas_tokens_are_those_of_the_recorded_prompts(shared, topic):
    prompt = list_prompt(gemma_like(), topic, "short")
    for sequence in recorded(shared)["topics"][topic]:
        assert prompt.completion_of(sequence) == tuple(sequence[len(prompt.tokens) :])


def test_the_places_of_the_parts():
    prompt = list_prompt(gemma_like(), "City Names", "long")
    assert prompt.adjective_index == 8
    assert prompt.tokens[8] == 1497
    assert text_of(prompt.tokens, prompt.topic_span) == " City Names"
    assert text_of(prompt.tokens, prompt.header) == "<start_of_turn>model\n"
    assert prompt.header.stop == prompt.hyphen == len(prompt.tokens) - 1
    assert prompt.tokens[prompt.hyphen] == 235290


def test_without_an_adjective_there_is_no_index():
    prompt = list_prompt(gemma_like(), "Animals", "")
    assert prompt.adjective_index is None
    assert text_of(prompt.tokens, prompt.topic_span) == " Animals"
    assert len(prompt.tokens) == len(list_prompt(gemma_like(), "Animals", "short").tokens) - 1


def test_another_tokenizer_has_other_places():
    tokenizer = byte_level(CHATML, "<|im_start|>", "<|im_end|>")
    prompt = list_prompt(tokenizer, "Countries", "short")
    assert prompt.adjective_index is not None
    assert tokenizer.decode([prompt.tokens[prompt.adjective_index]]) == " short"
    assert tokenizer.decode(prompt.tokens[prompt.topic_span.start : prompt.topic_span.stop]) == " Countries"
    assert tokenizer.decode(prompt.tokens[prompt.header.start :]) == "<|im_start|>assistant\n-"


def test_a_token_that_ends_the_topic_and_its_sentence_is_part_of_the_topic():
    tokenizer = gemma_like("▁Trees.", pieces=r"▁Trees\.")
    prompt = list_prompt(tokenizer, "Types of Trees", "short")
    names = tokenizer.convert_ids_to_tokens(prompt.tokens[prompt.topic_span.start : prompt.topic_span.stop])
    assert names == ["▁Types", "▁of", "▁Trees."]


def test_completions_follow_the_prefilled_hyphen():
    prompt = list_prompt(gemma_like(), "Animals", "short")
    whole = prompt.with_completion([37827, 108, 107])
    assert whole == (*prompt.tokens, 37827, 108, 107)
    assert prompt.completion_of(whole) == (37827, 108, 107)
    with pytest.raises(
        InputError, match=r"begin with the 31 tokens of its prompt for 'Animals', and leaves it at index 8"
    ):
        prompt.completion_of(list_prompt(gemma_like(), "Animals", "long").with_completion([37827]))


def test_an_adjective_can_be_put_in_its_place_without_a_tokenizer():
    short, long = (list_prompt(gemma_like(), "Animals", adjective) for adjective in ("short", "long"))
    assert short.with_adjective("long", 1497) == long
    with pytest.raises(InputError, match="not '' for 'long'"):
        list_prompt(gemma_like(), "Animals", "").with_adjective("long", 1497)


def test_prompts_of_every_adjective_and_topic():
    found = list_prompts(gemma_like(), ["Animals", "City Names"], ["short", "none"])
    assert [(prompt.adjective, prompt.adjective_name, prompt.topic) for prompt in found] == [
        ("short", "short", "Animals"),
        ("short", "short", "City Names"),
        ("", "none", "Animals"),
        ("", "none", "City Names"),
    ]
    assert found[1] == list_prompt(gemma_like(), "City Names", "short")


def test_adjectives_have_an_order():
    assert in_order(["none", "good", "long", "good", "bad", "short"]) == ["short", "long", "good", "bad", "none"]
    assert in_order([]) == []


def test_a_swap_changes_the_adjectives_token_alone():
    short, long = (list_prompt(gemma_like(), "Animals", adjective) for adjective in ("short", "long"))
    for ids in (adjective_tokens([short, long], None), adjective_tokens([short], gemma_like())):
        assert ids == {"short": 3309, "long": 1497}
        swapped = swapped_prompt(short, ids)
        assert swapped == long
        assert swapped.tokens == (*short.tokens[:8], 1497, *short.tokens[9:])
        assert swapped_prompt(swapped, ids) == short


@pytest.mark.parametrize(("adjective", "shown"), [("", "'none'"), ("other", "'other'")])
def test_only_short_and_long_are_swapped(adjective, shown):
    with pytest.raises(InputError, match=rf"^Only short and long can be swapped for each other, not {shown}\.$"):
        swapped_prompt(list_prompt(gemma_like(), "Animals", adjective), {"short": 3309, "long": 1497})


def test_a_swap_needs_the_other_adjective_as_one_token():
    merging = gemma_like("▁long▁list", pieces="▁long▁list")
    short = list_prompt(merging, "Animals", "short")
    ids = adjective_tokens([short], merging)
    assert ids == {"short": 3309}
    with pytest.raises(
        InputError, match=r"To swap 'short' for 'long', .* a tokenizer that writes each as one token\.$"
    ):
        swapped_prompt(short, ids)
    # One topic whose words the tokenizer does not know is not the end of it.
    foreign = replace(list_prompt(gemma_like(), "Animals", "short"), topic="Zebras")
    assert adjective_tokens([foreign], gemma_like()) == {"short": 3309}
    assert adjective_tokens([foreign, list_prompt(gemma_like(), "Animals", "short")], gemma_like())["long"] == 1497


def test_an_adjective_of_several_tokens_is_refused():
    with pytest.raises(
        InputError, match=r"adjective must be one token .* ' very long' makes it 2 tokens longer, with 2 new ones\.$"
    ):
        list_prompt(gemma_like(), "Animals", "very long")


def test_short_that_is_no_token_of_its_own_is_refused():
    merged = gemma_like("▁a▁short", pieces="▁a▁short")
    with pytest.raises(InputError, match="' short' makes it 0 tokens longer, with 1 new ones"):
        list_prompt(merged, "Animals", "short")
    with pytest.raises(
        InputError, match=r"adjective must be made of words .* 1 of the 1 tokens of 'short' are unknown"
    ):
        list_prompt(gemma_like(drop=("▁short",)), "Animals", "short")


def test_an_adjective_that_changes_how_its_neighbours_are_written_is_refused():
    merging = gemma_like("▁a▁short", "▁a▁list", pieces="▁a▁short|▁a▁list")
    with pytest.raises(InputError, match="' short' makes it 1 tokens longer, with 2 new ones"):
        list_prompt(merging, "Animals", "short")


def test_a_topic_may_end_like_the_words_before_it():
    prompt = list_prompt(gemma_like(), "Types of", "short")
    assert text_of(prompt.tokens, prompt.topic_span) == " Types of"


def test_a_hyphen_that_is_no_token_of_its_own_is_refused():
    tokenizer = byte_level(CHATML.replace("assistant\\n", "assistant:"), "<|im_start|>", "<|im_end|>", merges=(":-",))
    with pytest.raises(InputError, match="The prefilled hyphen must be one token of its own after the model header"):
        list_prompt(tokenizer, "Animals", "short")


@pytest.mark.parametrize("topic", ["", " ", " Animals", "Animals\n"])
def test_a_topic_with_blanks_around_it_is_refused(topic):
    with pytest.raises(InputError, match="topic must be text without blanks around it"):
        list_prompt(gemma_like(), topic, "short")


def test_a_topic_of_unknown_words_is_refused():
    with pytest.raises(
        InputError, match=r"topic must be made of words .* 1 of the 2 tokens of 'City Zebras' are unknown"
    ):
        list_prompt(gemma_like(), "City Zebras", "short")


def test_a_prompts_parts_must_fit():
    good: dict[str, Any] = {"topic": "a", "adjective": "", "tokens": (1, 2, 3, 4), "adjective_index": None}
    with pytest.raises(InputError, match="adjective_index must be given with an adjective and only then"):
        ListPrompt(**{**good, "adjective_index": 1}, topic_span=range(1, 2), header=range(2, 3))
    with pytest.raises(InputError, match="adjective_index must be from 0 to 2, not 3"):
        ListPrompt(**{**good, "adjective": "short", "adjective_index": 3}, topic_span=range(1, 2), header=range(2, 3))
    for topic_span, header in ((range(1, 1), range(2, 3)), (range(1, 3), range(2, 3)), (range(1, 2), range(2, 4))):
        with pytest.raises(InputError, match="must follow each other and end the 4 tokens"):
            ListPrompt(**good, topic_span=topic_span, header=header)


def test_topics_are_what_varies_over_recorded_prompts(shared):
    data = recorded(shared)
    prompts = [lists[0] for lists in data["topics"].values()]
    spans = topic_spans([seq[: seq.index(2516)] for seq in prompts], adjective_index=data["adjective_index"])
    lengths = {topic: len(span) for topic, span in zip(data["topics"], spans, strict=True)}
    assert {span.start for span in spans} == {11}
    assert all(seq[span.stop] == 235265 for seq, span in zip(prompts, spans, strict=True))
    assert (lengths["Animals"], lengths["City Names"], lengths["Types of Trees"]) == (1, 2, 3)


@pytest.mark.parametrize("adjective", ADJECTIVES)
def test_spans_from_token_ids_are_those_of_the_tokenizer(adjective):
    prompts = [list_prompt(gemma_like(), topic, adjective) for topic in ("Animals", "City Names", "Types of Trees")]
    index = prompts[0].adjective_index
    assert topic_spans([prompt.tokens for prompt in prompts], adjective_index=index) == [p.topic_span for p in prompts]


def test_topics_that_begin_alike_are_found_whole_from_the_adjective_on():
    prompts = tokens_of("Types of Trees", "Types of Flowers")
    assert topic_spans(prompts) == [range(13, 14)] * 2
    assert topic_spans(prompts, adjective_index=8) == [range(11, 14)] * 2


def test_what_is_known_around_the_topic_counts_more_than_what_varies():
    prompts = tokens_of("City Names", "City Trees")
    assert topic_spans(prompts, adjective_index=8) == [range(12, 13)] * 2
    assert topic_spans(prompts, before=11) == [range(11, 13)] * 2
    ends_alike = tokens_of("Names", "City Names", "Animals")
    after = len(ends_alike[0]) - 12
    assert topic_spans(ends_alike[:2], after=after) == [range(11, 12), range(11, 13)]
    assert topic_spans(ends_alike) == [range(11, 12), range(11, 13), range(11, 12)]
    assert topic_spans(ends_alike[:1], before=11, after=after) == [range(11, 12)]


def test_topics_that_cannot_be_told_are_refused():
    one = tokens_of("Animals") * 5
    for known in ({}, {"before": 11}, {"after": 19}):
        with pytest.raises(
            InputError, match="at least, or come with `before` and `after`: the 5 given are all the same"
        ):
            topic_spans(one, **known)
    with pytest.raises(InputError, match="of the one in prompt 0 nothing is left between the 11 and 21 tokens"):
        topic_spans(tokens_of("Trees", "Types of Trees"))
    with pytest.raises(InputError, match="before must be from 0 to the 11 tokens that all prompts begin with, not 12"):
        topic_spans(tokens_of("Animals", "Trees"), before=12)
    with pytest.raises(InputError, match="after must be from 0 to the 19 tokens that all prompts end with, not 20"):
        topic_spans(tokens_of("Animals", "Trees"), after=20)
    with pytest.raises(InputError, match="prompts must hold one prompt at least, not none"):
        topic_spans([])
