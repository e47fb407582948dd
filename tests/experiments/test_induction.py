import re
from typing import Any

import numpy as np
import pytest
import torch

from mechlist.datasets.repeated import fitting_period, repeated_tokens
from mechlist.errors import InputError
from mechlist.experiments.induction.experiment import Induction
from mechlist.experiments.induction.scores import SCORES
from mechlist.figures.style import meta
from mechlist.models.quiet import quiet
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig, needs_hooked


def slow_scores(runner: Runner, period: int, batch: int) -> dict[str, torch.Tensor]:
    """One prompt at a time, entry by entry."""
    bos = runner.bos_token_id
    tokens = repeated_tokens(batch, period, runner.shape.d_vocab, bos, runner.generator("repeated tokens"))
    start = 0 if bos is None else 1
    kinds = {
        "induction_score": lambda q: q - period + 1 if q >= start + period else None,
        "previous_token_score": lambda q: q - 1 if q >= start + 1 else None,
        "duplicate_token_score": lambda q: q - period if q >= start + period else None,
        "current_token_score": lambda q: q if q >= 1 else None,
        "first_token_score": lambda q: 0 if q >= 1 else None,
    }
    shape = (runner.shape.n_layers, runner.shape.n_heads)
    sums = {name: torch.zeros(shape) for name in kinds}
    counts = dict.fromkeys(kinds, 0)
    for row in tokens:
        _, cache = runner.model.run_with_cache(row.unsqueeze(0))
        pattern = torch.stack([cache["pattern", layer][0] for layer in range(shape[0])])
        for name, key_of in kinds.items():
            for query in range(len(row)):
                key = key_of(query)
                if key is not None:
                    sums[name] += pattern[:, :, query, key]
                    counts[name] += 1
    return {name: sums[name] / counts[name] for name in kinds}


def test_scores_equal_a_slow_count(tiny_runner):
    results = Induction(period=7, batch=3).run(tiny_runner)
    for name, expected in slow_scores(tiny_runner, 7, 3).items():
        np.testing.assert_allclose(results[name].values, expected.numpy(), atol=1e-6, err_msg=name)


def test_halves_equal_a_plain_forward_pass(tiny_runner):
    period = 9
    results = Induction(period=period, batch=4).run(tiny_runner)
    tokens = repeated_tokens(
        4, period, tiny_runner.shape.d_vocab, tiny_runner.bos_token_id, tiny_runner.generator("repeated tokens")
    )
    logits = tiny_runner.model(tokens)[:, :-1].detach()
    log_prob = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    right = (logits.argmax(-1) == tokens[:, 1:]).float()
    by_position = results["log_prob_by_position"].values
    assert np.isnan(by_position[0])
    np.testing.assert_allclose(by_position[1:], log_prob.mean(dim=0).numpy(), atol=1e-5)
    assert results["log_prob"].values == pytest.approx(
        [log_prob[:, :period].mean().item(), log_prob[:, period:].mean().item()], abs=1e-5
    )
    assert results["accuracy"].values == pytest.approx(
        [right[:, :period].mean().item(), right[:, period:].mean().item()]
    )
    assert list(results["half"].values) == ["first", "second"]


def test_the_built_in_model_has_an_induction_circuit(tiny_runner):
    results = Induction().run(tiny_runner)
    assert float(results["induction_score"].max()) > 0.8
    assert float(results["previous_token_score"].max()) > 0.8
    assert float(results["accuracy"].sel(half="second")) > 0.9
    assert any(line.startswith("Induction heads") for line in Induction().findings(results))


