import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mechlist.errors import InputError
from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.load import load
from mechlist.models.quantities import QUANTITIES
from mechlist.models.references import REFERENCES, Reference, find_references, load_references, run_references
from mechlist.models.tl import HAS_HOOKED
from mechlist.types import Guard, Processing
from tests.conftest import HfDirectory
from tests.models.gpt2_like import random_view

PAIR = {"prompt": "a", "answer": " Mary", "wrong": " John"}


@pytest.fixture(scope="module")
def view(shared: Path) -> LanguageModel:
    return random_view(shared)


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    if not HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer, which the built-in model is")
    return load("induction-tiny", device="cpu")


@pytest.fixture(scope="module")
def gpt2_shaped(shared: Path) -> list[Guard]:
    view = random_view(shared, n_layers=12, n_heads=12, d_model=48, d_mlp=700, n_ctx=256)
    file = find_references("gpt2")
    assert file is not None
    return run_references(view, load_references(file).checks)


def test_every_published_number_is_measured_and_not_a_random_model_s(gpt2_shaped: list[Guard]) -> None:
    assert len(gpt2_shaped) == 35
    assert [guard.name for guard in gpt2_shaped if guard.passed is not False] == []
    assert all(math.isfinite(guard.measured) for guard in gpt2_shaped)


def test_a_guard_says_expected_and_source(gpt2_shaped: list[Guard]) -> None:
    guard = next(g for g in gpt2_shaped if g.name == "reference ioi-claire-without-bos")
    assert "deterministic reference 2.782 (TransformerLens v2.15.4, demos/Main_Demo.ipynb)" in guard.detail
    assert guard.tolerance == pytest.approx(0.00052)


def test_every_quantity_is_used() -> None:
    files = sorted(REFERENCES.glob("*.yaml"))
    assert {check.quantity for file in files for check in load_references(file).checks} == set(QUANTITIES)


def test_eight_prompts_have_fifteen_tokens(shared: Path, view: LanguageModel) -> None:
    checks = {check.id: check for check in load_references(REFERENCES / "gpt2.yaml").checks}
    prompts = checks["ioi-final-scales"].parameters["prompts"]
    assert [len(view.module.to_tokens(prompt)[0]) for prompt in prompts] == [15] * 8
    assert [pair["prompt"] for pair in checks["ioi-eight-prompts"].parameters["pairs"]] == prompts
    swapped = [pair["prompt"] for pair in checks["ioi-eight-prompts-corrupted-mean"].parameters["pairs"]]
    assert swapped == checks["heads-early-and-middle"].parameters["corrupted"]
    assert swapped == [prompts[i ^ 1] for i in range(8)]
    abstract = checks["loss-abstract-without-L0H8"].parameters["text"]
    assert len(view.module.to_tokens(abstract)[0]) == 33  # as the notebook prints


def shipped(view: LanguageModel) -> list[Guard]:
    return run_references(view, load_references(REFERENCES / "induction-tiny.yaml").checks)


def test_the_shipped_weights_pass(tiny: LanguageModel) -> None:
    assert [guard.passed for guard in shipped(tiny)] == [True] * 4


def test_perturbed_weights_fail(tiny: LanguageModel) -> None:
    model = copy.deepcopy(tiny.module)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    guards = shipped(wrap(model, dict(tiny.info), tiny.bos_token_id))
    assert [guard.passed for guard in guards] == [False] * 4


def test_nan_weights_fail(tiny: LanguageModel) -> None:
    model = copy.deepcopy(tiny.module)
    model.W_U.data[:] = math.nan
    guards = shipped(wrap(model, dict(tiny.info), tiny.bos_token_id))
    assert [guard.passed for guard in guards[2:]] == [False] * 2


def check(**changes: Any) -> Reference:
    values: dict[str, Any] = {
        "id": "c",
        "quantity": "loss",
        "parameters": {"text": "Hello world!"},
        "expected": 0.0,
        "digits": 2,
        "kind": "deterministic",
        "source": "a page",
    }
    return Reference(**values | changes)


