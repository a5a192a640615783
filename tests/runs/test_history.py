"""history.csv: what is written is what is read, also where a later version measures more."""

from xkd_keras.runs import history


def test_rows_of_the_version_before_stay_where_a_later_one_measures_more(tmp_path):
    before = {"epoch": 1, "step": 10, "a_top1": 0.25}
    after = {"epoch": 2, "step": 20, "a_top1": 0.5, "a_heard": 0.125}
    history.write(tmp_path, [before, after])
    lines = history.path(tmp_path).read_text().splitlines()
    assert lines == ["epoch,step,a_top1,a_heard", "1,10,0.25,", "2,20,0.5,0.125"]
    assert history.read(tmp_path) == [before, after]
