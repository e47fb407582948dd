import re
import string
from collections import Counter
from typing import Any

import numpy as np
import pytest
import transformers

from mechlist.datasets.pairs import ioi
from mechlist.datasets.pairs.ioi import NAMES, OBJECTS, PLACES, TEMPLATES, IOIPair, ioi_pairs, single_token_names
from mechlist.errors import InputError
from tests.datasets.tokenizers_for_tests import byte_level, gemma_like

BOS = 50256
WORDS = set(re.findall(r"[A-Za-z]+", " ".join([*TEMPLATES, *PLACES, *OBJECTS]))) | {"and", "the"}
FEW = ("Anna", "David", "Emma", "Mary", "Peter", "Tom")


def tokenizer_of(directory):
    if not directory.is_dir():
        pytest.skip(f"the tokenizer {directory.name} is not at hand")
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def gpt2(shared):
    return tokenizer_of(shared / "models" / "gpt2-tokenizer")


def blank_words(*names, **kwargs):
    """A tokenizer of whole words with Gemma's blanks, which knows the prompts and these names."""
    words = [f"▁{word}" for word in sorted(WORDS | set(names))] + sorted(WORDS)
    return gemma_like(*words, **kwargs)


def draw(tokenizer, count, seed=0, **kwargs):
    return ioi_pairs(tokenizer, count, np.random.default_rng(seed), **kwargs)


def names_in(text):
    """Names of a prompt in the order of its text."""
    return [word for word in re.findall(r"[A-Za-z]+", text) if word in NAMES]


def pair(**fields):
    positions = {"io": 0, "s1": 1, "s1+1": 2, "s2": 3, "end": 4}
    good = {"clean": (1, 2, 3, 2, 4), "corrupt": (1, 2, 3, 1, 4), "answer": 1, "wrong": 2, "template": 0}
    return IOIPair(**(good | {"order": "ABBA", "positions": positions} | fields))


def test_the_slots_and_words_are_what_the_prompts_need():
    assert len(TEMPLATES) == len(set(TEMPLATES)) >= 8
    for template in TEMPLATES:
        slots = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        assert set(slots) == {"first", "second", "subject", "place", "object"}
        assert slots.count("first") == slots.count("second") == slots.count("subject") == 1
        assert slots.index("first") < slots.index("second") < slots.index("subject")
        assert template.endswith(" to")
        assert " a {object}" in template
    for words in (NAMES, PLACES, OBJECTS):
        assert len(words) == len(set(words))
    assert not WORDS & set(NAMES)
    assert not any(word[0] in "aeiou" for word in OBJECTS)
    assert len(NAMES) >= 60


@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("corruption", ["subject", "random"])
def test_a_few_hundred_pairs_of_gpt2_hold_by_decoding(gpt2, corruption, bos):
    pairs = draw(gpt2, 300, bos=bos, corruption=corruption)
    assert len({one.clean for one in pairs}) == 300
    for one in pairs:
        start = 0 if bos is None else 1
        assert one.clean[:start] == one.corrupt[:start] == (() if bos is None else (bos,))
        clean, corrupt = gpt2.decode(one.clean[start:]), gpt2.decode(one.corrupt[start:])
        answer, wrong = gpt2.decode([one.answer]), gpt2.decode([one.wrong])
        expected = [answer, wrong] if one.order == "ABBA" else [wrong, answer]
        assert [f" {name}" for name in names_in(clean)] == [*expected, wrong]
        spelt = {role: gpt2.decode([one.clean[i]]) for role, i in one.positions.items()}
        after = re.findall(r" ?[A-Za-z]+|[^A-Za-z ]", clean)
        assert spelt == {
            "io": answer,
            "s1": wrong,
            "s1+1": after[after.index(wrong) + 1],
            "s2": wrong,
            "end": " to",
        }
        at = one.positions
        assert at["s1+1"] == at["s1"] + 1
        assert (at["io"] < at["s1"]) == (one.order == "ABBA")
        assert max(at["io"], at["s1+1"]) < at["s2"] < at["end"] == len(one.clean) - 1
        others = names_in(corrupt)
        if corruption == "subject":
            assert others == [*names_in(clean)[:2], answer.strip()]
        else:
            assert len({*others, answer.strip(), wrong.strip()}) == 5
        swapped = dict(zip(names_in(clean)[:2], others[:2], strict=True))
        kept = [swapped.get(word, word) for word in re.findall(r"\w+|\W", clean)]
        kept[max(i for i, word in enumerate(kept) if word in others)] = others[2]
        assert "".join(kept) == corrupt


