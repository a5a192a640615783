"""Flags: what is parsed, what is refused and how, and that a run's own file repeats it."""

import dataclasses
from pathlib import Path

import pytest

from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import config as configs
from xkd_keras.flags import effects, fields
from xkd_keras.flags import peer as peer_options
from xkd_keras.flags.config import Config


def test_options_of_a_peer_override_the_flags_of_the_same_name():
    config = Config(
        peer=("alexnet,learning_rate=0.01,nesterov=true,weight=2", "resnet20,name=small"),
        weight_decay=1e-4,
    )
    alexnet, small = config.peers()
    assert (alexnet.name, alexnet.builder, alexnet.weight) == ("alexnet", "alexnet", 2.0)
    assert alexnet.learning["learning_rate"] == 0.01
    assert alexnet.learning["nesterov"] is True
    assert alexnet.learning["weight_decay"] == 1e-4
    assert (small.name, small.builder, small.weight) == ("small", "resnet20", 1.0)
    assert small.learning["weight_decay"] == config.weight_decay


def test_a_users_peer_is_named_after_its_function():
    (peer,) = Config(peer=("my.networks:tiny",)).peers()
    assert (peer.name, peer.builder) == ("tiny", "my.networks:tiny")


def test_epochs_of_the_learning_rate_are_given_or_half_and_three_quarters():
    assert peer_options.learning_rate_epochs("81:122", 164) == [81, 122]
    assert peer_options.learning_rate_epochs("", 30) == [15, 22.5]


def test_the_file_of_a_run_repeats_it(tmp_path):
    config = Config(
        run_dir="runs/a b",
        dataset="folder:some where/with=equals",
        peer=("alexnet,learning_rate=0.01", "resnet20,learning_rate_epochs=3:5"),
        nesterov=True,
        weight_decay=3e-5,
        temperature=2.5,
    )
    path = tmp_path / "config.flags"
    path.write_text(config.flags())
    assert configs.read(path) == config


def test_a_home_that_no_shell_expands_after_an_equals_sign_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config(run_dir="~/a", teacher_run="~/b", data_dir="~/c", peer=("file:~/d.e.keras",))
    there = (config.run_dir, config.teacher_run, config.data_dir)
    assert there == tuple(str(tmp_path / name) for name in "abc")
    assert Config(run_dir="./~/a").run_dir == "./~/a"
    assert config.peers()[0].builder == f"file:{tmp_path}/d.e.keras"
    assert peer_options.parse_peer("alexnet,start=~/f.keras", config).start == f"{tmp_path}/f.keras"


def test_one_network_needs_no_tuple():
    assert Config(peer="alexnet", export="all") == Config(peer=("alexnet",), export=("all",))


@pytest.mark.parametrize("name", ["run_dir", "data_dir", "teacher_run"])
def test_a_bucket_is_refused_where_a_directory_is_meant(name):
    """As a path, gs://bucket/run would be the directory gs:/bucket/run, here."""
    with pytest.raises(FlagError, match=f"^{name}: received 'gs://bucket/run', which is not in a"):
        Config(**{name: "gs://bucket/run"})


def test_the_file_of_a_run_is_read_where_it_is_and_not_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~" / "run").mkdir(parents=True)
    Path("~/run/config.flags").write_text("--epochs=3\n")
    assert configs.read(Path("~/run/config.flags")).epochs == 3


def test_a_folder_is_the_same_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in ("birds/", "./birds", str(tmp_path / "birds")):
        assert Config(dataset="folder:birds").differences(Config(dataset=f"folder:{path}")) == []
    assert Config(dataset="cifar10").differences(Config(dataset="tfds:cifar10")) == []
    (line,) = Config(dataset="folder:birds").differences(Config(dataset="folder:fish"))
    assert line == "--dataset was folder:birds and is folder:fish"


def test_flags_without_effect_are_known_by_the_method():
    assert "distill_period" not in effects.unused("mcod")
    assert {"distill_period", "distill_duty"} <= effects.unused("ramp")
    labelled = {"exits"}  # whose heads learn labels, too
    assert effects.unused("solo") == {*effects.TEACHING} - labelled
    assert "distill_adapt" not in effects.unused("kd", "leave_one_out")
    assert "distill_adapt" in effects.unused("kd") & effects.unused("xkd", "frozen")
    assert effects.users("distill_growth") == "mcod and ramp"
    assert effects.users("temperature") == "teaching"


def test_every_field_that_has_a_value_is_written_to_the_file():
    text = Config(peer=("alexnet",), export=("all",)).flags()
    for field in dataclasses.fields(Config):
        assert (f"--{field.name}=" in text) == (
            field.name
            not in (*fields.LEARNING, "batch_size", "distill_adapt", "distill_similarity")
        )
    given = {name: fields.field(name).metadata["usual"] for name in fields.LEARNING}
    text = Config(**given).flags()
    for name in given:
        assert f"--{name}=" in text


