"""Effects of made-up results: what is saved, marks, notes, ranking, tables and sentences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments import effects, grid_report
from mechlist.experiments.effects import MEAN, SEED, estimated_prompts, legend, marked, notes, read, saved, sentences
from mechlist.metrics.multiple import benjamini_hochberg, max_t
from mechlist.metrics.significance import effect_table
from mechlist.results import load_dataset, save_dataset

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


def with_effects(results: xr.Dataset) -> xr.Dataset:
    """As a run saves them."""
    cells = estimated_prompts(results, results["patched"] - results["base"])
    return results.assign(saved(cells, MEAN, "logits").data_vars)


def dots(figure: Any) -> set[tuple[int, int]]:
    """Rows and columns of the marked cells."""
    found = [trace for trace in figure.data if trace.type == "scatter"]
    return {(round(y), round(x)) for trace in found for x, y in zip(trace.x, trace.y, strict=True)}


@pytest.mark.parametrize("correction", ["max-t", "benjamini-hochberg"])
def test_dots_are_the_cells_that_survive(correction: Any):
    results = with_effects(made(correction=correction))
    raw = (results["patched"] - results["base"]).values
    table = effect_table(raw, correction=correction, generator=np.random.default_rng(SEED))
    assert 0 < table.survives.sum() < table.survives.size
    cells = read(results, MEAN)
    for name, value in (("estimate", table.estimate), ("low", table.low), ("p_corrected", table.p_corrected)):
        np.testing.assert_array_equal(cells[name], value)
    figure: Any = grid_report.figures(results)["heads"]
    assert dots(figure) == {(int(i), int(j)) for i, j in np.argwhere(table.survives)}
    name = {"max-t": "max-T", "benjamini-hochberg": "Benjamini-Hochberg"}[correction]
    assert f"({name})" in figure.layout.meta["caption"]
    assert "A dot: " in figure.layout.meta["caption"]
    hover = figure.data[0].customdata[0][0]
    assert hover.endswith(f"<br>p = {table.p_corrected[0, 0]:.3g}, survives")
    assert set(grid_report.tables(results, 50)["cells"]["correction"]) == {correction}
    assert name in grid_report.findings(results)[2]
    assert f"{table.survives.sum()} of {table.tested.sum()} cells" in grid_report.findings(results)[2]


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
    results = with_effects(results)
    drawn, found = grid_report.figures(results), read(results, MEAN)
    strongest = abs(results["recovered"].mean("prompt"))
    at = marked(found).isel(position=strongest.argmax("position")).values
    assert found["survives"].sum() > at.sum() > 0
    assert dots(drawn["heads"]) == {(int(i), int(j)) for i, j in np.argwhere(at)}
    by_place = marked(found).isel(head=strongest.argmax("head")).transpose("layer", "position").values
    assert dots(drawn["positions"]) == {(int(i), int(j)) for i, j in np.argwhere(by_place)}
    assert (2, 1) in dots(drawn["heads"])


def test_what_is_below_the_noise_or_within_the_null_is_not_marked():
    results = made()
    estimate = (results["patched"] - results["base"]).mean("prompt")
    size = abs(estimate).values
    results["noise"] = estimate.copy(data=np.full((LAYERS, HEADS), np.sort(size[0])[0])).assign_attrs(prompts=2)
    largest = np.sort(size[0])[2]
    results["null"] = (("draw", "layer", "head"), np.stack([np.full(size.shape, 0.1), np.full(size.shape, largest)]))
    results = with_effects(results)
    found = read(results, MEAN)
    assert found["survives"][0].all()
    np.testing.assert_array_equal(marked(found), found["survives"] & (size > largest))
    assert 0 < int(marked(found).sum()) < found["survives"].sum()
    cells = grid_report.tables(results, 50)["cells"]
    assert cells["beyond_null"].sum() == (size > largest).sum()
    assert cells["below_noise"].sum() == (size <= np.sort(size[0])[0]).sum()
    noise, null = sentences(results, found, "logits")[1:]
    level = float(results["noise"].max())
    assert f"(2 of the 10 prompts), effects differ by at most {level:.2g} logits" in noise
    assert f"below {largest:.3g} logits (level 0.67, 2 draws): {(size > largest).sum()} of 12 cells" in null
    assert "above numerical noise, beyond the null of an irrelevant token" in legend(found)
    lines = notes(found).values.ravel().tolist()
    assert sum("below numerical noise" in line for line in lines) == found["below_noise"].sum()
    assert sum("not beyond the null" in line for line in lines) == (size <= largest).sum()


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
    results = with_effects(results)
    assert sentences(results, read(results, MEAN), "logits") == [words]
    figure: Any = grid_report.figures(results)["heads"]
    assert dots(figure) == set()
    assert figure.layout.meta["caption"].endswith("No cell is marked.")
    assert words in grid_report.findings(results)


def test_every_prompt_a_cluster_of_its_own_is_no_cluster():
    results = made()
    alone = with_effects(results.assign(cluster=("prompt", [str(i) for i in range(10)])))
    np.testing.assert_array_equal(marked(read(alone, MEAN)), marked(read(with_effects(results), MEAN)))


def test_the_correction_is_max_t_where_none_is_named():
    results = made()
    del results.attrs["correction"]
    results = with_effects(results)
    assert "(max-T)" in sentences(results, read(results, MEAN), "logits")[0]


def test_results_without_saved_effects_say_so():
    with pytest.raises(InputError, match="hold no mean_effect: they are of an earlier version of mechlist"):
        grid_report.figures(made())


def test_effects_are_never_computed_while_drawing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    results = made(per="head_position")
    results["noise"] = abs(results["patched"]).mean("prompt").assign_attrs(prompts=2) * 0
    results["null"] = xr.concat([0.1 * results["recovered"][0]], dim="draw")
    whole = with_effects(results)
    save_dataset(whole, tmp_path / "results.nc")
    monkeypatch.setattr(effects, "effect_table", None)
    monkeypatch.setattr(effects, "beyond_null", None)
    loaded = load_dataset(tmp_path / "results.nc")
    xr.testing.assert_equal(marked(read(loaded, MEAN)), marked(read(whole, MEAN)))
    assert set(grid_report.figures(loaded)) == {"heads", "positions"}
    assert {"beyond_null", "below_noise", "p_corrected"} <= set(grid_report.tables(loaded, 9)["cells"])
    assert len(grid_report.findings(loaded)) == 5


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_the_strongest_cells_are_ranked_by_size_and_nothing_is_no_cell(shape: tuple[int, ...]):
    estimate = np.array([0.5, np.nan, -2.0, 0.0, 2.0, np.nan]).reshape(shape)
    assert effects.strongest(estimate, 2).tolist() == [2, 4]
    assert effects.strongest(estimate, 6).tolist() == [2, 4, 0]
    assert effects.strongest(np.full(shape, np.nan), 3).tolist() == []


def test_the_largest_cell_keeps_its_labels():
    cells = xr.Dataset({"estimate": ("layer", [0.1, np.nan, -3.0])}, coords={"layer": [4, 5, 6]})
    assert int(effects.largest(cells)["layer"]) == 6
    assert int(effects.largest(cells * np.nan)["layer"]) == 4


def test_cells_are_ranked_by_their_effect_and_not_by_the_mean_of_shares():
    results = made(3)
    results["patched"] = results["base"] + xr.zeros_like(results["patched"])
    results["patched"][:, 2, 3] += 2.0
    results["patched"][0, 0, 0] += 0.1
    # The runs of the first pair hardly differ: what it recovers is out of all proportion.
    results["source"] = results["base"] + xr.DataArray([0.001, 2, 2], dims="prompt")
    results["recovered"] = (results["patched"] - results["base"]) / (results["source"] - results["base"])
    results = with_effects(results)
    table = grid_report.cell_table(results)
    assert table[["layer", "head"]].iloc[0].tolist() == [2, 3]
    gap = float((results["source"] - results["base"]).mean())
    assert table["share"].iloc[0] == pytest.approx(2 / gap)
    said = grid_report.findings(results)[1]
    assert said == f"The largest effect is at L2H3: it recovers {2 / gap:.1%}."


def test_titles_name_sites_and_decisions():
    assert f"{effects.site_name('v')}: {effects.decision('A: end of turn - hyphen')}" == (
        "Values (v): decision A, end of turn - hyphen"
    )
    assert effects.decision("'x' - 'y'") == "'x' - 'y'"
