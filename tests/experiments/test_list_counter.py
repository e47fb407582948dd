"""list-counter: probes on topics held out, directions that are planted, and what is known of list-tiny."""

import numpy as np
import pytest
import xarray as xr

from mechlist.datasets.lists.design import KINDS, Levels, Text, design_texts
from mechlist.errors import InputError
from mechlist.experiments.list_counter.experiment import ListCounter
from mechlist.experiments.list_counter.moving import MEAN, PROBE, decision, directions, moves, partners
from mechlist.experiments.list_counter.probing import numbers, probe, states, topics_of
from mechlist.experiments.list_counter.report import findings
from mechlist.experiments.list_counter.statistics import close_layer, r_squared
from mechlist.runner import Runner

TOPICS = ("Fruits", "Ocean", "Rivers", "Sports", "Movies")


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def texts(runner: Runner) -> list[Text]:
    topics = {"Fruits": ["Apple", "Mango", "Plum"], "Rivers": ["Nile", "Amazon", "Danube"]}
    return design_texts(runner.tokenizer, topics, ("short", "long"), [Levels(KINDS[0], range(1, 4))])


@pytest.fixture(scope="module")
def asked() -> ListCounter:
    return ListCounter(topics=TOPICS, adjectives=("short", "long"), max_items=14, random_directions=4, resamples=50)


@pytest.fixture(scope="module")
def results(runner: Runner, asked: ListCounter) -> xr.Dataset:
    return asked.run(runner)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_states_are_those_of_each_text_alone(runner: Runner, texts: list[Text]):
    found = states(runner, texts, "")
    assert found.shape == (runner.shape.n_layers + 1, len(texts), runner.shape.d_model)
    for i in (0, 4, len(texts) - 1):
        kept = runner.capture([list(texts[i].tokens)], "blocks.0.hook_resid_pre", "blocks.3.hook_resid_post")
        for layer, hook in ((0, "blocks.0.hook_resid_pre"), (4, "blocks.3.hook_resid_post")):
            np.testing.assert_allclose(found[layer, i], kept[hook][0, texts[i].line_break], atol=1e-4)


def test_a_planted_direction_is_found_and_moved(texts: list[Text]):
    draw = generator()
    labels, planted = numbers(texts), draw.normal(size=8)
    x = draw.normal(size=8) + labels[:, None] * planted
    held = probe(x, texts, 1e-6)
    np.testing.assert_allclose(held.predicted, labels, atol=1e-3)
    rows = np.array([i for i, text in enumerate(texts) if text.items != 2])
    other = partners([texts[i] for i in rows.tolist()])
    for way in (PROBE, MEAN):
        unit = directions(way, x, labels, held)
        np.testing.assert_allclose(np.abs(unit @ planted) / np.linalg.norm(planted), 1, atol=1e-6)
        along = moves(x, unit, held.group[rows], rows, other)
        moved = x[rows] + along.exchanged[:, None] * along.direction
        np.testing.assert_allclose(moved, x[rows][other], atol=1e-6)
        erased = x[rows] + along.erased[:, None] * along.direction
        np.testing.assert_allclose(erased, np.broadcast_to(x.mean(axis=0), erased.shape), atol=1e-6)


def test_partners_have_the_mirrored_number(texts: list[Text]):
    for text, other in zip(texts, partners(texts).tolist(), strict=True):
        assert texts[other].items == 4 - text.items
        assert texts[other].prompt == text.prompt


def test_a_state_that_is_put_back_changes_nothing(runner: Runner, texts: list[Text]):
    own = states(runner, texts, "")
    clean = decision(runner, texts, "", None, "")
    same = decision(runner, texts, "blocks.2.hook_resid_post", own[3], "")
    np.testing.assert_allclose(same, clean, atol=1e-3)
    # The last state decides alone: that of the partner gives the partner's A.
    other = partners(texts)
    last = f"blocks.{runner.shape.n_layers - 1}.hook_resid_post"
    np.testing.assert_allclose(decision(runner, texts, last, own[-1][other], ""), clean[other], atol=1e-3)


def test_r2_is_of_all_texts_together(texts: list[Text]):
    labels = numbers(texts)
    assert len(set(topics_of(texts))) == 2
    for predicted, expected in ((labels, 1.0), (np.full(len(texts), labels.mean()), 0.0)):
        found = r_squared("r2", (), predicted, texts, 20, generator)
        assert float(found["r2"][1]) == pytest.approx(expected)
    assert close_layer(np.array([0.2, 0.88, 0.91, 0.92])) == 1


def test_list_tiny_writes_the_number_before_its_last_layer(results: xr.Dataset):
    best = results.isel(layer=int(results["probe_r2"].argmax("layer")))
    assert float(best["probe_r2"]) > 0.85
    assert float(best["probe_r2"]) > float(best["baseline_r2"].sel(baseline="token index")) + 0.1
    np.testing.assert_allclose(results["baseline_r2"].sel(baseline="layer 0"), 0, atol=1e-3)
    assert (results["baseline_r2"].sel(baseline="shuffled labels") < 0.1).all()
    share = results["exchange_share"].sel(way=MEAN)
    # Nothing after the first layer, most after the fifth, all after the last.
    np.testing.assert_allclose(share.isel(layer=[0, 4, 5]), [0.0, 0.75, 1.0], atol=0.15)
    assert float(results["exchange_share"].sel(way=PROBE).max()) < 0.2
    assert (np.abs(results["random_share"]) < 0.3).all()


def test_an_erased_number_flattens_the_curve(results: xr.Dataset):
    slopes = results["erased_slope"].sel(adjective="short")
    assert abs(float(slopes.sel(state=MEAN))) < 0.4 * float(slopes.sel(state="clean"))
    np.testing.assert_allclose(results["random_slope"].sel(adjective="short"), slopes.sel(state="clean"), atol=0.2)


def test_sentences_follow_from_the_numbers(results: xr.Dataset, asked: ListCounter):
    said = asked.findings(results)
    assert "of 4 topics" in said[0]
    assert "Left out for want of items: Ocean (5 items)." in said[0]
    high = results.copy(deep=True)
    high["baseline_r2"].loc[{"baseline": "untrained model", "layer": 2}] = 0.999
    assert "does not lie above all of them" in findings(high)[1]
    low = results.copy(deep=True)
    low["baseline_r2"][:] = 0.0
    assert "The probe's interval lies above all of them" in findings(low)[1]
    assert f"p = {1 / 5:.3f}" in said[3]


def test_figures_and_tables(results: xr.Dataset, asked: ListCounter):
    assert list(asked.figures(results)) == ["probes", "exchange"]
    tables = asked.tables(results)
    assert len(tables["probes"]) == results.sizes["layer"]
    assert len(tables["baselines"]) == 4 * results.sizes["layer"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"counts": (4, 4)}, r"counts must hold two different numbers at least, from 1 to 20 items, not \[4, 4\]"),
        ({"counts": (4, 21)}, "from 1 to 20 items"),
        ({"penalty": 0.0}, "penalty must be more than 0, not 0"),
        ({"random_directions": 0}, "random_directions must be at least 1, not 0"),
        ({"adjectives": ()}, "adjectives must hold one value at least"),
    ],
)
def test_what_cannot_be_is_refused(given: dict, said: str):
    with pytest.raises(InputError, match=said):
        ListCounter(**given)


def test_two_topics_are_needed(runner: Runner):
    with pytest.raises(
        InputError, match="max_items must leave two topics at least with so many items, and 20 leaves 1"
    ):
        ListCounter(topics=("Ocean", "Fruits")).run(runner)