def test_what_differs_is_a_name(gpt2):
    for one in draw(gpt2, 60):
        differing = [i for i, (a, b) in enumerate(zip(one.clean, one.corrupt, strict=True)) if a != b]
        assert differing == [one.positions["s2"]]
    for one in draw(gpt2, 60, corruption="random"):
        differing = [i for i, (a, b) in enumerate(zip(one.clean, one.corrupt, strict=True)) if a != b]
        assert differing == sorted(one.positions[role] for role in ("io", "s1", "s2"))


def test_the_template_and_the_order_are_those_of_the_text(gpt2):
    for one in draw(gpt2, 60):
        form = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[A-Za-z]+)", re.escape(TEMPLATES[one.template]), count=5)
        form = re.sub(r"\\{object\\}", "(?P=object)", form)
        found = re.fullmatch(form, gpt2.decode(one.clean))
        assert found is not None
        assert found["place"] in PLACES
        assert found["object"] in OBJECTS
        names = {role: gpt2.decode([one.clean[one.positions[role]]]).strip() for role in ("io", "s1", "s2")}
        first, second = ("io", "s1") if one.order == "ABBA" else ("s1", "io")
        assert [found[slot] for slot in ("first", "second", "subject")] == [
            names[first],
            names[second],
            names["s2"],
        ]


def test_a_prompt_with_given_words_is_the_tokenizers(gpt2):
    one = next(one for one in draw(gpt2, 400) if one.template == 0 and one.order == "BABA")
    s, io, _ = names_in(gpt2.decode(one.clean))
    place, thing = re.findall(r"the (\w+),|a (\w+) to", gpt2.decode(one.clean))
    text = f"When {s} and {io} went to the {place[0]}, {s} gave a {thing[1]} to"
    assert list(one.clean) == gpt2.encode(text)
    assert list(one.corrupt) == gpt2.encode(f"When {s} and {io} went to the {place[0]}, {io} gave a {thing[1]} to")
    assert ([one.answer], [one.wrong]) == (gpt2.encode(f" {io}"), gpt2.encode(f" {s}"))
    assert one.positions == {"io": 3, "s1": 1, "s1+1": 2, "s2": 9, "end": len(one.clean) - 1}


@pytest.mark.parametrize("seed", range(3))
def test_any_number_from_the_first_on_is_balanced(gpt2, seed):
    pairs = draw(gpt2, 75, seed=seed)
    for count in range(1, 76):
        of_template = Counter(one.template for one in pairs[:count])
        of_order = Counter(one.order for one in pairs[:count])
        both = Counter((one.template, one.order) for one in pairs[:count])
        for counted, size in ((of_template, len(TEMPLATES)), (of_order, 2), (both, 2 * len(TEMPLATES))):
            numbers = [*counted.values(), *[0] * (size - len(counted))]
            assert max(numbers) - min(numbers) <= 1


def test_all_names_places_and_objects_are_drawn(gpt2):
    pairs = draw(gpt2, 2000)
    words = Counter(word for one in pairs for word in set(re.findall(r"[A-Za-z]+", gpt2.decode(one.clean))))
    assert {word for word in (*NAMES, *PLACES, *OBJECTS) if not words[word]} == set()
    assert max(words[name] for name in NAMES) < 80  # 2 of 134 names a prompt: 30 on average, 5.4 the deviation
    assert len({one.answer for one in pairs}) == len({one.wrong for one in pairs}) == len(NAMES)


def test_the_generator_decides(gpt2):
    assert draw(gpt2, 30, corruption="random") == draw(gpt2, 30, corruption="random")
    assert draw(gpt2, 30) != draw(gpt2, 30, seed=1)
    assert len({draw(gpt2, 1, seed=seed)[0].template for seed in range(30)}) > 5
    generator = np.random.default_rng(0)
    assert ioi_pairs(gpt2, 5, generator) != ioi_pairs(gpt2, 5, generator)


def test_pairs_can_be_told_apart_in_a_set(gpt2):
    assert len({*draw(gpt2, 30), *draw(gpt2, 30)}) == 30


def test_a_tokenizer_of_whole_words_uses_the_names_it_knows():
    tokenizer = blank_words(*FEW)
    assert list(single_token_names(tokenizer)) == list(FEW)
    for corruption in ("subject", "random"):
        pairs = draw(tokenizer, 200, bos=2, corruption=corruption)
        assert len({one.clean for one in pairs}) == 200
        for one in pairs:
            names = names_in(tokenizer.decode(one.clean, skip_special_tokens=True))
            assert set(names) <= set(FEW)
            assert tokenizer.decode([one.clean[one.positions["s2"]]]).strip() == names[2]
            assert one.clean.count(2) == 1