@pytest.mark.parametrize(
    ("given", "text"), [(32, "32"), ("32", "32"), ("32x32", "32"), ("96x128", "96x128"), (0, "0")]
)
def test_an_image_size_is_a_side_or_height_and_width(given, text, tmp_path):
    config = Config(image_size=given)
    assert f"--image_size={text}\n" in config.flags()
    (tmp_path / "config.flags").write_text(config.flags())
    assert configs.read(tmp_path / "config.flags") == config == Config(image_size=text)


@pytest.mark.parametrize(
    ("peer", "flags", "want"),
    [
        ("alexnet", {}, {"learning_rate": 0.01, "weight_decay": 5e-4, "optimizer": "sgd"}),
        ("resnet20", {}, {"learning_rate": 0.1, "weight_decay": 1e-4}),
        ("wrn-16-2", {}, {"nesterov": True, "learning_rate": 0.1}),
        ("tests.small_peers:plain", {}, {"learning_rate": 0.1, "weight_decay": 5e-4}),
        ("applications:ConvNeXtTiny", {}, {"optimizer": "adamw", "learning_rate": 1e-3}),
        # What was given counts for every network.
        ("alexnet", {"learning_rate": 0.05}, {"learning_rate": 0.05}),
        ("alexnet,learning_rate=0.02", {"learning_rate": 0.05}, {"learning_rate": 0.02}),
        ("wrn-16-2", {"nesterov": False}, {"nesterov": False}),
        # What suits SGD does not suit AdamW, nor the other way round.
        ("alexnet", {"optimizer": "adamw"}, {"optimizer": "adamw", "learning_rate": 1e-3}),
        ("applications:ConvNeXtTiny,optimizer=sgd", {}, {"learning_rate": 0.1}),
        # Trained weights are changed gently.
        ("resnet20,start=a.keras", {}, {"learning_rate": 0.01, "weight_decay": 1e-4}),
        ("file:a.keras", {}, {"learning_rate": 0.01}),
        ("resnet20,start=a.keras", {"learning_rate": 0.1}, {"learning_rate": 0.1}),
    ],
)
def test_a_network_learns_as_suits_it_where_nothing_was_given(peer, flags, want):
    (parsed,) = Config(peer=(peer,), **flags).peers()
    assert set(parsed.learning) == set(fields.LEARNING)
    assert {name: parsed.learning[name] for name in want} == want


def test_a_run_goes_on_with_the_options_that_it_was_begun_with():
    before = Config(peer=("alexnet",), learning_rate=0.1, nesterov=False, weight_decay=5e-4)
    after = Config(peer=("alexnet",), weight_decay=1e-4).continuing(before)
    assert (after.learning_rate, after.nesterov, after.momentum) == (0.1, False, None)
    assert before.differences(after) == ["--weight_decay was 0.0005 and is 0.0001"]


def test_the_help_says_what_suits_which_network():
    text = fields.field("peer").metadata["help"]
    assert "alexnet: learning_rate 0.01" in text
    assert "imagenet_... are networks for large images, not weights" in text
    for name in fields.LEARNING:
        assert "Default: the network's own" in fields.field(name).metadata["help"]


def test_a_peer_that_starts_from_weights_has_more_options():
    (peer,) = Config(peer=("resnet20,start=a/b.keras,freeze=3,start_rate=0.1",)).peers()
    assert (peer.start, peer.freeze, peer.start_rate) == ("a/b.keras", 3, 0.1)
    (peer,) = Config(peer=("file:a/big.one.keras,freeze=3,pixels=0..1",)).peers()
    assert (peer.name, peer.builder) == ("big", "file:a/big.one.keras")
    assert (peer.start, peer.pixels, peer.freeze) == ("", "0..1", 3)


