"""What is kept of the studies in configs/study: runs join, and the written tables are theirs."""

import importlib

import pytest

from tests.benchmarks import kept
from tests.shell import ROOT


def study(seeds, top1, fingerprint="f1", epochs=24):
    scores = {"top1": top1, "cross_entropy": 1.0, "brier": 0.5, "ece": 0.1, "parameters": 7}
    run = {"status": "done", "seconds": 9.0, "teacher_seconds": 0.0, "ensemble": scores}
    return {
        "data": {"fingerprint": fingerprint, "examples": {"test": 100}, "class_names": ["a"]},
        "peers": {"alexnet": {"builder": "alexnet", "parameters": 7}},
        "config": {"epochs": epochs, "run_dir": f"of {seeds}", "seed": seeds[0]},
        "versions": {"keras": "3"},
        "methods": {"solo": {"method": "solo", "options": {}}},
        "main": ["solo"],
        "runs": [{**run, "method": "solo", "seed": s, "peers": {"alexnet": scores}} for s in seeds]
        + [{"method": "solo", "seed": 99, "status": "failed", "error": "no"}],
    }


def test_seeds_that_run_later_join_those_that_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "HOME", tmp_path / "runs")
    kept.save("one", kept.merged(kept.load("one"), study([0, 1], 0.5)))
    kept.save("one", kept.merged(kept.load("one"), study([1, 2], 0.25)))
    found = kept.load("one")
    assert found["seeds"] == [0, 1, 2]
    assert [run["peers"]["alexnet"]["top1"] for run in found["runs"]] == [0.5, 0.25, 0.25]
    assert len((tmp_path / "runs" / "one.json").read_text().split('"seconds"')) == 4


def test_seeds_whose_images_are_drawn_by_them_join_too():
    def of(seeds, fingerprint):
        made = study(seeds, 0.5, fingerprint)
        return {**made, "config": {**made["config"], "train_examples": 50}}

    before = kept.merged(None, of([0, 1], "f1"))
    after = kept.merged(before, of([3], "f2"))
    assert [run["seed"] for run in after["runs"]] == [0, 1, 3]
    assert after["data"]["fingerprint"] == "f1"
    with pytest.raises(ValueError, match="fingerprint"):
        kept.merged(before, of([0], "f2"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"fingerprint": "f2"}, "data, fingerprint: f1 is kept"), ({"epochs": 2}, "config, epochs")],
)
def test_runs_of_other_images_or_settings_do_not_join(changed, told):
    before = kept.merged(None, study([0], 0.5))
    with pytest.raises(ValueError, match=told):
        kept.merged(before, study([1], 0.5, **changed))


def test_the_tables_are_those_of_the_runs_that_are_kept(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    gains = importlib.import_module("gains")
    results = (ROOT / "configs" / "study" / "RESULTS.md").read_text()
    readme = gains.written(ROOT / "README.md")
    assert {row[0] for row in readme} <= set(gains.PHOTOGRAPHS.values())
    studies = {path.stem: kept.load(path.stem) for path in kept.HOME.glob("*.json")}
    assert f"<!-- rivals -->\n{gains.rivals(studies)}\n\n" in (ROOT / "README.md").read_text()
    for name, whole in studies.items():
        assert f"<!-- {name} networks -->\n{gains.by_network(whole)}\n\n" in results
        assert f"<!-- {name} together -->\n{gains.all_together(whole)}\n\n" in results
        if title := gains.PHOTOGRAPHS.get(name):
            assert [row for row in readme if row[0] == title] == gains.gained(name, whole)
