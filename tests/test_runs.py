import contextlib
import dataclasses
import errno
import json

import pytest
import yaml

from mechlist.errors import InputError
from mechlist.experiments.induction.experiment import Induction
from mechlist.options import Output, Settings
from mechlist.runs import Job, RunDirectory, differences, explain_os_error, read_config, runs_in

CONFIG = Job("induction", Induction(batch=2), Settings(model="induction-tiny")).config()


def started(path, status="running") -> RunDirectory:
    directory = RunDirectory(path)
    directory.claim(CONFIG, Output())
    ended = {"running": None, "done": None, "interrupted": KeyboardInterrupt(), "failed": RuntimeError("x")}[status]
    with contextlib.suppress(KeyboardInterrupt, RuntimeError), directory.session("cpu"):
        if ended:
            raise ended
    if status == "running":
        directory.update(status=status)
    return directory


def test_the_configuration_is_complete():
    assert CONFIG["experiment"] == "induction"
    assert CONFIG["parameters"].keys() == {f.name for f in dataclasses.fields(Induction)}
    assert CONFIG["parameters"]["batch"] == 2
    assert {"model", "device", "dtype", "memory", "seed", "engine", "fold_ln"} <= CONFIG.keys()
    assert yaml.safe_load(yaml.safe_dump(CONFIG)) == CONFIG


def test_a_new_or_empty_directory_is_taken(tmp_path):
    RunDirectory(tmp_path / "a" / "b").claim(CONFIG, Output())
    RunDirectory(tmp_path / "c").claim(CONFIG, Output(resume=True))
    RunDirectory(tmp_path / "d").claim(CONFIG, Output(overwrite=True))
    assert (tmp_path / "a" / "b" / "config.yaml").is_file()


def test_a_directory_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty \(it holds notes.txt\): give another --out, --overwrite"):
        RunDirectory(tmp_path).claim(CONFIG, Output())
    with pytest.raises(InputError, match="nothing to resume"):
        RunDirectory(tmp_path).claim(CONFIG, Output(resume=True))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_resuming_is_offered_where_there_is_something_to_resume(tmp_path):
    started(tmp_path)
    with pytest.raises(InputError, match="--resume to go on"):
        RunDirectory(tmp_path).claim(CONFIG, Output())
    RunDirectory(tmp_path).claim(CONFIG, Output(resume=True))
    started(tmp_path / "done", "done")
    with pytest.raises(InputError) as caught:
        RunDirectory(tmp_path / "done").claim(CONFIG, Output())
    assert "--resume" not in str(caught.value)


def test_a_run_is_resumed_only_with_its_own_settings(tmp_path):
    started(tmp_path)
    with pytest.raises(InputError, match="its seed is 0, now it is 1"):
        RunDirectory(tmp_path).claim(CONFIG | {"seed": 1}, Output(resume=True))


def test_a_mismatch_names_the_fields_that_differ_and_no_others(tmp_path):
    started(tmp_path)
    changed = CONFIG | {"parameters": CONFIG["parameters"] | {"batch": 3, "period": 7}, "dtype": "bfloat16"}
    with pytest.raises(InputError) as caught:
        RunDirectory(tmp_path).claim(changed, Output(resume=True))
    assert str(caught.value) == (
        f"{tmp_path} holds another run: its dtype is 'float32', now it is 'bfloat16'; its period is None, now it is 7; "
        "its batch is 2, now it is 3. Resume with the same settings, or give --overwrite."
    )
    with pytest.raises(InputError, match="holds another run: it is a run of induction, and this is patch"):
        RunDirectory(tmp_path).claim({"experiment": "patch"}, Output(resume=True))


def test_differences_of_studies_name_the_step():
    steps = [{"name": "a", "parameters": {"period": 1}}, {"name": "b", "parameters": {"period": 1}}]
    now = [steps[0], {"name": "b", "parameters": {"period": 2}}]
    assert differences({"steps": steps}, {"steps": now}) == ["its period of step b is 1, now it is 2"]
    assert differences({"steps": steps}, {"steps": steps[:1]})[0] == "its steps is ['a', 'b'], now it is ['a']"


def test_runs_are_found_below_a_folder(tmp_path):
    for folder in ("a", "study/step", "deep/er/and/x", "deep/er/and/far/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("experiment: x")
    (tmp_path / "study" / "config.yaml").write_text("[")
    assert {run.path.name for run in runs_in(tmp_path)} == {"a", "study"}
    below = {str(run.path.relative_to(tmp_path)) for run in runs_in(tmp_path, below=True)}
    assert below == {"a", "study", "study/step", "deep/er/and/x"}
    assert runs_in(tmp_path / "none", below=True) == []
    assert read_config(tmp_path / "a") == {"experiment": "x"}
    assert read_config(tmp_path / "study") == {}


def test_overwriting_removes_a_run_and_nothing_else(tmp_path):
    directory = started(tmp_path, "done")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.parquet").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    directory.claim(CONFIG, Output(overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(InputError, match="not both"):
        RunDirectory(tmp_path).claim(CONFIG, Output(resume=True, overwrite=True))


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="is a file; --out takes a directory"):
        RunDirectory(tmp_path / "x").claim(CONFIG, Output())


def test_a_run_asked_for_the_impossible_leaves_nothing_behind(tmp_path):
    directory = RunDirectory(tmp_path / "new")
    directory.claim(CONFIG, Output())
    with pytest.raises(InputError), directory.session("cpu"):
        raise InputError("period is too long")
    assert not (tmp_path / "new").exists()
    resumed = started(tmp_path / "old")
    resumed.claim(CONFIG, Output(resume=True))
    with pytest.raises(InputError), resumed.session("cpu"):
        raise InputError("period is too long")
    assert resumed.record()["status"] == "failed"


def test_checking_writes_and_removes_nothing(tmp_path):
    RunDirectory(tmp_path / "new").check(CONFIG, Output())
    assert not (tmp_path / "new").exists()
    directory = started(tmp_path / "old", "done")
    directory.check(CONFIG, Output(overwrite=True))
    assert directory.is_done


def test_run_json_says_how_it_ended(tmp_path):
    record = started(tmp_path, "interrupted").record()
    assert record["status"] == "interrupted"
    assert record["versions"]["torch"]
    assert json.loads((tmp_path / "run.json").read_text()) == record
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        RunDirectory(tmp_path).record()


def test_failures_of_the_file_system_are_sentences():
    full = OSError(errno.ENOSPC, "No space left on device", "/x/results.nc")
    assert explain_os_error(full).startswith("The disk is full (/x/results.nc)")
    assert "full" in explain_os_error(OSError("Can't write data (errno = 28, 'No space left on device')"))
    assert explain_os_error(PermissionError(13, "denied", "/x")) == "No permission to write (/x)."
