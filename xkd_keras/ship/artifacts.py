"""From a finished run to its artifacts: made apart, run back, measured, then put in place."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from xkd_keras.console import many
from xkd_keras.data import preparation
from xkd_keras.data.names import folder_path, is_folder
from xkd_keras.distillation import shares
from xkd_keras.errors import InputError
from xkd_keras.report import run_page
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import records, result
from xkd_keras.ship import (
    latency,
    lite,
    manifest,
    metadata,
    onnx_file,
    quality,
    savedmodel,
    staging,
)
from xkd_keras.ship.tested import Tested, full_float32
from xkd_keras.ship.variants import (
    KINDS,
    ONNX,
    SAVED_MODEL,
    VARIANTS,
    check_variants,
    missing_for_onnx,
)

_OF_DATA = ("fingerprint", "class_names", "image_shape", "examples", "class_counts")
ENSEMBLE = "ensemble"
_LITERT = "ai-edge-litert"


def export(
    run_dir: Path,
    names: Sequence[str] = (),
    variants: Sequence[str] = (),
    version: int = 0,
    precision: float | None = None,
) -> dict:
    """Export trained peers as SavedModels and TFLite files.

    Args:
        run_dir: Of a finished run.
        names: Peers, and `ensemble` (a SavedModel only); empty: all of them.
        variants: Of `variants.CHOICES`; empty: all of `variants.KINDS`.
        version: Of the SavedModels; 0: one above the highest there.
        precision: How often an answer is to be right, 0..1; what a file is less sure of is to be
            taken for none of the classes. 0: no such threshold; None: as in the export before.

    Returns:
        What RUN/export/manifest.json holds.

    Raises:
        InputError: The run is not finished, a name is unknown, the version exists, or a file cannot
            be read. What was exported before is then as it was.
    """
    run = rundir.load_run(run_dir)
    before = manifest.read(run_dir)  # fails on a damaged one before any work
    precision = manifest.kept_precision(precision, before)
    names = _names(run, names)
    variants = list(dict.fromkeys(variants)) or list(KINDS)
    check_variants(variants)
    versioned = names if SAVED_MODEL in variants else []
    numbers = {name: _version(run_dir, name, version) for name in versioned}
    lites = [variant for variant in variants if variant in VARIANTS]
    with staging.opened(run_dir) as stage, full_float32():
        tested = Tested(run, precision)
        fresh, failed = [], []
        for name in names:
            if name in numbers:
                fresh.append(_saved_model(tested, stage, name, numbers[name]))
                _tell(fresh[-1])
            if name != ENSEMBLE and lites:
                made, not_made = _tflites(tested, stage, name, lites)
                fresh, failed = [*fresh, *made], [*failed, *not_made]
            if name != ENSEMBLE and ONNX in variants:
                made, not_made = _onnx(tested, stage, name)
                fresh, failed = [*fresh, *made], [*failed, *not_made]
        return publish(tested, stage, fresh, failed)


def complete(run_dir: Path, names: Sequence[str]) -> None:
    """Export those of the peers (`all`: every one, and the ensemble) that have no artifact yet.

    Raises:
        InputError: As `export`; or something could not be made.
    """
    done = manifest.exported(run_dir)
    known = _known(peer.name for peer in records.finished(run_dir)[0].peers())
    missing = [name for name in (known if "all" in names else names) if name not in done]
    if missing:
        failed = manifest.asked(export(run_dir, missing)["failed"], missing, [])
        if failed:
            raise InputError(f"{failed[0]['file']}: {failed[0]['reason']}", argument="export")


def _known(peers: Iterable[str]) -> list[str]:
    """Return what can be exported of a run."""
    peers = list(peers)
    return [*peers, *([ENSEMBLE] if len(peers) > 1 else [])]


def _names(run, names: Sequence[str]) -> list[str]:
    known = _known(run.models)
    for name in names:
        if name not in known:
            raise InputError.unknown("peer", name, known)
    return list(dict.fromkeys(names)) or known


def _version(run_dir: Path, name: str, asked: int) -> int:
    base = run_dir / "export" / "savedmodel" / name
    there = savedmodel.versions(base)
    if asked and asked in there:
        raise InputError(
            f"received {asked}, but {base / str(asked)} exists; valid: another number, or none"
            " for the next one.",
            argument="version",
        )
    return asked or max(there, default=0) + 1


def _saved_model(tested: Tested, stage: Path, name: str, version: int) -> dict:
    """Write a SavedModel into the stage, run it back, and return its entry."""
    run, file = tested.run, f"savedmodel/{name}/{version}"
    members = run.models if name == ENSEMBLE else {name: run.models[name]}
    own = shares.normalized(run.weights, members)
    calibrated = {peer: share / tested.temperatures[name] for peer, share in own.items()}
    threshold = tested.threshold_of(name)
    savedmodel.write(
        stage / file,
        members,
        calibrated,
        run.data.class_names,
        run.data.crop_ratio,
        tested.examples[0],
        name,
        threshold["score"] if threshold else 0.0,
    )
    call = savedmodel.Caller(stage / file)
    scores = tested.quality(name, call)
    quality.same(file, scores["max_difference"])
    reference = tested.predictions["test"].logits[name][: len(tested.examples)]
    logits = call.outputs(tested.examples)["logits"]
    quality.same(file, quality.largest_difference(logits, reference))
    encoded = [tf.io.encode_png(image).numpy() for image in tested.examples]
    # They are prepared again, as any picture: beside inception crops, less than all of it is seen.
    size, ratio = run.data.image_shape[:2], run.data.crop_ratio
    seen = tf.stack([preparation.evaluation(each, size, ratio) for each in tested.examples])
    stacked = shares.stacked([members[each] for each in own], seen)
    reference = shares.ensemble(stacked, list(calibrated.values())).numpy()
    logits = call.of_bytes(encoded)["logits"]
    quality.same(f"{file} serving_bytes", quality.largest_difference(logits, reference))
    return {
        "file": file,
        "kind": SAVED_MODEL,
        "network": name,
        "variant": SAVED_MODEL,
        **quality.size(stage / file),
        **scores,
    }


def _tflites(tested: Tested, stage: Path, name: str, variants) -> tuple[list, list]:
    """Write a peer's TFLite files, run them back; return the entries of these and of failures."""
    made, failed, images = [], [], tested.representative()
    with lite.converters(tested.run.models[name], tested.temperatures[name]) as convert:
        for variant in variants:
            entry = tflite_entry(name, variant)
            try:
                made.append(finished_tflite(tested, stage, entry, convert(variant, images)))
            except InputError as error:  # one that fails does not lose the others
                failed.append(_failure(entry, error))
            else:
                _tell(made[-1])
    return made, failed


