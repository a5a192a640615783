"""Co-train different networks, let their ensemble teach each of them, ship the small one."""

import os
import pkgutil

# Before keras is first imported: this package trains with TensorFlow's strategies.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TensorFlow's start-up notices say nothing about the user's run.
WANTS_LOGS = "TF_CPP_MIN_LOG_LEVEL" in os.environ
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"
# Importing TensorFlow takes seconds; a wrong flag should not wait.
_LAZY = {
    "Cohort": "distillation.cohort.Cohort",
    "schedules": "distillation.schedules",
    "teachers": "distillation.teachers",
    "data": "data",
    "peers": "peers",
}


def __getattr__(name: str):
    if name in _LAZY:
        return pkgutil.resolve_name(f"xkd_keras.{_LAZY[name]}")
    raise AttributeError(f"module 'xkd_keras' has no attribute '{name}'")
