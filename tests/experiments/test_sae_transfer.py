"""The check of SAEs on lists: what it measures, and that a failure is loud."""

from pathlib import Path

import numpy as np
import pytest

from mechlist.experiments.sae_transfer.experiment import SaeTransfer
from mechlist.figures.style import meta
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from tests.sae.saes_for_tests import write_lens

pytest.importorskip("sae_lens")


def test_random_saes_fail_and_it_is_said(tmp_path: Path):
    runner = Runner.load("list-tiny", device="cpu", progress=False)
    for layer in (1, 5):
        hook = f"blocks.{layer}.hook_resid_post"
        write_lens(tmp_path / "saes" / f"layer_{layer}", 256, 300, hook, kind="topk", k=8, seed=layer)
    experiment = SaeTransfer(topics=("Fruits", "Movies"), lists=1, items=3, saes=(str(tmp_path / "saes"),))
    results = experiment.run(runner)
    assert results["ce_spliced"].values.min() > results["ce_clean"].values.max()
    np.testing.assert_allclose(results["l0"], 8, atol=1e-6)
    save_dataset(results, tmp_path / "results.nc")
    read = load_dataset(tmp_path / "results.nc")
    figures = experiment.figures(read)
    assert set(figures) == {"scores", "metric"}
    assert all(meta(one)["caption"].startswith("WARNING: layer_1 and ") for one in figures.values())
    assert experiment.findings(read)[-1].startswith("WARNING: layer_1 and layer_5 fail the check here")
    assert experiment.tables(read)["saes"]["passes"].tolist() == [False, False]
    assert [claim.text for claim in experiment.claims(read)] == ["0 of 2 SAEs pass the check on these lists."]
