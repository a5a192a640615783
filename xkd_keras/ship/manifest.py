"""RUN/export/manifest.json: every artifact of a run, and what was measured of it."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from xkd_keras import files
from xkd_keras.errors import InputError
from xkd_keras.ship.variants import KINDS


def path(run_dir: Path) -> Path:
    """Return where the manifest of a run is."""
    return run_dir / "export" / "manifest.json"


def read(run_dir: Path) -> dict:
    """Return the manifest of a run; one without artifacts where nothing was exported yet.

    Raises:
        InputError: The file is damaged.
    """
    file = path(run_dir)
    if not file.exists():
        return {"artifacts": [], "failed": []}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            **content,
            "artifacts": list(content["artifacts"]),
            "failed": list(content["failed"]),
        }
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: is damaged; delete it and export again.") from None


def exported(run_dir: Path) -> set[str]:
    """Return what has artifacts: not those made of a network that was trained again since then."""
    there = {entry["network"] for entry in read(run_dir)["artifacts"]}
    written = path(run_dir).stat().st_mtime_ns if there else 0
    trained = {file.stem: file.stat().st_mtime_ns for file in (run_dir / "peers").glob("*.keras")}
    last = max(trained.values(), default=0)  # the ensemble, without a file, is of all networks
    return {name for name in there if trained.get(name, last) <= written}


def precision(manifest: Mapping) -> float:
    """Return the precision that the last export asked for; 0 if it asked for none."""
    if "precision" in manifest:
        return manifest["precision"]
    # Of an earlier version: where it was out of reach, nothing is known of it.
    asked = [e["threshold"]["precision"] for e in manifest["artifacts"] if e.get("threshold")]
    return asked[-1] if asked else 0.0


def kept_precision(asked: float | None, before: Mapping) -> float:
    """Return the precision that was asked for, or else that of the export before, and say it."""
    kept = precision(before)
    if asked is None and kept:
        print(f"a precision of {kept:g}, as in the export before; --precision=0: none")
    return kept if asked is None else asked


def asked(entries: Sequence[Mapping], networks: Sequence[str], variants: Sequence[str]) -> list:
    """Return the entries of these networks and variants; empty: of all, and of the usual ones."""
    return [
        entry
        for entry in entries
        if (not networks or entry["network"] in networks)
        and entry["variant"] in (variants or KINDS)
    ]


def merged(run_dir: Path, fresh: Sequence[Mapping], failed: Sequence[Mapping]) -> dict:
    """Return the manifest with new artifacts and failures in the place of old ones.

    Artifacts whose files are gone are left out. Failures stay listed until they succeed.
    """
    before, new = read(run_dir), {entry["file"] for entry in (*fresh, *failed)}
    export = run_dir / "export"
    kept = [
        e for e in before["artifacts"] if e["file"] not in new and (export / e["file"]).exists()
    ]
    still = [e for e in before["failed"] if e["file"] not in new]
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "artifacts": [dict(entry) for entry in (*kept, *fresh)],
        "failed": [dict(entry) for entry in (*still, *failed)],
    }


def write(run_dir: Path, manifest: Mapping) -> None:
    """Write the manifest, whole or not at all."""
    files.write(path(run_dir), json.dumps(manifest, indent=1) + "\n")
