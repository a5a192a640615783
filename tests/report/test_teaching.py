"""What the report says of the teachers."""

from xkd_keras.report import teaching

WORTH = {"top1": 0.651, "own_top1": 0.53, "cross_entropy": 1.02, "ece": 0.081, "agreement": 0.55}
DATA = {"examples": {"validation": 5000}}


def metrics(**worth):
    return {"data": DATA, "teaching": {"alexnet": {**WORTH, **worth}}}


def test_a_gate_is_said_as_the_share_of_images_and_a_teacher_without_as_a_difference():
    text = "\n".join(teaching.section(metrics(gate=0.142)))
    assert "alexnet learned from its teacher on 14 % of the images." in text
    assert "| alexnet | 53.0 % | 65.1 % | 1.02 | 8.1 % | 55.0 % | 14.2 % |" in text
    assert "5,000 validation images" in text
    text = "\n".join(teaching.section(metrics(gate=1.0)))
    assert "The teacher of alexnet is 12.1 points more often right than it." in text
    text = "\n".join(teaching.section(metrics(gate=1.0, top1=0.53)))
    assert "is as often right as it." in text


def test_a_run_without_teaching_or_of_an_earlier_version_has_no_section():
    assert teaching.section({"data": DATA}) == []


def test_how_far_a_teacher_is_heard_is_shown_where_it_is_not_in_full():
    assert "heard" not in "\n".join(teaching.section(metrics(gate=1.0, heard=1.0)))
    text = "\n".join(teaching.section(metrics(gate=1.0, heard=0.437)))
    assert "| heard |" in text
    assert "43.7 %" in text
