from pathlib import Path

import pytest
import yaml

from mechlist.engine.local import load_runner
from mechlist.errors import InputError
from mechlist.models.load import resolve_device
from mechlist.options import Output, Settings
from mechlist.report.assemble import write_report
from mechlist.results import load_dataset
from mechlist.study import plan_study, read_job, read_study, read_yaml, ready, run_study, with_settings

STUDY = {
    "title": "Two scores",
    "question": "Does the period matter?",
    "model": "induction-tiny",
    "device": "cpu",
    "steps": [
        {"name": "short", "experiment": "induction", "text": "Short blocks.", "parameters": {"period": 10, "batch": 3}},
        {"name": "long", "experiment": "induction", "parameters": {"period": 30, "batch": 3}},
    ],
}


def test_a_study_runs_its_steps_in_order_into_folders_and_one_report(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    run_study(read_study(file, read_yaml(file)), tmp_path / "out", Output())
    report = write_report(tmp_path / "out").read_text()
    assert report.index("Short") < report.index("Long") < report.index("Checks")
    assert "Short blocks." in report
    assert "Does the period matter?" in report
    for step in ("short", "long"):
        assert (tmp_path / "out" / step / "results.nc").is_file()
    again = read_yaml(tmp_path / "out" / "config.yaml")
    assert read_study(file, again).steps[1].job.experiment.period == 30
    run_study(read_study(file, again), tmp_path / "out", Output(resume=True))
    run_study(read_study(file, again), tmp_path / "out", Output(overwrite=True))


@pytest.mark.parametrize("file", sorted(Path("experiments").glob("*/study*.yaml")), ids=str)
def test_every_shipped_study_is_valid(file):
    assert read_study(file, read_yaml(file)).steps


def test_settings_from_the_command_line_reach_every_step(tmp_path):
    study = with_settings(read_study(tmp_path, STUDY), Settings(model="gpt2", seed=3))
    assert {step.job.settings.seed for step in study.steps} == {3}


def test_a_plan_gives_each_step_as_it_comes_and_goes_on_after_a_fault(tmp_path):
    missing = {"name": "read", "experiment": "entropy", "parameters": {"recorded": ["nowhere.json"]}}
    value = STUDY | {"model": "list-tiny", "steps": [STUDY["steps"][0], missing, STUDY["steps"][0] | {"name": "last"}]}
    loaded = []

    def load(settings: Settings):
        loaded.append(settings)
        return load_runner(settings)

    planned = plan_study(read_study(tmp_path, value), load)
    first = next(planned)
    assert len(loaded) == 1
    assert (first.name, first.reason, first.needs_model) == ("short", "", True)
    assert first.plan is not None
    assert first.plan.seconds > 0
    second, third = planned
    assert second.plan is None
    assert "nowhere.json" in second.reason
    assert third.plan is not None
    assert third.plan.forward_tokens == pytest.approx(first.plan.forward_tokens, rel=0.1)


def test_a_run_and_a_plan_have_one_way_to_settings_and_folders(tmp_path):
    parameters = {"recorded": ["{lists}/exports/lists", "own.json"]}
    steps = [{"name": "lists", "experiment": "generate-lists"}, {"experiment": "entropy", "parameters": parameters}]
    made = ready(read_study(tmp_path, {"title": "", "steps": steps}), tmp_path)
    assert (made.settings.model, made.settings.device) == ("list-tiny", resolve_device("auto"))
    assert {step.job.settings for step in made.steps} == {made.settings}
    assert made.steps[1].job.experiment.recorded == (tmp_path / "lists/exports/lists", Path("own.json"))


def test_all_faults_of_a_study_are_told_at_once(tmp_path):
    broken = {
        "title": 1,
        "sede": 0,
        "memory": "4GiB",
        "steps": [
            {"experiment": "inducton"},
            {"experiment": "induction", "parameters": {"perod": 3, "batch": "many"}},
            {"experiment": "induction", "parameters": {"batch": 0}},
        ],
    }
    with pytest.raises(InputError) as caught:
        read_study(tmp_path / "s.yaml", broken)
    assert "title" in str(caught.value)
    assert "sede" in str(caught.value)
    with pytest.raises(InputError) as caught:
        read_study(tmp_path / "s.yaml", {**STUDY, "steps": broken["steps"]})
    text = str(caught.value)
    for fault in ("Did you mean induction", "steps[1].parameters.perod", "steps[1].parameters.batch", "at least 1"):
        assert fault in text


def test_steps_need_names_of_their_own_and_there_must_be_one(tmp_path):
    twice = [{"experiment": "induction"}, {"experiment": "induction"}]
    with pytest.raises(InputError, match="two steps are called 'induction'"):
        read_study(tmp_path, {**STUDY, "steps": twice})
    with pytest.raises(InputError, match="at least one step"):
        read_study(tmp_path, {**STUDY, "steps": []})


def test_a_step_s_name_stays_inside_the_study_s_directory(tmp_path):
    with pytest.raises(InputError, match="name"):
        read_study(tmp_path, {**STUDY, "steps": [{"experiment": "induction", "name": "../../elsewhere"}]})


def test_a_step_may_not_have_settings_of_its_own(tmp_path):
    with pytest.raises(InputError, match=r"steps\[0\].*model"):
        read_study(tmp_path, {**STUDY, "steps": [{"experiment": "induction", "model": "gpt2"}]})


def test_a_config_of_a_single_run_is_read_back(tmp_path):
    job = read_job(tmp_path, {"experiment": "induction", "seed": 4, "parameters": {"period": 9}})
    assert job.experiment.period == 9
    assert job.settings.seed == 4
    with pytest.raises(InputError, match="dtype"):
        read_job(tmp_path, {"experiment": "induction", "dtype": "float8"})


@pytest.mark.parametrize(("text", "fault"), [("a: [", "is not YAML"), ("- 1", "must hold a mapping"), ("", "mapping")])
def test_a_file_that_is_no_study_is_refused(tmp_path, text, fault):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InputError, match=fault):
        read_yaml(tmp_path / "s.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def test_a_step_reads_what_an_earlier_one_wrote(tmp_path, shared):
    source = shared / "recorded" / "lists" / "gemma2_short.json"
    value = {
        "title": "Chained",
        "device": "cpu",
        "steps": [
            {
                "name": "first",
                "experiment": "list-statistics",
                "parameters": {"recorded": [str(source)], "resamples": 2},
            },
            {
                "name": "second",
                "experiment": "list-statistics",
                "parameters": {"recorded": ["{first}/copies"], "resamples": 2},
            },
        ],
    }
    copies = tmp_path / "out" / "first" / "copies"
    study = read_study(tmp_path / "study.yaml", value)
    with pytest.raises(InputError, match=r"first/copies does not exist"):
        run_study(study, tmp_path / "out", Output())
    copies.mkdir()
    (copies / "lists.json").write_text(source.read_text())
    run_study(study, tmp_path / "out", Output(resume=True))
    assert load_dataset(tmp_path / "out" / "second" / "results.nc").sizes["list"] == 115
    config = read_yaml(tmp_path / "out" / "second" / "config.yaml")
    assert config["parameters"]["recorded"] == [str(copies)]
    assert config["model"] is None
    assert read_yaml(tmp_path / "out" / "config.yaml")["steps"][1]["parameters"]["recorded"] == ["{first}/copies"]


@pytest.mark.parametrize("place", ["{second}/x", "{nowhere}/x", "{}/x"])
def test_a_path_names_an_earlier_step(tmp_path, place):
    steps = [
        {"name": n, "experiment": "list-statistics", "parameters": {"recorded": [place]}} for n in ("first", "second")
    ]
    with pytest.raises(InputError, match="there is no earlier step"):
        read_study(tmp_path, {"title": "Chained", "steps": steps})
