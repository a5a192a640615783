"""What the report says of the teachers."""

import pathlib
import shlex

import pytest
from absl import flags

from xkd_keras.flags import config as configs
from xkd_keras.report import teaching
from xkd_keras.study import options

WORTH = {"top1": 0.651, "own_top1": 0.53, "cross_entropy": 1.02, "ece": 0.081, "agreement": 0.55}
DATA = {"examples": {"validation": 5000}}


def metrics(**worth):
    return {"data": DATA, "teaching": {"alexnet": {**WORTH, **worth}}}


def said(rows=(), config=None, **worth):
    found = teaching.section({**metrics(**{"gate": 1.0, **worth}), "config": config}, rows)
    return "\n".join(found)


def test_a_teacher_has_a_name_where_it_has_one():
    gated = {"gate": 0.142, "teachers": ["resnet20"]}
    assert "alexnet learned from resnet20 on 14 % of the images." in said(**gated)
    assert "from resnet20, which is 12.1 points more accurate." in said(teachers=["resnet20"])
    others = said(teachers=["resnet20", "vgg11"])
    assert "alexnet learned from the others, which together are 12.1 points more" in others
    assert "alexnet learned from the ensemble, which is" in said(teachers=["alexnet", "resnet20"])
    assert "alexnet learned from its teacher, which is" in said(teachers=[])


def test_how_far_a_network_heard_its_teachers_is_said_on_average_and_in_the_end():
    rows = [{"alexnet_heard": part} for part in (0.1, 0.3, 0.44)]
    text = said(rows, teachers=["resnet20"], heard=0.44)
    assert ", at 28 % of the full weight on average and 44 % at the end." in text
    text = said([], teachers=["resnet20", "vgg11"], heard=0.5)
    assert "more accurate, at 50 % of the full weight." in text
    assert "full weight" not in said([{"epoch": 1}], teachers=["resnet20"], heard=1.0)


def test_learning_from_features_is_said_where_a_network_did():
    config = {"distill_similarity": 1.5625}
    text = said(config=config, features=True)
    assert "alexnet also learned from the others’ features which images are alike" in text
    assert "(--distill_similarity=1.5625)" in text
    assert "features" not in said(config=config, features=False)


def test_a_gate_is_said_as_the_share_of_images_and_a_teacher_without_as_a_difference():
    text = "\n".join(teaching.section(metrics(gate=0.142)))
    assert "alexnet learned from its teacher on 14 % of the images." in text
    assert "| alexnet | 53.0 % | 65.1 % | 1.02 | 8.1 % | 55.0 % | 14.2 % |" in text
    assert "5,000 validation images" in text
    text = "\n".join(teaching.section(metrics(gate=1.0)))
    assert "alexnet learned from its teacher, which is 12.1 points more accurate." in text
    text = "\n".join(teaching.section(metrics(gate=1.0, top1=0.53)))
    assert "which is as accurate." in text


def test_a_gate_over_training_is_the_mean_of_the_epochs():
    rows = [{"alexnet_gate": part} for part in (0.4, 0.1, 0.1)]
    text = said(rows, gate=0.31, teachers=["resnet20"])
    assert "learned from resnet20 on 20 % of the images, on average over the epochs." in text


def test_a_teacher_that_is_made_with_the_labels_has_no_accuracy():
    text = said(told=True)
    assert "alexnet learned from its teacher, which is computed from the labels." in text
    assert "| alexnet | 53.0 % | – | – | – | 55.0 % |" in text
    assert "A teacher that is computed from the labels has no accuracy of its own" in text
    assert "computed from the labels" not in said(told=False)


def test_heads_on_inner_layers_are_said():
    assert "heads on inner layers (--exits=2)" in said(config={"exits": 2})
    assert "heads on inner layers" not in said(config={"exits": 0})


def test_a_run_without_teaching_or_of_an_earlier_version_has_no_section():
    assert teaching.section({"data": DATA}) == []


def test_how_far_a_teacher_is_heard_is_shown_where_it_is_not_in_full():
    assert "heard" not in "\n".join(teaching.section(metrics(gate=1.0, heard=1.0)))
    text = "\n".join(teaching.section(metrics(gate=1.0, heard=0.437)))
    assert "| heard |" in text
    assert "43.7 %" in text


def test_a_gate_is_a_column_only_where_it_was_not_always_open():
    assert "gate" not in said(gate=1.0)
    assert "| gate |" in said(gate=0.998)
    assert "Gate is the share of images on which the teacher may teach." in said(gate=0.998)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"keep": "best"},
        {"patience": 3},
        {"teacher": "gated"},
        {"method": "mcod", "distill_period": 1.5},
        {"method": "dml", "temperature": 1.0, "exits": 1},
    ],
    ids=str,
)
def test_the_command_that_shows_whether_teaching_helped_is_one_that_study_takes(tmp_path, given):
    run = tmp_path / "it's mine-again"  # as a run that was repeated, and a quote
    run.mkdir()
    config = configs.Config(run_dir=str(run), dataset="digits", peer=("alexnet",), **given)
    (run / "config.flags").write_text(config.flags())
    again = [f"--flagfile={run / 'config.flags'}", f"--run_dir={run}-again"]
    made = {**metrics(gate=1.0), "method": config.method, "config": vars(config)}
    made["command"] = "python -m xkd_keras.train " + shlex.join(again)
    text = "\n".join(teaching.section(made))
    line = next(line for line in text.splitlines() if "xkd_keras.study" in line)
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "xkd_keras.study"]
    values = flags.FlagValues()
    options.define(values)
    values(words[2:])
    plan = options.plan(values)
    assert plan.directory == pathlib.Path(f"{run}-study")
    assert [arm.method for arm in plan.arms] == ["solo", config.method]
    taught = plan.tasks()[1].config
    assert taught.teacher == config.teacher
    assert len(plan.seeds) == 5


def test_a_run_that_no_study_repeats_names_none():
    run = {**metrics(gate=1.0), "method": "kd", "command": "python -m x --run_dir=r-again"}
    for config in ({"teacher_run": "other"}, {"strategy": "multiworker"}):
        assert "xkd_keras.study" not in "\n".join(teaching.section({**run, "config": config}))