def _onnx(tested: Tested, stage: Path, name: str) -> tuple[list, list]:
    """Write a peer's ONNX file and run it back; return its entry, as made or as failed."""
    entry = {"file": f"onnx/{name}.onnx", "kind": ONNX, "network": name, "variant": ONNX}
    try:
        made = _finished_onnx(tested, stage, entry)
    except InputError as error:
        return [], [_failure(entry, error)]
    _tell(made)
    return [made], []


def _finished_onnx(tested: Tested, stage: Path, entry: Mapping) -> dict:
    """Write an ONNX file into the stage, run it back; return its whole entry."""
    run, name = tested.run, entry["network"]
    content = onnx_file.convert(
        run.models[name],
        about=f"{name} on {_called(run)}.",
        class_names=run.data.class_names,
        temperature=tested.temperatures[name],
        crop_ratio=run.data.crop_ratio,
    )
    call = onnx_file.Onnx(content)
    scores = tested.quality(name, call)
    quality.same(entry["file"], scores["max_difference"])
    reference = tested.predictions["test"].logits[name][: len(tested.examples)]
    logits = call.outputs(tested.examples)["logits"]
    quality.same(entry["file"], quality.largest_difference(logits, reference))
    if score := _score(scores):
        content = onnx_file.sure_from(content, score)
    return {**entry, "opset": onnx_file.OPSET, **_written(stage, entry, content), **scores}


