"""What everything is that is exported of the finished run of the tests."""

from xkd_keras.report import plots
from xkd_keras.ship import latency

VARIANTS = ("float32", "float16", "dynamic", "int8")
PEERS = ("plain", "normalised")
FILES = {
    *(f"tflite/{peer}-{variant}.tflite" for peer in PEERS for variant in VARIANTS),
    *(f"savedmodel/{name}/1" for name in (*PEERS, "ensemble")),
}


def tree(directory):
    """Return every file's content by its name, but for locks."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def say_latency(patch):
    """Let latency be said instead of measured, which takes a process with TensorFlow."""
    said = {"min": 1.0, "median": 1.5}
    patch.setattr(latency, "measure", lambda paths, image: [said for _ in paths])


def only_words(patch):
    """Let latency be said, and leave the report's figures undrawn; each is an empty file."""
    say_latency(patch)
    patch.setattr(plots, "render", lambda figure, kind: b"")
