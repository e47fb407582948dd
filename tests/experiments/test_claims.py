"""Claims from made-up results: marks, notes, tables and sentences."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.experiments.claims import SEED, claims, legend, sentences
from mechlist.experiments.patch import report as patch_output
from mechlist.metrics.multiple import benjamini_hochberg, max_t
from mechlist.metrics.significance import effect_table

LAYERS, HEADS = 3, 4


def made(prompts: int = 10, *, per: str = "head", **attrs: Any) -> xr.Dataset:
    """Random effects, strong in the first layer; the same place is strongest in every cell of a grid by position."""
    generator = np.random.default_rng(0)
    dims = ("layer", "head", "position") if per == "head_position" else ("layer", "head")
    shape = (LAYERS, HEADS, 3)[: len(dims)]
    effects = generator.standard_normal((prompts, *shape))
    effects[:, 0] += 3
    base = np.full(prompts, 1.0)
    patched = base.reshape(-1, *[1] * len(dims)) + effects
    coords = {name: range(size) for name, size in zip(dims, shape, strict=True)}
    return xr.Dataset(
        {
            "patched": (("prompt", *dims), patched),
            "base": ("prompt", base, {"units": "logits"}),
            "source": ("prompt", base + 2),
            "recovered": (("prompt", *dims), effects / 2),
            "token": (("prompt", "token_position"), np.array([["a", "b", "c"]] * prompts)),
        },
        coords=coords,
        attrs={"site": "z", "per": per, "metric": "logit_difference", "replacement": "source", "noising": False}
        | {"correction": "max-t"}
        | attrs,
    )


def dots(figure: Any) -> set[tuple[int, int]]:
    """Rows and columns of the marked cells."""
    found = [trace for trace in figure.data if trace.type == "scatter"]
    return {(round(y), round(x)) for trace in found for x, y in zip(trace.x, trace.y, strict=True)}


@pytest.mark.parametrize("correction", ["max-t", "benjamini-hochberg"])
def test_dots_are_the_cells_that_survive(correction: Any):
    results = made(correction=correction)
    raw = (results["patched"] - results["base"]).values
    table = effect_table(raw, correction=correction, generator=np.random.default_rng(SEED))
    assert 0 < table.survives.sum() < table.survives.size
    figure: Any = patch_output.figures(results)["heads"]
    assert dots(figure) == {(int(i), int(j)) for i, j in np.argwhere(table.survives)}
    name = {"max-t": "max-T", "benjamini-hochberg": "Benjamini-Hochberg"}[correction]
    assert f"({name})" in figure.layout.meta["caption"]
    assert "A dot: " in figure.layout.meta["caption"]
    hover = figure.data[0].customdata[0][0]
    assert hover.endswith(f"<br>p = {table.p_corrected[0, 0]:.3g}, survives")
    cells = patch_output.tables(results, 50)["cells"]
    assert set(cells["correction"]) == {correction}
    assert name in patch_output.findings(results)[2]
    assert f"{table.survives.sum()} of {table.tested.sum()} cells" in patch_output.findings(results)[2]


def test_the_false_discovery_rate_is_over_the_tested_cells():
    effects = np.random.default_rng(3).standard_normal((9, 6)) + np.array([1.5, 1, 0.5, 0, 0, 0])
    effects[:, 5] = 0
    found = effect_table(effects, correction="benjamini-hochberg", generator=np.random.default_rng(1))
    test = max_t(effects, generator=np.random.default_rng(1))
    np.testing.assert_array_equal(found.p_corrected[:5], benjamini_hochberg(test.p[:5]))
    assert found.p_corrected[5] == 1
    assert (found.p_corrected <= test.p_corrected + 1e-12).all()


def test_a_figure_at_the_strongest_place_marks_that_cell():
    results = made(per="head_position")
    results["patched"][:, 2, 1, 0] = results["base"] + 5
    results["recovered"][:, 2, 1, 0] = 2.5
    drawn = patch_output.figures(results)
    found = claims(results)
    strongest = abs(results["recovered"].mean("prompt"))
    at = found.marked.isel(position=strongest.argmax("position")).values
    assert found.table.survives.sum() > at.sum() > 0
    assert dots(drawn["heads"]) == {(int(i), int(j)) for i, j in np.argwhere(at)}
    by_place = found.marked.isel(head=strongest.argmax("head")).transpose("layer", "position").values
    assert dots(drawn["positions"]) == {(int(i), int(j)) for i, j in np.argwhere(by_place)}
    assert (2, 1) in dots(drawn["heads"])


def test_what_is_below_the_noise_or_within_the_null_is_not_marked():
    results = made()
    estimate = (results["patched"] - results["base"]).mean("prompt")
    size = abs(estimate).values
    results["noise"] = estimate.copy(data=np.full((LAYERS, HEADS), np.sort(size[0])[0])).assign_attrs(prompts=2)
    largest = np.sort(size[0])[2]
    results["null"] = (("draw", "layer", "head"), np.stack([np.full(size.shape, 0.1), np.full(size.shape, largest)]))
    found = claims(results)
    assert found.table.survives[0].all()
    np.testing.assert_array_equal(found.marked, found.table.survives & (size > largest))
    assert 0 < int(found.marked.sum()) < found.table.survives.sum()
    cells = patch_output.tables(results, 50)["cells"]
    assert cells["beyond_null"].sum() == (size > largest).sum()
    assert cells["below_noise"].sum() == (size <= np.sort(size[0])[0]).sum()
    noise, null = sentences(found, "logits")[1:]
    assert f"(2 of the 10 prompts), effects differ by at most {found.noise:.2g} logits" in noise
    assert f"below {largest:.3g} logits (level 0.67, 2 draws): {(size > largest).sum()} of 12 cells" in null
    assert "above numerical noise, beyond the null of an irrelevant token" in legend(found)
    notes = found.notes.values.ravel().tolist()
    assert sum("below numerical noise" in note for note in notes) == found.table.below_noise.sum()
    assert sum("not beyond the null" in note for note in notes) == (size <= largest).sum()


def equal(results: xr.Dataset) -> xr.Dataset:
    return results.isel(prompt=[0] * results.sizes["prompt"])


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (made(1), "There is no interval and no test: one prompt says nothing about others."),
        (
            made().assign(cluster=("prompt", ["a"] * 10)),
            "There is no interval and no test: all 10 prompts are of one cluster.",
        ),
        (equal(made()), "There is no interval and no test: the effects of all 10 prompts are equal in every cell."),
        (made().assign(patched=made()["base"] + 0 * made()["patched"]), "There is no test: no cell ever changed."),
        (made(4), "No cell can be significant at 0.05: 4 prompts give no p value below 0.125."),
    ],
)
def test_where_there_is_no_test_nothing_is_marked_and_a_sentence_says_why(results: xr.Dataset, words: str):
    assert sentences(claims(results), "logits") == [words]
    figure: Any = patch_output.figures(results)["heads"]
    assert dots(figure) == set()
    assert figure.layout.meta["caption"].endswith("No cell is marked.")
    assert words in patch_output.findings(results)


def test_every_prompt_a_cluster_of_its_own_is_no_cluster():
    results = made()
    alone = claims(results.assign(cluster=("prompt", [str(i) for i in range(10)])))
    np.testing.assert_array_equal(alone.marked, claims(results).marked)


def test_results_of_before_still_have_their_figures():
    results = made()
    del results.attrs["correction"]
    assert "(max-T)" in sentences(claims(results), "logits")[0]
