"""The circuit experiment: known circuits of real small models, its controls, and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoTokenizer

from mechlist.errors import InputError
from mechlist.experiments.circuit.experiment import Circuit
from mechlist.experiments.circuit.findings import ends
from mechlist.experiments.circuit.published import IOI_GPT2, published, roc_area
from mechlist.experiments.circuit.statistics import shares
from mechlist.metrics.faithfulness import MIB_SHARES, model_distance, performance_ratio
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.models.quiet import quiet
from mechlist.patching.circuits.selection import strongest
from mechlist.patching.edges import nodes_of
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from mechlist.types import readable
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.patching.hand_built import CIRCUIT, hand_built


def found(results: xr.Dataset) -> set[str]:
    return set(results["edge"].values[results["in_circuit"].values.astype(bool)].tolist())


@pytest.fixture(scope="module")
def tiny_results(tiny_runner: Runner) -> xr.Dataset:
    return Circuit(examples=24).run(tiny_runner)


def test_the_hand_built_circuit_is_found_exactly():
    results = Circuit(examples=16, period=14).run(hand_built())
    assert found(results) == CIRCUIT
    assert float(shares(results, "chosen")) > 0.97
    assert float(shares(results, "without")) < 0.05


def test_induction_tinys_circuit_is_the_previous_token_head_into_the_keys_of_its_induction_heads(
    tiny_results: xr.Dataset,
):
    heads = range(4)
    expected = {"input->a0.h0<v>"} | {f"a0.h0->a1.h{h}<k>" for h in heads} | {f"a1.h{h}->logits" for h in heads}
    assert found(tiny_results) == expected
    assert float(shares(tiny_results, "chosen")) > 0.95
    assert shares(tiny_results, "random").max() < 0.5
    assert float(shares(tiny_results, "without")) < 0.05


def test_the_circuit_of_a_trained_model_from_elsewhere(shared: Path):
    runner = Runner.load(str(shared / "models" / "induction-2l"), device="cpu", progress=False)
    results = Circuit(examples=24).run(runner)
    edges = found(results)
    assert len(edges) <= 10
    assert float(shares(results, "chosen")) > 0.9
    assert shares(results, "random").max() < 0.5
    assert {"input->a0.h2<v>", "a0.h2->a1.h2<k>", "a0.h2->a1.h3<k>", "a1.h2->logits", "a1.h3->logits"} <= edges
    assert all(edge.startswith(("input->a0.h2", "a0.h2->", "a1.")) for edge in edges)


def test_all_edges_are_faithful_and_none_are_not(tiny_results: xr.Dataset):
    curve = shares(tiny_results, "circuit_metric")
    assert curve[-1] == pytest.approx(1, abs=1e-6)
    assert shares(tiny_results, "complement_metric")[-1] == pytest.approx(0, abs=1e-6)
    assert shares(tiny_results, "mib_metric")[0] == pytest.approx(0, abs=1e-6)
    assert shares(tiny_results, "mib_complement")[0] == pytest.approx(1, abs=1e-6)
    assert shares(tiny_results, "mib_complement")[-1] == pytest.approx(0, abs=1e-6)
    assert int(tiny_results["n_edges"][-1]) == tiny_results.sizes["edge"] == 81


def test_figures_tables_json_and_words_come_from_saved_results(tiny_results: xr.Dataset, tmp_path: Path):
    save_dataset(tiny_results, tmp_path / "results.nc")
    results, circuit = load_dataset(tmp_path / "results.nc"), Circuit()
    assert list(circuit.figures(results)) == ["circuit", "faithfulness", "agreement"]
    tables = circuit.tables(results)
    assert {"edge", "score", "low", "high", "n", "p_corrected", "exact"} <= set(tables["edges"].columns)
    assert set(tables["edges"].query("in_circuit")["edge"]) == {readable(edge) for edge in found(results)}
    first: dict[str, Any] = tables["edges"].iloc[0].to_dict()
    names = {readable(edge): edge for edge in tiny_results["edge"].values.tolist()}
    scores = tiny_results["score"].sel(edge=names[first["edge"]]).values.astype(float)
    assert first["score"] == pytest.approx(scores.mean())
    low, high = bootstrap_interval(scores[:, None], generator=np.random.default_rng(1))
    assert first["low"] == pytest.approx(low[0], rel=0.05)
    assert first["high"] == pytest.approx(high[0], rel=0.05)
    assert dict(zip(tables["nodes"]["node"], tables["nodes"]["edges_out"], strict=True))["L0H0"] == 4
    value = json.loads(circuit.files(results)["circuit.json"])
    assert {f"{edge['sender']}->{edge['receiver']}" for edge in value["edges"]} == found(results)
    assert set(value["nodes"]) == {"input", "a0.h0", "a1.h0", "a1.h1", "a1.h2", "a1.h3", "logits"}
    words = " ".join(circuit.findings(results))
    assert "A circuit of 9 of the model's 81 edges has a faithfulness of 0.9" in words
    assert "random connected circuits" in words
    assert "rank correlation" in words
    assert re.search(r"the worst is L\dH\d\S*->\S+: score", words) or "the worst is input->" in words


def test_statistics_are_saved_and_never_computed_while_drawing(
    tiny_results: xr.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    save_dataset(tiny_results, tmp_path / "results.nc")
    for name in ("effects.effect_table", "circuit.statistics.faithfulness_interval"):
        monkeypatch.setattr(f"mechlist.experiments.{name}", None)
    loaded, circuit = load_dataset(tmp_path / "results.nc"), Circuit()
    assert circuit.findings(loaded) == circuit.findings(tiny_results)
    assert circuit.files(loaded) == circuit.files(tiny_results)
    assert list(circuit.figures(loaded)) == ["circuit", "faithfulness", "agreement"]
    assert set(circuit.tables(loaded)) == {"edges", "sizes", "nodes", "look"}
    nodes: Any = circuit.figures(loaded)["circuit"]
    assert "L1H3" in nodes.data[-1].text


def test_scores_are_exact_effects_where_verified(tiny_results: xr.Dataset):
    table = Circuit().tables(tiny_results)["edges"].dropna(subset=["exact"])
    assert len(table) == 20
    assert np.corrcoef(table["score"], table["exact"])[0, 1] > 0.95


def test_edges_are_verified_by_name(tiny_runner: Runner):
    few: dict[str, Any] = {"examples": 3, "steps": 1, "random_circuits": 0, "verify_top": 0}
    names = ("a0.h3->a1.h1<q>", "input->a0.h0<v>")
    results = Circuit(**few, verify=names).run(tiny_runner)
    assert results["verified"].values.tolist() == list(names)
    assert abs(results["exact"] - results["base"]).max("prompt").values[1] > 1
    again = Circuit(**few, verify=("L0H3->L1H1.q", "input -> 0.0.v")).run(tiny_runner)
    xr.testing.assert_equal(again["exact"], results["exact"])
    with pytest.raises(
        InputError, match=r"verify must hold edges of the model\. .* no sender 'a9\.h9'; senders are input"
    ):
        Circuit(**few, verify=("a9.h9->logits",)).run(tiny_runner)
    with pytest.raises(InputError, match="does not come after its sender"):
        Circuit(**few, verify=("a1.h0->a0.h0<k>",)).run(tiny_runner)


def test_a_number_of_edges_a_threshold_and_the_mean(tiny_runner: Runner):
    few: dict[str, Any] = {"examples": 4, "steps": 2, "random_circuits": 2, "verify_top": 3}
    several = Circuit(**few, edges=15, select="top").run(tiny_runner)
    assert 0 < len(found(several)) <= 15
    by_threshold = Circuit(**few, threshold=2.0).run(tiny_runner)
    scores = by_threshold["score"].mean("prompt")
    assert found(by_threshold) <= set(scores["edge"].values[abs(scores.values) >= 2].tolist())
    mean = Circuit(**few, ablation="mean").run(tiny_runner)
    assert not np.allclose(mean["empty"], several["empty"])
    signed = Circuit(**few, signed=True, edges=6).run(tiny_runner)
    assert (signed["score"].mean("prompt").values[signed["in_circuit"].values.astype(bool)] < 0).all()


def test_relevance_in_the_place_of_gradients(tiny_runner: Runner, tiny_results: xr.Dataset):
    circuit = Circuit(examples=8, rule="relp", random_circuits=2)
    results = circuit.run(tiny_runner)
    assert results.attrs["steps"] == 1
    assert found(results) == found(tiny_results)
    for one, names in ((results, "EAP and"), (tiny_results, "EAP-IG with 5 steps and")):
        table = Circuit().tables(one)["edges"].dropna(subset=["exact"])
        own = one["correlation"].sel(rule=one.attrs["rule"])
        assert float(own[0]) == pytest.approx(np.corrcoef(table["score"], table["exact"])[0, 1], rel=1e-5)
        assert one["correlation"].notnull().all()
        said = next(text for text in circuit.findings(one) if text.startswith("Over the 20 edges"))
        assert re.search(rf"is \d\.\d+ \(\d\.\d+\) with {names} \d\.\d+ \(\d\.\d+\) with RelP\.", said)


def test_mibs_areas_are_of_edges_by_signed_scores_and_by_sizes(tiny_runner: Runner):
    results = Circuit(examples=4, steps=2, random_circuits=0, verify_top=0).run(tiny_runner)
    task_edges = results["edge"].values.tolist()
    mean = results["score"].mean("prompt").values
    nodes = nodes_of(tiny_runner)
    for name, keys in (("mib_metric", -mean), ("mib_absolute", np.abs(mean))):
        table = torch.full(nodes.reads.shape, -torch.inf, dtype=torch.float64)
        for edge, key in zip(task_edges, keys, strict=True):
            table[nodes.edge(edge)] = float(key)
        kept = torch.stack([strongest(nodes, table, int(share * len(task_edges))) for share in MIB_SHARES])
        expected = (
            Circuit(examples=4)._task(tiny_runner, Circuit(examples=4)._pairs(tiny_runner)).values(nodes.reads & ~kept)
        )
        np.testing.assert_allclose(results[name].values, expected.T.numpy(), atol=1e-5)
    words = " ".join(Circuit().findings(results))
    ratio, distance = performance_ratio(shares(results, "mib_metric")), model_distance(shares(results, "mib_absolute"))
    assert f"CPR is {ratio:.3f} (" in words
    assert f"CMD {distance:.3f} (" in words


def test_a_circuit_goes_through_eap_igs_json(tiny_runner: Runner, tmp_path: Path):
    few: dict[str, Any] = {"examples": 6, "steps": 1, "random_circuits": 0, "verify_top": 0}
    results = Circuit(**few).run(tiny_runner)
    file = tmp_path / "eap-ig.json"
    file.write_text(Circuit().files(results)["eap-ig.json"])
    value = json.loads(file.read_text())
    assert value["cfg"] == {"n_layers": 2, "n_heads": 4, "d_model": value["cfg"]["d_model"], "parallel_attn_mlp": False}
    assert len(value["edges"]) == results.sizes["edge"]
    assert {name for name, edge in value["edges"].items() if edge["in_graph"]} == found(results)
    mean = dict(zip(results["edge"].values, results["score"].mean("prompt").values, strict=True))
    assert value["edges"]["a1.h0->logits"]["score"] == pytest.approx(-mean["a1.h0->logits"], rel=1e-5)
    again = Circuit(**few, circuit_file=file).run(tiny_runner)
    assert found(again) == found(results)
    assert again.attrs["chosen_by"] == "circuit_file"
    np.testing.assert_allclose(again["chosen"].values, results["chosen"].values, atol=1e-5)
    # Another circuit than would be chosen: one edge is taken out, and what is no longer connected with it.
    for name in value["edges"]:
        value["edges"][name]["in_graph"] &= "a1.h0" not in name
    file.write_text(json.dumps(value))
    less = Circuit(**few, circuit_file=file).run(tiny_runner)
    assert found(less) == {name for name in found(results) if "a1.h0" not in name}
    for name, edge in value["edges"].items():
        edge["in_graph"] = name == "input->a0.h0<v>"
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match="that are in_graph hold no way from the input to the logits"):
        Circuit(examples=2, circuit_file=file).run(tiny_runner)


def test_edges_are_ranked_by_the_scores_of_a_file(tiny_runner: Runner, tmp_path: Path):
    """As MIB measures a file of scores alone."""
    few: dict[str, Any] = {"examples": 6, "random_circuits": 0, "verify_top": 0}
    results = Circuit(**few).run(tiny_runner)
    value = json.loads(Circuit().files(results)["eap-ig.json"])
    for edge in value["edges"].values():
        edge["in_graph"] = False
    file = tmp_path / "importances.json"
    file.write_text(json.dumps(value))
    again = Circuit(**few, rule="relp", circuit_file=file).run(tiny_runner)
    assert found(again) == found(results)
    for name in ("circuit_metric", "mib_metric", "mib_absolute"):
        np.testing.assert_allclose(again[name].values, results[name].values, atol=1e-5)
    assert "Circuits of other sizes are made of the edges that the file ranks first." in Circuit().findings(again)
    # The other way round, the same edges come last.
    for edge in value["edges"].values():
        edge["score"] *= -1
    file.write_text(json.dumps(value))
    turned = Circuit(**few, circuit_file=file).run(tiny_runner)
    assert performance_ratio(shares(turned, "mib_metric")) < performance_ratio(shares(results, "mib_metric")) - 0.1
    np.testing.assert_allclose(turned["mib_absolute"].values, results["mib_absolute"].values, atol=1e-5)
    for edge in value["edges"].values():
        edge["score"] = 0
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match="holds neither scores nor an edge that is in_graph"):
        Circuit(**few, circuit_file=file).run(tiny_runner)


def test_edges_as_mib_counts_them(loaded: Callable[[str], Runner], tmp_path: Path):
    """Where two heads share keys and values."""
    runner = loaded("llama")
    few: dict[str, Any] = {"examples": 2, "period": 5, "steps": 1, "random_circuits": 1, "verify_top": 2}
    shared, own = Circuit(**few, faithful=1.0).run(runner), Circuit(**few, faithful=1.0, edges="mib").run(runner)
    assert own.sizes["edge"] == len(nodes_of(runner, ungrouped=True).edges) > shared.sizes["edge"]
    np.testing.assert_allclose(own["base"].values, shared["base"].values, atol=1e-5)
    np.testing.assert_allclose(own["empty"].values, shared["empty"].values, atol=1e-5)
    assert "keys and values are every head's own" in " ".join(Circuit().findings(own))
    assert "eap-ig.json" not in Circuit().files(shared)
    file = tmp_path / "eap-ig.json"
    file.write_text(Circuit().files(own)["eap-ig.json"])
    again = Circuit(**few, circuit_file=file).run(runner)
    assert found(again) == found(own)
    np.testing.assert_allclose(again["chosen"].values, own["chosen"].values, atol=1e-5)


def test_held_out_prompts_and_prompts_drawn_again(tiny_results: xr.Dataset):
    # Induction heads are the same whatever the tokens: halves agree, and every edge of the circuit is stable.
    assert float(shares(tiny_results, "held_out")) == pytest.approx(float(shares(tiny_results, "chosen")), abs=0.05)
    assert float(tiny_results["halves_jaccard"]) > 0.7
    inside = tiny_results["in_circuit"].values.astype(bool)
    assert tiny_results["selected"].values[inside].min() > 0.5
    assert tiny_results["selected"].values[~inside].max() < 0.5
    words = " ".join(Circuit().findings(tiny_results))
    assert re.search(
        r"Chosen on one half of the prompts and measured on the other, both ways, circuits of as many", words
    )
    assert "resamples of prompts." in words
    assert "selected" in Circuit().tables(tiny_results)["edges"].columns


def test_one_prompt_has_no_interval_and_says_so(tiny_runner: Runner):
    circuit = Circuit(examples=1, steps=1, random_circuits=0, verify_top=0)
    results = circuit.run(tiny_runner)
    words = " ".join(circuit.findings(results))
    assert "With one prompt there is no interval and no test." in words
    assert "Too few edges" in words
    assert "low" not in circuit.tables(results)["edges"].columns
    assert list(circuit.figures(results)) == ["circuit", "faithfulness"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"examples": 0}, "examples must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"edges": 0}, "edges must be at least 1"),
        ({"edges": 3, "threshold": 1.0}, "exclude each other"),
        ({"faithful": 0.0}, "faithful must be above 0"),
        ({"topics": ()}, "one topic at least"),
        ({"data": "list", "period": 20}, "period does nothing with data list: leave it out"),
        ({"data": "ioi", "period": 9}, "period does nothing with data ioi"),
        ({"topics": ("Fruits",)}, "topics does nothing with data induction"),
        ({"data": "list", "examples": 32}, "examples does nothing with data list"),
        ({"pairs": Path("x"), "examples": 3}, "examples does nothing with pairs of one's own"),
        ({"pairs": Path("x"), "data": "induction"}, "data does nothing with pairs of one's own"),
        ({"edges": 3, "faithful": 0.5}, "faithful does nothing with edges"),
        ({"threshold": 1.0, "faithful": 0.9}, "faithful does nothing with threshold"),
        ({"circuit_file": Path("x"), "faithful": 0.9}, "faithful does nothing with circuit_file"),
        ({"circuit_file": Path("x"), "edges": 3}, "edges and circuit_file exclude each other"),
        ({"rule": "relp", "steps": 5}, "steps does nothing with rule relp: leave it out"),
    ],
)
def test_fields_that_make_no_sense(fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Circuit(**fields)


def test_circuits_that_cannot_be(tiny_runner: Runner):
    few: dict[str, Any] = {"examples": 2, "steps": 1, "random_circuits": 0}
    with pytest.raises(InputError, match="No edges with a score of 1000 or more"):
        Circuit(**few, threshold=1000.0).run(tiny_runner)
    with pytest.raises(InputError, match="The 1 strongest edges hold no way from the input to the logits"):
        Circuit(**few, edges=1, select="top").run(tiny_runner)
    with pytest.raises(InputError, match="period must be between 5"):
        Circuit(**few, period=4).run(tiny_runner)
    # A block of 171 is begun again after 86 tokens, and BOS comes first: 258 of 256.
    with pytest.raises(
        InputError, match="period must be between 5 and 170 tokens, not 400: the model's context holds 256"
    ):
        Circuit(**few, period=400).run(tiny_runner)


def test_published_heads_are_compared_for_gpt2_on_ioi_only(tiny_results: xr.Dataset):
    assert published("induction-tiny", "ioi") is None
    assert published("gpt2", "list") is None
    assert published("openai-community/gpt2", "ioi") is IOI_GPT2
    assert len(IOI_GPT2.names) == 26
    assert {"a9.h9", "a10.h10", "a0.h1"} <= IOI_GPT2.names
    assert roc_area({"a": 3.0, "b": 2.0, "c": 1.0}, {"a"}) == 1
    assert roc_area({"a": 3.0, "b": 2.0, "c": 2.0}, {"b"}) == 0.25
    assert np.isnan(roc_area({"a": 1.0}, {"a"}))
    as_ioi = tiny_results.assign_attrs(model="gpt2", data="ioi")
    assert "0 of the 26 heads that Wang et al. 2022 published are in the circuit" in Circuit().findings(as_ioi)[-1]


def test_names_and_pairs_of_ones_own(shared: Path, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "n_ctx": 64, "act_fn": "gelu_new"}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**sizes, d_vocab=50257, device="cpu"), tokenizer=tokenizer)
    runner = Runner(model.eval(), progress=False)
    few: dict[str, Any] = {"steps": 1, "random_circuits": 1, "verify_top": 3}
    names = Circuit(data="ioi", examples=6, **few).run(runner)
    assert names.sizes["prompt"] == 6
    assert {str(cluster).split()[0] for cluster in names["cluster"].values} == {"template"}
    assert shares(names, "circuit_metric")[-1] == pytest.approx(1, abs=1e-3)
    file = tmp_path / "pairs.jsonl"
    pair = {"clean": "A cat sat on the", "corrupt": "A dog sat on the", "answer": " mat", "wrong": " floor"}
    file.write_text(json.dumps(pair) + "\n" + json.dumps(pair | {"corrupt": "A bird sat on the"}) + "\n")
    own = Circuit(pairs=file, **few).run(runner)
    assert own.sizes["prompt"] == 2
    assert "cluster" not in own
    assert own.attrs["data"] == "pairs"


def test_ends_of_edges():
    assert ends("a0.h1->a1.h2<k>") == ("a0.h1", "a1.h2", "k")
    assert ends("input->m3") == ("input", "m3", "")
