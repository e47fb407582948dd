"""List statistics against the recorded study, hand-worked lists, and a slow count."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.cli.main import main
from mechlist.errors import InputError
from mechlist.experiments.list_statistics.experiment import ListStatistics
from mechlist.results import load_dataset, save_dataset

HYPHEN, BREAK, END, BLANK, EOS = 1, 2, 3, 4, 6
SPECIAL = {"hyphen": HYPHEN, "line_break": BREAK, "end_of_turn": END, "blank": BLANK, "bos": 5, "eos": EOS}
A, B = 20, 21
LEVEL = ("n_items", "ended", "n_filler", "filler_on_last", "n_single_token_items")
Topics = dict[str, list[list[int]]]
Run = Callable[..., xr.Dataset]


def listed(n_items: int, fillers: tuple[int, ...] = (), tokens: int = 1, *, ended: bool = True) -> list[int]:
    """A completion of that many items, with fillers on the numbered ones; one that did not end stops at a break."""
    lines = [[HYPHEN, *[A] * tokens, *[BLANK] * (i in fillers), BREAK] for i in range(n_items)]
    return [token for line in lines for token in line] + ([END, EOS] if ended else [])


def write(file: Path, topics: Topics, **change: Any) -> Path:
    """A file of recorded completions with the prompt 5 9 and the header 8 7."""
    whole = {topic: [[5, 9, 8, 7, *completion] for completion in lists] for topic, lists in topics.items()}
    value = {"model": "m", "adjective": "short", "adjective_index": 1, "temperature": 0.5, "model_header": [8, 7]}
    file.write_text(json.dumps(value | {"token_ids_of_interest": SPECIAL, "topics": whole} | change))
    return file


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run on files given as (topics, changed keys); the result has been saved and loaded again."""

    def results(*files: tuple[Topics, dict[str, Any]], resamples: int = 100) -> xr.Dataset:
        paths = [write(tmp_path / f"{i}.json", topics, **change) for i, (topics, change) in enumerate(files)]
        save_dataset(ListStatistics(recorded=tuple(paths), resamples=resamples).run(), tmp_path / "results.nc")
        return load_dataset(tmp_path / "results.nc")

    return results


@pytest.fixture(scope="module")
def gemma(shared: Path) -> xr.Dataset:
    return ListStatistics(recorded=(shared / "recorded" / "lists" / "gemma2_short.json",)).run()


def test_the_recorded_study(gemma: xr.Dataset):
    assert gemma.sizes["list"] == 115
    assert all(gemma[name].dims == ("list",) for name in (*LEVEL, "topic", "adjective", "temperature"))
    assert gemma["n_items"].sum() == 962
    assert gemma["n_items"].mean().round(2) == 8.37
    assert gemma["n_items"].median() == gemma["median_items"].item() == 10
    assert gemma["ended"].dtype == gemma["filler_on_last"].dtype == bool
    assert gemma["ended"].all()
    assert gemma["n_single_token_items"].sum() == 593
    assert gemma["item_tokens_count"].isel(item_tokens=0).sum() == 593
    assert gemma["filler_lists"].values.tolist() == [[115, 107, 39]]
    assert gemma["mean_filler_share"].item() == pytest.approx(0.289, abs=5e-4)
    assert set(gemma["adjective"].values) == {"short"}
    assert np.isnan(gemma["temperature"].values).all()
    share = gemma["single_token_share"]
    assert share.sel(by_topic=["Types of Trees", "Companies"]).values.tolist() == [1, 1]
    assert share.sel(by_topic=["Ocean", "Movies", "Books", "Famous Scientists", "Famous Writers"]).max() < 0.1
    # Without censoring the curve is a plain share.
    items = gemma["n_items"].values
    expected = [(items > k).mean() for k in gemma["item"].values]
    np.testing.assert_allclose(gemma["survival"].values[0], expected, atol=1e-12)


def test_the_study_s_findings_carry_its_numbers(gemma: xr.Dataset):
    text = " ".join(ListStatistics().findings(gemma))
    for part in ("115 lists", "962 items", "593 of 962", "115 of 115 on any item", "107 of 115", "39 of 115", "28.9%"):
        assert part in text
    assert "no trend over the temperature to test: the lists have no recorded temperature" in text


