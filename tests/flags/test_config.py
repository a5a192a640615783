"""Flags: what is parsed, what is refused and how, and that a run's own file repeats it."""

import dataclasses

import pytest

from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import config as configs
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
    assert small.learning["learning_rate"] == config.learning_rate


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


def test_every_field_is_written_to_the_file():
    text = Config(peer=("alexnet",), export=("all",)).flags()
    for field in dataclasses.fields(Config):
        assert f"--{field.name}=" in text


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
        ("learning_rate_epochs", "81,122", "valid: epochs joined by colons, as 81:122."),
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
        ("alexnet,learning_rate", "'learning_rate': has no value; valid: learning_rate=VALUE."),
        ("alexnet,learning_rate=fast", "received 'fast'; valid: a number."),
        ("alexnet,optimizer=sdg", "unknown value 'sdg'. Did you mean 'sgd'?"),
        ("alexnet,nesterov=yes", "received 'yes'; valid: true or false."),
        ("alexnet,momentum=2", "received 2.0; valid: 0 to 1."),
        ("alexnet,weight=-1", "weight: received -1.0; valid: 0 or more."),
        ("alexnet,name=ensemble", "cannot be named 'ensemble'"),
        ("alexnet,name=a/b", "cannot be named 'a/b'"),
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
    with pytest.raises(FlagError, match="two have one name, of alexnet-2, alexnet, alexnet-2"):
        Config(peer=("vgg11,name=alexnet-2", "alexnet", "alexnet")).peers()


def test_a_missing_flag_is_named_with_what_it_is():
    with pytest.raises(FlagError, match=r"^dataset: missing\. digits, glyphs, cifar10"):
        Config(run_dir="a").require("run_dir", "dataset")


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "config.flags").write_text("--epoch=3\n")
    with pytest.raises(InputError, match=r"not a configuration of a run: .*'epoch'"):
        configs.read(tmp_path / "config.flags")
