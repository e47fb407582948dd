"""path_patch: every value against both passes done with TransformerLens's hooks, one sender and set at a time."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist import LogitDifference
from mechlist.errors import InputError
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.path import path_patch
from mechlist.patching.replacements import Zero
from mechlist.runner import Intervention, Runner
from mechlist.runner.journal import Journal
from mechlist.runner.memory import MemoryShares
from tests.hooked import HookedTransformer, HookedTransformerConfig, needs_hooked
from tests.patching.test_grid import attention_only

PROMPTS, LENGTH = 2, 11
"""Longer than the window of 8 that Gemma 2's local layers have here."""
ANSWER, WRONG = 5, 6
METRIC = LogitDifference(answer=ANSWER, wrong=WRONG)
SENDERS = ["input", "a0.h1", "a0.h3", "m0", "a1.h0", "m1", "a2.h2"]
ALONE = ["a1.h2<q>", "a2.h1<k>", "a2.h0<v>", "m0", "m1", "m2", "logits"]
SETS = {name: [name] for name in ALONE} | {
    "heads": ["a1.h2<q>", "a1.h1<q>", "a2.h1<k>", "a2.h0<v>"],
    "mlps": ["m0", "m2"],
    "an MLP first": ["m1", "a2.h3<q>", "m2", "a2.h1<v>"],
    "side by side": ["a1.h0<v>", "m1"],
}


