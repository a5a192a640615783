"""What a study will run: methods, variants, seeds, settings and whose networks teach."""

import json

import pytest
from absl import flags

from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import config as configs
from xkd_keras.flags import effects
from xkd_keras.study import options, orchestration, results, search
from xkd_keras.study.options import parse_arms, parse_grid
from xkd_keras.study.plan import Plan

GRID = ["temperature=1:3", "distill_duty=0.5:0.8"]
BASE = configs.Config(run_dir="there", dataset="digits", peer=("alexnet", "resnet20"), epochs=4)


def study(*compare, **more):
    return Plan(BASE, parse_arms(compare), (0, 1), **more)


def test_every_method_runs_once_for_each_seed_and_seeds_come_first():
    tasks = study("solo", "mcod", "mcod,name=flat,distill_growth=constant").tasks()
    names = [(task.name, task.config.seed) for task in tasks]
    assert names == [(n, s) for s in (0, 1) for n in ("solo", "mcod", "flat")]
    assert len({task.result for task in tasks}) == 6


CUT = "solo,name=cut,mix=cutmix"


def test_runs_of_one_seed_differ_only_in_how_the_networks_teach_and_batches_are_mixed():
    for task in study("solo", "dml,temperature=1", "mcod,distill_duty=0.7", CUT).tasks():
        before = configs.Config(**{**vars(BASE), "seed": task.config.seed, "run_dir": ""})
        changed = {line.split()[0][2:] for line in before.differences(task.config)}
        assert changed <= {"method", *effects.COMPARED}
    assert task.config.mix == "cutmix"


def test_traditional_distillation_waits_for_the_networks_trained_alone_with_its_seed():
    tasks = {(t.name, t.config.seed): t for t in study("solo", "kd", "mcod").tasks()}
    for seed in (0, 1):
        alone, taught = tasks["solo", seed], tasks["kd", seed]
        assert alone.keep
        assert taught.after == alone.result
        assert taught.config.teacher_run == str(alone.result.with_suffix(""))
    assert not tasks["mcod", 0].keep
    assert tasks["mcod", 0].after is None


def test_networks_trained_alone_are_kept_only_for_a_method_that_needs_them():
    assert not any(task.keep for task in study("solo", "mcod").tasks())


def test_the_search_gives_every_method_the_same_settings_and_seeds_of_its_own():
    compare = ("solo", "kd", "mcod", "mcod,name=flat,distill_growth=constant")
    plan = study(*compare, grid=parse_grid(["temperature=1:3"]), sweep_seeds=(100_000,))
    tasks = plan.sweep_tasks()
    tried = [(t.config.method, t.config.temperature) for t in tasks if t.config.method != "solo"]
    assert sorted(tried) == [("kd", 1.0), ("kd", 3.0), ("mcod", 1.0), ("mcod", 3.0)]
    assert {task.config.seed for task in tasks} == {100_000}
    assert len(tasks) == 5  # and the teachers of kd


def test_variants_take_what_was_chosen_for_their_method():
    plan = study("mcod", "mcod,name=flat,temperature=2,distill_growth=constant", "dml")
    chosen = {"mcod": {"temperature": 5.0, "distill_weight_max": 3.0}}
    found = {task.name: task.config for task in plan.tasks(chosen)}
    assert (found["mcod"].temperature, found["mcod"].distill_weight_max) == (5, 3)
    assert (found["flat"].temperature, found["flat"].distill_weight_max) == (2, 3)
    assert found["dml"].temperature == BASE.temperature


def test_a_teacher_for_all_methods_is_refused_as_it_would_make_them_one():
    base = configs.Config(**{**vars(BASE), "teacher": "mean"})
    with pytest.raises(FlagError, match=r"^teacher: received mean .*--compare=METHOD,teacher"):
        options.check(Plan(base, parse_arms(["solo", "dml"]), (0,)))


def test_the_search_counts_no_setting_that_makes_no_difference_to_a_method():
    plan = study("dml", "mcod", "ramp", "one,temperature=2", grid=parse_grid(GRID))
    tried = {arm.name: plan.candidates(arm) for arm in plan.arms}
    assert tried["dml"] == [{"temperature": 1.0}, {"temperature": 3.0}]
    assert len(tried["mcod"]) == 4
    assert tried["ramp"] == tried["dml"]
    assert tried["one"] == []


def test_a_variant_that_a_search_would_leave_as_it_is_is_refused():
    grid = parse_grid(["temperature=1:3"])
    with pytest.raises(
        FlagError, match=r"^compare: hot takes what --sweep chooses for mcod, which"
    ):
        options.check(study("solo", "mcod,name=hot,distill_duty=0.5", grid=grid))
    options.check(study("solo", "mcod,name=hot,temperature=9", grid=grid))
    options.check(study("solo", "mcod", "mcod,name=hot,distill_duty=0.5", grid=grid))
    with pytest.raises(FlagError, match=r"mcod, which sets temperature itself; valid: temper"):
        options.check(study("mcod,temperature=2", "mcod,name=v", grid=grid))
    of_teacher = parse_grid(["teacher_peer=alexnet:resnet20"])  # which is for kd alone
    options.check(study("solo", "kd", "mcod", "mcod,name=v,temperature=2", grid=of_teacher))


