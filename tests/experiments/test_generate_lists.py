"""generate-lists on the built-in list model: what it writes, in which formats, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.datasets import chat
from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.lists.recorded import RecordedLists, read_recorded, recorded_json
from mechlist.decode import Sampling, generate
from mechlist.engine.local import run_job
from mechlist.errors import InputError
from mechlist.experiments.generate_lists import report
from mechlist.experiments.generate_lists.experiment import GenerateLists
from mechlist.experiments.generate_lists.report import DECISIONS, files, lists_of, surprisal
from mechlist.options import Output, Settings
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.runs import Job

ASKED = GenerateLists(topics=("Fruits", "Ocean"), temperatures=(0.5, 1.0), samples=2, max_new_tokens=60)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "run"
    run_job(Job("generate-lists", ASKED, Settings(device="cpu", model="list-tiny")), path, Output())
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> xr.Dataset:
    return load_dataset(folder / "results.nc")


def completions(results: xr.Dataset) -> list[tuple[int, ...]]:
    """Each list from its prefilled hyphen on."""
    tokens, starts = results["tokens"].values, results["prompt_length"].values - 1
    return [tuple(int(t) for t in row[start:] if t >= 0) for row, start in zip(tokens, starts, strict=True)]


def test_there_is_a_list_for_each_topic_adjective_temperature_and_sample(results: xr.Dataset):
    assert results.sizes["list"] == 2 * 3 * 2 * 2
    rows = {
        tuple(row)
        for row in zip(
            *(results[name].values.tolist() for name in ("topic", "adjective", "temperature", "sample")), strict=True
        )
    }
    assert rows == {
        (topic, adjective, temperature, sample)
        for topic in ("Fruits", "Ocean")
        for adjective in ("short", "long", "none")
        for temperature in (0.5, 1.0)
        for sample in (0, 1)
    }


def test_lists_are_what_generation_gives(runner: Runner, results: xr.Dataset):
    prompt = list_prompt(runner.tokenizer, "Fruits", "long")
    special = list_tokens(runner.tokenizer)
    (written,) = generate(
        runner,
        [prompt.tokens],
        max_new_tokens=60,
        samples=2,
        sampling=Sampling(temperature=0.5, top_p=0.8),
        stop_tokens=[special.end_of_turn, 1],
    )
    here = (results["topic"] == "Fruits") & (results["adjective"] == "long") & (results["temperature"] == 0.5)
    for row, completion in zip(np.flatnonzero(here), written, strict=True):
        tokens = results["tokens"].values[row]
        assert tuple(tokens[tokens >= 0]) == prompt.with_completion(completion.tokens)
        log_probs = results["log_prob"].values[row]
        assert np.isnan(log_probs[: len(prompt.tokens)]).all()
        np.testing.assert_allclose(
            log_probs[len(prompt.tokens) :][: len(completion.tokens)], completion.log_probs, atol=1e-4
        )


def test_log_probs_are_those_of_a_forward_pass(runner: Runner, results: xr.Dataset):
    row = results["tokens"].values[0]
    tokens = row[row >= 0].tolist()
    start = int(results["prompt_length"].values[0])
    expected = runner.log_probs([tokens])[0, start - 1 : len(tokens) - 1].numpy()
    np.testing.assert_allclose(results["log_prob"].values[0, start : len(tokens)], expected, atol=1e-4)


def test_lines_of_json(runner: Runner, folder: Path, results: xr.Dataset):
    lines = [json.loads(line) for line in (folder / "exports" / "lists.jsonl").read_text().splitlines()]
    assert len(lines) == results.sizes["list"]
    for line, completion in zip(lines, completions(results), strict=True):
        assert tuple(line["completion"]) == completion
        assert line["text"] == runner.tokenizer.decode(completion)
        assert len(line["log_probs"]) == len(completion) - 1
        assert line["prompt"] == list(list_prompt(runner.tokenizer, line["topic"], line["adjective"] or "").tokens[:-1])
    assert {line["adjective"] for line in lines} == {"short", "long", None}


def test_recorded_lists_are_the_same_lists(folder: Path, results: xr.Dataset):
    found = sorted((folder / "exports" / "lists").glob("*.json"))
    assert [file.stem for file in found] == ["long_T0.5", "long_T1", "none_T0.5", "none_T1", "short_T0.5", "short_T1"]
    recorded = [read_recorded(file) for file in found]
    written = {
        (r.adjective_name, r.temperature, topic, r.completion(ids))
        for r in recorded
        for topic, lists in r.topics.items()
        for ids in lists
    }
    labels = zip(
        *(results[name].values.tolist() for name in ("adjective", "temperature", "topic")),
        completions(results),
        strict=True,
    )
    assert written == set(labels)
    short = recorded[-1]
    assert short.model == "list-tiny"
    assert (short.top_p, short.max_new_tokens) == (0.8, 60)
    assert short.adjective_index is not None
    words = {ids[short.adjective_index] for lists in short.topics.values() for ids in lists}
    assert len(words) == 1
    assert recorded[2].adjective_index is None


def test_one_topic_gives_the_same_lists_alone(runner: Runner, results: xr.Dataset):
    alone = GenerateLists(topics=("Ocean",), temperatures=(1.0,), samples=2, max_new_tokens=60).run(runner)
    here = (results["topic"] == "Ocean") & (results["temperature"] == 1.0)
    assert completions(alone) == completions(results.isel(list=np.flatnonzero(here)))


def test_greedy_lists_have_no_temperature(runner: Runner):
    results = GenerateLists(topics=("Ocean",), adjectives=("short",), greedy=True, samples=1).run(runner)
    assert np.isnan(results["temperature"].values).all()
    (name,) = [name for name in files(results) if name.endswith(".json")]
    assert name == "lists/short_greedy.json"
    assert json.loads(files(results)[name])["temperature"] is None
    assert "greedily" in GenerateLists().figures(results)["lists"].to_dict()["layout"]["meta"]["caption"]


def test_greedy_lists_of_several_topics_are_one_file_an_adjective(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    asked = GenerateLists(topics=("Ocean", "Fruits"), adjectives=("short", "none"), greedy=True, samples=1)
    results = asked.run(runner)
    made: list[str] = []

    def counted(recorded: RecordedLists) -> str:
        made.append(recorded.adjective_name)
        return recorded_json(recorded)

    monkeypatch.setattr(report, "recorded_json", counted)
    found = {name: json.loads(text) for name, text in files(results).items() if name.endswith(".json")}
    assert list(found) == ["lists/short_greedy.json", "lists/none_greedy.json"]
    assert made == ["short", "none"], "each file is written once"
    assert all(list(file["topics"]) == ["Ocean", "Fruits"] for file in found.values())
    assert all(len(lists) == 1 for file in found.values() for lists in file["topics"].values())


def test_temperatures_may_have_longest_lists_of_any_length(runner: Runner):
    """Tokens are padded to the longest list of all."""
    asked = GenerateLists(
        topics=("Fruits",), adjectives=("short",), temperatures=(0.1, 1.5), samples=1, max_new_tokens=90
    )
    both = asked.run(runner)
    alone = [replace(asked, temperatures=(temperature,)).run(runner) for temperature in asked.temperatures]
    widths = [one.sizes["position"] for one in alone]
    assert len(set(widths)) == 2, "choose temperatures at which the lists differ in length"
    assert both.sizes["position"] == max(widths)
    assert completions(both) == [completion for one in alone for completion in completions(one)]
    for row, one in zip(both["log_prob"].values, alone, strict=True):
        expected = one["log_prob"].values[0]
        np.testing.assert_array_equal(row[: len(expected)], expected)
        assert np.isnan(row[len(expected) :]).all()


def test_temperatures_that_look_alike_have_files_of_their_own(results: xr.Dataset):
    few = results.isel(list=[0, 1]).assign_coords(temperature=("list", [0.1234567, 0.1234568]))
    names = [name for name in files(few) if name.endswith(".json")]
    assert names == ["lists/short_T0.1234567.json", "lists/short_T0.1234568.json"]


def test_lists_of_another_adjective_are_read_back(runner: Runner, tmp_path: Path):
    asked = GenerateLists(topics=("Ocean", "Fruits"), adjectives=("other",), samples=1, max_new_tokens=20)
    results = asked.run(runner)
    (text,) = [text for name, text in files(results).items() if name.endswith(".json")]
    (tmp_path / "other.json").write_text(text)
    recorded = read_recorded(tmp_path / "other.json")
    assert recorded.adjective == "other"
    assert recorded_json(recorded) == text
    assert [recorded.completion(ids) for lists in recorded.topics.values() for ids in lists] == completions(results)


def test_saved_lists_are_those_that_were_written(results: xr.Dataset):
    lists = lists_of(results)
    assert [tuple(row[start:].tolist()) for row, start in zip(lists.rows, lists.starts, strict=True)] == completions(
        results
    )
    assert (lists.origin, lists.number) == ("sampled", tuple(results["sample"].values + 1))
    np.testing.assert_array_equal(lists.temperature, results["temperature"])


def test_surprisal_is_the_mean_of_its_tokens(results: xr.Dataset):
    lists = lists_of(results)
    total: list[float] = []
    for row in np.flatnonzero(results["adjective"].values == "short"):
        total += [-results["log_prob"].values[row, item.content[0]] for item in lists.parsed[row].items]
    figure = surprisal(results)
    bars = [trace for trace in figure.data if trace.type == "bar" and trace.name == "short"]
    heights = np.concatenate([np.atleast_1d(np.asarray(trace.y, dtype=float)) for trace in bars])
    assert np.isclose(heights, np.mean(total)).any()
    assert DECISIONS[0].startswith("first token")
    # In a list that ended every token is a decision, but for the line break behind a filler.
    for number in np.flatnonzero(lists.ended):
        decided = sum(1 for _ in report._decisions(lists.parsed[number]))
        assert decided + lists.n_filler[number] == np.isfinite(results["log_prob"].values[number]).sum()


def test_findings_and_table_count_the_lists(results: xr.Dataset):
    ended = int(lists_of(results).ended.sum())
    sentences = GenerateLists().findings(results)
    assert sentences[0].startswith(f"list-tiny wrote 24 lists of 2 topics; {ended} ended within 60 tokens")
    table = GenerateLists().tables(results)["lists"]
    assert len(table) == 24
    assert table["ended"].tolist().count(True) == ended


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperatures": (0.0,)}, "temperature must be above 0, not 0.0"),
        ({"temperatures": (0.5, -1.0)}, "temperature must be above 0, not -1.0"),
        ({"temperatures": ()}, "temperatures must hold one value at least"),
        ({"temperatures": (0.5, 0.5)}, "each once"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": 1.2}, "top_p must be above 0 and at most 1, not 1.2"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"samples": 0}, "samples and max_new_tokens must be at least 1"),
        ({"max_new_tokens": 0}, "samples and max_new_tokens must be at least 1"),
        ({"adjectives": ()}, "adjectives must hold one value at least"),
        ({"topics": ("Ocean", "Fruits", "Ocean")}, "topics must hold each topic once, not .*'Ocean', 'Fruits'"),
        ({"greedy": True}, "greedy lists of one prompt are all the same"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        GenerateLists(**changes)


def test_unknown_topics_and_adjectives_are_refused(runner: Runner, tmp_path: Path):
    with pytest.raises(InputError, match=r"no topic 'Fruit' .* Did you mean Fruits"):
        GenerateLists(topics=("Fruit",)).run(runner)
    with pytest.raises(InputError, match="adjective must be one token of its own in the prompt"):
        GenerateLists(adjectives=("humongous",)).run(runner)
    empty = tmp_path / "mine.yaml"
    empty.write_text("Teas: []")
    with pytest.raises(InputError, match="the topic 'Teas' has no items"):
        GenerateLists(topic_files=(str(empty),)).run(runner)


def test_own_topics(runner: Runner, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("Teas: [Assam, Sencha]")
    results = GenerateLists(topic_files=(str(file),), adjectives=("short",), samples=1).run(runner)
    assert results["topic"].values.tolist() == ["Teas"]


def test_a_model_without_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="generate-lists needs a tokenizer, and the model induction-tiny has none"):
        run_job(Job("generate-lists", ASKED, Settings(model="induction-tiny", device="cpu")), tmp_path / "x", Output())
    assert not (tmp_path / "x").exists()


def test_a_model_without_chat_template_is_refused(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    import copy

    plain = copy.deepcopy(runner.tokenizer)
    plain.chat_template = None
    monkeypatch.setattr(chat, "_TURN_TOKENS", ("<no such token>",))
    monkeypatch.setattr(runner.language_model, "_tokenizer", plain)
    with pytest.raises(InputError, match="has no chat template: give a chat model such as google/gemma-2-2b-it"):
        ASKED.run(runner)
