"""The null of patching: which tokens are changed, what its sweeps give, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoTokenizer

from mechlist.datasets.pairs.ioi import OBJECTS, PLACES, ioi_pairs
from mechlist.datasets.pairs.irrelevant import changes, same_kind, single_tokens
from mechlist.datasets.pairs.pair import Pair, Pairs, list_pairs
from mechlist.errors import InputError
from mechlist.experiments.patch.experiment import Patch
from mechlist.metrics.answers import LogitDifference
from mechlist.patching.arguments import PatchArguments
from mechlist.patching.null import irrelevant_sources, null
from mechlist.runner import Runner

PAIR: dict[str, Any] = {"clean": "-Oak\n-Elm", "corrupt": "-Oak\n-Ash", "answer": "\n", "wrong": "-"}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def test_every_change_of_one_token_wherever_it_stands():
    others = {5: [6, 7], 6: [5], 9: [8]}
    assert changes([5, 9, 5, 6], others, [0, 2, 3]) == [{0: 6, 2: 6}, {0: 7, 2: 7}, {3: 5}]
    assert changes([1, 2], others, range(2)) == []


def test_names_stay_where_places_and_objects_change(shared: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    others = same_kind(tokenizer, PLACES, OBJECTS)
    assert len(single_tokens(tokenizer, ["store", "antidisestablishment"])) == 1
    for pair in ioi_pairs(tokenizer, 20, np.random.default_rng(0)):
        text = tokenizer.decode(pair.clean)
        found = changes(pair.clean, others, range(len(pair.clean)))
        assert len(found) == len(PLACES) - 1 + len(OBJECTS) - 1
        for change in found[::7]:
            words = [change.get(i, token) for i, token in enumerate(pair.clean)]
            put = {tokenizer.decode([token]).strip() for token in change.values()}
            was = {tokenizer.decode([pair.clean[i]]).strip() for i in change}
            assert len(put) == len(was) == 1
            kind = PLACES if was < set(PLACES) else OBJECTS
            assert put < set(kind)
            assert not set(change) & set(pair.positions.values())
            # The tokenizer itself writes the changed prompt so, and the word is changed wherever it stands.
            assert tokenizer.encode(re.sub(rf" {was.pop()}\b", f" {put.pop()}", text)) == words


def test_lists_change_in_their_instruction_alone(runner: Runner):
    found = list_pairs(runner.tokenizer, ("Fruits", "Colors"))
    assert found.irrelevant is not None
    for pair, of_pair in zip(found.pairs, found.irrelevant, strict=True):
        assert len(of_pair) >= 5
        texts = runner.token_texts(pair.clean)
        start, end = texts.index("."), texts.index("<end_of_turn>")
        adjective = texts.index(" short")
        for change in of_pair:
            assert all(start < position < end and position != adjective for position in change)
            assert all(pair.clean[position] == pair.corrupt[position] != token for position, token in change.items())


def test_each_draw_changes_each_prompt_once_and_never_the_same():
    base = torch.tensor([[1, 2, 3], [4, 5, 6]])
    irrelevant = [[{0: 10}, {0: 11}], [{1: 20, 2: 20}, {1: 21, 2: 21}]]
    metric = LogitDifference(answer=1, wrong=2)
    arguments = PatchArguments(base=base, source=base, site="z", per="head", metric=metric)
    draws = list(irrelevant_sources(arguments, irrelevant, 2, torch.Generator().manual_seed(0)))
    assert [draw.site for draw in draws] == ["z", "z"]
    put: list[Any] = [draw.source for draw in draws]
    first = {tuple(source[0].tolist()) for source in put}
    second = {tuple(source[1].tolist()) for source in put}
    assert first == {(10, 2, 3), (11, 2, 3)}
    assert second == {(4, 20, 20), (4, 21, 21)}
    assert base.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(InputError, match="null_pairs must be at most 2, not 3"):
        list(irrelevant_sources(arguments, irrelevant, 3, torch.Generator()))
    with pytest.raises(InputError, match="null_pairs must be at most 0, not 1"):
        list(irrelevant_sources(arguments, None, 1, torch.Generator()))


def test_a_draw_is_a_mean_over_as_many_prompts():
    pairs = Pairs([Pair([i], [i + 1], 0, 1) for i in range(6)])
    assert [[pair.clean[0] for pair in draw.pairs] for draw in pairs.in_draws(3)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match=re.escape("as many pairs as there are prompts (4), or a multiple")):
        pairs.in_draws(4)
    grid = {"layer": [0, 1], "position": [0, 1, 2]}
    estimate = xr.DataArray(np.zeros((3, 2, 3)), dims=("prompt", *grid), coords=grid)
    effects = xr.DataArray(np.arange(12.0).reshape(3, 2, 2), dims=("prompt", *grid), coords=grid | {"position": [0, 1]})
    effects[0, 0, 0] = np.nan
    found = null([effects, effects + 1], estimate)
    assert found.dims == ("draw", "layer", "position")
    np.testing.assert_allclose(found[0], [[6, 5, np.nan], [6, 7, np.nan]])
    np.testing.assert_allclose(found[1], found[0] + 1)
    with pytest.raises(InputError, match="prompts of at most 3 tokens, as many as the pairs have, not of 4"):
        null([effects.reindex(position=range(4))], estimate)


def test_the_null_is_the_same_sweep_over_prompts_that_differ_irrelevantly(runner: Runner, tmp_path: Path):
    """From a file, one pair a line: the null's pairs patched as pairs of their own."""
    lines = [
        PAIR | {"clean": f"-{tree}\n-Ash", "corrupt": "-Oak\n-Ash", "answer": "\n"} for tree in ("Elm", "Fir", "Ash")
    ]
    file = tmp_path / "null.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    fields: dict[str, Any] = {"site": "mlp_out", "noise_repeats": 0}
    results = Patch(**PAIR, **fields, null_file=file).run(runner)
    assert results["null"].dims == ("draw", "layer", "position")
    for draw, line in zip(results["null"], lines, strict=True):
        alone = Patch(**line, **fields).run(runner)
        np.testing.assert_allclose(draw, (alone["patched"] - alone["base"])[0], atol=1e-5)
    assert "noise" not in results
    words = next(said for said in Patch().findings(results) if "level" in said)
    assert f"stays at or below {abs(results['null']).max():.3g} logits (level 0.75, 3 draws)" in words
    lines.append(lines[0] | {"clean": "-Elm\n-Ash\n-Elm", "corrupt": "-Oak\n-Ash\n-Elm"})
    file.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(InputError, match="prompts of at most"):
        Patch(**PAIR, **fields, null_file=file).run(runner)


