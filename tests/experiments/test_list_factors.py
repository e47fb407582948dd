"""list-factors: planted coefficients are found, and what is known of list-tiny."""

import numpy as np
import pytest
import xarray as xr

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.design import Text, design_texts
from mechlist.errors import InputError
from mechlist.experiments.list_factors.experiment import ListFactors
from mechlist.experiments.list_factors.reading import Said, enough_items, factors, levels, read, truth
from mechlist.experiments.list_factors.regression import TERMS, fit
from mechlist.experiments.list_factors.report import findings, margin_of
from mechlist.experiments.list_factors.statistics import coefficients, contrasts
from mechlist.runner import Runner

TOPICS = ("Fruits", "Ocean", "Rivers", "Sports", "Movies")


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def asked() -> ListFactors:
    return ListFactors(topics=TOPICS, adjectives=("short", "long"), curve_items=16, resamples=200)


@pytest.fixture(scope="module")
def results(runner: Runner, asked: ListFactors) -> xr.Dataset:
    return asked.run(runner)


@pytest.fixture(scope="module")
def texts(runner: Runner) -> list[Text]:
    topics = {
        "Fruits": ["Indian Ocean", "Apple", "Video Games", "Fig", "Car Brands", "Plum"],
        "Rivers": ["Apple", "Mango", "City Names", "Plum", "Sloe", "Fig"],
    }
    return design_texts(runner.tokenizer, topics, ("short", "long"), levels(2, 6, 6))


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_planted_coefficients_are_recovered(texts: list[Text]):
    planted = {"short": [0.7, 3.3, 0.1, 0.05, -0.4], "long": [0.2, -1.0, 0.0, 0.0, 0.0]}
    by_topic = {"Fruits": 5.0, "Rivers": -3.0}
    said = np.array(
        [
            by_topic[text.prompt.topic] + float(terms @ planted[text.prompt.adjective])
            for text, terms in zip(texts, factors(texts), strict=True)
        ]
    )
    none = Said(*np.full((2, len(texts)), np.nan))
    found = coefficients(texts, Said(said, said), none, 6, 50, generator)
    for adjective, expected in planted.items():
        part = found.sel(adjective=adjective)
        for end in ("", "_low", "_high"):
            np.testing.assert_allclose(part[f"coefficient{end}"], expected, atol=1e-8)
        np.testing.assert_allclose(part["coefficient_r2"], 1)
        # The filler of the last item stands behind the place of B.
        assert np.isnan(part["coefficient_item"].sel(term="filler"))
        np.testing.assert_allclose(part["coefficient_item"].sel(term="repeat"), expected[-1], atol=1e-8)
    assert np.isnan(found["truth"]).all()
    changes = contrasts(texts, Said(said, said), none, 6, 50, generator)["change"].sel(adjective="short")
    # One to five earlier items with .1 each; fillers are no tokens of items.
    np.testing.assert_allclose(changes.sel(contrast="all earlier fillers"), 0.3)
    np.testing.assert_allclose(changes.sel(contrast="first again"), -0.4, atol=0.06)
    assert np.isnan(changes.sel(contrast="slope beyond"))


def test_a_reader_of_tokens_is_told_from_a_reader_of_lines(texts: list[Text]):
    terms, topics = factors(texts), np.array([text.prompt.topic for text in texts])
    for term in ("item", "tokens"):
        alone = terms[:, TERMS.index(term)]
        found = fit(terms, alone, topics, resamples=50, generator=generator()).coefficient
        np.testing.assert_allclose(found, [float(term == name) for name in TERMS], atol=1e-8)


def test_intervals_cover_what_topics_differ_in():
    draw, covered = np.random.default_rng(1), 0
    topics = np.repeat(np.arange(20), 6)
    for _ in range(100):
        x = draw.normal(size=(120, 1))
        slopes = 1 + draw.normal(size=20)
        found = fit(x, x[:, 0] * slopes[topics], topics, resamples=200, generator=draw)
        covered += found.low[0] <= 1 <= found.high[0]
        assert found.error[0] > 0
    assert covered >= 85


def test_what_does_not_vary_has_no_coefficient():
    x = np.array([[0.0, 1.0], [1.0, 1.0]])
    found = fit(x, np.array([2.0, 5.0]), np.array(["a", "a"]), resamples=5, generator=generator())
    np.testing.assert_array_equal(found.coefficient, [3, np.nan])
    assert np.isnan(found.low).all()
    with pytest.raises(InputError, match="values must hold a finite number at least"):
        fit(x, np.full(2, np.nan), np.array(["a", "a"]), resamples=5, generator=generator())
    with pytest.raises(InputError, match="must differ in one factor at least"):
        fit(x[:, 1:], np.ones(2), np.array(["a", "a"]), resamples=5, generator=generator())


def test_a_text_is_read_as_if_alone(runner: Runner, texts: list[Text]):
    chosen = texts[::17]
    special = list_tokens(runner.tokenizer)
    said = read(runner, texts)
    for i, text in zip(range(0, len(texts), 17), chosen, strict=True):
        logits = runner.logits([list(text.tokens)])[0]
        at_break, at_item = logits[text.line_break], logits[text.item_last]
        expected = float(at_break[special.end_of_turn] - at_break[special.hyphen])
        assert said.end[i] == pytest.approx(expected, abs=1e-4)
        assert said.filler[i] == pytest.approx(float(at_item[special.blank] - at_item[special.line_break]), abs=1e-4)


