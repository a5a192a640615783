"""Finished runs on real images, made in seconds, for what starts from one."""

from xkd_keras import train
from xkd_keras.flags import config as configs


def finished(run_dir, data_dir, **flags):
    """Train small peers on digits, as the flags say; return the configuration."""
    flags = {"dataset": "digits", "epochs": 4, "augment": "none", **flags}
    config = configs.Config(run_dir=str(run_dir), data_dir=str(data_dir), **flags)
    train.train_and_evaluate(config)
    return config