def test_places_and_objects_may_be_of_several_tokens():
    tokenizer = byte_level(None, merges=("Ġand", *(f"Ġ{name}" for name in FEW)))
    lengths = {len(tokenizer.encode(f" {word}")) for word in PLACES}
    assert len(lengths) > 2
    for one in draw(tokenizer, 100, corruption="random"):
        text = tokenizer.decode(one.clean)
        assert list(one.clean) == tokenizer.encode(text)
        assert [tokenizer.decode([one.clean[one.positions[role]]]) for role in ("s1", "s2")] == [
            f" {names_in(text)[-1]}"
        ] * 2


def test_every_distinct_prompt_can_be_had_and_no_more(monkeypatch):
    monkeypatch.setattr(ioi, "PLACES", ("park", "bank"))
    monkeypatch.setattr(ioi, "OBJECTS", ("ring",))
    tokenizer = blank_words(*FEW[:5])
    most = 5 * 4 * 2 * 1 * len(TEMPLATES) * 2
    pairs = draw(tokenizer, most)
    assert len({one.clean for one in pairs}) == most
    message = rf"^count must be from 1 to {most}, the distinct prompts that 5 names make, not {most + 1}\.$"
    with pytest.raises(InputError, match=message):
        draw(tokenizer, most + 1)


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_below_1_is_refused(gpt2, count):
    with pytest.raises(InputError, match=rf"^count must be from 1 to \d+, .* not {count}\.$"):
        draw(gpt2, count)


def test_an_unknown_corruption_is_refused(gpt2):
    # beartype refuses the word before the function can.
    plain: Any = getattr(ioi_pairs, "__wrapped__", ioi_pairs)
    with pytest.raises(InputError, match=r"^corruption must be one of subject, random, not 'abc'\.$"):
        plain(gpt2, 1, np.random.default_rng(0), corruption="abc")


def test_too_few_names_of_one_token_are_refused_with_those_there_are(shared):
    with pytest.raises(InputError, match=r"at least 5 of the \d+ names as one token, not 2 \(Lily, Tim\)\.$"):
        draw(tokenizer_of(shared / "models" / "stories260K"), 1)
    with pytest.raises(InputError, match=r"names as one token, not 4 \(Anna, David, Emma, Mary\)\.$"):
        draw(blank_words(*FEW[:4]), 1)
    with pytest.raises(InputError, match=r"names as one token, not 0\.$"):
        draw(byte_level(None), 1)


def test_a_model_without_tokenizer_is_refused():
    with pytest.raises(InputError, match="need a tokenizer, and the model has none"):
        draw(None, 1)


def test_a_tokenizer_that_does_not_know_the_words_is_refused():
    tokenizer = blank_words(*FEW, drop=("▁museum", "▁candle"))
    with pytest.raises(InputError, match=r"must know the words .* not know 2 of \d+ parts of them, as in 'the museum'"):
        draw(tokenizer, 1)


def test_a_tokenizer_that_merges_a_name_with_its_neighbour_is_refused():
    tokenizer = blank_words(*FEW, pieces="▁[A-Z][a-z]+▁went")
    with pytest.raises(InputError, match=r"write each name as one token of its own, and does not in 'When \w+ and"):
        draw(tokenizer, 20)


def test_a_tokenizer_that_changes_other_tokens_with_a_name_is_refused():
    tokenizer = blank_words(*FEW, "gave▁a", pieces="(?<=Mary)▁gave▁a")
    assert len(tokenizer.encode(" Tom gave a")) == len(tokenizer.encode(" Mary gave a")) + 1
    with pytest.raises(InputError, match=r"but for the names, and changes other tokens\.$"):
        draw(tokenizer, 100)


def test_a_pair_is_of_equal_length_differs_and_has_every_role():
    assert pair().positions["s2"] == 3
    with pytest.raises(InputError, match="same number of tokens, not 5 and 4"):
        pair(corrupt=(1, 2, 3, 1))
    with pytest.raises(InputError, match="must differ in a token, and are the same"):
        pair(corrupt=(1, 2, 3, 2, 4))
    with pytest.raises(InputError, match=r"positions must be of io, s1, s1\+1, s2, end, not of io, s1\.$"):
        pair(positions={"io": 0, "s1": 1})
    with pytest.raises(InputError, match=r"positions must be indices of the 5 tokens, not \{'end': 5\}\.$"):
        pair(positions={"io": 0, "s1": 1, "s1+1": 2, "s2": 3, "end": 5})