def test_a_variant_has_to_go_together_with_each_setting_of_its_method():
    options.check(study("xkd", "xkd,name=ex,exits=1", grid=parse_grid(["temperature=1:3"])))
    grid = parse_grid(["distill_similarity=1:2"])
    with pytest.raises(FlagError, match="distill_similarity"):
        options.check(study("xkd", "xkd,name=ex,exits=1", grid=grid))


@pytest.mark.parametrize(
    ("train_examples", "prints", "tests", "fits"),
    [
        (0, ("a", "a"), (10, 10), True),
        (0, ("a", "b"), (10, 10), False),
        (100, ("a", "b"), (10, 10), True),  # a subset of each seed's own
        (100, ("a", "b"), (10, 9), False),
    ],
)
def test_seeds_of_one_study_see_the_same_images(tmp_path, train_examples, prints, tests, fits):
    more = {"run_dir": str(tmp_path), "train_examples": train_examples}
    plan = Plan(configs.Config(**{**vars(BASE), **more}), parse_arms(["solo", "mcod"]), (0, 1))
    for task in plan.tasks():
        task.result.parent.mkdir(parents=True, exist_ok=True)
        seed = task.config.seed
        data = {"fingerprint": prints[seed], "examples": {"test": tests[seed]}}
        task.result.write_text(json.dumps({"data": data}))
    if fits:
        assert len(results.results(plan.tasks())) == 4
    else:
        with pytest.raises(InputError, match="its images have changed"):
            results.results(plan.tasks())


def test_a_search_never_looks_at_the_test_images():
    plan = study("solo", "mcod", grid=parse_grid(GRID), sweep_seeds=(100_000,))
    assert not any(task.test for task in plan.sweep_tasks())
    assert all(task.test for task in plan.tasks())


@pytest.mark.parametrize("sweep", [[], ["temperature=1:3"]])
def test_the_flag_file_of_a_study_repeats_it(tmp_path, sweep):
    def read(path):
        values = flags.FlagValues()
        options.define(values)
        values(["study", f"--flagfile={path}"])
        return options.plan(values)

    given = tmp_path / "given.flags"
    lines = ["--run_dir=x", "--dataset=digits", "--peer=alexnet", "--seeds=7", "--jobs=2"]
    lines += ["--compare=solo", "--compare=mcod,name=hot,temperature=8", "--compare=kd"]
    given.write_text("\n".join([*lines, *(f"--sweep={each}" for each in sweep)]))
    plan = read(given)
    (tmp_path / "study.flags").write_text(orchestration.flags(plan))
    assert read(tmp_path / "study.flags") == plan
    assert plan.arms[1].options == {"temperature": 8.0}


@pytest.mark.parametrize(("flag", "value"), [("keep", "best"), ("patience", "3")])
def test_a_study_trains_every_method_to_the_same_end(flag, value):
    values = flags.FlagValues()
    options.define(values)
    given = ["--run_dir=x", "--dataset=digits", "--peer=alexnet", "--compare=solo"]
    values(["study", *given, f"--{flag}={value}"])
    with pytest.raises(FlagError, match=f"^{flag}: does not apply to studies; valid: leave it out"):
        options.plan(values)


def test_machines_share_a_study_by_its_runs_and_not_by_batches():
    values = flags.FlagValues()
    options.define(values)
    given = ["--run_dir=x", "--dataset=digits", "--peer=alexnet", "--compare=solo"]
    values(["study", *given, "--strategy=multiworker"])
    with pytest.raises(
        FlagError, match=r"^strategy: received multiworker, .* and --shard to divide"
    ):
        options.plan(values)


@pytest.mark.parametrize(
    ("top1", "chosen"),
    [
        ({1.0: [0.8, 0.9], 3.0: [0.7, 0.8]}, 1.0),
        ({1.0: [0.99], 3.0: [0.7, 0.8]}, 3.0),  # the other seed has failed
        ({1.0: [0.8, 0.8], 3.0: [0.8, 0.8]}, 3.0),  # then the smaller cross-entropy
    ],
)
def test_the_best_setting_is_that_of_all_seeds(top1, chosen):
    plan = study("mcod", grid=parse_grid(["temperature=1:3"]), sweep_seeds=(100, 101))
    results = {
        (f"mcod-temperature={t}", 100 + i): {
            "data": {"examples": {"validation": 100}},
            "history": [
                {f"{peer}_{kind}": value for peer in ("alexnet", "resnet20") for kind, value in row}
            ],
        }
        for t, values in top1.items()
        for i, value in enumerate(values)
        for row in [(("top1", value), ("cross_entropy", 1 / t))]
    }
    assert search.chosen(search.choose(plan, results)) == {"mcod": {"temperature": chosen}}


