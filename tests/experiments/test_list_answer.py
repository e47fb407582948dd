"""list-answer: its sentences follow from the numbers of other runs, made here by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.list_answer.experiment import ListAnswer
from mechlist.experiments.list_answer.figures import figures
from mechlist.experiments.list_answer.sentences import claims
from mechlist.results import save_dataset

ADJECTIVES = ["short", "long"]
TERMS = ["item", "filler", "earlier_filler", "tokens", "repeat"]
CONTRASTS = ["all earlier fillers", "many tokens"]
COUNTS_LINES = {"item": 0.7, "filler": 3.0, "earlier_filler": 0.0, "tokens": 0.0, "repeat": 0.0}
COUNTS_TOKENS = {"item": 0.6, "filler": 3.0, "earlier_filler": 0.0, "tokens": 0.3, "repeat": 0.0}
NOTHING = dict.fromkeys(TERMS, 0.0)
NUMBER = re.compile(r"[+-]?\d+\.\d+ \[[+-]?\d+\.\d+, [+-]?\d+\.\d+\]")


def factors(
    effects: dict[str, float],
    *,
    truth: dict[str, float] | None = None,
    gap: float = 6.0,
    earlier: float = 0.0,
    width: float = 0.01,
) -> xr.Dataset:
    """What list-factors would save of a reader with these effects on A after every adjective."""
    values = np.tile([effects[term] for term in TERMS], (2, 1))
    true = np.tile([np.nan if truth is None else truth[term] for term in TERMS], (2, 1))
    change = np.tile([earlier, 0.0], (2, 1))
    rows = [(word, topic, items) for word in ADJECTIVES for topic in ("Fruits", "Rivers") for items in (2, 4)]
    return xr.Dataset(
        {
            **{f"coefficient{e}": (("adjective", "term"), values + d) for e, d in ends(width)},
            **{f"change{e}": (("adjective", "contrast"), change + d) for e, d in ends(width)},
            "truth": (("adjective", "term"), true),
            "change_truth": (("adjective", "contrast"), np.zeros((2, 2)) if truth else np.full((2, 2), np.nan)),
            "mean_A": ("adjective", [gap, 0.0]),
            "text_adjective": ("text", [word for word, _, _ in rows]),
            "text_topic": ("text", [topic for _, topic, _ in rows]),
            "text_items": ("text", [items for _, _, items in rows]),
            "text_A": ("text", [gap * (word == "short") + 0.02 * (topic == "Rivers") for word, topic, _ in rows]),
        },
        {"adjective": ADJECTIVES, "term": TERMS, "contrast": CONTRASTS},
        {
            "margin": 0.02,
            "n_topics": 2,
            "min_items": 2,
            "max_items": 4,
            "model": "by hand",
            "experiment": "list-factors",
        },
    )


def ends(width: float) -> list[tuple[str, float]]:
    return [("", 0.0), ("_low", -width), ("_high", width)]


def heads(factor: str, shares: dict[tuple[int, int], float]) -> xr.Dataset:
    """What list-heads would save: these heads patched exactly, the others not."""
    values = np.full((2, 3), np.nan)
    for (layer, head), share in shares.items():
        values[layer, head] = share
    variables = {f"share{e}": (("layer", "head"), values + d) for e, d in ends(0.05)}
    return xr.Dataset(
        variables, {"layer": [0, 1], "head": [0, 1, 2]}, {"factor": factor, "own": "last item line break"}
    )


def hazard() -> xr.Dataset:
    """Twelve lists of three items; after a filler the end is four times as likely."""
    filler = np.tile([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]], (6, 1))
    medians = np.array([[3.0, 3.0, 4.0, 4.0]])
    return xr.Dataset(
        {
            "end_at_break": (("list", "item"), np.where(filler > 0, 0.8, 0.2)),
            "filler": (("list", "item"), filler),
            **{f"median_items{e}": (("condition", "rule"), medians + d) for e, d in ends(1)},
        },
        {
            "topic": ("list", np.repeat(["Fruits", "Rivers", "Sports"], 4)),
            "adjective": ("list", ["short"] * 12),
            "item": [1, 2, 3],
            "rule": ["model", "as drawn", "sampled", "truth"],
            "condition_adjective": ("condition", ["short"]),
            "condition_temperature": ("condition", [0.7]),
        },
        {"model": "by hand"},
    )


@pytest.fixture
def say(tmp_path: Path):
    """The answer from hand-made results, by the name of the field that takes them."""

    def answer(**given: xr.Dataset | list[xr.Dataset]) -> tuple[list[str], xr.Dataset]:
        paths = {}
        for name, results in given.items():
            several = results if isinstance(results, list) else [results]
            for number, one in enumerate(several):
                save_dataset(one, tmp_path / f"{name}{number}" / "results.nc")
            folders = tuple(tmp_path / f"{name}{number}" for number in range(len(several)))
            paths[name] = folders if name == "heads" else folders[0]
        experiment = ListAnswer(**paths, resamples=50)
        results = experiment.run()
        save_dataset(results, tmp_path / "answer.nc")
        return experiment.findings(results), results

    return answer


def test_a_reader_that_counts_lines_is_told_from_one_that_counts_tokens(say):
    lines, tokens = (say(factors=factors(effects))[0][1] for effects in (COUNTS_LINES, COUNTS_TOKENS))
    assert lines.startswith("The model counts lines, not tokens: a line more adds +0.70")
    assert "an item that stood before counts like a new one" in lines
    assert tokens.startswith("The model counts tokens, not lines: a line more adds +0.60")
    both = say(factors=factors(COUNTS_TOKENS | {"item": 2.0}))[0][1]
    assert both.startswith("The model counts lines and, less, tokens")
    wide = say(factors=factors(COUNTS_LINES | {"item": 0.05}, width=1.0))[0][1]
    assert wide.startswith("Whether the model counts lines or tokens is not settled")


def test_where_nothing_matters_the_answer_says_so(say):
    told = say(factors=factors(NOTHING, gap=0.5))[0]
    assert "is moved by the adjective (+0.50" in told[0]
    assert "filler on the last item" not in told[0].split(";")[0]
    assert (
        "stay within 0.01 logits, 2% of what the adjective does"
        in say(factors=factors(NOTHING, gap=0.5, width=0))[0][0]
    )
    assert told[1].startswith("Whether the model counts") or told[1].startswith("The model counts neither")
    level = say(factors=factors(NOTHING, gap=0.0))[0]
    assert "is moved by nothing that was varied" in level[0]


def test_what_the_model_does_and_its_process_does_not_is_named(say):
    truth = COUNTS_LINES | {"item": 0.9}
    told = say(factors=factors(COUNTS_LINES, truth=truth, earlier=1.3))[0][-1]
    assert told.index("fillers on all earlier items: +1.30") < told.index("a line more: +0.70")
    assert "where the process has +0.00" in told
    assert "where the process has +0.90" in told
    assert "filler on the last item" not in told
    same = say(factors=factors(COUNTS_LINES, truth=COUNTS_LINES))[0][-1]
    assert same.startswith("In none of this does the model differ from its training process")
    assert not any("process" in line for line in say(factors=factors(COUNTS_LINES))[0])


def test_heads_are_named_by_the_factor_that_they_carry(say):
    adjective = heads("adjective", {(0, 1): 0.4, (1, 2): 0.01})
    filler = heads("filler", {(0, 1): 0.02, (1, 2): 0.8})
    told, results = say(factors=factors(COUNTS_LINES), heads=[adjective, filler])
    said = next(line for line in told if "L1H2" in line)
    assert said == (
        "At the last line break, L1H2 carries 80% [75%, 85%] of the effect of a filler on the last item (the next, "
        "L0H1, 2%; 1% of that of the adjective); no head carries half of another effect: at most L0H1 40% [35%, 45%] "
        "of that of the adjective (the next, L1H2, 1%)."
    )
    assert results["share"].dims == ("factor", "layer", "head")
    assert set(figures(results)) == {"factors", "heads"}


def test_shares_of_earlier_results_are_exact_effects_over_the_whole(say):
    exact = np.full((2, 3, 2), np.nan)
    exact[1, 2] = [5.0, 1.5]
    old = xr.Dataset(
        {
            **{f"mean_exact{e}": (("layer", "head", "role"), exact + d) for e, d in ends(0.3)},
            "mean_source": 2.0,
            "mean_base": -1.0,
        },
        {"layer": [0, 1], "head": [0, 1, 2], "role": ["adjective", "last item line break"]},
        {"own": "last item line break"},
    )
    assert "L1H2 carries 50% [40%, 60%] of the effect of the adjective" in say(heads=[old])[0][0]
    with pytest.raises(InputError, match="measured at the line break, not at the last item last token"):
        say(heads=[old.assign_attrs(own="last item last token")])


def test_endings_are_told_with_and_without_a_filler(say):
    told, results = say(hazard=hazard())
    assert told[0].startswith(
        "The median number of items by the model's probabilities at T = 1, the lists as they were drawn and its "
        "training process is 3 [2, 4], 4 [3, 5] and 4 [3, 5] in short lists; "
    )
    assert (
        "short lists that have 2 items end with a probability of 80% after a filler and of 20% without one" in told[0]
    )
    assert set(figures(results)) == {"ending"}


def test_at_most_five_sentences_each_with_an_interval_and_its_evidence(say):
    _, results = say(
        factors=factors(COUNTS_LINES, truth=COUNTS_LINES | {"item": 0.9}),
        hazard=hazard(),
        heads=[heads("filler", {(1, 2): 0.8})],
    )
    found = claims(results)
    assert len(found) == 5
    assert "experiment" not in results.attrs
    assert all(re.search(r"\[[^\]]+, [^\]]+\]", claim.text) for claim in found)
    assert [claim.run for claim in found] == ["factors0", "factors0", "heads0", "hazard0", "factors0"]
    assert not any(re.search(r"\b(should|look for|nan)\b", claim.text) for claim in found)


def test_bad_input_is_named(tmp_path: Path, say):
    with pytest.raises(InputError, match="needs the results of a run at least: give factors, hazard"):
        ListAnswer().run()
    with pytest.raises(InputError, match=r"factors must name a run's folder or its results.nc"):
        ListAnswer(factors=tmp_path / "nowhere").run()
    with pytest.raises(InputError, match=r"those of list-factors in .* lack end_at_break, filler"):
        say(hazard=factors(NOTHING))
    with pytest.raises(InputError, match="one run a factor, not runs of filler, filler"):
        say(heads=[heads("filler", {(0, 0): 1.0}), heads("filler", {(0, 0): 1.0})])
    with pytest.raises(InputError, match="resamples must be at least 1, not 0"):
        ListAnswer(resamples=0)
