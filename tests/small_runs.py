"""Runs on real images, made in seconds, for what starts from one."""

from xkd_keras import train
from xkd_keras.flags import config as configs

PLAIN = "tests.small_peers:plain,learning_rate=0.01"
NORMALISED = "tests.small_peers:normalised,optimizer=adamw,learning_rate=0.01,weight=2"


def configuration(run_dir, data_dir, **flags):
    """Return what trains two small peers on 200 digits: three epochs of four steps."""
    flags = {
        "peer": (PLAIN, NORMALISED),
        "dataset": "digits",
        "train_examples": 200,
        "epochs": 3,
        "batch_size": 50,
        **flags,
    }
    return configs.Config(run_dir=str(run_dir), data_dir=str(data_dir), **flags)


def finished(run_dir, data_dir, **flags):
    """Train small peers on digits, as the flags say; return the configuration."""
    flags = {"dataset": "digits", "epochs": 4, "augment": "none", **flags}
    config = configs.Config(run_dir=str(run_dir), data_dir=str(data_dir), **flags)
    train.train_and_evaluate(config)
    return config