def test_a_point_of_a_good_network_weighs_more_than_one_of_a_poor_network():
    """Errors 45 and 7 % become 40 and 9: the mean gains, but what they lose together grows."""
    plan = study("mcod", grid=parse_grid(["temperature=1:3"]), sweep_seeds=(100,))
    top1 = {1.0: (0.60, 0.91), 3.0: (0.55, 0.93)}
    results = {
        (f"mcod-temperature={t}", 100): {
            "data": {"examples": {"validation": 1000}},
            "history": [
                {"alexnet_top1": one, "resnet20_top1": two}
                | {"alexnet_cross_entropy": 1.0, "resnet20_cross_entropy": 1.0}
            ],
        }
        for t, (one, two) in top1.items()
    }
    table = search.choose(plan, results)
    assert search.chosen(table) == {"mcod": {"temperature": 3.0}}
    errors = [row["error"] for row in table["mcod"]]
    assert errors == pytest.approx([(0.40 * 0.09) ** 0.5, (0.45 * 0.07) ** 0.5])


def test_settings_are_all_combinations():
    plan = study("mcod", grid=parse_grid(["temperature=1:3", "distill_growth=linear:cosine"]))
    assert plan.settings() == [
        {"temperature": t, "distill_growth": g} for t in (1.0, 3.0) for g in ("linear", "cosine")
    ]


def test_variants_of_mcod_are_ablations_and_the_rest_are_methods():
    arms = parse_arms([*options.PRESETS["ablations"], "kdcl,name=linear_kdcl,teacher=linear"])
    assert [arm.name for arm in arms if arm.main] == ["solo", "ensemble", "mcod", "linear_kdcl"]


@pytest.mark.parametrize(
    ("compare", "line"),
    [
        (["mcd"], r"^compare: unknown value 'mcd'\. Did you mean 'mcod'"),
        (["mcod,temprature=2"], r"unknown option 'temprature'\. Did you mean 'temperature'"),
        (["mcod,epochs=2"], r"unknown option 'epochs'"),
        (["mcod,temperature=hot"], r"temperature: received 'hot'; valid: a number"),
        (["mcod,temperature=1,temperature=2"], r"received 'temperature=2'; valid: .*once"),
        (["mcod", "mcod,temperature=2"], r"'mcod' is compared already; set name="),
        (["mcod,name=A", "mcod,name=a"], r"'A' is compared already; set name="),
        (["mcod,name=a/b,temperature=2"], r"name: received 'a/b'; valid: up to 60 letters"),
        (["mcod,name=dml"], r"'dml' is the name of a method; set another name"),
        (["mcod,name=DML"], r"'DML' is the name of a method; set another name"),
        (["solo,temperature=2"], r"'solo' is the name of a method; set another name"),
    ],
)
def test_a_wrong_comparison_is_one_line_that_says_what_is_valid(compare, line):
    with pytest.raises(FlagError, match=line):
        parse_arms(compare)


@pytest.mark.parametrize(
    ("sweep", "line"),
    [
        (["temperatur=1:2"], r"^sweep: unknown option 'temperatur'\. Did you mean 'temperature'"),
        (["temperature=1:b"], r"--sweep: temperature: received 'b'; valid: a number"),
        (["temperature"], r"^sweep: received 'temperature'; valid: OPTION=VALUE:VALUE"),
        (["temperature=1", "temperature=2"], r"'temperature' is given twice"),
    ],
)
def test_a_wrong_search_is_one_line_that_says_what_is_valid(sweep, line):
    with pytest.raises(FlagError, match=line):
        parse_grid(sweep)


def test_a_method_is_described_as_its_options_make_it():
    texts = ["xkd", "xkd,name=logits,distill_similarity=0", "xkd,name=heads,exits=1", "mcod"]
    plan = Plan(configs.Config(), parse_arms(texts), seeds=(0,))
    assert [plan.about(arm, arm.options) for arm in plan.arms] == [
        "the others, as far as they have learned; features too",
        "the others, as far as they have learned (distill_similarity 0.0)",
        "the others, as far as they have learned (exits 1)",
        "the ensemble, in windows of growing weight",
    ]


@pytest.mark.parametrize("of_all", [{"distill_similarity": 0.0}, {"exits": 1}])
def test_a_method_is_described_as_the_whole_study_makes_it(of_all):
    (arm,) = parse_arms(["xkd"])
    plan = Plan(configs.Config(**of_all), (arm,), seeds=(0,))
    assert plan.about(arm, {}) == "the others, as far as they have learned"
    chosen = Plan(configs.Config(), (arm,), seeds=(0,)).about(arm, of_all)  # by a search
    assert chosen == "the others, as far as they have learned"


@pytest.mark.parametrize(
    ("compare", "line"),
    [
        ([], "^compare: missing"),
        (["kd", "mcod"], "kd needs solo, whose networks teach; or give --teacher_run"),
        (["solo", "mcod,name=x,teacher=frozen"], "x cannot have the teacher 'frozen'"),
        (["solo", "kd,teacher=mean"], "kd cannot have the teacher 'mean'"),
        (["solo", "kd,teacher_peer=alexnett"], "^teacher_peer: unknown value .* 'alexnet'"),
        (
            ["solo", "xkd,exits=1,distill_similarity=2"],
            "^distill_similarity: is 2 and --exits is 1",
        ),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(compare, line):
    with pytest.raises(FlagError, match=line):
        options.check(study(*compare))