def test_differences_name_each_flag_but_those_that_make_no_other_run():
    one = Config(dataset="digits", peer=("alexnet",), run_dir="a", data_dir="x")
    two = dataclasses.replace(one, run_dir="b", data_dir="y")
    assert one.differences(two) == []
    two = dataclasses.replace(two, epochs=7, peer=("vgg11",))
    assert one.differences(two) == [
        "--peer was alexnet and is vgg11",
        "--epochs was 30 and is 7",
    ]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("epochs", 0, "--epochs: received 0; valid: 1 or more."),
        ("validation_fraction", 0.9, "--validation_fraction: received 0.9; valid: 0.01 to 0.5."),
        ("learning_rate", float("nan"), "--learning_rate: received nan; valid: a finite number."),
        ("distill_period", float("inf"), "--distill_period: received inf; valid: a finite number."),
        ("method", "mcood", "--method: unknown value 'mcood'. Did you mean 'mcod'?"),
        ("distill_duty", 1.5, "--distill_duty: received 1.5; valid: 0 to 1."),
        ("image_size", "96 x 128", "image_size: received 96 x 128; valid: a number of pixels, or"),
        ("augment", "crop+color", "augment: unknown value 'color'. Did you mean 'colour'?"),
        ("learning_rate_epochs", "81,122", "valid: epochs joined by colons, such as 81:122."),
    ],
)
def test_a_value_that_no_run_could_take_is_refused(flag, value, message):
    with pytest.raises(FlagError) as error:
        Config(**{flag: value})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ("", "peer: received ''; valid: NAME[,option=value...]."),
        ("alexnet,lerning_rate=1", "unknown option 'lerning_rate'. Did you mean 'learning_rate'?"),
        (
            "alexnet,learning_rate",
            "'learning_rate': received no value; valid: learning_rate=VALUE.",
        ),
        ("alexnet,learning_rate=fast", "received 'fast'; valid: a number."),
        ("alexnet,optimizer=sdg", "unknown value 'sdg'. Did you mean 'sgd'?"),
        ("alexnet,nesterov=yes", "received 'yes'; valid: true or false."),
        ("alexnet,momentum=2", "received 2.0; valid: 0 to 1."),
        ("alexnet,weight=-1", "weight: received -1.0; valid: 0 or more."),
        ("alexnet,name=ensemble", "cannot be named 'ensemble'"),
        ("alexnet,name=Ensemble", "cannot be named 'Ensemble'"),
        ("alexnet,name=a/b", "cannot be named 'a/b'"),
        ("alexnet,freeze=2", "freeze: needs start=... or file:PATH."),
        ("alexnet,start_rate=0.1", "start_rate: needs start=... or file:PATH."),
        ("alexnet,start=a.keras,freeze=0.5", "received '0.5'; valid: a whole number."),
        ("alexnet,start=a.keras,start_rate=inf", "start_rate: received inf; valid: 0 or more."),
        ("alexnet,learning_rate_epochs=late", "valid: epochs joined by colons"),
    ],
)
def test_a_bad_option_of_a_peer_is_refused(peer, message):
    with pytest.raises(FlagError) as error:
        Config(peer=(peer,)).peers()
    assert message in str(error.value)


def test_the_same_network_twice_gets_two_names():
    names = [p.name for p in Config(peer=("alexnet", "alexnet", "alexnet,name=b")).peers()]
    assert names == ["alexnet", "alexnet-2", "b"]
    with pytest.raises(
        FlagError, match=r"two peers have the same name \(alexnet-2, alexnet, alexnet-2\)"
    ):
        Config(peer=("vgg11,name=alexnet-2", "alexnet", "alexnet")).peers()


def test_names_that_one_file_would_have_where_case_does_not_count_are_set_apart():
    names = [p.name for p in Config(peer=("nets:ResNet", "nets:resnet", "nets:RESNET")).peers()]
    assert names == ["ResNet", "resnet-2", "RESNET-3"]
    with pytest.raises(
        FlagError, match=r"two peers have the same name \(AlexNet-2, alexnet, alexnet-2\)"
    ):
        Config(peer=("vgg11,name=AlexNet-2", "alexnet", "alexnet")).peers()


def test_what_no_file_of_flags_could_hold_is_refused():
    for flags in ({"run_dir": "caf\udce9"}, {"peer": ("file:caf\udce9.keras",)}):
        with pytest.raises(FlagError, match=r"received .*caf\\udce9.*; valid: text in UTF-8"):
            Config(**flags)


def test_a_missing_flag_is_named_with_what_it_is():
    with pytest.raises(FlagError, match=r"^dataset: missing\. digits, glyphs, cifar10"):
        Config(run_dir="a").require("run_dir", "dataset")


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "config.flags").write_text("--epoch=3\n")
    with pytest.raises(InputError, match=r"not a configuration of a run: .*'epoch'"):
        configs.read(tmp_path / "config.flags")


def test_an_option_of_a_peer_is_blamed_as_it_was_typed():
    (peer,) = Config(peer=("resnet20,start=a.keras",)).peers()
    assert peer.flag_of("start") == "peer=resnet20,start"
    assert peer.flag_of("image_shape") == "image_size"


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"method": "mcod", "teacher": "frozen"}, "--teacher=frozen"),
        ({"method": "kd"}, "--method=kd"),
    ],
)
def test_what_a_frozen_teacher_has_no_use_for_is_told_with_the_flag_that_froze_it(options, flag):
    told = list(effects.without(Config(distill_adapt=1.0, **options), {}))
    assert told == [f"--distill_adapt has no effect on {flag}; it applies to teachers that learn"]


def test_what_a_method_sets_itself_is_not_told_to_have_no_effect():
    config = Config(method="xkd", teacher="frozen", distill_adapt=1.0)
    assert list(effects.without(config, {"distill_adapt": 1.0})) == []
