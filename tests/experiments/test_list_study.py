"""The whole list-ending study on a tiny random Gemma 2 with the built-in tokenizer."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mechlist.experiments.generate_lists.experiment import GenerateLists
from mechlist.figures.style import meta
from mechlist.options import Output
from mechlist.registry import find
from mechlist.report.assemble import read_finished, write_report
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.study import read_study, read_yaml, run_study
from tests.experiments.lists_for_tests import random_gemma2
from tests.report.test_article import unfolded
from tests.sae.saes_for_tests import write_lens

FILE = Path("experiments/list_ending/study.yaml")
TOPICS = ["Fruits", "Ocean", "Rivers", "Sports", "Colors"]
LISTS = (("short", "short lists"), ("long", "long lists"), ("none", "lists without adjective"))
QUICK: dict[str, dict[str, Any]] = {
    "generate": {"topics": TOPICS[:2], "temperatures": [0.7], "samples": 1, "max_new_tokens": 12},
    "whole-lists": {"topics": TOPICS[:2], "samples": 1, "max_new_tokens": 12},
    "lens": {"tuned_steps": 3},
    "factors": {"topics": TOPICS, "min_items": 2, "max_items": 4, "curve_items": 6, "resamples": 20},
    "counter": {"topics": TOPICS[:3], "max_items": 5, "counts": [1, 3], "random_directions": 2, "resamples": 20},
    "patching-heads": {"topics": TOPICS[:2]},
    "heads": {"verify_top": 4, "random_sets": 3},
    "heads-filler": {"verify_top": 4, "random_sets": 3},
    "heads-count": {"verify_top": 4, "random_sets": 3},
    "ending": {"controls": 1, "max_new_tokens": 20},
    "sae-transfer": {"topics": TOPICS[:2]},
    "sae-attribution": {"topics": TOPICS[:2], "top": 6, "verify_top": 1},
    "sae-ablation": {"topics": TOPICS[:2], "controls": 1, "max_new_tokens": 12, "strongest": 2},
    "answer": {"resamples": 20},
}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists that `list-tiny` wrote: a random model writes none."""
    folder = tmp_path_factory.mktemp("lists")
    asked = GenerateLists(topics=tuple(TOPICS), temperatures=(0.7,), samples=1, max_new_tokens=300)
    results = asked.run(Runner.load("list-tiny", device="cpu", progress=False))
    for name, text in asked.files(results).items():
        if name.startswith("lists/"):
            (folder / Path(name).name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def out(lists: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's directory; every step with its own parameters, but for what would take long."""
    folder = tmp_path_factory.mktemp("study")
    value = read_yaml(FILE)
    value["model"] = str(random_gemma2(folder / "gemma2"))
    sae = write_lens(folder / "layer_1", 32, 64, "blocks.1.hook_resid_post", kind="topk", k=8)
    for step in value["steps"]:
        if step["name"] in ("sae-transfer", "sae-attribution"):
            step["parameters"]["saes"] = [str(sae)]
        step["parameters"] |= QUICK.get(step["name"], {})
        if step["name"] != "statistics" and "recorded" in step["parameters"]:
            step["parameters"]["recorded"] = [str(lists)]
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(value))
    run_study(read_study(file, read_yaml(file)), folder / "out", Output())
    return folder / "out"


def test_every_step_runs_on_any_gemma_2(out: Path):
    steps = read_yaml(FILE)["steps"]
    assert len(steps) >= 13
    for step in steps:
        assert json.loads((out / step["name"] / "run.json").read_text())["status"] == "done"
        assert load_dataset(out / step["name"] / "results.nc").attrs["experiment"] == step["experiment"]


@pytest.fixture(scope="module")
def series(out: Path) -> list[list[tuple[str, str]]]:
    """Label and colour of what a legend names, or would if there were more of it, of each figure of the study."""
    found = []
    for step in read_yaml(FILE)["steps"]:
        figures: dict[str, Any] = read_finished(out / step["name"]).figures
        for figure in figures.values():
            named = [t for t in figure.data if t.type in ("scatter", "bar") and t.name and t.showlegend is not False]
            lines = [t.line.color if t.type == "scatter" else None for t in named]
            found.append([(t.name, line or t.marker.color or "") for t, line in zip(named, lines, strict=True)])
    return found


def test_a_label_has_one_colour_in_all_figures_of_the_study(series):
    colours: dict[str, set[str]] = {}
    for label, colour in (pair for figure in series for pair in figure):
        colours.setdefault(label, set()).add(colour)
    assert {"short", "long", "none", "short lists", "last item (plain lens)", "T = 0.7"} <= colours.keys()
    assert {label: found for label, found in colours.items() if len(found) > 1} == {}
    for names in LISTS:
        assert len({colour for name in names for colour in colours[name]}) == 1


def test_adjectives_stand_in_one_order_in_all_figures_of_the_study(series):
    place = {name: number for number, names in enumerate(LISTS) for name in names}
    shown = [[place[label] for label, _ in figure if label in place] for figure in series]
    assert all(places == sorted(places) for places in shown)
    assert sum(len(places) > 1 for places in shown) > 10


def test_the_report_tells_the_steps_in_order_with_a_sentence_each(out: Path):
    report = write_report(out).read_text()
    steps = [step for step in read_yaml(FILE)["steps"] if not step.get("answer")]
    texts = [html.escape(" ".join(step["text"].split()))[:60] for step in steps]
    places = [report.index(text) for text in texts]
    assert places == sorted(places)


def test_the_report_opens_with_the_answer_and_folds_all_but_a_few_thousand_words(out: Path):
    page = write_report(out).read_text()
    findings = json.loads((out / "run.json").read_text())["findings"]
    assert 1 <= len(findings) <= 5
    places = [page.index(text) for text in ("The answer</h2>", html.escape(findings[0])[:40], "<nav", "<main>")]
    assert places == sorted(places)
    assert len(unfolded(page).split()) < 5000
    assert len(page) < 8e6


def test_no_sentence_or_caption_tells_the_reader_what_to_see(out: Path):
    forbidden = re.compile(r"\b(should|ought|look (for|where|at)|must|nan)\b|\b0 of 1 ", re.IGNORECASE)
    for step in read_yaml(FILE)["steps"]:
        done = read_finished(out / step["name"])
        captions = [str(meta(figure).get("caption", "")) for figure in done.figures.values()]
        told = [*done.findings, *(claim.text for claim in done.claims), *captions]
        assert [text for text in told if forbidden.search(text)] == []
        assert all(claim.figure in done.figures for claim in done.claims if claim.figure and not claim.run)


def test_tables_of_an_experiment_that_captions_them_all_have_a_caption(out: Path):
    captioned = 0
    for step in read_yaml(FILE)["steps"]:
        if find(step["experiment"]).captions:
            tables = read_finished(out / step["name"]).tables
            assert [name for name, table in tables.items() if not table.attrs["caption"]] == []
            captioned += 1
    assert captioned >= 13
