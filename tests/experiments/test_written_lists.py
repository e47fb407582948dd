"""written-lists: which lists stand against which, and differences over the same topics."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechlist.datasets.lists.factors import with_fillers
from mechlist.datasets.lists.made import made_lists
from mechlist.datasets.lists.prompts import list_prompts
from mechlist.datasets.lists.read import read_lists
from mechlist.datasets.topics import load_topics
from mechlist.errors import InputError
from mechlist.experiments.list_predictions import predict
from mechlist.experiments.written_lists.compare import MEASURES, compare
from mechlist.experiments.written_lists.experiment import WrittenLists
from mechlist.runner import Runner
from tests.experiments.lists_for_tests import write_recorded


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def test_the_same_lists_do_not_differ(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    lists = read_lists([folder], keep_cut_off=True, tokenizer=runner.tokenizer).ordered()
    found = compare(runner, lists, lists, 20)
    gaps = found["overall_difference"].values
    assert np.abs(gaps[np.isfinite(gaps)]).max() < 1e-6
    np.testing.assert_array_equal(found["overall_difference_low"], found["overall_difference_high"])


def test_means_are_over_the_items_that_both_have(runner: Runner):
    prompts = list_prompts(runner.tokenizer, ["Fruits", "Ocean"], ["short"])
    fruits, oceans = ("Apple", "Banana", "Cherry", "Mango"), ("Pacific", "Atlantic")
    longer = made_lists(runner.tokenizer, prompts, [fruits, oceans], filler=False)
    shorter = made_lists(runner.tokenizer, prompts, [fruits[:2], oceans[:1]], filler=False)
    found = compare(runner, longer, shorter, 20)
    entropy = [lists.by_item(predict(runner, lists, label="").entropy, "line_break") for lists in (longer, shorter)]
    expected = [np.mean([e[0, 0], e[0, 1], e[1, 0]]) for e in entropy]
    got = found["overall"].sel(by_adjective="short", measure=MEASURES[0])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # By item, all that there is counts.
    first = found["mean"].sel(by_adjective="short", measure=MEASURES[0], item=1, source="own")
    assert float(first) == pytest.approx(float(entropy[0][:, 0].mean()))
    fourth = found["mean"].sel(by_adjective="short", measure=MEASURES[0], item=4)
    assert float(fourth[0]) == pytest.approx(entropy[0][0, 3])
    assert np.isnan(fourth[1])


def test_lists_that_lack_fillers_alone_differ_in_nothing_once_they_have_them(runner: Runner):
    prompts = list_prompts(runner.tokenizer, ["Fruits", "Rivers", "Sports"], ["short"])
    items = [load_topics()[prompt.topic][:7] for prompt in prompts]
    bare = made_lists(runner.tokenizer, prompts, items, filler=False)
    # The last item has a filler, and one before it.
    own = with_fillers(bare, [[item in (3, 6) for item in range(7)]] * 3)
    np.testing.assert_array_equal(own.fillers, [[0, 0, 0, 1, 0, 0, 1]] * 3)
    found = compare(runner, own, bare, 20)
    assert abs(found["overall_difference"].sel(measure="P(end) at line break")) > 0.05
    for end in ("", "_low", "_high"):
        np.testing.assert_allclose(found[f"matched_overall_difference{end}"], 0, atol=1e-6)
    results = found.assign_attrs(model="list-tiny", written="data/topics")
    experiment = WrittenLists()
    assert "; with the same fillers +0.000" in experiment.findings(results)[1]
    (claim,) = experiment.claims(results)
    assert claim.text.startswith(
        "P(end) at line breaks of own lists less that of written ones, where it is largest: +0."
    )
    assert re.search(r" as they are \(short lists\) and [+-]0\.000.* with the fillers of the model's own", claim.text)
    drawn: Any = experiment.figures(results)["probability-differences"]
    assert "P(end) at line break, short, same fillers" in str(drawn.to_dict())


def test_fillers_are_what_the_lists_have(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    results = WrittenLists(recorded=(folder,), resamples=20).run(runner)
    share = results["overall"].sel(by_adjective="short", measure="filler on item")
    # Of the whole lines -Apple -Banana* -Cherry, -Apple -Banana and -Pacific -Atlantic*, two have a filler.
    np.testing.assert_allclose(share, [2 / 7, 0])
    assert results["n_lists"].values.tolist() == [8, 4]
    assert results.attrs["written"] == "data/topics"


def test_lists_of_a_file(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    file = tmp_path / "mine.yaml"
    file.write_text("Fruits: [Pear, Plum, Fig, Lime, Kiwi]\nTeas: [Assam]")
    asked = WrittenLists(recorded=(folder,), external=file, resamples=20)
    results = asked.run(runner)
    assert results["n_lists"].values.tolist() == [4, 2]
    assert results.sizes["item"] == 5
    assert "that it did not write (mine.yaml), behind the same prompts of 1 topic." in asked.findings(results)[0]
    assert len(asked.figures(results)) == 7
    assert asked.tables(results)["differences"]["measure"].tolist()[0] == MEASURES[0]


def test_topics_of_a_file_are_written_about(runner: Runner, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("Teas: [Assam, Sencha]")
    asked = WrittenLists(external=file, samples=1, max_new_tokens=20, resamples=20, adjectives=("short",))
    assert asked.run(runner)["n_topics"] == 1


def test_files_without_a_shared_topic_are_refused(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    file = tmp_path / "mine.yaml"
    file.write_text("Teas: [Assam]")
    with pytest.raises(InputError, match=r"must be of one topic at least of its own lists \(Fruits, Ocean\), not only"):
        WrittenLists(recorded=(folder,), external=file).run(runner)
    with pytest.raises(InputError, match="cannot be read"):
        WrittenLists(recorded=(folder,), external=tmp_path / "none.yaml").run(runner)