def reason(view: LanguageModel, reference: Reference) -> str:
    (guard,) = run_references(view, [reference])
    assert guard.passed is None
    assert math.isnan(guard.measured)
    assert guard.detail.endswith(" (a page)")
    return guard.detail.removesuffix(" (a page)")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"quantity": "direct_logit_attribution", "parameters": {"pairs": [PAIR], "heads": [[2, 0]]}},
            "not run: the model has no head L2H0",
        ),
        (
            {"quantity": "neuron_attribution", "parameters": {"prompt": "a", "token": "a", "neuron": [0, 24]}},
            "not run: the model has no neuron L0N24",
        ),
        (
            {"quantity": "unembed_bias", "parameters": {"tokens": ["Claire"]}},
            "not run: 'Claire' must be one token of the model's tokenizer, not 2",
        ),
        ({"parameters": {"text": " a" * 40}}, "not run: 41 tokens do not fit in the model's context of 40"),
        (
            {
                "quantity": "repeated_tokens",
                "parameters": {"blocks": {"period": 5, "rows": 1, "seed": 0, "high": 50258}, "value": "accuracy"},
            },
            "not run: tokens from 0 to 50257 are not all in a vocabulary of 50257",
        ),
    ],
)
def test_a_model_without_what_a_check_needs_is_not_run(
    view: LanguageModel, changes: dict[str, Any], sentence: str
) -> None:
    assert reason(view, check(**changes)) == sentence


def test_without_tokenizer_or_bos_a_check_is_not_run(tiny: LanguageModel) -> None:
    blocks = {"period": 5, "rows": 1, "seed": 0}
    scores = check(quantity="repeated_tokens", parameters={"blocks": blocks, "value": "accuracy"})
    assert reason(tiny, check()) == "not run: the model has no tokenizer"
    assert reason(wrap(tiny.module), scores) == "not run: the model has no BOS token"


def test_another_type_or_processing_is_not_run(view: LanguageModel, hf_directory: HfDirectory) -> None:
    bridge = load(str(hf_directory("stablelm")), device="cpu")
    assert reason(bridge, check()) == "not run: reference numbers are for a HookedTransformer"
    half = wrap(copy.deepcopy(view.module).to(torch.bfloat16, print_details=False), {}, 50256)
    assert reason(half, check()) == "not run: reference numbers are for float32, not bfloat16"
    other = wrap(view.module, {"processing": vars(Processing(fold_ln=False))}, 50256)
    assert reason(other, check(processing="default")).endswith("under the default weight processing only")
    (guard,) = run_references(other, [check()])
    assert guard.passed is False


def test_a_number_too_few_is_an_error(view: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"reference c expects 2 numbers, and loss gives 1\."):
        run_references(view, [check(expected=[1.0, 2.0])])


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "openai-community/gpt2", "GPT2", "induction-tiny"])
def test_references_are_found_by_every_name(name: str) -> None:
    file = find_references(name)
    assert file is not None
    assert name.lower() in load_references(file).models


@pytest.mark.parametrize("name", ["gpt2-xl", "google/gemma-2-2b-it", "some/directory", ""])
def test_other_models_have_none(name: str) -> None:
    assert find_references(name) is None


GOOD = """
models: [m]
checks:
  - {id: a, quantity: loss, parameters: {text: hi}, expected: 1.0, digits: 2, kind: deterministic, source: s}
"""


def test_a_good_file_loads(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(GOOD)
    (reference,) = load_references(file).checks
    assert (reference.allowed, reference.values) == (pytest.approx(0.00502), [1.0])


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("models: [m]", "models: [m]\nextra: 1", "extra: "),
        ("source: s", "source: s, extra: 1", "checks.0.extra: "),
        (", source: s", "", "checks.0.source: Field required"),
        ("expected: 1.0", "expected: one", "checks.0.expected"),
        ("expected: 1.0", "expected: .nan", "checks.0: expected must be finite numbers, at least one"),
        ("expected: 1.0", "expected: []", "checks.0: expected must be finite numbers, at least one"),
        ("digits: 2", "digits: 2, tolerance: 0.1", "checks.0: one of digits and tolerance must be given"),
        ("digits: 2, ", "", "checks.0: one of digits and tolerance must be given"),
        ("digits: 2", "tolerance: -1", "checks.0: tolerance must be a number of at least 0, not -1"),
        ("quantity: loss", "quantity: los", "checks.0: quantity 'los' is unknown; did you mean loss?"),
        ("quantity: loss", "quantity: x", "checks.0: quantity 'x' is unknown; there are loss, loss_ablated"),
        ("text: hi", "", "checks.0: parameters.text: Field required"),
        ("text: hi", "text: hi, bs: true", "checks.0: parameters.bs: "),
        ("text: hi", "text: hi, bos: 7", "checks.0: parameters.bos: "),
        ("kind: deterministic", "kind: sure", "checks.0.kind: "),
        ("models: [m]", "models: [", "is not readable YAML ("),
        (GOOD, "7", "the file: "),
        (GOOD, GOOD + GOOD.splitlines()[-1], "checks have the same id 'a'"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_field(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_references(file)
    text = str(caught.value)
    assert text.startswith(f"{file} is not ")
    assert complaint in text
    assert text.endswith("; correct it.")
    assert "\n" not in text


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not readable YAML"):
        load_references(tmp_path / "absent.yaml")