def test_the_process_counts_lines_and_reads_the_last_filler(texts: list[Text]):
    known = truth(texts, {"Fruits": 30, "Rivers": 6})
    short = [i for i, text in enumerate(texts) if text.prompt.adjective == "short" and text.prompt.topic == "Fruits"]
    by_cell: dict[tuple[int, bool], set[float]] = {}
    for i in short:
        by_cell.setdefault((texts[i].items, texts[i].filler), set()).add(round(float(known.end[i]), 9))
    assert all(len(values) == 1 for values in by_cell.values())
    # After the last item of a topic the list surely ends, which is no number of logits.
    last = [i for i, text in enumerate(texts) if text.prompt.topic == "Rivers" and text.items == 6]
    assert np.isnan(known.end[last]).all()


def test_list_tiny_counts_lines(results: xr.Dataset):
    short = results.sel(adjective="short")
    value, true = short["coefficient"], short["truth"]
    assert float(value.sel(term="filler")) == pytest.approx(3.3, abs=0.3)
    assert float(true.sel(term="filler")) == pytest.approx(3.3, abs=0.3)
    # Flatter than the process by a fifth and more.
    assert float(short["coefficient_high"].sel(term="item")) < 0.8 * float(true.sel(term="item"))
    assert abs(float(value.sel(term="repeat"))) < margin_of(results)
    assert abs(float(value.sel(term="tokens"))) < 0.12 * float(value.sel(term="item"))
    np.testing.assert_allclose(true.sel(term=["earlier_filler", "tokens", "repeat"]), 0, atol=0.03)
    # One item in every line counts as well as others.
    assert abs(float(short["change"].sel(contrast="one item"))) < 0.3
    assert float(short["change_high"].sel(contrast="slope beyond")) < float(
        short["change_low"].sel(contrast="slope within")
    )


def test_earlier_fillers_shift_list_tiny_and_not_its_process(results: xr.Dataset):
    design = ListFactors().tables(results)["design"]
    chosen = design.query("adjective == 'short' and items == 10 and not filler")
    known = chosen.query("kind == 'best known'")
    for column, expected, room in (("A", 1.3, 0.3), ("truth", 0.0, 1e-9)):
        every, none = (float(known.query("earlier == @level")[column].to_numpy().mean()) for level in ("all", "none"))
        assert every - none == pytest.approx(expected, abs=room)
    assert float(results["change_truth"].sel(adjective="short", contrast="all earlier fillers")) == pytest.approx(0)


def test_sentences_follow_from_the_numbers(results: xr.Dataset, asked: ListFactors):
    said = asked.findings(results)
    assert "of 4 topics" in said[0]
    assert "Left out for want of items: Ocean (5 items)." in said[0]
    assert any("Short lists, against the process: a line more does less" in sentence for sentence in said)
    turned = results.copy(deep=True)
    for name in ("coefficient", "coefficient_low", "coefficient_high"):
        turned[name].loc[{"adjective": "short", "term": "item"}] = 2.0
        turned[name].loc[{"adjective": "short", "term": "filler"}] = 0.0
    other = findings(turned)
    assert any("Short lists, against the process: a line more does more (+2.00" in sentence for sentence in other)
    (verdicts,) = [sentence for sentence in other if sentence.startswith("Short lists, one more of each")]
    within = verdicts.split("within it: ")[1].split(";")[0]
    assert "a filler on the last item" in within
    unknown = results.assign_attrs(truth_known=False)
    assert not any("process" in sentence for sentence in findings(unknown))


def test_figures_and_tables(results: xr.Dataset, asked: ListFactors):
    assert list(asked.figures(results)) == [
        "coefficients", "curve-without-filler", "curve-with-filler", "items-short", "items-long"
    ]  # fmt: skip
    tables = asked.tables(results)
    assert len(tables["coefficients"]) == 2 * len(TERMS)
    assert len(tables["design"]) == results.sizes["text"]


def test_another_model_has_no_known_process(texts: list[Text]):
    known = truth(texts, {"Fruits": 0, "Rivers": 0})
    assert np.isnan(np.stack(known)).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_items": 1}, "min_items must be at least 2"),
        ({"max_items": 30}, "curve_items no fewer than max_items, not 2, 30 and 24"),
        ({"margin": -1.0}, "margin must be 0 or more, not -1"),
        ({"adjectives": ()}, "adjectives must hold one value at least"),
        ({"resamples": 0}, "resamples must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_refused(given: dict, said: str):
    with pytest.raises(InputError, match=said):
        ListFactors(**given)


def test_topics_must_hold_the_design(runner: Runner):
    assert enough_items({"Ocean": ("a", "b"), "Fruits": ("c",) * 3}, 3).left_out == {"Ocean": 2}
    with pytest.raises(InputError, match=r"max_items must be at most the items of a topic \(5\), not 12"):
        ListFactors(topics=("Ocean",)).run(runner)
