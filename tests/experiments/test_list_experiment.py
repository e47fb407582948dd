"""What experiments on lists share: where their lists come from, directions of one's own, lists that are written."""

from pathlib import Path
from typing import Any

import pytest

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.directions import list_directions
from mechlist.datasets.lists.prompts import list_prompts
from mechlist.decode import Sampling, generate
from mechlist.errors import InputError
from mechlist.experiments.direct_logit_attribution.experiment import DirectLogitAttribution
from mechlist.experiments.entropy.experiment import Entropy
from mechlist.experiments.generate_lists.experiment import GenerateLists
from mechlist.experiments.list_experiment import (
    ListExperiment,
    MadeListExperiment,
    SampledListExperiment,
    sample_lists,
    text_direction,
)
from mechlist.experiments.logit_lens.experiment import LogitLens
from mechlist.runner import Runner
from tests.datasets.lists.recorded_for_tests import recorded_file
from tests.experiments.lists_for_tests import write_recorded


class Made(MadeListExperiment):
    """Only its lists are of interest."""

    def run(self, runner: Runner) -> Any:
        raise NotImplementedError

    def figures(self, results: Any) -> Any:
        raise NotImplementedError


class Sampled(SampledListExperiment):
    """Only its lists are of interest."""

    def run(self, runner: Runner) -> Any:
        raise NotImplementedError

    def figures(self, results: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def test_lists_are_made_where_none_are_recorded(runner: Runner):
    lists = Made(topics=("Fruits", "Colors"), lists=2, items=3).data(runner)
    assert (lists.origin, len(lists), set(lists.n_items.tolist())) == ("made", 12, {3})


def test_recorded_lists_that_ended_come_first_in_the_order_of_adjectives(runner: Runner, tmp_path: Path):
    recorded_file(runner.tokenizer, tmp_path, "", {"Fruits": ["Apple\n$"], "Colors": ["$", "Red\n-Blue\n-Green\n$"]})
    recorded_file(runner.tokenizer, tmp_path, "short", {"Fruits": ["Fig", "Fig\n$", "Kiwi\n$"], "Colors": ["Red\n$"]})
    lists = Made(recorded=(tmp_path,), lists=1).data(runner)
    assert (lists.origin, lists.adjective) == ("recorded", ("short",) * 2 + ("none",) * 2)
    assert len(Made(recorded=(tmp_path,), temperature=0.7, topics=("Fruits",)).data(runner)) == 3


def test_a_model_writes_lists_where_none_are_recorded(runner: Runner):
    asked = Sampled(topics=("Fruits",), adjectives=("long", "none"), samples=2, max_new_tokens=9, temperature=0.9)
    lists = asked.data(runner)
    assert (lists.origin, lists.adjective, lists.number) == ("sampled", ("long", "long", "none", "none"), (1, 2, 1, 2))
    prompts = list_prompts(runner.tokenizer, ["Fruits"], ["long", "none"])
    written = generate(
        runner,
        [prompt.tokens for prompt in prompts],
        max_new_tokens=9,
        samples=2,
        sampling=Sampling(temperature=0.9),
        stop_tokens=list_tokens(runner.tokenizer).ends,
    )
    expected = [p.with_completion(c.tokens) for p, of in zip(prompts, written, strict=True) for c in of]
    assert [tuple(row.tolist()) for row in lists.rows] == expected
    assert set(lists.temperature) == {0.9}
    assert {(one.model, one.max_new_tokens) for one in lists.provenance} == {("list-tiny", 9)}
    assert asked.data(runner, ["Ocean"]).topic == ("Ocean",) * 4


def test_own_lists_that_were_cut_off_count(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    lists = Sampled(recorded=(folder,), lists=1).data(runner)
    assert (lists.origin, len(lists), lists.ended.tolist()) == ("recorded", 4, [True] * 4)
    assert len(Sampled(recorded=(folder,), adjectives=("long",)).data(runner)) == 4
    with pytest.raises(InputError, match=r"temperature must be one of the recorded lists' \(0\.7\), not 0\.5"):
        Sampled(recorded=(folder,), temperature=0.5).data(runner)
    with pytest.raises(InputError, match="no topic 'Movies' among the 2 of the recorded lists"):
        Sampled(recorded=(folder,), topics=("Fruits", "Movies")).data(runner)
    with pytest.raises(InputError, match=r"adjectives must be among those of the recorded lists \(short, long\)"):
        Sampled(recorded=(folder,), adjectives=("none",)).data(runner)


@pytest.mark.parametrize("base", [Made, Sampled])
def test_an_adjective_that_generate_lists_writes_is_read(runner: Runner, tmp_path: Path, base: type[ListExperiment]):
    asked = GenerateLists(topics=("Fruits", "Ocean"), adjectives=("other", "long"), samples=1, max_new_tokens=300)
    for name, text in asked.files(asked.run(runner)).items():
        if name.startswith("lists/"):
            (tmp_path / Path(name).name).write_text(text)
    parameters: dict[str, Any] = {"adjectives": ("long", "other")} if base is Sampled else {}
    lists = base(recorded=(tmp_path,), **parameters).data(runner)
    assert lists.adjective == ("long", "long", "other", "other")
    assert lists.prompts[2:] == tuple(list_prompts(runner.tokenizer, ["Fruits", "Ocean"], ["other"]))


@pytest.mark.parametrize("kind", [Entropy, LogitLens, DirectLogitAttribution])
def test_other_adjectives_have_figures_and_sentences(runner: Runner, tmp_path: Path, kind: Any):
    for adjective in ("other", "", "short"):
        lists = {"Fruits": ["Fig\n-Kiwi \n$"], "Colors": ["Red\n$"]}
        recorded_file(runner.tokenizer, tmp_path, adjective, lists)
    asked = kind(recorded=(tmp_path,))
    results = asked.run(runner)
    assert results["adjective"].values.tolist() == ["short"] * 2 + ["other"] * 2 + ["none"] * 2
    # Only short lists are read after another adjective as well.
    swapped = results["total" if "total" in results else next(iter(results.data_vars))].isel(run=1)
    told = swapped.notnull().any([dim for dim in swapped.dims if dim != "list"]).values
    assert told.tolist() == [True] * 2 + [False] * 4
    assert any("other lists" in sentence for sentence in asked.findings(results))
    assert asked.figures(results)
    assert asked.tables(results)


def test_the_edit_of_heads_changes_no_random_numbers(runner: Runner):
    prompts = list_prompts(runner.tokenizer, ["Fruits"], ["short"])
    asked: dict[str, Any] = {"sampling": Sampling(), "samples": 2, "max_new_tokens": 9}
    one, again = (sample_lists(runner, prompts, list_tokens(runner.tokenizer), **asked) for _ in range(2))
    assert [row.tolist() for row in one.rows] == [row.tolist() for row in again.rows]


def test_a_direction_from_text(runner: Runner):
    a, b = list_directions(list_tokens(runner.tokenizer))
    assert runner.token_texts([*a.answer, *a.wrong, *b.answer, *b.wrong]) == ["<end_of_turn>", "-", " ", "\n"]
    own = text_direction(runner, ["\n"], ["-", " "], "item_last")
    assert (own.answer, own.wrong, own.name) == (b.wrong, (*a.wrong, *b.answer), r"'\n' - '-'/' '")
    with pytest.raises(InputError, match="answer must be one token; 'Buenos Aires' is"):
        text_direction(runner, ["Buenos Aires"], ["-"], "item_last")
    with pytest.raises(InputError, match="answer and wrong must be different tokens; both have"):
        text_direction(runner, ["-", "\n"], ["-"], "item_last")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lists": 0}, "lists must be at least 1, not 0"),
        ({"items": 0}, "items must be at least 1, not 0"),
        ({"temperature": 0.7}, "give them with recorded"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Made(**changes)
