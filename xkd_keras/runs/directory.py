"""A run's directory: claimed, written, and read again when the run is finished."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np

from xkd_keras import data as datasets
from xkd_keras import files, peers
from xkd_keras.errors import InputError, first_line
from xkd_keras.flags import config as configs
from xkd_keras.runs import records, whereabouts

SPLITS = ("train", "validation", "test")


def claim(config: configs.Config, run_dir: Path) -> configs.Config:
    """Make the directory, or see that it holds this very run; return the run's configuration.

    Learning options that are left open are those that it was begun with.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if _begun(run_dir):
            config = config.continuing(_recorded(run_dir))
        _check_content(config, run_dir)
        (run_dir / ".lock").touch()
        return config
    except OSError as error:
        raise files.cannot_write(run_dir, error) from None


def leave(run_dir: Path) -> None:
    """Remove a directory in which nothing was begun."""
    with contextlib.suppress(OSError):  # it holds something
        run_dir.rmdir()


def _check_content(config: configs.Config, run_dir: Path) -> None:
    """Refuse a directory that holds another run with something to lose, or anything else."""
    flag_file = run_dir / "config.flags"
    if _begun(run_dir):
        before = whereabouts.followed(_recorded(run_dir), config, run_dir)
        if differences := before.differences(config):
            raise InputError(
                f"'{run_dir}' contains a run with another configuration:"
                f" {'; '.join(differences)}. Choose another directory, or delete it.",
                argument="run_dir",
            )
    elif not flag_file.exists() and any(path.name[0] != "." for path in run_dir.iterdir()):
        raise InputError(
            f"'{run_dir}' is neither empty nor a run; valid: a new or empty directory.",
            argument="run_dir",
        )


def _recorded(run_dir: Path) -> configs.Config:
    """Return what a run was begun with; before xkd compared features, nothing was said of them."""
    config = records.configuration(run_dir)
    if config.method == "xkd" and config.distill_similarity is None:
        return dataclasses.replace(config, distill_similarity=0.0)
    return config


def _begun(run_dir: Path) -> bool:
    """Whether there is something to lose: an epoch that was finished."""
    return (run_dir / "metrics.json").exists() or bool(records.checkpoints(run_dir / "checkpoints"))


def begin_anew(run_dir: Path) -> None:
    """Before networks are trained, say whose place they take, and what stays of those."""
    old, made = run_dir / "peers", run_dir / "export"
    if old.exists():
        print(f"note: the networks in {old} are trained again, and replaced when that is done")
        if made.exists():
            print(f"note: until the next export, {made} has what was made of the earlier networks")


def record(config: configs.Config, run_dir: Path, data: datasets.Dataset) -> None:
    """Write what is run and on which data; refuse to resume with data that have changed."""
    if _begun(run_dir) and whereabouts.fingerprint(run_dir) not in ("", data.fingerprint):
        raise whereabouts.changed(config, run_dir)
    files.write(run_dir / "config.flags", config.flags())  # first: it says that this is a run
    facts = {**about(data), **whereabouts.folder_fact(config)}
    files.write(run_dir / "data.json", json.dumps(facts, indent=1) + "\n")


def about(data: datasets.Dataset) -> dict:
    """Return what a run's files say about its data."""
    counts = {name: len(getattr(data, name)) for name in SPLITS}
    classes = len(data.class_names)
    by_class = {n: np.bincount(getattr(data, n).labels, minlength=classes) for n in SPLITS}
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
        "examples": counts,
        "class_counts": {name: each.tolist() for name, each in by_class.items()},
        "skipped": [list(pair) for pair in data.skipped],
        "duplicates": [[what, list(paths)] for what, paths in data.duplicates],
        "notes": list(data.notes),
    }


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    packages = ("xkd_keras", "tensorflow", "keras", "tensorflow-datasets", "numpy")
    installed = {name: importlib.metadata.version(name) for name in packages}
    installed["xkd_keras"] += f" (code {_code()})"
    return {"python": platform.python_version(), **installed}


@functools.cache
def _code() -> str:
    """Return eight digits of this package's sources, which change between two of its versions."""
    package = Path(__file__).parent.parent
    sources = sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).parts)
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def load_dataset(
    config: configs.Config,
    name: str = "",
    image_size: tuple[int, int] | None = None,
    class_names: tuple[str, ...] = (),
    skip_unreadable: bool = False,
    reader: Callable | None = None,
) -> datasets.Dataset:
    """Return the run's dataset, or the one called `name` at the run's size and preprocessing.

    Of another one, `class_names` are the classes it may have, and `skip_unreadable` counts, too.
    `reader` is that of `data.load`.
    """
    other, size = not is_own(config, name), image_size or config.image_size
    augment = config.augment
    if other:  # cropped as the run's own images are, whatever suits these
        augment = datasets.resolve(config.dataset, None, size, augment).augment
    return datasets.load(
        name if other else config.dataset,
        image_size=size,
        augment=augment,
        train_examples=0 if other else config.train_examples,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
        data_dir=config.data_dir or None,
        skip_unreadable=config.skip_unreadable or (other and skip_unreadable),
        cache_gib=config.cache_gib,
        duplicates="warn" if other else config.duplicates,
        class_names=class_names if other else (),
        sampling="plain" if other else config.sampling,
        reader=reader,
    )


