"""logprobs: recorded and written texts, numbers against whole passes, odd text through files and the report."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mechlist.cli.main import main
from mechlist.decode.records import Alternative, Record, RecordedToken, read_records, records_text
from mechlist.engine.local import complete, run_job
from mechlist.errors import InputError
from mechlist.experiment import needs_model
from mechlist.experiments.logprobs.dataset import to_dataset, to_records
from mechlist.experiments.logprobs.experiment import LogProbs
from mechlist.experiments.token_tree.experiment import TokenTree
from mechlist.options import Output, Settings
from mechlist.report.assemble import write_report
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from mechlist.runs import Job
from tests.decode.test_tree_file import ODD


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return LogProbs(max_new_tokens=8, alternatives=3).run(runner)


def odd_records() -> list[Record]:
    others = (Alternative(ODD[0], math.log(0.5)), Alternative("\0", math.log(0.25)))
    return [
        Record("".join(ODD), "".join(ODD), tuple(RecordedToken(text, math.log(0.25), others) for text in ODD)),
        Record("p", "x", (RecordedToken("x", 0.0),)),
    ]


def test_numbers_are_those_of_whole_passes(runner: Runner, results: xr.Dataset):
    prompts = LogProbs().prompts_of(runner, ())
    ids = results["vocabulary_id"].values
    for row, prompt in enumerate(prompts):
        entries = results["entry"].values[row]
        answer = [int(ids[e]) for e in entries if e >= 0]
        tokens = list(prompt.tokens)
        for place, token in enumerate(answer):
            log_prob = runner.logits([tokens])[0, -1].double().log_softmax(0)
            assert float(results["log_prob"][row, place]) == pytest.approx(float(log_prob[token]), abs=1e-4)
            assert int(results["rank"][row, place]) == int((log_prob > log_prob[token]).sum()) == 0
            entropy = -float((log_prob.exp() * log_prob).sum())
            assert float(results["entropy"][row, place]) == pytest.approx(entropy, abs=1e-4)
            best = [int(ids[e]) for e in results["alternative_entry"].values[row, place]]
            assert best == log_prob.topk(3).indices.tolist()
            tokens.append(token)
        mean = np.nanmean(results["log_prob"].values[row])
        assert float(results["perplexity"][row]) == pytest.approx(math.exp(-mean))


def test_given_text_is_read(runner: Runner):
    asked = LogProbs(prompts=("-Apple\n", "-Pear\n"), responses=("-Banana\n", "-Kiwi"), alternatives=2)
    records = to_records(asked.run(runner))
    assert [one.response for one in records] == ["-Banana\n", "-Kiwi"]
    tokens = runner.to_tokens("-Apple\n") + runner.tokenizer.encode("-Banana\n", add_special_tokens=False)
    expected = runner.log_probs([tokens])[0, -len(records[0].tokens) :]
    assert [t.log_prob for t in records[0].tokens] == pytest.approx(expected.tolist(), abs=1e-4)
    assert [t.token_id for t in records[0].tokens] == tokens[-len(records[0].tokens) :]


def test_records_are_read_without_a_model(shared: Path, tmp_path: Path):
    file = shared / "recorded" / "logprobs_gemma2.jsonl"
    out = tmp_path / "run"
    assert main(["run", "logprobs", "--recorded", str(file), "--out", str(out)]) == 0
    results = load_dataset(out / "results.nc")
    records = read_records(file)
    assert results["log_prob"].dims == results["rank"].dims == ("record", "token")
    for row, record in enumerate(records):
        size = len(record.tokens)
        assert results["log_prob"].values[row, :size].tolist() == [t.log_prob for t in record.tokens]
        assert np.isnan(results["log_prob"].values[row, size:]).all()
        assert (results["rank"].values[row, :size] == 0).all()
        assert float(results["perplexity"][row]) == record.perplexity
    run = json.loads((out / "run.json").read_text())
    assert "model" not in run
    assert run["findings"][0] == "5 texts of 977 tokens; over all of them the perplexity is 1.343."
    assert read_records(out / "exports" / "records.jsonl") == records
    assert len(read_records(out / "exports" / "openai.json")) == 5
    assert len(pd.read_parquet(out / "tables" / "tokens.parquet")) == 977


def test_a_file_takes_the_models_place(tmp_path: Path):
    recorded = LogProbs(recorded=tmp_path / "x.jsonl")
    assert not needs_model(recorded)
    assert needs_model(LogProbs())
    assert complete(Job("logprobs", recorded, Settings())).settings.model is None
    assert complete(Job("logprobs", LogProbs(), Settings())).settings.model == "list-tiny"
    assert not needs_model(TokenTree(recorded=tmp_path / "x.json"))


def test_results_survive_their_file(results: xr.Dataset, tmp_path: Path):
    save_dataset(results, tmp_path / "results.nc")
    again, asked = load_dataset(tmp_path / "results.nc"), LogProbs()
    assert asked.findings(again) == asked.findings(results)
    assert asked.files(again) == asked.files(results)
    assert to_records(again) == to_records(results)
    assert asked.exhibits(again) == {f"text {n}": one for n, one in enumerate(to_records(results), start=1)}
    assert asked.figures(again) == asked.figures(results)
    assert set(asked.tables(again)) == {"records", "least_confident", "tokens"}


def test_odd_text_goes_through_every_file(tmp_path: Path):
    file = tmp_path / "odd.jsonl"
    # A lone surrogate is no UTF-8: JSON escapes it.
    lines = [json.dumps(json.loads(line)) for line in records_text(odd_records()).splitlines()]
    file.write_text("\n".join(lines))
    directory = run_job(Job("logprobs", LogProbs(recorded=file), Settings()), tmp_path / "run", Output())
    assert to_records(load_dataset(directory.results)) == odd_records()
    report = write_report(directory.path).read_text()
    assert "<script>alert(1)" not in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    assert "\u202e" not in report
    assert "\0" not in report
    assert report.count('<details class="token"') == sum(len(record.tokens) for record in odd_records())
    assert "\U0001f600" in report or "\\ud83d\\ude00" in report


def test_odd_text_comes_back_from_a_dataset():
    assert to_records(to_dataset(odd_records())) == odd_records()


def test_only_some_columns(runner: Runner):
    asked = LogProbs(prompts=("-Apple\n-",), responses=("Banana\n-",), logits_of=("-", "\n"))
    results = asked.run(runner)
    tokens = runner.to_tokens("-Apple\n-") + runner.tokenizer.encode("Banana\n-", add_special_tokens=False)
    columns = results["column"].values.tolist()
    size = int((results["token_id"].values >= 0).sum())
    expected = runner.logits([tokens])[0, -size - 1 : -1][:, columns]
    np.testing.assert_allclose(results["logit"].values[0, :size], expected, atol=1e-4)
    assert set(results.data_vars) == {"logit", "token_id", "text", "column_text"}
    assert asked.findings(results) == [f'Logits of "-" and "⏎" in {size} places.']
    assert set(asked.figures(results)) == {"logits-1"}
    assert asked.files(results) == {}
    assert list(asked.tables(results)["logits"].columns) == ["record", "position", "token", "logit of -", "logit of ⏎"]
    with pytest.raises(InputError, match="logits_of must be texts of one token each, and 'Banana split' has"):
        LogProbs(prompts=("-",), responses=("-",), logits_of=("Banana split",)).run(runner)


def test_the_figure_and_sentences_speak_of_the_data(results: xr.Dataset):
    figure: Any = LogProbs().figures(results)["text-1"]
    records = to_records(results)
    colours = [value for trace in figure.data if trace.type == "bar" for value in trace.marker.color]
    assert colours == pytest.approx([math.exp(t.log_prob) for t in records[0].tokens])
    said = LogProbs().findings(results)
    count = sum(len(r.tokens) for r in records)
    mean = sum(t.log_prob for r in records for t in r.tokens) / count
    assert said[0] == f"3 texts of {count} tokens; over all of them the perplexity is {math.exp(-mean):.3f}."
    least = min((t for r in records for t in r.tokens), key=lambda t: t.log_prob)
    assert said[2].startswith(f'Least confident: "{least.token}" at token ')
    table = LogProbs(top=2).tables(results)["least_confident"]
    assert table["log_prob"].tolist() == sorted(t.log_prob for r in records for t in r.tokens)[:2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alternatives": 0}, "alternatives must be at least 1, not 0"),
        ({"recorded": Path("x"), "prompts": ("y",)}, "recorded takes the place of prompts, responses and logits_of"),
        ({"prompts": ("a", "b"), "responses": ("c",)}, "responses must be one for each of the 2 prompts, not 1"),
        ({"temperature": -1}, "temperature must be above 0"),
    ],
)
def test_bad_flags_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        LogProbs(**changes)


def test_a_prompt_is_needed_where_no_list_can_be_asked_for(loaded: Any):
    runner = loaded("gpt2")
    with pytest.raises(InputError, match="A prompt must be given, for the model cannot be asked for a list"):
        LogProbs().run(runner)


def test_an_empty_response_is_refused(runner: Runner):
    with pytest.raises(InputError, match="responses must hold text; number 2 is empty"):
        LogProbs(prompts=("-", "-"), responses=("a", "")).run(runner)
