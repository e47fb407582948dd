"""Overlap of features between topics, on hand-made files and on the study's own recorded features."""

from pathlib import Path

import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.experiments.feature_overlap.experiment import FeatureOverlap
from mechlist.results import load_dataset, save_dataset
from mechlist.sae.attributed import AttributedFeatures

HOOK = "blocks.0.hook_resid_post"


def test_a_file_is_needed():
    with pytest.raises(InputError, match="feature-overlap needs --recorded FILE"):
        FeatureOverlap().run()
    with pytest.raises(InputError, match="permutations must be at least 1, not 0"):
        FeatureOverlap(permutations=0)


def test_results_figures_tables_and_sentences(tmp_path: Path):
    topics = {"<b>": [[(0, 1, HOOK), (2, 3, HOOK)]], "y": [[(1, 3, HOOK), (1, 4, HOOK)]], "z": [[(1, 9, HOOK)]]}
    file = tmp_path / "features.json"
    file.write_text(AttributedFeatures(model="m", metric="B", top_k=2, topics=topics).to_json())
    experiment = FeatureOverlap(recorded=file, permutations=20, original_ratio=True)
    results = experiment.run()
    assert results["jaccard"].dims == ("topic", "other_topic") == results["p_value"].dims
    assert float(results["jaccard"].sel(topic="<b>", other_topic="y")) == 0.5
    save_dataset(results, tmp_path / "results.nc")
    read = load_dataset(tmp_path / "results.nc")
    assert set(experiment.figures(read)) == {"overlap", "original"}
    tables = experiment.tables(read)
    assert tables["pairs"][["topic", "other_topic"]].iloc[0].tolist() == ["<b>", "y"]
    assert tables["features"]["topics"].iloc[0] == "<b>, y"
    said = experiment.findings(read)
    assert said[0].startswith(
        "Over the 3 pairs of topics the mean Jaccard index of their features is 0.1667; <b> and y"
    )
    assert said[1] == "1 of the 5 entries stand at position 0 (BOS) and are left out."


def test_the_study_s_own_features(shared: Path):
    file = shared / "recorded" / "features" / "gemma2_resid_logprob_top100.json"
    experiment = FeatureOverlap(recorded=file, permutations=50)
    results = experiment.run()
    first, second = np.triu_indices(23, 1)
    assert results["jaccard"].values[first, second].mean() == pytest.approx(0.1013, abs=5e-5)
    pair = results["jaccard"].sel(topic="Countries")
    assert float(pair.sel(other_topic="Animals")) == pytest.approx(0.523, abs=5e-4)
    assert float(pair.sel(other_topic="Famous Scientists")) == 0
    assert (results.attrs["entries"], results.attrs["at_bos"], results.sizes["feature"]) == (11500, 7605, 1192)
    assert "7605 of the 11500 entries stand at position 0 (BOS) and are left out." in experiment.findings(results)