@needs_hooked
def test_induction_2l_has_its_known_heads(shared):
    runner = Runner.load(str(shared / "models" / "induction-2l"), device="cpu", progress=False)
    experiment = Induction()
    results = experiment.run(runner)
    assert results.attrs["period"] == 42
    null = float(results["null_largest_score"].sel(score="induction_score").max())
    assert null < 0.03
    strong = results["induction_score_low"].values > 5 * null
    assert [tuple(int(i) for i in at) for at in np.argwhere(strong)] == [(1, 1), (1, 2), (1, 3)]
    previous = results["previous_token_score"].values
    assert np.unravel_index(previous.argmax(), previous.shape) == (0, 2)
    ablated = results["ablated_accuracy"].sel(ablation="zero")
    second = float(results["accuracy"].sel(half="second"))
    assert float(ablated.sel(head_set="induction heads")) < 0.05 * second
    assert float(ablated.sel(head_set="rest of the layer")) > 0.9 * second
    mean = results["ablated_accuracy"].sel(ablation="mean")
    assert float(mean.sel(head_set="random 1")) > 5 * float(mean.sel(head_set="induction heads"))
    text = " ".join(experiment.findings(results))
    for head in ("L1H1", "L1H2", "L1H3", "L0H2"):
        assert head in text


def test_stories260k_has_no_induction_head_on_random_tokens(shared):
    runner = Runner.load(str(shared / "models" / "stories260K"), device="cpu", progress=False)
    experiment = Induction(batch=10, mlp_sequences=0)
    results = experiment.run(runner)
    assert float(results["induction_score"].max()) < 0.1
    assert "ablated_accuracy" not in results
    assert results["text_accuracy"].dims == ("half",)
    assert float(results["previous_token_score"][3, 6]) > 0.8
    assert any("No induction head" in line for line in experiment.findings(results))


def test_figures_tables_and_findings_come_from_saved_results(tiny_runner, tmp_path):
    experiment = Induction(period=6, batch=2, top_heads=3)
    save_dataset(experiment.run(tiny_runner), tmp_path / "results.nc")
    saved = load_dataset(tmp_path / "results.nc")
    figures = experiment.figures(saved)
    expected = {"halves", "positions", "induction-heads", "ranked-heads", "head-roles", "patterns", "ablations"}
    assert figures.keys() == expected | {"k-composition", "circuit"}
    assert all(figure.to_dict()["layout"]["meta"]["caption"] for figure in figures.values())
    assert saved.sizes["name"] == 3
    table = experiment.tables(saved)["heads"]
    assert table["induction_score"].is_monotonic_decreasing
    assert {*SCORES, "induction_score_loose", "name", "layer", "head"} <= set(table.columns)
    assert len(experiment.findings(saved)) == 7
    assert len(experiment.tables(saved)["k-composition"]) == 16


def test_a_model_with_mlps_and_a_tokenizer_gets_the_rest(shared):
    runner = Runner.load(str(shared / "models" / "stories260K"), device="cpu", progress=False)
    experiment = Induction(period=4, batch=3, mlp_sequences=1, previous_head="L1H3", induction_head="L3H0")
    results = experiment.run(runner)
    assert results["mlp_loss_increase"].dims == ("layer", "position")
    assert np.isfinite(results["mlp_loss_increase"].values).any(axis=1).all()
    assert results["circuit_top1_accuracy"].dims == ("axis",)
    assert results["hand_circuit_top1_accuracy"].dims == ("axis",)
    figures = experiment.figures(results)
    assert {"mlp-loss-increase", "mlp-loss-increase-mean", "text-heads", "text-positions"} <= figures.keys()
    assert any("L1H3 and L3H0" in line for line in experiment.findings(results))
    with pytest.raises(InputError, match="text does not repeat"):
        Induction(period=4, batch=1, text="Once upon a time there was").run(runner)


def test_one_layer_has_no_composition():
    with quiet():
        cfg = HookedTransformerConfig(n_layers=1, d_model=8, d_head=4, n_ctx=32, d_vocab=9, attn_only=True)
        runner = Runner(HookedTransformer(cfg), progress=False)
    experiment = Induction(period=5, batch=2)
    results = experiment.run(runner)
    assert "circuit_top1_accuracy" not in results
    assert any("one layer, so there is no composition" in line for line in experiment.findings(results))
    assert "k-composition" not in experiment.figures(results)
    with pytest.raises(InputError, match="induction_head must be a head from L0H0 to L0H1"):
        Induction(period=5, previous_head="L0H0", induction_head="L1H0").run(runner)


