"""Lists with features changed: sets of features, controls, what is compared, and bad input."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.errors import InputError, MechlistError
from mechlist.experiments.list_predictions import Predictions
from mechlist.experiments.sae_ablation.experiment import SaeAblation, _require_change
from mechlist.experiments.sae_ablation.positions import Start, Where, before_last_item
from mechlist.experiments.sae_ablation.sets import Seen, active_only, feature_sets
from mechlist.experiments.sae_ablation.written import shannon
from mechlist.experiments.sae_attribution.experiment import SaeAttribution
from mechlist.experiments.sae_features import Chosen, Feature, choose_features
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from mechlist.sae.load import load_sae, places
from tests.sae.saes_for_tests import write_two

pytest.importorskip("sae_lens")
FEW: dict[str, Any] = {
    "topics": ("Fruits", "Movies"),
    "adjectives": ("short",),
    "samples": 1,
    "max_new_tokens": 14,
    "resamples": 20,
    "controls": 2,
}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two(tmp_path_factory.mktemp("saes"), k=16)


@pytest.fixture(scope="module")
def attribution(runner: Runner, folder: Path) -> Path:
    """Results of a sae-attribution run."""
    asked = SaeAttribution(topics=FEW["topics"], lists=1, items=3, role_items=1, saes=(str(folder),), top=40)
    file = folder.parent / "attribution.nc"
    save_dataset(asked.run(runner).assign_attrs(experiment="sae-attribution"), file)
    return file


@pytest.fixture(scope="module")
def results(runner: Runner, attribution: Path) -> xr.Dataset:
    return SaeAblation(**FEW, features_from=attribution, strongest=6).run(runner)


def test_every_control_stands_beside_the_features(results: xr.Dataset):
    assert results["set"].values.tolist() == ["clean", "splice", "features", "random 1", "random 2", "other topic"]
    sets = results.attrs["sets"]
    chosen = set(sets["features"]["Fruits"])
    assert len(chosen) + results.attrs["inactive"] == 6
    for name in ("random 1", "random 2", "other topic"):
        assert all(len(own) == len(chosen) and not chosen & set(own) for own in sets[name].values())
    assert results.attrs["ranked_by"] == "attribution"


def test_nothing_changes_where_nothing_is_changed(results: xr.Dataset):
    change = results["change"]
    assert float(np.abs(change.sel(set="clean")).max()) == 0
    assert float(np.abs(change.sel(set="splice")).max()) == 0
    moved = results["changed_hazard"] - results["changed_hazard"].sel(set="clean")
    assert float(np.abs(moved.sel(set="splice")).max()) < 1e-4 < float(np.abs(moved.sel(set="features")).max())


def test_changes_are_means_of_paired_differences(results: xr.Dataset):
    value = results["value"].sel(quantity="items")
    for name in results["set"].values:
        own = float((value.sel(set=name) - value.sel(set="clean")).mean())
        assert float(results["change"].sel(quantity="items", set=name)) == pytest.approx(own)
    beyond = results["beyond"].sel(quantity="items")
    change = results["change"].sel(quantity="items")
    np.testing.assert_allclose(beyond, change.sel(set="features") - change)


def test_figures_tables_and_sentences(results: xr.Dataset, tmp_path: Path):
    save_dataset(results, tmp_path / "results.nc")
    read, experiment = load_dataset(tmp_path / "results.nc"), SaeAblation()
    assert set(experiment.figures(read)) == {"items", "fillers", "diversity", "topic-diversity", "hazard-short"}
    assert set(experiment.tables(read)) == {"changes", "features", "lists"}
    said = experiment.findings(read)
    # These SAEs are random, and fail the check.
    assert said[0].startswith("WARNING: layer_2 and layer_4 fail the check here")
    assert "are set to 0 at all tokens but special ones of the prompt and of the list" in said[1]
    assert said[2].startswith("Beside them: the SAEs spliced in with nothing changed; 2 sets of random features")
    assert "control, only spliced" in said[3]
    (claim,) = experiment.claims(read)
    items = read["change"].sel(quantity="items")
    assert claim.text.startswith("With 5 features set to 0 lists written again change by ")
    assert f"{float(items.sel(set='features')):+.2f}" in claim.text
    controls = items.drop_sel(set=["clean", "features"])
    assert f"{float(controls[int(np.abs(controls.values).argmax())]):+.2f}" in claim.text
    assert claim.figure in experiment.figures(read)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"change": "steer", "factor": 3.0}, "added 3 times"),
        (
            {"change": "mean", "while_writing": False},
            "set to their mean at all tokens but special ones of the prompt, ",
        ),
        ({"change": "scale", "factor": 0.5, "at": ("hyphen", "line_break")}, "the roles hyphen and line_break"),
    ],
)
def test_other_changes(runner: Runner, folder: Path, more: dict[str, Any], said: str):
    sae = load_sae(places([str(folder / "layer_2")])[0])
    tokens = SaeAblation(**FEW).data(runner).each_prompt[0].tokens
    at_hyphen = sae.encode(runner.capture([torch.tensor(tokens)], sae.hook)[sae.hook][0, -1])
    named = tuple(f"layer_2:{i}" for i in at_hyphen.topk(2).indices.tolist())
    few = FEW | {"controls": 1, "topics": ("Fruits",)}
    found = SaeAblation(**few, saes=(str(folder),), features=named, **more).run(runner)
    assert said in SaeAblation().findings(found)[1]
    assert SaeAblation().findings(found)[2].endswith("with one topic there is no control from another.")


def test_positions(runner: Runner):
    lists = SaeAblation(**FEW).data(runner)
    never = runner.tokenizer.all_special_ids
    prompts, special = lists.each_prompt, lists.special
    starts = [Start(prompt) for prompt in lists.prompts]
    for at, written in (((), True), (("adjective", "hyphen", "filler"), True), ((), False)):
        where = Where(starts=starts, special=special, never=never, at=at, written=written)
        along = where.along(lists, starts)
        for row, (tokens, start) in enumerate(zip(lists.rows, lists.starts, strict=True)):
            last = where(tokens[None, : start + 1], 0, start)[0]
            later = [where(tokens[None, i : i + 1], i, start)[0, 0] for i in range(start + 1, len(tokens))]
            assert along[row, : len(tokens)].tolist() == [*last.tolist(), *(bool(one) for one in later)]
            assert not along[row, len(tokens) :].any()
            if "adjective" in at:
                assert along[row, prompts[row].adjective_index or 0]
                assert set(tokens[along[row, : len(tokens)]].tolist()) <= {
                    tokens[prompts[row].adjective_index or 0].item(),
                    special.hyphen,
                    special.blank,
                }


def test_lists_are_cut_before_the_last_token_of_their_last_item(runner: Runner):
    lists = SaeAttribution(topics=FEW["topics"], lists=1, items=3).data(runner)
    starts = before_last_item(lists)
    where = Where(starts=starts, special=lists.special, never=runner.tokenizer.all_special_ids, written=False)
    along = where.along(lists, starts)
    for row, (tokens, start) in enumerate(zip(lists.rows, starts, strict=True)):
        own, text = tokens.tolist(), list(start.tokens)
        assert own[: len(text)] == text
        # Behind the last item's last token come its filler, its line break and the end.
        assert own[len(text) + 1 :] == [lists.special.blank, lists.special.line_break, lists.special.end_of_turn]
        assert text.count(lists.special.hyphen) >= 3
        assert not along[row, len(text) :].any()
        assert along[row, len(start.prompt.tokens) : len(text)].all()


def test_lists_written_from_their_last_item_on_keep_what_stands_before(runner: Runner, folder: Path):
    lists = {"topics": FEW["topics"], "adjectives": ("short",), "samples": 2, "max_new_tokens": 60}
    asked = SaeAblation(
        **lists, resamples=20, controls=1, saes=(str(folder),), features=("layer_2:3",), write_from="last-item"
    )
    found = asked.run(runner)
    data = asked.data(runner)
    given = data.n_items[data.ended]
    assert found.attrs["write_from"] == "last-item"
    items = found["value"].sel(quantity="items")
    assert items.sizes["written"] == 2 * len(given)
    for name in ("clean", "splice", "features"):
        assert (items.sel(set=name).values >= np.repeat(given, 2)).all()
    assert "from before the last token of their last item" in asked.findings(found)[1]
    with pytest.raises(InputError, match=r"write_from last-item needs lists that ended, and none did"):
        SaeAblation(**FEW, saes=(str(folder),), features=("layer_2:3",), write_from="last-item").run(runner)


def test_controls_are_matched_and_of_the_same_rank(folder: Path, runner: Runner):
    where = places([str(folder / "layer_2")])
    chosen = Chosen(places=where, features=(Feature(0, 1), Feature(0, 2)), strength={})
    mean = np.array([[5.0, 4, 3, 2, 1, 0], [1.0, 4, 5, 2, 3, 0]])
    seen = {0: Seen(mean, mean.max(0))}
    sets = feature_sets(runner, chosen, seen, ["a", "b"], 1)
    # Ranks 1 and 2 of a: on b these are features 1 and 4; 1 is chosen, the next is 4, then 3.
    assert [feature.number for feature in sets["other topic"]["a"]] == [4, 3]
    assert {feature.number for feature in sets["random 1"]["a"]} < {0, 3, 4}
    with pytest.raises(InputError, match="features must be active where they are changed; layer_2:5 is at none"):
        active_only(Chosen(places=where, features=(Feature(0, 5),), strength={}), seen)
    both = Chosen(places=where, features=(Feature(0, 5), Feature(0, 1)), strength={"a": {Feature(0, 5): 1.0}})
    assert active_only(both, seen).features == (Feature(0, 1),)


def test_shannon_index():
    assert shannon([(1,), (2,), (3,)]) == pytest.approx(math.log(3))
    assert shannon([(1,), (1,)]) == 0
    assert shannon([(1,), (1,), (2,), (2,)]) == pytest.approx(math.log(2))
    assert math.isnan(shannon([]))


def test_a_change_that_does_nothing_is_refused():
    same = Predictions(*(np.array([[0.5, np.nan]]) for _ in Predictions._fields))
    with pytest.raises(MechlistError, match="leaves the model's logits as they are on every list"):
        _require_change(same, same)
    _require_change(same, same._replace(end=np.array([[0.6, np.nan]])))


def test_bad_input(runner: Runner, folder: Path, tmp_path: Path):
    saes: dict[str, Any] = {"saes": (str(folder),)}
    for features, said in {
        ("layer_2",): "features must be SAE:INDEX, such as layer_2:17, not 'layer_2'",
        ("layer_9:1",): r"features must name one of the SAEs \(layer_2, layer_4\); 'layer_9' names none",
        ("layer_2:1", "layer_2:1"): "features must name each feature once; layer_2:1 is there twice",
        ("layer_2:512",): "features must be from 0 to 511 of .*, not 512: it has no more",
        (): "features must name one feature at least, as SAE:INDEX; or give a run with features_from",
    }.items():
        with pytest.raises(InputError, match=said):
            SaeAblation(**FEW, **saes, features=features).run(runner)
    with pytest.raises(InputError, match=r"features_from must be the folder or the results\.nc of a sae"):
        choose_features((), tmp_path / "none", strongest=1)
    with pytest.raises(InputError, match="factor does nothing unless change is scale or steer"):
        SaeAblation(factor=3.0)
    with pytest.raises(InputError, match="factor must not be 1 where change is scale"):
        SaeAblation(change="scale", factor=1.0)
    with pytest.raises(InputError, match=r"at must be of adjective, topic, .*, not 'item_last'"):
        SaeAblation(at=("item_last",))


def test_what_is_read_agrees_with_what_is_written(runner: Runner):
    few = FEW | {"topics": ("Fruits", "Movies", "Rivers", "Sports"), "samples": 8, "max_new_tokens": 120, "controls": 1}
    asked = SaeAblation(**few, temperature=0.7, top_p=0.8, features=("layer_4:736",))
    found = asked.run(runner)
    assert bool(found["ended"].sel(set=["clean", "features"]).all())
    for name in ("clean", "splice", "features", "random 1"):
        items = found["value"].sel(quantity="items", set=name)
        read = float(found["mean_items_read"].sel(set=name, by_adjective="short"))
        # Drawn lists scatter around what their rule makes of them.
        assert abs(read - float(items.mean())) < 3 * float(items.std()) / np.sqrt(items.size)
    # At T = 1 without nucleus lists end otherwise: it is the rule of writing that was read.
    plain = SaeAblation(**few, temperature=0.7, top_p=1.0, features=("layer_4:736",)).run(runner)
    items = [float(one["mean_items_read"].sel(set="clean", by_adjective="short")) for one in (found, plain)]
    assert abs(items[0] - items[1]) > 0.05


def test_features_of_the_built_in_saes_carry_the_end_of_lists(runner: Runner):
    few = FEW | {"topics": ("Fruits", "Colors"), "max_new_tokens": 40, "controls": 1}
    features = ("layer_5:1722", "layer_5:852", "layer_5:724", "layer_5:1175", "layer_4:736")
    found = SaeAblation(**few, features=features).run(runner)
    hazard = found["changed_hazard"].sum("item").sel(by_adjective="short")
    left = (hazard / hazard.sel(set="clean")).to_series().to_dict()
    assert left["features"] < 0.1
    assert all(0.5 < left[name] < 2 for name in ("splice", "random 1", "other topic"))
