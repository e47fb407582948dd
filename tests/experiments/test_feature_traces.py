"""Features along lists: what is read, where it is largest, what is written, links and labels."""

import json
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.feature_traces.experiment import FeatureTraces
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from mechlist.sae.load import load_sae, places
from mechlist.sae.neuronpedia import label_key, page, quick_list, read_labels
from mechlist.text import unescaped
from tests.sae.saes_for_tests import write_lens

pytest.importorskip("sae_lens")
FEW: dict[str, Any] = {"topics": ("Fruits", "Movies"), "lists": 1, "items": 3, "role_items": 1, "contexts": 2}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hook = "blocks.3.hook_resid_post"
    return write_lens(tmp_path_factory.mktemp("saes") / "layer_3", 256, 128, hook, kind="topk", k=32, model="list-tiny")


@pytest.fixture(scope="module")
def experiment(folder: Path) -> FeatureTraces:
    labels = folder.parent / "labels.json"
    labels.write_text(json.dumps({"res_3_5.json": " items of lists", "att_2_7.json": "other"}))
    return FeatureTraces(**FEW, saes=(str(folder),), features=tuple(f"layer_3:{i}" for i in range(8)), labels=labels)


@pytest.fixture(scope="module")
def results(runner: Runner, experiment: FeatureTraces) -> xr.Dataset:
    return experiment.run(runner)


def test_activations_are_those_of_the_encoder(runner: Runner, experiment: FeatureTraces, results: xr.Dataset):
    data = experiment.data(runner).select("short")
    sae = load_sae(places(experiment.saes)[0])
    x = runner.capture([data.rows[1]], sae.hook)[sae.hook][0]
    expected = sae.encode(x)[:, :8].T.numpy()
    np.testing.assert_allclose(results["activation"][:, 1, : len(data.rows[1])], expected, atol=1e-4)
    # BOS and the marks of turns do not count.
    plain = [i for i, t in enumerate(data.rows[1].tolist()) if t not in runner.tokenizer.all_special_ids]
    np.testing.assert_allclose(results["largest"][:, 1], expected[:, plain].max(axis=1), atol=1e-4)


def test_contexts_name_the_token(runner: Runner, experiment: FeatureTraces, results: xr.Dataset):
    data = experiment.data(runner).select("short")
    i, at = (int(results[f"context_{name}"][2, 0]) for name in ("list", "position"))
    assert unescaped(str(results["context_token"].values[2, 0])) == runner.token_texts([int(data.rows[i][at])])[0]
    assert float(results["context_activation"][2, 0]) == pytest.approx(float(results["largest"][2].max()))


def test_tokens_written_are_those_of_the_direct_path(runner: Runner, folder: Path, results: xr.Dataset):
    sae, model = load_sae(places([str(folder)])[0]), runner.language_model
    direction = sae.decoder[4]
    # Gemma's gain is folded into the unembedding.
    weight, _ = model.unembedding(torch.arange(runner.shape.d_vocab_out))
    logits = (direction @ weight).detach()
    best = int(logits.argmax())
    assert float(results["written"].sel(end="up")[4, 0]) == pytest.approx(float(logits[best] - logits.mean()), rel=1e-3)
    assert (results["written"].sel(end="down") < 0).all()


def test_figures_tables_files_and_sentences(experiment: FeatureTraces, results: xr.Dataset, tmp_path: Path):
    save_dataset(results, tmp_path / "results.nc")
    read = load_dataset(tmp_path / "results.nc")
    assert set(experiment.figures(read)) == {"lists", "topics", "roles", "items"}
    assert {name: len(table) for name, table in experiment.tables(read).items()}["features"] == 8
    assert experiment.files(read) == {}
    said = experiment.findings(read)
    assert said[0].startswith("WARNING: layer_3 fails the check here")
    assert any("layer_3:5 (items of lists) is active on" in one for one in said)


def test_neuronpedia(tmp_path: Path):
    assert page("gemma-2-2b/20-gemmascope-res-16k", 7).endswith("neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/7")
    assert page("", 7) == ""
    url = quick_list("two", [("gpt2-small/8-res-jb", 3, "threes"), ("", 4, "")])
    asked = urllib.parse.parse_qs(urllib.parse.urlparse(url).query)
    assert asked["name"] == ["two"]
    rows = json.loads(asked["features"][0])
    assert rows == [{"modelId": "gpt2-small", "layer": "8-res-jb", "index": "3", "description": "threes"}]
    assert quick_list("none", [("", 4, "")]) == ""
    assert label_key("blocks.20.hook_resid_post", 8573) == "res_20_8573"
    assert label_key("blocks.2.attn.hook_z", 1) == "att_2_1"
    assert label_key("blocks.2.hook_resid_pre", 1) == ""
    (tmp_path / "bad.json").write_text('{"layer 2": "x"}')
    with pytest.raises(InputError, match="labels must have keys such as res_20_8573 with a text each, not 'layer 2'"):
        read_labels(tmp_path / "bad.json")
    with pytest.raises(InputError, match="labels cannot be read from"):
        read_labels(tmp_path / "none.json")


def test_bad_input():
    with pytest.raises(InputError, match="contexts must be at least 1, not 0"):
        FeatureTraces(contexts=0)
    with pytest.raises(InputError, match="strongest does nothing without features_from"):
        FeatureTraces(strongest=3)
