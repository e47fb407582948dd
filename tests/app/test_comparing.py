import numpy as np
import pytest
import xarray as xr

from mechlist.app.comparing import compare_results, compare_runs
from mechlist.app.pages.runs import run_list
from mechlist.errors import InputError
from mechlist.results import save_dataset


def results(**changes: object) -> xr.Dataset:
    values = {"x": ("n", [1.0, np.nan, 3.0]), "name": ("n", ["a", "b", "c"]), "count": ((), 3)} | changes
    return xr.Dataset(values)


def said(first: xr.Dataset, second: xr.Dataset) -> dict[str, str]:
    frame = compare_results(first, second)
    return dict(zip(frame["variable"], frame["said"], strict=True))


def test_each_variable_says_how_far_it_is_apart():
    assert said(results(), results()) == {"x": "equal", "name": "equal", "count": "equal"}
    other = results(x=("n", [1.5, 2.0, 3.0]), name=("n", ["a", "b", "d"]), more=((), 1.0)).drop_vars("count")
    assert said(results(), other) == {
        "x": "largest difference 0.5; 1 values in one alone",
        "name": "different labels",
        "count": "only in the first",
        "more": "only in the second",
    }
    assert said(results(), results(x=("m", [1.0])))["x"] == "shapes (3,) and (1,)"


def test_runs_say_what_they_were_asked(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"experiment: x\nseed: {seed}\n")
        save_dataset(results(), tmp_path / name / "results.nc")
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    assert found.changed == ("its seed is 0, now it is 1",)
    assert set(found.variables["said"]) == {"equal"}
    with pytest.raises(InputError, match="has no numbers to compare"):
        compare_runs(tmp_path / "a", tmp_path)
    listed = str(run_list([tmp_path / "a"], tmp_path))
    assert "not begun" in listed
    assert "There are no runs below" in str(run_list([], tmp_path))