def slow_interval(gemma: xr.Dataset, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Topics drawn one by one."""
    topics, generator = gemma["topic"].values, np.random.default_rng(5)
    names, drawn = np.unique(topics), []
    for _ in range(2000):
        units = np.concatenate([np.flatnonzero(topics == t) for t in generator.choice(names, len(names))])
        drawn.append(numerator[units].sum() / denominator[units].sum())
    return np.quantile(drawn, [0.025, 0.975])


def test_intervals_are_over_whole_topics(gemma: xr.Dataset):
    single, items = gemma["n_single_token_items"].values, gemma["n_items"].values
    ends = [float(gemma[f"item_tokens_share_{end}"][0, 0]) for end in ("low", "high")]
    np.testing.assert_allclose(ends, slow_interval(gemma, single, items), atol=0.02)
    assert ends[1] - ends[0] > 0.25
    long_ones = items > 9
    ends = [float(gemma[f"survival_{end}"].sel(item=9).item()) for end in ("low", "high")]
    np.testing.assert_allclose(ends, slow_interval(gemma, long_ones, np.ones(115)), atol=0.03)


def test_two_files_are_two_conditions(shared: Path):
    results = ListStatistics(recorded=(shared / "recorded" / "lists",), resamples=50).run()
    assert results.sizes["list"] == 230
    assert results["condition_temperature"].values.tolist()[0] == 1.3
    assert results["condition_n_lists"].values.tolist() == [115, 115]
    text = " ".join(ListStatistics().findings(results))
    assert "the lists are at T = 1.3 or, 115 of them, at one that is not known" in text
    assert [file["file"] for file in results.attrs["files"]] == ["gemma2_short.json", "gemma2_short_T1.3.json"]


def test_lists_by_hand(run: Run):
    topics = {
        "Rivers": [listed(2, (1,)), listed(3, (0, 2), tokens=2), [HYPHEN, END], []],
        "Books": [[*listed(1, (0,)), HYPHEN], [HYPHEN, A, BLANK, BREAK, HYPHEN, A, B], [HYPHEN, BLANK, BREAK, EOS]],
    }
    results = run((topics, {}))
    expected = {
        "n_items": [2, 3, 0, 0, 1, 2, 0],
        "ended": [True, True, True, False, True, False, True],
        "n_filler": [1, 2, 0, 0, 1, 1, 0],
        "filler_on_last": [True, True, False, False, True, False, False],
        "filler_only_on_last": [True, False, False, False, True, False, False],
        "n_single_token_items": [2, 0, 0, 0, 1, 1, 0],
        "n_whole_items": [2, 3, 0, 0, 1, 1, 0],
        "survival_time": [2, 3, 0, -1, 1, 1, 0],
        "number": [1, 2, 3, 4, 1, 2, 3],
    }
    for name, values in expected.items():
        assert results[name].values.tolist() == values, name
    np.testing.assert_allclose(results["n_tokens_per_item"].values, [1, 2, np.nan, np.nan, 1, 1.5, np.nan])
    assert results["filler_lists"].values.tolist() == [[4, 3, 2]]
    assert results["filler_lists_among"].values.tolist() == [[4, 3, 3]]
    # From the end: 3 of 3 last items, 0 of 2, 1 of 1. From the start: of 4, 2, 1, as the item cut off is left out.
    np.testing.assert_allclose(results["filler_from_end"].values, [[1, 0, 1]])
    assert results["filler_from_end_items"].values.tolist() == [[3, 2, 1]]
    np.testing.assert_allclose(results["filler_from_start"].values, [[3 / 4, 1 / 2, 1]])
    # Six lists tell something: two end at 0, one at 1, one is cut off after 1, then one ends at 2 and one at 3.
    assert results["at_risk"].values.tolist() == [[6, 4, 2, 1]]
    np.testing.assert_allclose(results["hazard"].values, [[1 / 3, 1 / 4, 1 / 2, 1]])
    np.testing.assert_allclose(results["survival"].values, [[2 / 3, 1 / 2, 1 / 4, 0]], atol=1e-12)
    assert results["median_items"].item() == 1


@pytest.mark.parametrize("behind", [0, 1, 2], ids=["at the line break", "at the hyphen", "in the item"])
def test_where_the_token_cap_falls_does_not_bias_the_hazard(run: Run, behind: int):
    """Lists of single tokens that end after each item with chance .25, cut after one to four items."""
    generator = np.random.default_rng(1)
    topics: Topics = {}
    for topic in range(20):
        ends, caps = generator.geometric(0.25, 200), 3 * generator.integers(1, 5, 200) + behind
        topics[f"topic {topic}"] = [listed(int(n))[: int(cap)] for n, cap in zip(ends, caps, strict=True)]
    results = run((topics, {}), resamples=20)
    assert 0.3 < float(results["ended"].mean()) < 0.6
    np.testing.assert_allclose(results["hazard"].values[0, 1:4], 0.25, atol=0.03)
    assert float(results["n_items"].mean()) < 3


def several(temperatures: tuple[float, ...] = (0.1, 0.7, 1.3), slope: float | int = 0.5) -> list[tuple[Topics, dict]]:
    """Long and short lists, fillers more frequent when warm."""
    generator = np.random.default_rng(2)
    files: list[tuple[Topics, dict]] = []
    for adjective, most in (("short", 4), ("long", 9), (None, 6)):
        for temperature in temperatures:
            topics: Topics = {}
            for topic in ("Rivers", "Books", "Movies", "Ocean"):
                lists = []
                for _ in range(5):
                    n = int(generator.integers(2, most + 1))
                    chosen = tuple(np.flatnonzero(generator.random(n) < 0.1 + slope * temperature).tolist())
                    lists.append(listed(n, chosen)[:24])
                topics[topic] = lists
            files.append((topics, {"adjective": adjective, "temperature": temperature}))
    return files


def test_adjectives_and_temperatures_have_curves_of_their_own(run: Run):
    results = run(*several())
    assert results["by_adjective"].values.tolist() == ["short", "long", "none"]
    assert results["survival"].dims == results["hazard"].dims == ("by_adjective", "item")
    assert results.sizes["condition"] == 9
    assert set(results["adjective"].values) == {"short", "long", "none"}
    one = results.isel(list=(results["adjective"] == "long").values & (results["temperature"] == 0.7).values)
    assert results["condition_n_lists"].values[4] == one.sizes["list"] == 20
    expected = (one["n_filler"] / one["n_whole_items"]).mean()
    assert results["condition_filler"].values[4, 0] == pytest.approx(float(expected))
    assert results["topic_n_lists"].sel(by_adjective="none", by_topic="Ocean") == 15
    figures = ListStatistics().figures(results)
    assert {"filler-share-by-temperature", "survival-by-temperature-none", "items-by-topic-long"} <= figures.keys()
    assert "censored" not in " ".join(ListStatistics().findings(results))


def test_other_adjectives_stand_between_long_and_none(run: Run):
    words = [None, "good", "long", "bad", "short"]
    files = [({"A": [listed(2, (1,))], "B": [listed(3)]}, {"adjective": word, "temperature": 0.7}) for word in words]
    results = run(*files)
    assert results["by_adjective"].values.tolist() == ["short", "long", "good", "bad", "none"]
    assert results["condition_adjective"].values.tolist() == ["short", "long", "good", "bad", "none"]
    # Lists stay as they stand in the files.
    assert results["adjective"].values.tolist()[::2] == ["none", "good", "long", "bad", "short"]
    assert "Good: 2 of 2 lists ended, with 2.50 items on average" in " ".join(ListStatistics().findings(results))
    assert "items-by-topic-good" in ListStatistics().figures(results)


def test_items_are_counted_from_1_and_back_from_the_last(run: Run):
    figures: Any = ListStatistics().figures(run(({"A": [listed(3, (0,))], "B": [listed(3)]}, {})))
    start, end = (figures[f"filler-from-{side}"].layout.xaxis for side in ("start", "end"))
    assert (start.title.text, end.title.text) == ("item", "item")
    assert [round(x) for x in figures["filler-from-start"].data[0].x] == [1, 2, 3]
    assert list(end.ticktext) == ["last", "last - 1", "last - 2"]


def test_the_trend_is_found_and_said(run: Run):
    results = run(*several())
    assert results["trend_slope"].values[0] == pytest.approx(0.5, abs=0.1)
    assert results["trend_p_value"].values[0] == pytest.approx(1 / 101)
    assert results["trend_n_strata"].values.tolist() == [12, 12]
    text = " ".join(ListStatistics().findings(results))
    assert re.search(
        r"share of a list's items with a filler changes by \+0\.\d+ \[\+0\.\d+, \+0\.\d+\] for one unit", text
    )
    assert "p = 0.0099, the least that 100 permutations can give." in text


def test_topics_at_one_temperature_each_have_no_trend(run: Run):
    files = [({topic: [listed(2), listed(3)]}, {"temperature": t}) for topic, t in (("A", 0.5), ("B", 1.0))]
    results = run(*files)
    assert "no topic was sampled at several temperatures" in " ".join(ListStatistics().findings(results))
    assert "filler-share-by-temperature" in ListStatistics().figures(results)


DEGENERATE: dict[str, Topics] = {
    "one list": {"A": [listed(2, (1,))]},
    "one cut off": {"A": [[HYPHEN, A, BREAK, HYPHEN, B]]},
    "no list ended": {"A": [listed(3, ended=False), listed(1, ended=False)], "B": [[*listed(2, ended=False), HYPHEN]]},
    "empty completions": {"A": [[], [HYPHEN]], "B": [[]]},
    "only fillers": {"A": [[HYPHEN, BLANK, BREAK, HYPHEN, BLANK, BREAK, END]], "B": [[BLANK, BREAK]]},
    "no item": {"A": [[HYPHEN, END], [END]], "B": [[A, B, BREAK, END]]},
    "names": {"<b>\x00\ud800": [listed(2)], " Rivers\n": [listed(30, tokens=25)]},
}


@pytest.mark.parametrize("topics", DEGENERATE.values(), ids=DEGENERATE)
def test_any_lists_can_be_told_about(run: Run, topics: Topics):
    results = run((topics, {"adjective": None, "adjective_index": None, "temperature": None}))
    experiment = ListStatistics()
    for figure in experiment.figures(results).values():
        assert figure.to_dict()["layout"]["meta"]["caption"]
        json.loads(figure.to_json() or "")
    lists = sum(map(len, topics.values()))
    tables = experiment.tables(results)
    assert tables.keys() == {"conditions", "topics", "survival", "lists"}
    assert len(tables["lists"]) == lists
    assert len(tables["topics"]) == len(topics)
    assert int(tables["topics"]["items"].to_numpy().sum()) == int(results["n_items"].sum())
    findings = experiment.findings(results)
    assert findings[0].startswith(f"{lists} list")
    assert not re.search(r"nan|inf\b|None", " ".join(findings))


def test_the_sentences_of_a_single_list(run: Run):
    assert ListStatistics().findings(run(({"A": [listed(2, (1,))]}, {}))) == [
        "1 list of m on 1 topic holds 2 items.",
        "2 of 2 complete items are a single token (100.0%).",
        "Short: 1 of 1 list ended, with 2.00 items on average; the median length is 2 items (Kaplan-Meier).",
        "Short: lists with a filler: 1 of 1 on any item, 1 of 1 on the last item, 1 of 1 on the last item only; on "
        "average 50.0% of a list's items have one.",
        "There is no trend over the temperature to test: the lists are all at T = 0.5.",
    ]


def test_cut_off_lists_are_said_to_be(run: Run):
    text = " ".join(ListStatistics().findings(run(({"A": [listed(2), listed(4, ended=False)]}, {}))))
    assert "1 of 2 lists ended; 1 list was cut off, so that a mean would be too small" in text
    text = " ".join(ListStatistics().findings(run(({"A": [listed(4, ended=False)]}, {}))))
    assert "too few ended for a median" in text


def test_models_are_pooled_aloud(run: Run):
    results = run(({"A": [listed(2)]}, {}), ({"A": [listed(3)]}, {"model": "other"}))
    assert "all numbers pool the 2 models" in ListStatistics().findings(results)[0]


def test_longer_items_share_the_last_bar(run: Run):
    results = run(({"A": [listed(2, tokens=1) + listed(3, tokens=33)], "B": [listed(1, tokens=33)]}, {}))
    assert results.sizes["item_tokens"] == 20
    assert results["item_tokens_count"].values[0].tolist() == [2, *[0] * 18, 1]
    assert results["longest_item"] == 33
    bars: Any = ListStatistics().figures(results)["tokens-per-item"]
    assert bars.layout.xaxis.ticktext[-1] == "20+"


def test_the_same_files_give_the_same_bits(shared: Path):
    experiment = ListStatistics(recorded=(shared / "recorded" / "lists" / "gemma2_short.json",), resamples=30)
    xr.testing.assert_identical(experiment.run(), experiment.run())


def test_the_command_line_takes_files_and_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "lists").mkdir()
    files = [
        write(tmp_path / "lists" / f"{t}.json", {"A": [listed(2)], "B": [listed(3)]}, temperature=t) for t in (1, 2)
    ]
    out = tmp_path / "out"
    flags = ["--recorded", *map(str, files), "--resamples", "20", "--device", "cpu", "--out", str(out)]
    assert main(["run", "list-statistics", *flags]) == 0
    assert "4 lists of m" in capsys.readouterr().out
    again = tmp_path / "again"
    assert main(["run", str(out / "config.yaml"), "--out", str(again)]) == 0
    xr.testing.assert_identical(load_dataset(out / "results.nc"), load_dataset(again / "results.nc"))
    folder = tmp_path / "folder"
    assert main(["run", "list-statistics", "--recorded", str(tmp_path / "lists"), *flags[3:-1], str(folder)]) == 0
    xr.testing.assert_identical(load_dataset(out / "results.nc"), load_dataset(folder / "results.nc"))
    assert {"items", "survival", "hazard"} <= {file.stem for file in (folder / "figures").glob("*.html")}


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(
        InputError, match=r"list-statistics needs --recorded FILE: recorded completions, or the `exports/lists` folder"
    ):
        ListStatistics().run()
    with pytest.raises(InputError, match="resamples must be at least 1, not 0"):
        ListStatistics(resamples=0)
    out = str(tmp_path / "out")
    assert main(["run", "list-statistics", "--device", "cpu", "--out", out]) == 2
    assert "needs --recorded FILE" in capsys.readouterr().err
    assert (
        main(["run", "list-statistics", "--recorded", str(tmp_path / "no.json"), "--device", "cpu", "--out", out]) == 2
    )
    assert "no.json does not exist" in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize("lengths", [(1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4), (1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 6)])
def test_a_rising_share_of_endings_has_no_peak(run: Run, lengths: tuple[int, ...]):
    results = run(({"A": [listed(n) for n in lengths] * 3, "B": [listed(n) for n in lengths] * 3}, {}))
    text = " ".join(ListStatistics().findings(results))
    rising = lengths[0] != lengths[1]
    hazard = results["hazard"].values[0]
    assert bool((np.diff(hazard[:4]) > 0).all()) == rising
    assert ("no peak is seen" in text) == (int(np.nanargmax(hazard)) == len(hazard) - 1)
    assert ("An ending is most likely" in text) == ("no peak is seen" not in text)


def test_a_peak_between_lower_shares_is_named(run: Run):
    lengths = [1, *[2] * 8, 3] + [6] * 2
    lists = [*(listed(n) for n in lengths), *(listed(6, ended=False) for _ in range(12))]
    text = " ".join(ListStatistics().findings(run(({"A": lists, "B": lists}, {}))))
    assert "An ending is most likely after 2 items" in text


def test_topics_that_run_out_stand_apart(run: Run):
    """Ocean has five items, the others 46: lists of it end with them, and say nothing of how long lists are."""
    topics = {
        "Ocean": [listed(5)] * 6,
        "Rivers": [listed(n) for n in (11, 12, 12, 13, 12, 12)],
        "Fruits": [listed(n) for n in (21, 22, 22, 23, 22, 22)],
        "Nowhere": [listed(2)] * 6,
    }
    results = run((topics, {}))
    assert results["topic_capacity"].values[:3].tolist() == [5, 46, 46]
    assert np.isnan(results["topic_capacity"].values[3])
    assert results["capacity_n_lists"].values.tolist() == [[6, 12]]
    assert results["capacity_n_run_out"].values.tolist() == [[6, 0]]
    assert results["capacity_median_items"].values.tolist() == [[5, 13]]
    assert float(results["median_items"][0]) == 5, "all topics together"
    assert float(results["topics_p_value"][0]) == pytest.approx(1 / 101)
    text = " ".join(ListStatistics().findings(results))
    assert (
        "Short, topics of more than 30 items: of 2 with a median, medians go from 12 items (Rivers) to 22 items "
        "(Fruits); a test of one survival for all of them, lists exchanged between topics, gives p = "
    ) in text
    assert (
        "Short, topics of at most 30 items (Ocean 5): 6 of 6 lists end with all there is, median 5; topics of" in text
    )
    assert ListStatistics().tables(results)["topics"]["capacity"].tolist()[:2] == [5, 46]
    # Topics alike: nothing tells them apart, and without a small one nothing is said of capacities.
    alike = run(({"Rivers": topics["Rivers"], "Fruits": topics["Rivers"]}, {}))
    assert float(alike["topics_p_value"][0]) == 1
    # One list a topic: there is nothing to exchange.
    assert np.isnan(run(({"Rivers": [listed(3)], "Fruits": [listed(9)]}, {}))["topics_p_value"].values).all()
    assert not any("all there is" in sentence for sentence in ListStatistics().findings(alike))
