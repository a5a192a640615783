"""A study that is taken up again: what is there is kept, and nothing else is mixed in."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from tests import small_studies
from tests.small_studies import base
from xkd_keras.devices import machine
from xkd_keras.errors import InputError
from xkd_keras.flags import fields
from xkd_keras.study import orchestration, workers
from xkd_keras.study.options import parse_arms, parse_grid
from xkd_keras.study.plan import Plan


@pytest.fixture(autouse=True)
def _in_process(monkeypatch):
    monkeypatch.setattr(workers, "run_all", small_studies.in_process)


@pytest.fixture
def copy(study, tmp_path):
    """The plan of a copy of the finished study, without the method that fails."""
    plan, _ = study
    shutil.copytree(plan.directory, tmp_path / "copy")
    arms = tuple(arm for arm in plan.arms if arm.name != "broken")
    base = dataclasses.replace(plan.base, run_dir=str(tmp_path / "copy"))
    return dataclasses.replace(plan, base=base, arms=arms)


@pytest.mark.usefixtures("unpictured")
def test_a_finished_study_is_not_run_again_and_more_seeds_are_added(copy, capsys):
    plan = dataclasses.replace(copy, arms=tuple(a for a in copy.arms if a.name != "kd"))
    files = [plan.directory / "runs" / "mcod" / f"seed-{seed}.json" for seed in plan.seeds]
    before = [path.stat().st_mtime_ns for path in files]
    more = orchestration.run(dataclasses.replace(plan, seeds=(0, 1, 2)))
    assert "6 runs, 4 of them already done" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in files] == before
    assert more["summary"]["networks"]["plain"]["mcod"]["n"] == 3


@pytest.mark.slow
def test_what_a_variant_sets_is_not_the_other_methods_where_the_study_goes_on(tmp_path, data_dir):
    given = base(tmp_path / "study", data_dir, epochs=1)
    variant = "xkd,name=logits,distill_similarity=0"  # its name stands before those of the others
    plan = Plan(given, parse_arms([variant]), seeds=(0,))
    orchestration.run(plan)
    found = orchestration.run(dataclasses.replace(plan, arms=parse_arms(["xkd", "solo", variant])))
    assert [run["status"] for run in found["runs"]] == ["done"] * 3
    saved = json.loads((plan.directory / "runs/xkd/seed-0.json").read_text())
    assert saved["config"]["distill_similarity"] is None
    again = dataclasses.replace(plan, arms=parse_arms(["xkd", "solo", variant]))
    assert orchestration._continuing(again).base.distill_similarity is None


@pytest.mark.usefixtures("unpictured")
def test_a_study_that_chooses_its_jobs_says_how_and_asks_for_no_more_than_runs_left(
    copy, capsys, monkeypatch
):
    (copy.directory / "runs" / "mcod" / "seed-1.json").unlink()
    monkeypatch.setattr(machine, "here", lambda: machine.Machine(4, 64 * machine.GIB, gpu=False))
    again = orchestration.run(dataclasses.replace(copy, jobs=0))
    out = capsys.readouterr().out
    assert "jobs: 1, threads per job: 4 (4 cores, 64 GiB available)" in out
    assert again["jobs"] == 4  # as the whole of its six runs has it
    assert "--jobs=0\n" in (copy.directory / "study.flags").read_text()


@pytest.mark.slow
def test_a_study_says_once_which_files_it_left_out(tmp_path, capsys):
    for i in range(60):
        file = tmp_path / f"photos/{'ab'[i % 2]}/{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (4 * i, 0, 255 * (i % 2))).save(file)
    (tmp_path / "photos/a/torn.png").write_bytes(b"no picture")
    photos = {"dataset": f"folder:{tmp_path / 'photos'}", "train_examples": 0, "image_size": 16}
    few = {"epochs": 1, "batch_size": None, "skip_unreadable": True}
    found = dataclasses.replace(base(tmp_path / "study", ""), **photos, **few)
    plan = Plan(found, parse_arms(["solo", "mcod"]), seeds=(0,))
    orchestration.run(plan)
    lines = capsys.readouterr().out.splitlines()
    left_out = "left out because it cannot be read: "
    assert len([line for line in lines if line.startswith(left_out)]) == 1
    assert len([line for line in lines if line.startswith("warning: 12 test images: ")]) == 1
    assert "warning: one seed proves nothing; five can show differences of a few points" in lines
    # The batch that suits 42 images is said by no flag, and is the runs' own all the same.
    result = json.loads((plan.directory / "runs/mcod/seed-0.json").read_text())
    assert result["config"]["batch_size"] == 8
    orchestration.run(plan)
    assert "run: 2 runs, 2 of them already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "done", "runs", "jobs", "left"),
    [
        (10, 1, 3, 1, 20),
        (60, 1, 4, 2, 60),
        (60, 2, 4, 2, 60),
        (120, 3, 4, 2, 0),
        (60, 2, 5, 2, 120),
    ],
)
def test_time_left_counts_what_runs_side_by_side_once(seconds, done, runs, jobs, left):
    assert orchestration.time_left(seconds, done, runs, jobs) == left


def test_runs_of_another_configuration_are_not_mixed_in(study, data_dir):
    plan, _ = study
    other = Plan(base(plan.directory, data_dir, epochs=4), plan.arms, plan.seeds)
    with pytest.raises(InputError, match=r"another configuration .*--epochs was 3 and is 4"):
        orchestration.run(other)
    assert "--epochs=3" in (plan.directory / "study.flags").read_text()


@pytest.mark.slow
def test_a_teacher_is_waited_for_where_only_its_numbers_are_there(copy):
    """A study without kd keeps no networks: with it, solo runs again, and kd after it."""
    plan = copy
    shutil.rmtree(plan.directory / "runs" / "solo" / "seed-0")
    (plan.directory / "runs" / "kd" / "seed-0.json").unlink()
    again = orchestration.run(dataclasses.replace(plan, seeds=(0,)))
    assert [run["status"] for run in again["runs"]] == ["done"] * 3


def test_another_search_is_refused_before_anything_is_touched(copy):
    before = {path: path.read_bytes() for path in copy.directory.rglob("*") if path.is_file()}
    other = dataclasses.replace(copy, grid=parse_grid(["temperature=1:9"]))
    with pytest.raises(InputError, match="contains another search"):
        orchestration.run(other)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.slow
def test_a_method_that_comes_later_is_searched_for_alone(copy, capsys):
    more = dataclasses.replace(copy, arms=(*copy.arms, *parse_arms(["dml"])), seeds=(0,))
    found = orchestration.run(more)
    out = capsys.readouterr().out
    assert "search: 2 runs\n" in out
    assert "run: 4 runs, 3 of them already done" in out
    assert set(found["sweep"]["methods"]) == {"kd", "mcod", "dml"}
    assert found["left_out"] == 3  # the second seed of three methods
    report = (copy.directory / "report.md").read_text()
    assert "left out: 3 finished runs of methods or seeds that were not requested" in report


def test_images_that_have_changed_are_not_mixed_in(copy):
    path = copy.directory / "runs" / "mcod" / "seed-1.json"
    result = json.loads(path.read_text())
    result["data"]["fingerprint"] = "other"
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match="its images have changed"):
        orchestration.run(copy)


@pytest.mark.usefixtures("unpictured")
def test_what_the_search_chose_is_not_chosen_again(study, copy, monkeypatch):
    plan, found = study
    known = json.loads((plan.directory / "sweep.json").read_text())
    assert known["table"] == found["sweep"]["methods"]
    assert not any(
        "peers" in json.loads(p.read_text()) for p in plan.directory.glob("sweep/*/*.json")
    )
    monkeypatch.setattr(orchestration.search, "choose", None)
    again = orchestration.run(copy)
    assert again["sweep"] == found["sweep"]


@pytest.mark.usefixtures("unpictured")
def test_a_study_of_an_earlier_version_goes_on_with_its_learning_options(copy, capsys):
    """Earlier versions wrote every learning option down; the same command leaves them open."""
    usual = {name: fields.field(name).metadata["usual"] for name in fields.LEARNING}
    for path in copy.directory.glob("runs/*/seed-*.json"):
        result = json.loads(path.read_text())
        result["config"] |= usual
        path.write_text(json.dumps(result))
    orchestration.run(copy)
    assert "already done" in capsys.readouterr().out
    assert "--learning_rate=0.1\n" in (copy.directory / "study.flags").read_text()
