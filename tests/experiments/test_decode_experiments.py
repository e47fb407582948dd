"""guided-generation, decode-compare, guiding-tokens and embeddings: numbers against their parts, files, sentences."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.datasets.chat import stop_tokens
from mechlist.decode import Sampling, generate
from mechlist.decode.records import Record
from mechlist.decode.strategies import Strategy, answer_log_prob, beam_search, shifts
from mechlist.decode.token_texts import NONE, token_texts
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.decode_compare.experiment import DecodeCompare
from mechlist.experiments.embeddings.experiment import Embeddings, umapped
from mechlist.experiments.guided_generation.experiment import GuidedGeneration
from mechlist.experiments.guiding_tokens.experiment import GuidingTokens
from mechlist.experiments.guiding_tokens.scores import METHODS, TRUTH
from mechlist.metrics.statistics import rank_correlation
from mechlist.patching.tokens.gradients import gradient_times_input
from mechlist.patching.tokens.removal import leave_one_out, mask_out
from mechlist.patching.tokens.tracing import noise_each
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from mechlist.text import unescaped


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def survives(asked: Experiment, results: xr.Dataset, folder: Path) -> None:
    """All that is shown comes from what is saved."""
    save_dataset(results, folder / "results.nc")
    again = load_dataset(folder / "results.nc")
    assert asked.findings(again) == asked.findings(results)
    assert asked.figures(again) == asked.figures(results)
    for name, table in asked.tables(again).items():
        assert table.equals(asked.tables(results)[name]), name


# guided-generation


@pytest.fixture(scope="module")
def guided(runner: Runner) -> xr.Dataset:
    pytest.importorskip("llguidance")
    asked = GuidedGeneration(prefix="-Fig\n", regex=r"-(Pear|Plum)\n", max_new_tokens=12, temperature=1.0, samples=2)
    return asked.run(runner)


def texts_of(results: xr.Dataset, answer: int) -> str:
    texts = token_texts(results)
    return "".join(texts[e][0] for e in results["entry"].values[answer] if e != NONE)


def test_answers_begin_with_the_prefix_and_follow_the_grammar(guided: xr.Dataset):
    chosen = guided["guided"].values
    assert guided.sizes["answer"] == 12
    for i in np.flatnonzero(chosen):
        assert re.fullmatch(r"-Fig\n-(Pear|Plum)\n<end_of_turn>", texts_of(guided, int(i)))
    free = guided.isel(answer=~chosen)
    assert (free["allowed_mass"].values[np.isfinite(free["log_prob"].values)] == 1).all()
    assert (free["prefix_tokens"] == 0).all()


def test_guided_answers_are_measured_under_the_plain_model(runner: Runner, guided: xr.Dataset):
    ids = guided["vocabulary_id"].values
    seams = GuidedGeneration(prefix="-Fig\n").seams_of(runner, ())
    for i in np.flatnonzero(guided["guided"].values)[:3]:
        one = guided.isel(answer=i)
        tokens = [int(ids[e]) for e in one["entry"].values if e != NONE]
        prompt = seams[int(one["prompt_of"])][1].prompt
        expected = answer_log_prob(runner, prompt, tokens).double().numpy()
        size, given = len(tokens), int(one["prefix_tokens"])
        np.testing.assert_allclose(one["log_prob"].values[:size], expected, atol=1e-4)
        # Of the prefix each token was all that was allowed, and so certain.
        np.testing.assert_allclose(one["allowed_mass"].values[:given], np.exp(expected[:given]), atol=1e-5)
        np.testing.assert_allclose(one["guided_log_prob"].values[:given], 0, atol=1e-5)
        assert (one["allowed_mass"].values[:size] >= np.exp(expected) - 1e-6).all()
        np.testing.assert_allclose(
            one["guided_log_prob"].values[:size], expected - np.log(one["allowed_mass"].values[:size]), atol=1e-4
        )


def test_guided_results_survive(guided: xr.Dataset, tmp_path: Path):
    asked = GuidedGeneration()
    survives(asked, guided, tmp_path)
    mean = guided.isel(answer=guided["guided"].values & (guided["prompt_of"].values == 0))
    assert f"the guided answer has {float(mean['log_prob'].sum('token').mean()):.2f} nats" in asked.findings(guided)[0]
    assert "allowed" in asked.figures(guided)
    exhibits = asked.exhibits(guided)
    assert list(exhibits)[:2] == ["guided answer 1", "free answer 1"]
    first = exhibits["guided answer 1"]
    assert isinstance(first, Record)
    assert first.response == texts_of(guided, int(np.flatnonzero(guided["guided"].values)[0]))


def test_a_seam_that_shows_is_warned_of(runner: Runner):
    asked = GuidedGeneration(prompts=("-Pear\n-App",), prefix="le\n", max_new_tokens=3)
    together = asked.run(runner)
    warning = asked.findings(together)[1]
    assert warning.startswith("Warning: prefix and prompt tokenise differently together (")
    assert warning.endswith("together is what was used.")
    apart = GuidedGeneration(prompts=("-Pear\n-App",), prefix="le\n", max_new_tokens=3, tokenised="apart").run(runner)
    assert texts_of(apart, 0).startswith("le\n")
    assert texts_of(together, 0).startswith("Apple\n")
    plain = GuidedGeneration(max_new_tokens=3).run(runner)
    assert not any("Warning" in line for line in asked.findings(plain))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regex": "a", "grammar": Path("x")}, "Only one of regex, json_schema and grammar can be given"),
        ({"samples": 2}, "samples differ only where they are drawn: give a temperature above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
    ],
)
def test_bad_guides_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        GuidedGeneration(**changes)


def test_guides_that_contradict_the_template_are_refused(runner: Runner, tmp_path: Path):
    with pytest.raises(InputError, match="prefix must be plain text, without the special tokens of the chat"):
        GuidedGeneration(prompts=("Say",), chat=True, prefix="<end_of_turn>").run(runner)
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        GuidedGeneration(json_schema=tmp_path / "none.json").run(runner)


def test_an_empty_prompt_needs_bos(loaded: Any, runner: Runner, monkeypatch: pytest.MonkeyPatch):
    assert runner.tokenizer.decode(GuidedGeneration().prompts_of(runner, ("",))[0].tokens) == "<bos>"


# decode-compare


@pytest.fixture(scope="module")
def compared(runner: Runner) -> xr.Dataset:
    asked = DecodeCompare(per_kind=1, max_new_tokens=6, samples=3, beams=3, logit_bias=("-=1.5",))
    return asked.run(runner)


def test_every_strategy_is_told(runner: Runner, compared: xr.Dataset):
    names = compared["strategy"].values.tolist()
    plain = [
        "greedy",
        "beams",
        "temperature",
        "top-k",
        "top-p",
        "min-p",
        "banned",
        "penalised",
        "logit bias",
        "steered",
    ]
    assert names == plain
    assert compared["kind"].values.tolist() == ["neutral", "contentious", "happy"]
    written = [[sum(bool(t) for t in row) for row in of_prompt] for of_prompt in compared["text"].values]
    assert written == [[1, 3, 3, 3, 3, 3, 1, 1, 1, 1]] * 3


def test_measures_are_those_of_their_parts(runner: Runner, compared: xr.Dataset):
    text = unescaped(str(compared["prompt_text"][0].item()))
    prompt, stops = tuple(runner.to_tokens(text)), stop_tokens(runner.tokenizer)
    asked: dict[str, Any] = {"max_new_tokens": 6, "stop_tokens": stops}
    ((greedy,),) = generate(runner, [prompt], sampling=Sampling(greedy=True), **asked)
    one = compared.isel(prompt=0)
    assert float(one["log_prob"].sel(strategy="greedy")) == pytest.approx(sum(greedy.log_probs), abs=1e-4)
    moved = shifts(runner, Strategy(), prompt, greedy.tokens).numpy()
    assert float(one["kl"].sel(strategy="greedy")) == pytest.approx(moved.mean(), abs=1e-5)
    assert float(one["kl_first"].sel(strategy="greedy")) == pytest.approx(moved[0], abs=1e-5)
    beams = beam_search(runner, prompt, beams=3, **asked)
    mean = np.mean([sum(b.log_probs) for b in beams])
    assert float(one["log_prob"].sel(strategy="beams")) == pytest.approx(mean, abs=1e-4)
    assert np.isnan(one["kl"].sel(strategy="beams"))
    # What greedy decoding begins with is banned: the distribution loses it and moves by minus the log of the rest.
    probs = runner.logits([prompt])[0, -1].double().softmax(0)
    lost = -math.log(1 - float(probs[greedy.tokens[0]]))
    assert float(one["kl_first"].sel(strategy="banned")) == pytest.approx(lost, abs=1e-5)
    banned = unescaped(one["text"].sel(strategy="banned").values[0])
    assert not banned.startswith(runner.tokenizer.decode(greedy.tokens[:1])) or len(greedy.tokens[:1]) == 0
    steered = tuple(runner.to_tokens(DecodeCompare().steering + text))
    ((own,),) = generate(runner, [steered], sampling=Sampling(greedy=True), **asked)
    expected = answer_log_prob(runner, prompt, own.tokens).sum()
    assert float(one["log_prob"].sel(strategy="steered")) == pytest.approx(float(expected), abs=1e-4)


def test_the_comparison_survives_and_is_seeded(runner: Runner, compared: xr.Dataset, tmp_path: Path):
    asked = DecodeCompare()
    survives(asked, compared, tmp_path)
    again = DecodeCompare(per_kind=1, max_new_tokens=6, samples=3, beams=3, logit_bias=("-=1.5",)).run(runner)
    xr.testing.assert_equal(again, compared)
    kl = compared["kl"].mean("prompt").dropna("strategy")
    most = str(kl["strategy"][int(kl.values.argmax())].item())
    assert f"moved most by {most} ({float(kl.max()):.3f} nats" in asked.findings(compared)[1]
    assert set(asked.figures(compared)) == {"log-prob-per-token", "kl", "distance", "distinct-2"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beams": 1}, "beams must be at least 2: a single one is greedy decoding"),
        ({"kinds": ("sad",)}, "kinds must be among neutral, contentious, happy"),
        ({"logit_bias": ("Paris",)}, "logit_bias must be a text, = and a number"),
        ({"logit_bias": ("=2",)}, "logit_bias must be a text, = and a number"),
        ({"penalty": 0}, "penalty must be above 0, not 0"),
        ({"steering": ""}, "steering must hold a text"),
        ({"prompts": ("a",), "prompt_files": (Path("b"),)}, "prompts and prompt_files exclude each other"),
        ({"min_p": 2}, "min_p must be from 0 to 1, not 2"),
    ],
)
def test_bad_strategies_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        DecodeCompare(**changes)


# guiding-tokens

PROMPT = "-Apple\n-Banana\n-"


@pytest.fixture(scope="module")
def guiding(runner: Runner) -> xr.Dataset:
    return GuidingTokens(prompt=PROMPT, steps=16, draws=3, random_orders=2).run(runner)


def test_scores_are_those_of_the_methods(runner: Runner, guiding: xr.Dataset):
    tokens = runner.to_tokens(PROMPT)
    answer = int(runner.logits([tokens])[0, -1].argmax())
    expected = {
        "leave-one-out": leave_one_out(runner, tokens, answer),
        "mask-out": mask_out(runner, tokens, answer),
        "gradient x input": gradient_times_input(runner, tokens, answer),
        "causal tracing": noise_each(runner, tokens, answer, draws=3).mean(0),
    }
    assert guiding["score"].dims == ("method", "position")
    for method, value in expected.items():
        found = torch.from_numpy(guiding["score"].sel({"method": method}).values)
        torch.testing.assert_close(found, value.double(), atol=1e-4, rtol=1e-3)
    assert guiding["method"].values.tolist() == list(METHODS)
    assert guiding["pattern"].shape == (8, len(tokens), len(tokens))
    low, high = guiding["noise_low"].values, guiding["noise_high"].values
    mean = guiding["score"].sel({"method": "causal tracing"}).values
    assert ((low <= mean + 1e-9) & (mean <= high + 1e-9)).all()


def test_agreement_is_a_rank_correlation(guiding: xr.Dataset):
    truth = guiding["score"].sel({"method": TRUTH}).values
    for method in METHODS:
        own = guiding["score"].sel({"method": method}).values
        assert float(guiding["agreement"].sel({"method": method})) == pytest.approx(rank_correlation(own, truth))
        rest = rank_correlation(own[1:], truth[1:])
        assert float(guiding["agreement_without_bos"].sel({"method": method})) == pytest.approx(rest)
    assert float(guiding["agreement"].sel({"method": TRUTH})) == pytest.approx(1)


def test_without_bos_attention_adds_up_again(guiding: xr.Dataset):
    rest = guiding["score_without_bos"]
    assert np.isnan(rest.isel(position=0)).all()
    for method in ("attention", "rollout"):
        assert float(guiding["score"].sel({"method": method}).sum()) == pytest.approx(1, abs=1e-5)
        assert float(rest.sel({"method": method}).sum()) == pytest.approx(1, abs=1e-5)
    same = ["leave-one-out", "integrated gradients"]
    np.testing.assert_array_equal(
        rest.sel({"method": same}).values[:, 1:], guiding["score"].sel({"method": same}).values[:, 1:]
    )


def test_deletion_takes_the_highest_first(runner: Runner, guiding: xr.Dataset):
    tokens = runner.to_tokens(PROMPT)
    # Neither BOS, which is left out of the scores, nor the last token is taken away.
    assert guiding.sizes["removed"] == len(tokens) - 1
    start = guiding["deletion"].isel(removed=0).values
    assert start == pytest.approx([guiding.attrs["answer_log_prob"]] * len(METHODS), abs=1e-4)
    ends = guiding["deletion"].isel(removed=-1).values
    assert ends == pytest.approx([ends[0]] * len(METHODS), abs=1e-3)
    masked = guiding["score_without_bos"].sel({"method": "mask-out"}).values[1:-1]
    first = float(guiding["deletion"].sel({"method": "mask-out"})[1])
    assert first == pytest.approx(guiding.attrs["answer_log_prob"] - masked.max(), abs=1e-4)
    assert guiding["random_deletion"].shape == (2, len(tokens) - 1)


def test_guiding_tokens_survive(guiding: xr.Dataset, tmp_path: Path):
    asked = GuidingTokens()
    survives(asked, guiding, tmp_path)
    assert set(asked.figures(guiding)) == {"text", "tokens", "agreement", "deletion", "attention", "trace"}
    said = asked.findings(guiding)
    answer = unescaped(guiding.attrs["answer"])
    assert said[0] == (
        f"The token that is predicted is “{answer}”, with a log-probability of "
        f"{guiding.attrs['answer_log_prob']:.3f} nats."
    )
    truth = guiding["score_without_bos"].sel({"method": TRUTH}).values
    best = int(np.nanargmax(truth))
    assert f"at position {best} ({truth[best]:+.2f} nats)" in said[1]
    assert len(asked.tables(guiding)["tokens"]) == guiding.sizes["position"]


def test_any_token_of_the_answer(runner: Runner):
    asked = GuidingTokens(prompt=PROMPT, step=2, steps=2, draws=1, random_orders=1)
    tokens = runner.to_tokens(PROMPT)
    ((one,),) = generate(runner, [tokens], max_new_tokens=3, sampling=Sampling(greedy=True))
    results = asked.run(runner)
    assert results["token_id"].values.tolist() == [*tokens, *one.tokens[:2]]
    assert unescaped(results.attrs["answer"]) == runner.token_texts([one.tokens[2]])[0]
    other = GuidingTokens(prompt=PROMPT, answer="-", steps=2, draws=1, random_orders=1).run(runner)
    assert unescaped(other.attrs["answer"]) == "-"
    with pytest.raises(InputError, match=r"step must be below \d+, the tokens of the answer, not 400"):
        # A short list ends long before; behind a plain prompt this model would write on.
        GuidingTokens(step=400).run(runner)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"draws": 0}, "draws must be at least 1, not 0"),
        ({"step": -1}, "step must be 0 or more, not -1"),
        ({"steps": 1}, "steps must be at least 2, not 1"),
        ({"deviations": 0}, "deviations must be above 0, not 0"),
        ({"layer": 6, "prompt": "-"}, "layer must be from -6 to 5, not 6"),
        ({"answer": "Banana split", "prompt": "-"}, "answer must be one token"),
        ({"subject": (99,), "prompt": "-A"}, "subject must be positions of the prompt's"),
    ],
)
def test_bad_flags_of_guiding_tokens_are_refused(runner: Runner, changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        GuidingTokens(**{"steps": 2, "draws": 1, "random_orders": 1, **changes}).run(runner)


# embeddings


def test_components_are_of_what_the_model_has(runner: Runner, tmp_path: Path):
    asked = Embeddings(prompt=PROMPT, layers=(0, -1))
    results = asked.run(runner)
    assert results["place"].values.tolist() == ["embedding", "after layer 0", "after layer 5"]
    tokens = runner.to_tokens(PROMPT)
    assert results["token_id"].values.tolist() == tokens
    assert unescaped(str(results["text"].values[0])) == "<bos>"
    weight = runner.model.W_E.detach()[tokens].double().numpy()
    values = np.linalg.svd(weight - weight.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(results["explained"].values[0], values[:2] / values.sum(), rtol=1e-5)
    last = runner.capture([tokens], "blocks.5.hook_resid_post")["blocks.5.hook_resid_post"][0]
    np.testing.assert_allclose(results["norm"].sel(place="after layer 5"), last.norm(dim=1), rtol=1e-5)
    survives(asked, results, tmp_path)
    figure: Any = asked.figures(results)["components"]
    # BOS included, each token has its own name.
    names = [*(t.replace("<", "&lt;").replace(">", "&gt;").replace("\n", "⏎") for t in runner.token_texts(tokens))]
    assert list(figure.data[0].text) == names
    said = f"Two components hold this share of the variance of {len(tokens)} tokens: "
    assert asked.findings(results)[0].startswith(said)


def test_bos_can_be_kept_from_deciding(runner: Runner):
    asked = Embeddings(prompt=PROMPT, fit_bos=False, layers=(5,))
    results = asked.run(runner)
    tokens = runner.to_tokens(PROMPT)
    assert f"the variance of {len(tokens) - 1} tokens: " in asked.findings(results)[0]
    last = runner.capture([tokens], "blocks.5.hook_resid_post")["blocks.5.hook_resid_post"][0].double().numpy()
    values = np.linalg.svd(last[1:] - last[1:].mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(results["explained"].values[1], values[:2] / values.sum(), rtol=1e-5)
    assert "BOS did not decide the components" in json.dumps(
        Embeddings().figures(results)["components"].to_dict()["layout"]["meta"], ensure_ascii=False
    )


@pytest.mark.parametrize("architecture", ["gpt2", "stablelm"])
def test_embeddings_of_every_kind_of_model(loaded: Any, architecture: str, monkeypatch: pytest.MonkeyPatch):
    runner = loaded(architecture)
    monkeypatch.setattr(Embeddings, "prompt_of", lambda *_: type("P", (), {"tokens": (5, 6, 7, 8), "text": ""})())
    results = Embeddings().run(runner)
    weight = runner.model.W_E.detach()[[5, 6, 7, 8]].double().numpy()
    values = np.linalg.svd(weight - weight.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(results["explained"].values[0], values[:2] / values.sum(), rtol=1e-4)


def test_umap_is_asked_for_where_it_is(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="components must be at least 2, not 1"):
        Embeddings(components=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="umap needs umap-learn, which is not installed: pip install umap-learn"):
        Embeddings(umap=True)


def test_umap_is_called_with_the_seed(monkeypatch: pytest.MonkeyPatch):
    class Umap:
        def __init__(self, n_neighbors: int, random_state: int) -> None:
            assert (n_neighbors, random_state) == (3, 7)

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            return vectors[:, :2]

    monkeypatch.setattr("importlib.import_module", lambda name: type("M", (), {"UMAP": Umap}))
    np.testing.assert_array_equal(umapped(np.eye(4), 7), np.eye(4)[:, :2])


def test_layers_that_there_are_not_are_refused(runner: Runner):
    with pytest.raises(InputError, match=r"layers must be from 0 to 5, or count from the last \(-1\), not \[6\]"):
        Embeddings(prompt=PROMPT, layers=(6,)).run(runner)
