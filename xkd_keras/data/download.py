"""Getting a TFDS data set onto disk, and a clear line where that cannot be done."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import socket
import sys
import urllib.parse
import urllib.request

import tensorflow_datasets as tfds

from xkd_keras import files
from xkd_keras.data import names
from xkd_keras.errors import InputError, one_line

_BUNDLED = ("digits", "glyphs")  # no download: ready before a bar would show anything


def prepared_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set, downloaded and prepared.

    Args:
        name: `digits`, `glyphs`, a name of TFDS, or `tfds:NAME`, `tfds:NAME/CONFIG`.
        data_dir: Where TFDS keeps prepared data; its own default if None.

    Raises:
        InputError: Why it cannot be prepared, and what to do.
    """
    data_dir = os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))
    try:
        builder = _builder(name, data_dir)
        if not builder.info.splits:
            builder = _prepared_once(name, data_dir)
    except InputError:
        raise
    # A builder is somebody else's program: it may fail in any way.
    except Exception as error:
        raise InputError(_explain(name, data_dir, error), argument="dataset") from error
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise InputError(
            f"{name} is prepared there as {builder.info.file_format.value}; valid: tfrecord, or"
            " another directory, where it is prepared again.",
            argument="data_dir",
        )
    return builder


def _prepared_once(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Prepare a data set, or wait for the process that is preparing it already."""
    with _lock_file(data_dir) as file:
        try:
            if not files.locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                print(f"warning: {files.without_locks(data_dir)}", file=sys.stderr)
        except BlockingIOError:
            print(
                f"waiting for another process that is preparing data in {data_dir}", file=sys.stderr
            )
            files.locked(file, fcntl.LOCK_EX)  # ends with the process, however that ends
        builder = _builder(name, data_dir)  # one made before knows nothing of what is there now
        if not builder.is_prepared():
            if name == "glyphs":
                print("drawing the glyphs, once: about 15 seconds", file=sys.stderr)
            _prepare(builder, quiet=name in _BUNDLED)
        return builder


def _lock_file(data_dir: str) -> io.TextIOBase:
    """Return an open file in `data_dir`, which is made."""
    path = os.path.join(data_dir, ".xkd_keras.lock")
    try:
        os.makedirs(data_dir, exist_ok=True)
        mine = os.access(path, os.W_OK) or not os.path.exists(path)
        return open(path, "a+" if mine else "r")  # another user's can be locked as well
    except OSError as error:
        raise InputError(
            f"cannot write to '{data_dir}' ({error.strerror}); valid: a directory that exists or"
            " can be created, and is writable; the default is tensorflow_datasets in the home"
            " directory.",
            argument="data_dir",
        ) from None


def _builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    if name == "digits":
        from xkd_keras.data.digits import SklearnDigits  # scikit-learn is slow to import

        return SklearnDigits(data_dir=data_dir)
    if name == "glyphs":
        from xkd_keras.data.glyphs import Glyphs  # reads the fonts

        return Glyphs(data_dir=data_dir)
    name = name.removeprefix("tfds:")
    directory, base = pathlib.Path(data_dir), names.tfds_base(name)
    if not any((directory / base).rglob("dataset_info.json")):
        # Before TFDS itself asks the network for what it knows about the data set, and waits.
        _check_reachable(base, directory / "downloads")
    return tfds.builder(name, data_dir=data_dir)


def _prepare(builder: tfds.core.DatasetBuilder, quiet: bool) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    if quiet:
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stderr):
            builder.download_and_prepare(download_config=config)
    finally:
        tfds.enable_progress_bar()


def _check_reachable(base: str, downloads: pathlib.Path) -> None:
    """Raise at once where a download is bound to fail: TFDS tries ten times, for minutes."""
    builder, manual = tfds.builder_cls(base), downloads / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if not manual.is_dir() or not any(manual.iterdir()):
            raise AssertionError(f"Manual download: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return
    if urllib.request.getproxies():
        return  # the proxy knows names that we do not
    infos = [json.loads(path.read_text()) for path in downloads.glob("*.INFO")]
    fetched = {url for info in infos for url in info.get("urls", ())}
    for url, info in (builder.url_infos or {}).items():
        if url in fetched or (manual / (info.filename or url)).exists():
            continue
        host = urllib.parse.urlsplit(url).hostname
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            raise ConnectionError(f"the host {host} cannot be found") from error


def _explain(name: str, data_dir: str, error: Exception) -> str:
    reason = one_line(error, 400, end="...")
    if isinstance(error, AssertionError) and "manual" in str(error).lower():
        manual = os.path.join(data_dir, "downloads", "manual")
        return f"{name} must be downloaded by hand into {manual}: {reason}"
    if isinstance(error, OSError):
        return (
            f"{name} is not in {data_dir} and cannot be downloaded ({reason}). Prepare it"
            " on a machine with network access, and give its directory as data_dir (for a"
            " finished run, in its config.flags)."
        )
    return f"{name} cannot be prepared in {data_dir}: {reason}"