def tokens(runner: Runner, prompts: int = PROMPTS, length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Base and source, equal at the first two positions."""
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(9, runner.shape.d_vocab, (prompts, length), generator=generator) for _ in range(2))
    source[:, :2] = base[:, :2]
    return base, source


def run(runner: Runner, base: torch.Tensor, source: torch.Tensor, **changes: Any) -> xr.Dataset:
    asked: dict[str, Any] = {"receivers": SETS, "senders": SENDERS, "metric": METRIC}
    return path_patch(runner, base=base, source=source, **(asked | changes))


# both passes, slow and obvious


def put(value: torch.Tensor, activation: torch.Tensor, hook: Any, head: int | None = None) -> torch.Tensor:
    if head is None:
        return value.clone()
    out = activation.clone()
    out[:, :, head] = value[:, :, head]
    return out


def record(kept: dict[str, torch.Tensor], name: str, activation: torch.Tensor, hook: Any) -> None:
    kept[name] = activation.clone()


def added(model: Any, kept: Any, layer: int, head: int) -> torch.Tensor:
    """What a head adds, but for its share of the bias, which does not differ between runs."""
    out = kept[f"blocks.{layer}.attn.hook_z"][:, :, head] @ model.W_O[layer, head]
    if model.cfg.use_normalization_before_and_after:
        norm = model.blocks[layer].ln1_post
        out = out / kept[f"blocks.{layer}.ln1_post.hook_scale"] * norm.w
    return out


def first_pass(model: Any, base: torch.Tensor, there: Any, other: Any, sender: str, frozen: str) -> Any:
    """Logits and activations with the sender alone changed."""
    hooks: list[tuple[str, Any]] = []
    kept: dict[str, torch.Tensor] = {}
    if sender == "input":
        hooks.append(("hook_embed", partial(put, other["hook_embed"])))
    for layer in range(model.cfg.n_layers):
        block = f"blocks.{layer}."
        hooks += [(name, partial(record, kept, name)) for name in (f"{block}attn.hook_{kind}" for kind in "qkv")]
        attention = there[f"{block}hook_attn_out"]
        if sender.startswith(f"a{layer}."):
            head = int(sender.split("h")[1])
            attention = attention + added(model, other, layer, head) - added(model, there, layer, head)
        hooks.append((f"{block}hook_attn_out", partial(put, attention)))
        if model.cfg.attn_only:
            continue
        name = f"{block}hook_mlp_out"
        hooks.append((name, partial(record, kept, name)))
        if sender == f"m{layer}":
            hooks.append((name, partial(put, other[name])))
        elif frozen == "all":
            hooks.append((name, partial(put, there[name])))
    return model.run_with_hooks(base[None], fwd_hooks=hooks), kept


def two_passes(
    runner: Runner, base: torch.Tensor, source: torch.Tensor, sender: str, receivers: Sequence[str], frozen: str
) -> torch.Tensor:
    """Logits of one prompt, [position vocab]."""
    model = runner.model
    with torch.no_grad():
        there, other = (model.run_with_cache(prompt[None])[1] for prompt in (base, source))
        logits, kept = first_pass(model, base, there, other, sender, frozen)
        if list(receivers) == ["logits"]:
            return logits[0]
        hooks: list[tuple[str, Any]] = []
        for receiver in receivers:
            if receiver.startswith("m"):
                name = f"blocks.{receiver[1:]}.hook_mlp_out"
                hooks.append((name, partial(put, kept[name])))
            else:
                layer, rest = receiver[1:].split(".h")
                head, kind = rest.rstrip(">").split("<")
                name = f"blocks.{layer}.attn.hook_{kind}"
                hooks.append((name, partial(put, kept[name], head=int(head))))
        return model.run_with_hooks(base[None], fwd_hooks=hooks)[0]


def slow(
    runner: Runner, base: torch.Tensor, source: torch.Tensor, sets: Mapping[str, Sequence[str]], frozen: str
) -> np.ndarray:
    """[prompt receiver sender], one pair at a time; NaN where the sender comes before no receiver."""
    nodes = Nodes(runner.shape, parallel=runner.model.cfg.parallel_attn_mlp)
    senders = [name for name in SENDERS if not (runner.shape.attn_only and name.startswith("m"))]
    senders = [name for name in senders if name != "a2.h2" or runner.shape.n_layers > 2]
    out = np.full((len(base), len(sets), len(senders)), np.nan)
    for r, members in enumerate(sets.values()):
        for s, sender in enumerate(senders):
            if not any(nodes.reads[nodes.sender(sender), nodes.receiver(one)] for one in members):
                continue
            for i in range(len(base)):
                logits = two_passes(runner, base[i], source[i], sender, members, frozen)[-1]
                out[i, r, s] = float(logits[ANSWER] - logits[WRONG])
    return out


@pytest.mark.parametrize("frozen", ["all", "heads"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "pythia"])
@needs_hooked
def test_every_value_equals_both_passes(loaded: Callable[[str], Runner], architecture: str, frozen: Any):
    runner = loaded(architecture)
    base, source = tokens(runner)
    found = run(runner, base, source, frozen=frozen)
    assert found["patched"].dims == ("prompt", "receiver", "sender")
    assert found["receiver"].values.tolist() == list(SETS)
    assert found["sender"].values.tolist() == SENDERS
    expected = slow(runner, base, source, SETS, frozen)
    np.testing.assert_allclose(found["patched"], expected, atol=1e-4)
    effect = abs(found["patched"] - found["base"])
    assert (effect.max(("prompt", "sender")) > 1e-3).all(), "every set does something"
    absent = found["patched"][0].isnull()
    # In layers that run side by side an MLP does not read the heads of its own layer.
    assert bool(absent.sel(receiver="m1", sender="a1.h0")) == (architecture == "pythia")


@pytest.mark.parametrize("frozen", ["all", "heads"])
def test_a_model_without_mlps(frozen: Any):
    runner = attention_only()
    base, source = tokens(runner)
    sets = {"q": ["a1.h2<q>"], "k": ["a1.h1<k>"], "v": ["a1.h0<v>"], "all": ["a1.h0<v>", "a1.h2<q>"], "end": ["logits"]}
    senders = ["input", "a0.h1", "a0.h3", "a1.h0"]
    found = run(runner, base, source, receivers=sets, senders=senders, frozen=frozen)
    np.testing.assert_allclose(found["patched"], slow(runner, base, source, sets, frozen), atol=1e-4)


def test_without_norms_the_direct_paths_to_the_logits_add_up():
    runner = attention_only()
    base, source = tokens(runner)
    found = run(runner, base, source, receivers=["logits"], senders=None)
    assert found.sizes["sender"] == 1 + 2 * 4
    whole = (found["patched"] - found["base"]).sum("sender").sel(receiver="logits")
    np.testing.assert_allclose(whole, found["source"] - found["base"], atol=1e-4)
    assert np.abs(whole).min() > 1e-2


def test_the_two_definitions_differ_by_the_mlps_between(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    direct, around = (run(runner, base, source, frozen=frozen)["patched"] for frozen in ("all", "heads"))
    assert abs(direct - around).sel(receiver="logits", sender="a0.h1").min() > 1e-3
    # Nothing lies between these.
    for receiver, sender in (("m0", "a0.h1"), ("a1.h2<q>", "m0"), ("m1", "a1.h0")):
        pair = {"receiver": receiver, "sender": sender}
        np.testing.assert_allclose(direct.sel(pair), around.sel(pair), atol=1e-6)


@pytest.mark.parametrize("frozen", ["all", "heads"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "pythia"])
def test_patching_with_itself_changes_nothing(loaded: Callable[[str], Runner], architecture: str, frozen: Any):
    runner = loaded(architecture)
    base, _ = tokens(runner)
    found = run(runner, base, base, frozen=frozen, senders=None)
    np.testing.assert_array_equal(found["base"], found["source"])
    patched = found["patched"].transpose("receiver", "sender", "prompt").values
    assert ((patched == found["base"].values) | np.isnan(patched)).all()


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_padded_prompts_of_unequal_length(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    base, source = tokens(runner, prompts=3)
    lengths = torch.tensor([11, 6, 9])
    found = run(runner, base, source, frozen="heads", lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = run(runner, base[i : i + 1, :length], source[i : i + 1, :length], frozen="heads")
        np.testing.assert_allclose(found["patched"][i], alone["patched"][0], atol=1e-4)
        for name in ("base", "source"):
            assert float(found[name][i]) == pytest.approx(float(alone[name][0]), abs=1e-5)


def test_the_metric_may_read_any_positions(loaded: Callable[[str], Runner]):
    runner = loaded("llama")
    base, source = tokens(runner)
    metric = LogitDifference(answer=ANSWER, wrong=WRONG, position=[[1, 4, -1], [5]])
    found = run(runner, base, source, metric=metric, frozen="heads")
    for receiver in ("logits", "m1", "heads"):
        for sender in ("input", "a0.h1"):
            for i, read in enumerate(([1, 4, LENGTH - 1], [5])):
                logits = two_passes(runner, base[i], source[i], sender, SETS[receiver], "heads")[read]
                expected = float((logits[:, ANSWER] - logits[:, WRONG]).mean())
                value = float(found["patched"][i].sel(receiver=receiver, sender=sender))
                assert value == pytest.approx(expected, abs=1e-4)
    # Without other receivers the logits need the tokens alone that are read.
    alone = run(runner, base, source, metric=metric, frozen="heads", receivers=["logits"])
    expected = found["patched"].sel(receiver=["logits"])
    np.testing.assert_allclose(alone["patched"], expected, atol=5e-6)
    # The prompts do not differ before position 2.
    early = run(runner, base, source, metric=LogitDifference(answer=ANSWER, wrong=WRONG, position=1))
    assert ((early["patched"] == early["base"]) | np.isnan(early["patched"])).all()


@pytest.mark.parametrize("frozen", ["all", "heads"])
def test_nothing_depends_on_memory_or_order(
    loaded: Callable[[str], Runner], frozen: Any, monkeypatch: pytest.MonkeyPatch
):
    runner = loaded("gemma2")
    base, source = tokens(runner, prompts=4)
    whole = run(runner, base, source, frozen=frozen)
    monkeypatch.setattr("mechlist.runner.memory.CPU_PACKED_TOKENS", 20)
    monkeypatch.setattr("mechlist.patching.sweep.task.CPU_GRAIN", 4)
    monkeypatch.setattr(runner, "shares", MemoryShares(200_000))
    np.testing.assert_allclose(run(runner, base, source, frozen=frozen)["patched"], whole["patched"], atol=5e-6)
    order = [2, 0, 3, 1]
    shuffled = run(runner, base[order], source[order], frozen=frozen, senders=SENDERS[::-1], receivers=ALONE[::-1])
    expected = whole["patched"].isel(prompt=order).sel(receiver=ALONE[::-1], sender=SENDERS[::-1])
    np.testing.assert_allclose(shuffled["patched"], expected, atol=5e-6)


def test_a_journal_gives_back_what_is_done(
    loaded: Callable[[str], Runner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    runner.restart(Journal(tmp_path))
    try:
        first = run(runner, base, source)
        runner.restart(Journal(tmp_path))
        monkeypatch.setattr("mechlist.patching.paths.work.PathWork._computed", None)
        assert run(runner, base, source).identical(first)
        runner.restart(Journal(tmp_path))
        with pytest.raises(TypeError):
            run(runner, base, source, frozen="heads")
    finally:
        runner.restart(None)


@pytest.mark.parametrize("frozen", ["all", "heads"])
def test_half_precision_is_both_passes_up_to_its_rounding(frozen: Any):
    config: dict[str, Any] = {"n_layers": 3, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 64, "d_vocab": 97}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = {"act_fn": "gelu_new", "normalization_type": "RMS", "dtype": torch.bfloat16}
        model = HookedTransformer(HookedTransformerConfig(**config, **kind, n_ctx=32, device="cpu"))
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    runner = Runner(model.eval(), progress=False)
    base, source = tokens(runner)
    found = run(runner, base, source, frozen=frozen)
    expected = slow(runner, base, source, SETS, frozen)
    scale = np.nanmax(np.abs(expected))
    assert scale > 1
    np.testing.assert_allclose(found["patched"], expected, atol=0.03 * scale)


# bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frozen": "none"}, "frozen must be one of all, heads, not 'none'"),
        ({"source": Zero()}, "source must be the tokens of other prompts, not Zero"),
        ({"receivers": ["a1.h9<q>"]}, "The model has no receiver 'a1.h9<q>'; receivers are .* Did you mean L1H"),
        ({"receivers": ["a0.h0"]}, r"The model has no receiver 'a0.h0'; receivers are .* Did you mean L0H0\."),
        ({"senders": ["m9"]}, "The model has no sender 'm9'; senders are input, L0H0 to L2H3 and m0 to m2"),
        ({"receivers": []}, "receivers must be a list of one name at least"),
        ({"receivers": {}}, "receivers must hold one receiver at least, not none"),
        ({"receivers": {"none": []}}, "The set 'none' must be a list of one name at least"),
        ({"receivers": "logits"}, "receivers must be a list of one name at least, not 'logits'"),
        ({"receivers": ["m1", "m1"]}, "receivers must hold each name once; m1 is there 2 times"),
        ({"receivers": ["L0H0.q", "a0.h0<q>"]}, "receivers must hold each name once; L0H0.q is there 2 times"),
        ({"senders": ["L0,1"]}, "The model has no sender 'L0,1'; senders are input, L0H0 to L2H3 and m0 to m2"),
        ({"receivers": {"both": ["m1", "logits"]}}, "The set 'both' must not join logits with other receivers"),
        ({"senders": []}, "senders must be a list of one name at least"),
        (
            {"receivers": ["m0", "a1.h0<q>"], "senders": ["m0", "m1"]},
            r"The receivers m0 come before every sender \(m0, m1\): nothing reaches them",
        ),
        (
            {"receivers": ["m0", "a1.h0<q>"], "senders": ["input", "m1"]},
            r"The sender m1 comes after every receiver \(m0, L1H0\.q\): nothing is reached",
        ),
        ({"lengths": torch.tensor([11, 0])}, "lengths must be from 1 to 11"),
        ({"metric": LogitDifference(answer=5, wrong=5)}, "answer and wrong must be different tokens"),
        ({"metric": LogitDifference(answer=5, wrong=6, position=11)}, "position 11 is outside prompt 0"),
    ],
)
def test_bad_input_is_refused(loaded: Callable[[str], Runner], changes: dict[str, Any], words: str):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    with pytest.raises(InputError, match=words):
        run(runner, base, **({"source": source} | changes))


def test_shapes_that_differ_are_refused(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    with pytest.raises(InputError, match=r"received \[2, 11\] and \[2, 10\]"):
        run(runner, base, source[:, :10])


def test_models_that_cannot_be_run_by_layer_are_refused(loaded: Callable[[str], Runner]):
    for architecture, words in (
        ("mpt", "not possible here: its attention favours near tokens by a bias"),
        ("gpt2", "interventions"),
    ):
        runner = loaded(architecture)
        base, source = tokens(runner)
        change = Intervention("blocks.0.hook_mlp_out", lambda activation, _: activation)
        with runner.intervene(*[change] * (architecture == "gpt2")), pytest.raises(InputError, match=words):
            run(runner, base, source)


def test_heads_are_named_in_any_notation_and_labelled_in_one(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    found = run(runner, base, source, receivers=["L1H2.q", "2.0.v"], senders=["L0H3", "0.1", "m0"])
    assert found["receiver"].values.tolist() == ["a1.h2<q>", "a2.h0<v>"]
    assert found["sender"].values.tolist() == ["a0.h3", "a0.h1", "m0"]
    again = run(runner, base, source, receivers=["a1.h2<q>", "a2.h0<v>"], senders=["a0.h3", "a0.h1", "m0"])
    xr.testing.assert_identical(found, again)


def test_names_without_a_path_are_nan_when_all_senders_are_asked_for(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    found = run(runner, base, source, receivers=["a1.h0<q>"], senders=None)
    reached = ~np.isnan(found["patched"][0, 0])
    assert found["sender"].values[reached].tolist() == ["input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0"]