def _failure(entry: Mapping, error: InputError) -> dict:
    """Say that a file could not be made; return its entry with the reason."""
    print(f"{entry['file']}  FAILED: {error}", flush=True)
    return {**entry, "reason": str(error)}


def _written(stage: Path, entry: Mapping, content: bytes) -> dict[str, object]:
    """Write a file into the stage; return its checksum and sizes."""
    path = stage / entry["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return quality.size(path)


def tflite_entry(network: str, variant: str) -> dict[str, str]:
    """Return what the manifest says of a TFLite file before it is measured."""
    file = f"tflite/{network}-{variant}.tflite"
    return {"file": file, "kind": "tflite", "network": network, "variant": variant}


def finished_tflite(tested: Tested, stage: Path, entry: Mapping, content: bytes) -> dict:
    """Pack a TFLite file, write it into the stage, run it back; return its whole entry."""
    data = tested.run.data
    about = f"{entry['network']} on {_called(tested.run)}, {entry['variant']}."
    scores = tested.quality(entry["network"], lite.Lite(content))
    content = metadata.pack(
        content, entry["network"], about, data.class_names, _score(scores), data.crop_ratio
    )
    if entry["variant"] == "float32":
        quality.same(entry["file"], scores["max_difference"])
    weights = quality.weights(lite.kernels(content))
    return {**entry, **_written(stage, entry, content), **weights, **scores}


def _score(scores: Mapping) -> float:
    """Return the threshold of a file, by its qualities; 0: it has none."""
    return (scores.get("threshold") or {}).get("score", 0.0)


def _called(run) -> str:
    """Return the name of a run's data, of a folder without where it is on somebody's disk."""
    name = run.config.dataset
    return f"folder:{Path(folder_path(name)).name}" if is_folder(name) else name


def _tell(entry: Mapping) -> None:
    print(
        f"{entry['file']}  {entry['bytes'] / 1e6:.2f} MB  top-1 {100 * entry['top1']:.2f} %"
        f"  same answer as Keras {100 * entry['agreement']:.2f} %",
        flush=True,
    )


def publish(tested: Tested, stage: Path, fresh: Sequence[dict], failed: Sequence[dict]) -> dict:
    """Measure latency, put what was made in place, write the manifest and the report.

    Latency is measured anew for all that is there, as only what was measured together compares.
    """
    run = tested.run
    export = run.directory / "export"
    listed = manifest.merged(run.directory, fresh, failed)
    new = {entry["file"] for entry in fresh}
    entries = [e for e in listed["artifacts"] if e["kind"] != ONNX or not missing_for_onnx()]
    for entry in listed["artifacts"]:
        if entry not in entries and entry.pop("latency_ms", None) is not None:
            print(f"{entry['file']}  its latency cannot be measured: onnxruntime is not installed")
    paths = [(stage if e["file"] in new else export) / e["file"] for e in entries]
    print(f"measuring latency of {many(len(paths), 'file')}, one thread ...", flush=True)
    times = latency.measure(paths, tested.examples[0]) if paths else []
    for entry, each in zip(entries, times, strict=True):
        if isinstance(each, str):
            entry.pop("latency_ms", None)
            print(f"{entry['file']}  its latency cannot be measured: {each}")
        else:
            entry["latency_ms"] = each
    listed = {**_circumstances(run), "precision": tested.precision, **listed}
    with staging.placed(stage, export, [entry["file"] for entry in fresh]):
        manifest.write(run.directory, listed)
    result.keep_answers(run, tested.answered, tested.temperatures)
    run_page.write_if_trained(run.directory)
    if never := [entry["file"] for entry in fresh if entry.get("threshold", 0) is None]:
        print(
            f"note: no threshold reaches a precision of {tested.precision:g} on the validation"
            f" images, so these never answer 'none of these': {', '.join(never)}"
        )
    return listed


def _circumstances(run) -> dict:
    data = rundir.about(run.data)
    return {
        "dataset": run.config.dataset,
        **{key: data[key] for key in _OF_DATA},
        "crop_ratio": run.data.crop_ratio,
        "versions": {**rundir.versions(), _LITERT: importlib.metadata.version(_LITERT)},
        "machine": platform.machine(),  # whose latency it is
    }
