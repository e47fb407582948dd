"""The direct-logit-attribution experiment: lists and pairs, sums, runs, what it says, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoTokenizer

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.made import made_lists
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.errors import InputError
from mechlist.experiments.direct_logit_attribution import summary
from mechlist.experiments.direct_logit_attribution.experiment import DirectLogitAttribution
from mechlist.experiments.direct_logit_attribution.statistics import with_statistics
from mechlist.experiments.direct_logit_attribution.terms import on_lists
from mechlist.models.quiet import quiet
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig

FEW: dict[str, Any] = {"topics": ("Fruits", "Colors", "Sports"), "lists": 1, "items": 3}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return DirectLogitAttribution(**FEW).run(runner)


def test_terms_add_up_to_the_logit_difference_at_every_item(runner: Runner, results: xr.Dataset):
    whole = summary.components(results).sum("component", skipna=False)
    xr.testing.assert_allclose(whole, results["total"].transpose(*whole.dims), atol=1e-4)
    # By hand, from the model's own logits with the softcap undone.
    experiment = DirectLogitAttribution(**FEW)
    data, cap = experiment.data(runner), runner.model.cfg.output_logits_soft_cap
    for number, direction in enumerate(data.directions):
        for item in range(3):
            where = torch.from_numpy(data.positions(direction.role)[:, item : item + 1])
            logits = runner.logits(data.rows, positions=where)[:, 0]
            plain = cap * torch.atanh(logits / cap)
            expected = plain[:, direction.answer[0]] - plain[:, direction.wrong[0]]
            found = results["total"].isel(direction=number, run=0, item=item)
            np.testing.assert_allclose(found, expected, atol=1e-3)
    assert float(results["error"].max()) < 1e-4 * float(results["largest"].max())


def test_the_swapped_run_is_the_list_after_the_other_adjective(results: xr.Dataset):
    # Written lists are the same after every adjective, so the one's swapped run is the other's own.
    own, swapped = results["heads"].sel(run="as written"), results["heads"].sel(run="adjective swapped")
    short, long, none = (np.flatnonzero(results["adjective"].values == name) for name in ("short", "long", "none"))
    np.testing.assert_allclose(swapped[:, short], own[:, long], atol=1e-5)
    np.testing.assert_allclose(swapped[:, long], own[:, short], atol=1e-5)
    assert swapped[:, none].isnull().all()
    change = summary.contrast(results["heads"])
    assert change is not None
    expected = (own[:, short].values - own[:, long].values)[:, :, 2]
    np.testing.assert_allclose(change.transpose("direction", "list", "layer", "head"), expected, atol=1e-5)


def test_items_that_a_list_lacks_are_missing(runner: Runner):
    prompt = list_prompt(runner.tokenizer, "Fruits", "short")
    items = [("Apple",), ("Pear", "Apple", "Fig")]
    lists = made_lists(runner.tokenizer, [prompt, prompt], items, filler=False)
    results = on_lists(runner, lists, lists.directions)
    assert results["heads"].isel(run=0, list=0).isel(item=slice(1, None)).isnull().all()
    assert results["heads"].isel(run=0, list=1).notnull().all()
    last = summary.from_end(results["total"], 0).isel(run=0)
    np.testing.assert_array_equal(last.isel(list=0), results["total"].isel(run=0, list=0, item=0))
    np.testing.assert_array_equal(last.isel(list=1), results["total"].isel(run=0, list=1, item=2))
    assert summary.from_end(results["total"], 1).isel(list=0).isnull().all()
    # One topic has no interval. Item 1 is the last of one list, and the other goes on from it.
    results = with_statistics(results.assign_attrs(softcap=30.0))
    apart = results["total"].isel(run=0, item=0)
    found = results["total_matched_mean"].sel(by_filler="without filler", kind="difference").isel(group=0)
    np.testing.assert_allclose(found, apart.isel(list=0) - apart.isel(list=1), rtol=1e-5)
    assert results["total_matched_low"].isnull().all()
    sentences = DirectLogitAttribution().findings(results)
    assert "in 2 short lists" in sentences[1]
    assert "[" not in sentences[1]
    value = float(found.isel(direction=0))
    assert f"{value:+.2f} without filler (1 last item, 1 other) in short lists" in sentences[2]


def test_layers_accumulate_to_the_total(results: xr.Dataset):
    stages = summary.accumulated(results)
    assert stages["written"].values.tolist() == [0, *range(1, results.sizes["layer"] + 1)]
    np.testing.assert_allclose(
        stages.isel(written=-1), results["total"].transpose(*stages.isel(written=-1).dims), atol=1e-4
    )
    np.testing.assert_allclose(stages.isel(written=0), results["embedding"] + results["bias"], atol=1e-6)


def test_figures_tables_and_sentences(results: xr.Dataset):
    experiment = DirectLogitAttribution(**FEW, top=5)
    names = {f"{kind}_{name}" for kind in ("heads", "components", "layers", "items", "adjective") for name in "ab"}
    assert set(experiment.figures(results)) == names
    tables = experiment.tables(results)
    assert set(tables) == {"components", "heads", "changed_heads", "matched"}
    # Two directions, three adjectives, five heads.
    assert len(tables["heads"]) == 30
    # 14 components of 6 layers.
    assert len(tables["components"]) == 2 * 3 * 14
    # All lists have three items: none goes on where another ends.
    assert not len(tables["matched"])
    last = results["heads"].isel(direction=0, run=0, item=2)[results["adjective"].values == "short"].mean("list")
    first = tables["heads"].iloc[0]
    np.testing.assert_allclose(first["estimate"], last.sel(layer=first["layer"], head=first["head"]), atol=1e-6)
    assert abs(first["estimate"]) == pytest.approx(float(abs(last).max()), abs=1e-6)
    sentences = experiment.findings(results)
    assert sentences[0].startswith("The terms of all heads, MLPs, embeddings and biases add up")
    assert "before the softcap of 30," in sentences[0]
    assert sentences[1].startswith("A: end of turn - hyphen: the logit difference at the last item is ")
    assert sentences[2].endswith(
        "is not known, as no list goes on from an item of the number and filler that a last item of another list has."
    )
    assert "(short less long)" in sentences[4]
    assert "No cell can be significant" in sentences[4], "three topics cannot reach .05"


def test_statistics_are_saved_and_never_computed_while_drawing(
    results: xr.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    save_dataset(results, tmp_path / "results.nc")
    monkeypatch.setattr("mechlist.experiments.effects.effect_table", None)
    loaded, experiment = load_dataset(tmp_path / "results.nc"), DirectLogitAttribution(**FEW)
    assert experiment.findings(loaded) == experiment.findings(results)
    assert len(experiment.figures(loaded)) == 10
    assert set(experiment.tables(loaded)) == {"components", "heads", "changed_heads", "matched"}
    drawn: Any = experiment.figures(loaded)["heads_a"]
    assert "What each head writes: decision A, end of turn - hyphen" in drawn.layout.title.text


def test_number_and_filler_alone_make_no_difference_at_last_items(results: xr.Dataset):
    """The lists again in lengths of 2 to 4, every term made of number and filler alone."""
    generator = np.random.default_rng(0)
    numbers, item = np.arange(36) % 3 + 2, np.arange(4)
    last = item == numbers[:, None] - 1
    filler = np.where(item < numbers[:, None], generator.random((36, 4)) < np.where(last, 0.8, 0.2), np.nan)
    one = xr.DataArray(0.6 * item + 3.3 * filler, dims=("list", "item"))
    shape = results[["heads", "attention_bias", "mlp", "embedding", "bias", "total"]].isel(list=0, item=0, drop=True)
    made = (xr.ones_like(shape) * one).assign(filler=one.copy(data=filler))
    coords = {
        "topic": ("list", [f"topic {i % 6}" for i in range(36)]),
        "adjective": ("list", ["short"] * 36),
        "n_items": ("list", numbers),
    }
    found = with_statistics(made.assign_coords(coords).assign_attrs(origin="recorded", softcap=0.0))
    for name in ("component", "total", "stage"):
        for end in ("mean", "low", "high"):
            apart = found[f"{name}_matched_{end}"].sel(kind="difference")
            np.testing.assert_allclose(apart, 0, atol=1e-12)
    drawn: Any = DirectLogitAttribution().figures(found)["matched_a"]
    assert [trace.name for trace in drawn.data] == ["short lists, with filler", "short lists, without filler"]


def test_a_direction_of_ones_own(runner: Runner, results: xr.Dataset):
    special = list_tokens(runner.tokenizer)
    texts: dict[str, Any] = {"answer": ("<end_of_turn>",), "wrong": ("-",)}
    assert runner.to_tokens("<end_of_turn>", prepend_bos=False) == [special.end_of_turn]
    own = DirectLogitAttribution(**FEW, **texts, role="line_break").run(runner)
    assert own.sizes["direction"] == 1
    np.testing.assert_allclose(own["heads"][0], results["heads"][0], atol=1e-6)
    assert set(DirectLogitAttribution().figures(own)) >= {"heads_logits", "components_logits"}


def test_pairs_of_ones_own_are_read_at_their_end(runner: Runner, tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    pair = {"clean": "-Oak\n-Elm", "corrupt": "-Oak\n-Ash", "answer": "\n", "wrong": "-"}
    file.write_text(
        json.dumps(pair) + "\n" + json.dumps(pair | {"clean": "-Oak\n-Elm\n-Fir", "corrupt": "-Oak\n-Ash\n-Fir"})
    )
    experiment = DirectLogitAttribution(pairs=file)
    results = experiment.run(runner)
    assert results["total"].shape == (1, 2, 2, 1)
    cap = runner.model.cfg.output_logits_soft_cap
    for run, name in enumerate(("clean", "corrupt")):
        logits = runner.logits([runner.to_tokens(pair[name])], positions=[-1])[0, 0]
        plain = cap * torch.atanh(logits / cap)
        ids = [runner.to_tokens(pair[side], prepend_bos=False)[0] for side in ("answer", "wrong")]
        np.testing.assert_allclose(results["total"][0, run, 0, 0], plain[ids[0]] - plain[ids[1]], atol=1e-3)
    assert set(experiment.figures(results)) == {
        "heads_logits",
        "components_logits",
        "layers_logits",
        "adjective_logits",
    }
    said = [*experiment.findings(results), *(experiment.claims(results)[0].text,)]
    said += [figure["layout"]["meta"]["caption"] for figure in experiment.figures(results).values()]
    tables = experiment.tables(results)
    said += [table.attrs.get("caption", "") + " ".join(table.columns) for table in tables.values()]
    assert not re.search(r"\b(lists?|items?|topics?|adjectives?)\b", " ".join(said))
    assert tables["heads"]["prompts"].unique().tolist() == ["clean prompts"]
    assert "in 2 prompts" in experiment.findings(results)[1]
    assert "(clean less corrupt)" in experiment.findings(results)[3]


def test_two_peoples_names(shared: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "n_ctx": 64}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        config = HookedTransformerConfig(**sizes, act_fn="gelu_new", d_vocab=50257, device="cpu")
        model = HookedTransformer(config, tokenizer=tokenizer)
    experiment = DirectLogitAttribution(data_set="ioi", examples=6)
    results = experiment.run(Runner(model.eval(), progress=False))
    assert results.sizes["list"] == 6
    assert all(topic.startswith("template") for topic in results["topic"].values.tolist())
    whole = summary.components(results).sum("component", skipna=False)
    np.testing.assert_allclose(whole, results["total"].transpose(*whole.dims), atol=1e-4)
    assert "softcap" not in experiment.findings(results)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top": 0}, "top must be at least 1"),
        ({"examples": 0}, "examples must be at least 1"),
        ({"answer": ("-",)}, "answer and wrong must be given together"),
        ({"data_set": "ioi", "topics": ("Fruits",)}, "are for lists, and pairs have their own"),
        ({"data_set": "ioi", "pairs": Path("x")}, "pairs takes the place of the data set"),
        ({"data_set": "ioi", "role": "nonsense"}, "role does nothing with data_set ioi: leave it out"),
        ({"role": "line_break"}, "role does nothing without answer, as the study's directions have roles of their own"),
        ({"examples": 8}, "examples does nothing with data_set list: leave it out"),
        ({"pairs": Path("x"), "examples": 3}, "examples does nothing with pairs: leave it out"),
        ({"data_set": "ioi", "items": 3}, "items does nothing with data_set ioi: leave it out"),
        ({"pairs": Path("x"), "lists": 1}, "lists does nothing with pairs: leave it out"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        DirectLogitAttribution(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answer": ("-",), "wrong": ("-",)}, "answer and wrong must be different tokens; both have"),
        ({"answer": ("Oak Elm",), "wrong": ("-",)}, "answer must be one token; 'Oak Elm' is 4"),
        ({"answer": ("-",), "wrong": ("\n",), "role": "topic"}, "role must be one of hyphen, item_first"),
    ],
)
def test_directions_that_make_no_sense_are_refused(runner: Runner, changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        DirectLogitAttribution(**FEW, **changes).run(runner)