def is_own(config: configs.Config, dataset: str) -> bool:
    """Whether a run was trained on this dataset, however its path is written; so if empty."""
    return not dataset or datasets.same(dataset, config.dataset)


def import_builders(config: configs.Config) -> None:
    """Import the users' modules of a run's peers: they may register classes that files need."""
    for peer in config.peers():
        if peers.is_own(peer.builder):
            peers.check(peer.builder)


def load_peers(run_dir: Path, names: Iterable[str]) -> dict[str, keras.Model]:
    """Return the trained peers of a run as plain Keras loads them."""
    loaded = {}
    for name in names:
        path = run_dir / "peers" / f"{name}.keras"
        if path.is_file():
            path.open("rb").close()  # what may not be read is not damaged
        if not zipfile.is_zipfile(path):
            state = "is damaged" if path.exists() else "is missing"
            raise InputError(f"{path}: {state}; valid: {records.remedy(run_dir, path)}.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded[name] = keras.models.load_model(path, compile=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = first_line(error).rstrip(":. ")
            raise InputError(
                f"{path}: cannot be read as a Keras model ({reason}); valid:"
                f" {records.remedy(run_dir, path)}."
            ) from None
    return loaded


def load_own(config: configs.Config, run_dir: Path, names: Iterable[str]) -> dict:
    """Return the trained peers; of Keras' own layers, they need no module of the user's."""
    try:
        import_builders(config)
    except InputError as error:
        with contextlib.suppress(InputError):
            return load_peers(run_dir, names)
        raise error from None
    return load_peers(run_dir, names)


def check_loads(name: str, model: keras.Model) -> None:
    """Raise InputError where a saved `model` would not be loaded as it is: before it is trained."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        try:
            model.save(path)
            loaded = keras.models.load_model(path, compile=False)
        except OSError:  # the disk, not the network
            raise
        except Exception as error:  # a user's classes may fail in any way
            reason = first_line(error)
            raise InputError(
                f"'{name}' could not be loaded after saving ({reason}); valid: Keras"
                " layers, or classes with get_config() and"
                " @keras.saving.register_keras_serializable().",
                argument="peer",
            ) from None
    if _alike(model, model) and not _alike(model, loaded):  # some draw at random
        raise InputError(
            f"'{name}' gives other outputs after saving and loading; valid: layers whose"
            " get_config() returns every constructor argument and whose weights come from"
            " add_weight().",
            argument="peer",
        )


def _alike(one: keras.Model, other: keras.Model) -> bool:
    """Whether two networks answer alike."""
    images = np.random.default_rng(0).uniform(0, 255, (2, *one.input_shape[1:]))
    first, second = (np.asarray(each(images, training=False)) for each in (one, other))
    return np.allclose(first, second, rtol=1e-2, atol=1e-2 * np.abs(first).max(), equal_nan=True)


def _check_shapes(path: Path, model: keras.Model, data: dict) -> None:
    """Refuse a network that does not take the run's images or has other classes."""
    own = (None, *data["image_shape"]), (None, len(data["class_names"]))
    shapes = tuple(model.input_shape), tuple(model.output_shape)
    if shapes != own:
        raise InputError(
            f"{path}: is not a network of this run: it maps {shapes[0]} to {shapes[1]}, but this"
            f" run's networks map {own[0]} to {own[1]}; restore the file."
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run as it lies on disk.

    Attributes:
        directory: RUN.
        config: What was run.
        metrics: What RUN/metrics.json holds.
        data: Its images, or those asked for.
        models: Its trained peers by name, as plain Keras loads them.
        weights: Of all peers in the ensemble, by name.
    """

    directory: Path
    config: configs.Config
    metrics: dict
    data: datasets.Dataset
    models: dict[str, keras.Model]
    weights: dict[str, float]


def load_run(
    run_dir: Path, names: Iterable[str] = (), dataset: str = "", skip_unreadable: bool = False
) -> Run:
    """Return a finished run with its images, or others, and its peers, or some of them.

    Raises:
        InputError: The run is not finished, a peer is not in it or cannot be read, or the run's own
            images have changed.
    """
    config, metrics = records.finished(run_dir)
    weights = {peer.name: peer.weight for peer in config.peers()}
    for name in names:
        if name not in weights:
            raise InputError.unknown("peer", name, weights)
    models = load_own(config, run_dir, names or weights)
    for name, model in models.items():
        _check_shapes(run_dir / "peers" / f"{name}.keras", model, metrics["data"])
    known = metrics["data"]
    own = is_own(config, dataset)
    if own:
        whereabouts.check(config, run_dir)
    data = load_dataset(
        config,
        dataset,
        image_size=tuple(known["image_shape"][:2]),
        class_names=tuple(known["class_names"]),
        skip_unreadable=skip_unreadable,
    )
    if own and data.fingerprint != metrics["data"]["fingerprint"]:
        raise InputError(
            f"the images of '{config.dataset}' have changed since the run; restore them, or"
            " evaluate a copy elsewhere.",
            argument="dataset",
        )
    return Run(run_dir, config, metrics, data, models, weights)
