"""Loading of SAEs: every local format, names of releases, and what does not fit the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mechlist.datasets.lists.made import well_known_lists
from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.runner.raw import has_raw_activation, raw_activations
from mechlist.sae.load import Place, builtin_saes, family, hooks_of, load_sae, places, stream_saes
from mechlist.sae.transfer import reconstruction
from tests.sae.saes_for_tests import weights, write_lens, write_scope, write_scope_2

pytest.importorskip("sae_lens")
HOOK = "blocks.1.hook_resid_post"


def one(name: str | Path) -> Place:
    (place,) = places([str(name)])
    return place


@pytest.mark.parametrize("form", ["sae_lens", "gemma-scope", "gemma-scope-2"])
def test_every_local_format_gives_the_same_features(tmp_path: Path, form: str):
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_1" / "width_64" / form
    if form == "sae_lens":
        write_lens(folder, 32, 64, HOOK, kind="jumprelu", apply_b_dec_to_input=False)
    elif form == "gemma-scope":
        write_scope(folder, 32, 64)
    else:
        write_scope_2(folder, 32, 64, "model.layers.1.output")
    sae = load_sae(one(folder))
    assert (sae.hook, sae.d_in, sae.d_sae) == (HOOK, 32, 64)
    x, own = torch.randn(5, 32), weights(32, 64)
    before = x @ own["W_enc"] + own["b_enc"]
    features = torch.where(before > own["threshold"], before.relu(), 0)
    torch.testing.assert_close(sae.encode(x), features)
    torch.testing.assert_close(sae.decode(features), features @ own["W_dec"] + own["b_dec"])


@pytest.mark.parametrize(("kind", "more"), [("standard", {}), ("gated", {}), ("topk", {"k": 4}), ("jumprelu", {})])
def test_architectures_decode_as_sae_lens_does(tmp_path: Path, kind: str, more: dict[str, Any]):
    sae = load_sae(one(write_lens(tmp_path / kind, 32, 64, HOOK, kind=kind, **more)))
    x = torch.randn(2, 3, 32)
    features = sae.encode(x)
    assert bool((features > 0).any())
    torch.testing.assert_close(sae.decode(features), sae.module(x))


def test_topk_rescaled_by_decoder_norms_keeps_its_output(tmp_path: Path):
    folder = write_lens(tmp_path / "topk", 32, 64, HOOK, kind="topk", k=4, rescale_acts_by_decoder_norm=True)
    from safetensors.torch import load_file, save_file

    raw = load_file(folder / "sae_weights.safetensors")
    raw["W_dec"] = raw["W_dec"] * torch.linspace(0.5, 2, 64)[:, None]
    save_file(raw, folder / "sae_weights.safetensors")
    sae, x = load_sae(one(folder)), torch.randn(3, 32)
    before = (x - raw["b_dec"]) @ raw["W_enc"] + raw["b_enc"]
    norms = raw["W_dec"].norm(dim=1)
    kept = (before * norms).relu().topk(4)
    features = torch.zeros(3, 64).scatter(1, kept.indices, kept.values)
    torch.testing.assert_close(sae.decode(sae.encode(x)), (features / norms) @ raw["W_dec"] + raw["b_dec"])


def test_heads_of_hook_z_are_flattened(tmp_path: Path):
    folder = write_lens(tmp_path / "z", 32, 64, "blocks.0.attn.hook_z", reshape_activations="hook_z")
    assert load_sae(one(folder)).encode(torch.randn(2, 3, 32)).shape == (2, 3, 64)
    scope = write_scope_2(tmp_path / "z2", 32, 64, "model.layers.0.self_attn.o_proj.input")
    assert load_sae(one(scope)).hook == "blocks.0.attn.hook_z"


def test_weights_stored_the_other_way_round_are_turned(tmp_path: Path):
    own = weights(32, 64)
    folder = write_scope(tmp_path / "turned", 32, 64, W_enc=own["W_enc"].T.numpy(), W_dec=own["W_dec"].T.numpy())
    sae = load_sae(one(f"{folder}@{HOOK}"))
    torch.testing.assert_close(sae.decoder, own["W_dec"])


def test_the_type_is_as_asked(tmp_path: Path):
    folder = write_scope(tmp_path / "s", 32, 64)
    assert load_sae(one(f"{folder}@{HOOK}"), dtype="bfloat16").decoder.dtype == torch.bfloat16


def test_a_folder_of_saes_gives_all_of_them_in_order(tmp_path: Path):
    for layer in (10, 2):
        write_lens(tmp_path / f"layer_{layer}", 32, 64, f"blocks.{layer}.hook_resid_post")
    found = places([str(tmp_path)])
    assert [place.name for place in found] == [str(tmp_path / "layer_2"), str(tmp_path / "layer_10")]


def test_a_hook_is_asked_for_where_files_do_not_tell(tmp_path: Path):
    folder = write_scope(tmp_path / "mine", 32, 64)
    with pytest.raises(InputError, match=r"mine does not say where it was trained: give its hook as .*mine@HOOK\."):
        load_sae(one(folder))
    assert load_sae(one(f"{folder}@{HOOK}")).hook == HOOK


def test_bad_names(tmp_path: Path):
    with pytest.raises(InputError, match=r"No built-in SAEs are shipped: give some with --saes"):
        places([])
    with pytest.raises(InputError, match=r"holds no SAE: neither cfg.json"):
        places([str(tmp_path)])
    folder = write_scope(tmp_path / "s", 32, 64)
    with pytest.raises(InputError, match=r"saes must name each SAE once"):
        places([str(folder), str(folder)])
    with pytest.raises(
        InputError,
        match=r"no directory or release 'gemma-scope-2b-pt-rse-canonical'.*Closest releases: .*"
        "gemma-scope-2b-pt-res-canonical",
    ):
        places(["gemma-scope-2b-pt-rse-canonical:layer_20/width_16k/canonical"])
    with pytest.raises(
        InputError,
        match=r"has no SAE 'layer_20/width_16k/canonica'; closest are layer_20/width_16k/canonical",
    ):
        places(["gemma-scope-2b-pt-res-canonical:layer_20/width_16k/canonica"])


def test_a_release_without_network_says_what_to_do():
    with pytest.raises(InputError, match=r"gpt2-small-res-jb.*or give a local directory with --saes DIR"):
        load_sae(one("gpt2-small-res-jb:blocks.8.hook_resid_pre"))


def test_weights_that_cannot_be_used(tmp_path: Path):
    broken = write_scope(tmp_path / "nan", 32, 64, b_enc=np.full(64, np.nan, dtype=np.float32))
    with pytest.raises(InputError, match=r"its weight b_enc holds values that are no numbers"):
        load_sae(one(f"{broken}@{HOOK}"))
    wrong = write_scope(tmp_path / "shape", 32, 64, W_enc=np.zeros((31, 64), dtype=np.float32))
    with pytest.raises(InputError, match=r"W_enc must have the shape \[32, 64\], as its biases tell, not \[31, 64\]"):
        load_sae(one(f"{wrong}@{HOOK}"))
    scaled = write_lens(tmp_path / "scaled", 32, 64, HOOK, normalize_activations="layer_norm")
    with pytest.raises(InputError, match=r"normalises its input \(layer_norm\)"):
        load_sae(one(scaled))
    config = write_lens(tmp_path / "cfg", 32, 64, HOOK) / "cfg.json"
    config.write_text(json.dumps({"d_in": 32}))
    with pytest.raises(InputError, match=r"is not an SAE that can be read: it lacks 'd_sae'"):
        load_sae(one(config.parent))


def test_what_does_not_fit_the_model(tmp_path: Path, loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    cases = {
        "width": (write_lens(tmp_path / "a", 31, 64, HOOK), "takes activations of width 31; at .* the model has 32"),
        "hook": (
            write_lens(tmp_path / "b", 32, 64, "blocks.9.hook_resid_post"),
            "'blocks.9.hook_resid_post', a hook that",
        ),
    }
    for folder, said in cases.values():
        with pytest.raises(InputError, match=said):
            hooks_of(runner, [one(folder)])
        with pytest.raises(InputError, match=said):
            next(stream_saes(runner, [one(folder)]))
    good = one(write_lens(tmp_path / "d", 32, 64, HOOK))
    small = Runner(runner.language_model, memory=10_000, progress=False)
    with pytest.raises(InputError, match=r"memory is too small for even one SAE: .*d needs 16.0 KiB"):
        hooks_of(small, [good])
    assert hooks_of(runner, [good]) == [HOOK]


def test_an_sae_of_another_model_is_refused(tmp_path: Path, tiny_runner: Runner):
    width = tiny_runner.shape.d_model
    other = one(write_lens(tmp_path / "c", width, 64, "blocks.0.hook_resid_post", model="gpt2-small"))
    with pytest.raises(InputError, match=r"was trained on gpt2-small, and the model is induction-tiny"):
        hooks_of(tiny_runner, [other])


def test_families():
    assert family("google/gemma-2-2b-it") == family("gemma-2-2b")
    assert family("gpt2-small") == family("openai-community/gpt2")
    assert family("gemma-2-9b") != family("gemma-2-2b")


def test_transcoders_are_refused(tmp_path: Path):
    folder = write_scope_2(tmp_path / "t", 32, 64, "model.layers.0.output")
    config = json.loads((folder / "config.json").read_text()) | {"hf_hook_point_out": "model.layers.0.output"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"is a transcoder, which reads one hook and writes another"):
        load_sae(one(folder))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = one(write_lens(tmp_path / "s", 32, 64, HOOK))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"sae-lens, which is not installed: pip install 'mechlist\[sae\]'"):
        load_sae(place)


def test_saes_meet_raw_activations(tmp_path: Path, loaded: Callable[[str], Runner]):
    """On a LayerNorm model explained variance falls where the basis is wrong; with RMSNorm the stream is as it is."""
    gpt2 = loaded("gpt2")
    assert not has_raw_activation(gpt2, HOOK)
    raw = raw_activations(gpt2, [HOOK])
    assert has_raw_activation(raw, HOOK)
    assert raw_activations(loaded("gemma2"), [HOOK]) is loaded("gemma2")
    prompts = [[1, 5, 9, 3, 7, 2, 8, 4, 30, 31, 32, 60]]
    x = {name: one.capture(prompts, HOOK)[HOOK][0] for name, one in {"raw": raw, "processed": gpt2}.items()}
    # A dictionary that knows the raw activations exactly: a feature for each, and its size.
    folder = write_lens(tmp_path / "known", 32, 64, HOOK)
    sae = load_sae(one(folder))
    with torch.no_grad():
        basis = torch.linalg.qr((x["raw"] - x["raw"].mean(0)).T)[0]
        sae.module.W_dec[:24] = torch.cat([basis.T, -basis.T])
        sae.module.W_enc[:, :24] = sae.module.W_dec[:24].T
        sae.module.W_enc[:, 24:], sae.module.b_enc[:], sae.module.b_dec[:] = 0, 0, x["raw"].mean(0)

    def explained(y: torch.Tensor) -> float:
        missed = (y - sae.decode(sae.encode(y))).square().sum()
        return float(1 - missed / (y - y.mean(0)).square().sum())

    assert explained(x["raw"]) > 0.999
    assert explained(x["processed"]) < explained(x["raw"]) - 0.01


def test_built_in_saes_are_those_of_every_layer():
    names = builtin_saes("list-tiny")
    assert names == [f"list-tiny/layer_{layer}" for layer in range(6)]
    found = places((), "list-tiny")
    assert [place.name for place in found] == names
    assert sum(file.stat().st_size for place in found if place.folder for file in place.folder.iterdir()) < 18e6
    sae = load_sae(places(["list-tiny/layer_4"])[0])
    assert (sae.hook, sae.model, sae.d_in, sae.d_sae) == ("blocks.4.hook_resid_post", "list-tiny", 256, 2048)
    study = places((), "google/gemma-2-2b-it")
    assert [place.release for place in study[::5]] == [f"gemma-scope-2b-pt-{site}-canonical" for site in ("res", "att")]
    assert builtin_saes("gpt2") == builtin_saes("") == builtin_saes("../list-tiny") == []


def test_built_in_saes_know_the_lists_of_their_model():
    runner = Runner.load("list-tiny", device="cpu", progress=False, guards=False)
    lists = well_known_lists(runner.tokenizer, ("Fruits", "Rivers"), at_most=1, items=4)
    where = torch.arange(lists.tokens.shape[1])
    counted = (where > 0) & (where < lists.lengths[:, None])
    for name in ("list-tiny/layer_0", "list-tiny/layer_5"):
        found = reconstruction(runner, load_sae(places([name])[0]), lists.rows, counted)
        assert found.l0 <= 32
        assert found.explained_variance > 0.95


def test_weights_of_a_streamed_sae_are_gone_when_the_next_is_read():
    runner = Runner.load("list-tiny", device="cpu", progress=False, guards=False)
    first, second = places(("list-tiny/layer_0", "list-tiny/layer_1"))
    stream = stream_saes(runner, [first, second])
    sae = next(stream)
    assert sae.decoder.shape == (2048, 256)
    assert next(stream).hook == "blocks.1.hook_resid_post"
    assert sae.module.W_dec.numel() == 0