def test_a_bridge_has_no_null(hf_directory):
    results = Induction(period=5, batch=2).run(Runner.load(str(hf_directory("stablelm")), device="cpu"))
    assert "null_largest_score" not in results
    assert "induction_score" in results
    assert Induction().findings(results)
    assert Induction().figures(results)


@pytest.mark.parametrize(
    ("previous", "induction", "text"),
    [
        ("L0H9", "L1H0", "previous_head must be a head from L0H0 to L1H3, not 'L0H9'"),
        ("L0H0", "L7H0", "induction_head must be a head"),
        ("L1H0", "L1H1", "earlier layer"),
        ("zero", "L1H1", "previous_head must be a head"),
    ],
)
def test_a_pair_given_by_hand_is_checked(tiny_runner, previous, induction, text):
    with pytest.raises(InputError, match=text):
        Induction(previous_head=previous, induction_head=induction).run(tiny_runner)


def test_no_patterns_are_kept_when_none_are_asked_for(tiny_runner):
    experiment = Induction(period=6, batch=2, top_heads=0)
    assert "patterns" not in experiment.figures(experiment.run(tiny_runner))


def test_the_period_adapts_to_the_context_and_no_further():
    assert fitting_period(None, 1024, True) == 50
    assert fitting_period(None, 85, False) == 42
    assert fitting_period(None, 85, True) == 42
    assert fitting_period(42, 85, True) == 42
    with pytest.raises(InputError, match="period must be between 2 and 42, not 43: the model's context holds 85"):
        fitting_period(43, 85, True)


def test_sequences_are_bos_and_a_block_twice():
    generator = torch.Generator().manual_seed(0)
    tokens = repeated_tokens(5, 4, 11, 3, generator)
    assert tokens.shape == (5, 9)
    assert (tokens[:, 0] == 3).all()
    assert (tokens[:, 1:5] == tokens[:, 5:]).all()
    assert repeated_tokens(5, 4, 11, None, generator).shape == (5, 8)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"period": 1}, "period must be"),
        ({"top_heads": -1}, "top_heads"),
        ({"previous_head": "L0H0"}, "given together"),
    ],
)
def test_parameters_are_checked(wrong, text):
    with pytest.raises(InputError, match=text):
        Induction(**wrong)


def test_the_circuit_may_be_read_on_a_sample_of_tokens(tiny_runner):
    few: dict[str, Any] = {"batch": 2, "period": 10, "mlp_sequences": 0, "random_sets": 0, "twins": 0, "top_heads": 0}
    whole, sampled = (Induction(**few, circuit_tokens=n).run(tiny_runner) for n in (0, 40))
    assert whole.attrs["circuit_tokens"] == 512
    assert "circuit_top1_accuracy_low" not in whole
    assert sampled.attrs["circuit_tokens"] == 40
    for name in ("circuit_top1_accuracy", "circuit_top5_accuracy"):
        assert (sampled[f"{name}_low"] <= whole[name]).all()
        assert (whole[name] <= sampled[f"{name}_high"]).all()
        assert (sampled[f"{name}_low"] < sampled[f"{name}_high"]).all()
    said = [line for line in Induction().findings(sampled) if line.startswith("K-composition")]
    assert said[0].endswith("read on 40 of 512 tokens drawn at random.")
    assert "drawn at random" not in " ".join(Induction().findings(whole))
    caption = meta(Induction().figures(sampled)["circuit"])["caption"]
    assert caption.endswith("Read on 40 of 512 tokens drawn at random; 95 % intervals.")


def test_circuit_tokens_below_zero():
    with pytest.raises(InputError, match=re.escape("circuit_tokens must be 0 (all tokens) or more, not -1.")):
        Induction(circuit_tokens=-1)