def test_an_irrelevant_token_that_reaches_nothing_makes_a_null_of_nothing(runner: Runner):
    fields: dict[str, Any] = {"topics": ("Fruits", "Colors"), "roles": True, "null_pairs": 2, "noise_repeats": 1}
    results = Patch(**fields).run(runner)
    assert results["null"].sizes["draw"] == 2
    # The first layer's stream differs at words of the instruction, which are of the role "prompt", and nowhere else.
    first = results["null"].sel(layer=0)
    assert not first.drop_sel(role="prompt").fillna(0).values.any()
    assert first.sel(role="prompt").values.all()
    assert results.attrs["correction"] == "max-t"
    table = Patch(**fields).tables(results)["cells"]
    threshold = float(abs(results["null"]).max())
    assert table["beyond_null"].tolist() == (table["effect"].abs() > threshold).tolist()
    assert table["below_noise"].dtype == bool


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"null_pairs": -1}, "null_pairs must be 0 or more, not -1"),
        ({"noise_repeats": -1}, "noise_repeats must be 0 or more, not -1"),
        ({"null_pairs": 1, "null_file": Path("x")}, "exclude each other"),
        ({**PAIR, "null_pairs": 1}, "known for the built-in data only"),
        ({"roles": True, "null_file": Path("x")}, "roles are not known for the pairs of null_file"),
        ({"replacement": "zero", "null_pairs": 1}, "source or resample, not zero"),
    ],
)
def test_a_null_that_cannot_be_had_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Patch(**changes)
