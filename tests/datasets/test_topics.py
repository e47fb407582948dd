"""Topic files: those that come with mechlist, and what is refused in others."""

import re
from pathlib import Path

import pytest

from mechlist.datasets.topics import CAPACITY, STUDY, capacities, choose_topics, load_topics, topic_sets
from mechlist.errors import InputError

STUDY_TOPICS = [
    "City Names",
    "Countries",
    "Animals",
    "Types of Trees",
    "Types of Flowers",
    "Fruits",
    "Vegetables",
    "Car Brands",
    "Sports",
    "Rivers",
    "Mountains",
    "Ocean",
    "Inventions",
    "Languages",
    "Capital Cities",
    "Movies",
    "Books",
    "TV Shows",
    "Famous Scientists",
    "Famous Writers",
    "Video Games",
    "Companies",
    "Colors",
]


def test_the_study_has_its_topics_in_its_order():
    study = load_topics(STUDY)
    assert list(study) == STUDY_TOPICS
    assert len(study["Ocean"]) == 5
    assert min(len(items) for topic, items in study.items() if topic != "Ocean") >= 40


def test_there_are_forty_more_of_forty_items():
    others = {t: items for name in topic_sets() if name != STUDY for t, items in load_topics(name).items()}
    assert len(others) >= 40
    assert min(map(len, others.values())) >= 40


def test_all_files_together():
    every = load_topics()
    assert sum(len(load_topics(name)) for name in topic_sets()) == len(every)
    assert set(STUDY_TOPICS) < set(every)


def test_small_topics_stand_apart_and_are_whole():
    small = load_topics(CAPACITY)
    assert len(small) >= 20
    assert {len(items) for items in small.values()} <= set(range(5, 31))
    assert not set(small) & set(load_topics())
    assert CAPACITY not in topic_sets()
    assert capacities()["Days of the Week"] == 7
    assert capacities()["Ocean"] == 5
    assert choose_topics((CAPACITY,), ("Planets",))["Planets"][0] == "Earth"


@pytest.mark.parametrize("name", topic_sets())
def test_items_are_clean(name: str):
    text = (Path(__file__).parents[2] / "data" / "topics" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "\t" not in text
    for topic, items in load_topics(name).items():
        plain = [re.sub(r"[\W_]", "", item).casefold() for item in items if re.sub(r"[\W_]", "", item)]
        doubles = {item for item in plain if plain.count(item) > 1}
        # C, C++ and C# differ by their signs alone.
        assert doubles <= {"c", "f"}, topic
        assert not [item for item in items if "  " in item or "," in item or "(" in item], topic
        assert not [item for item in items if not (item[0].isupper() or item[0].isdigit())], topic


def test_own_file(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("Teas: [Assam, Sencha]\nBooks: ['1984']\n")
    assert load_topics(file) == {"Teas": ("Assam", "Sencha"), "Books": ("1984",)}
    assert load_topics(str(file)) == load_topics(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must map topics to lists of items, and is empty"),
        ("- a\n- b\n", "must map topics to lists of items, and is a list"),
        ("just text", "and is text"),
        ("Teas: [Assam, assam]", "the topic 'Teas' has 'assam' twice"),
        ("Teas: []", "the topic 'Teas' has no items"),
        ("Teas:", "must hold a list of items, not empty"),
        ("Teas: Assam", "must hold a list of items, not text"),
        ("Teas: {a: 1}", "must hold a list of items, not a mapping"),
        ("Teas: [1984]", "not 1984 (in quotes"),
        ("Teas: [No]", "not False (in quotes"),
        ("Teas: ['']", "not '' (in quotes"),
        ("Teas: [' Assam']", "not ' Assam' (in quotes"),
        ('Teas: ["a\\nb"]', "one line of text"),
        ("1984: [a]", "a topic must be one line of text without blanks around it, not 1984 (in quotes"),
        ("'': [a]", "without blanks around it, not ''"),
        ("' Teas': [a]", "without blanks around it, not ' Teas'"),
        ('"Teas\\nand more": [a]', "a topic must be one line of text"),
        ('"Teas\\u2028and more": [a]', "a topic must be one line of text"),
        ("? [Teas]\n: [a]", "is not YAML: found unhashable key, in line 1."),
        ("Teas: [a]\nTeas: [b]", "the topic 'Teas' stands twice"),
        ("Teas: [a", "is not YAML: expected ',' or ']', but got '<stream end>', in line 1."),
        ("Teas: ['\a']", "is not YAML: unacceptable character"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, words: str):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        load_topics(file)
    assert str(caught.value).startswith(str(file))


def test_a_topic_in_two_files_is_refused(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("Fruits: [Apple]")
    with pytest.raises(InputError, match="the topic 'Fruits' stands twice"):
        load_topics(STUDY, file)


def test_missing_and_unreadable_files(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere.yaml cannot be read \(No such file.*one of culture, everyday"):
        load_topics(tmp_path / "nowhere.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"Caf\xe9: [a]")
    with pytest.raises(InputError, match="cannot be read"):
        load_topics(latin)


def test_topics_by_name():
    assert list(choose_topics((STUDY,), ("Fruits", "Ocean"))) == ["Fruits", "Ocean"]
    assert list(choose_topics((STUDY,))) == STUDY_TOPICS
    with pytest.raises(InputError, match=r"no topic 'Fruit' among the 23 .* Did you mean Fruits"):
        choose_topics((STUDY,), ("Fruit",))
