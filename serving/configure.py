"""Write what TensorFlow Serving needs for an export: configuration, compose file, Kubernetes.

python -m serving.configure --export_dir=RUN/export [--out_dir=DIRECTORY]

models.config is written for the container, where the models are in --models_dir. With
--models_dir=RUN/export/savedmodel it also works for `python -m serving.server`.
"""

import hashlib
import json
import os
import re
import string
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from serving import command

TEMPLATES = Path(__file__).parent / "templates"
_MODEL = """  config {{
    name: "{name}"
    base_path: "{base}/{name}"
    model_platform: "tensorflow"
    # The labelled versions and the next one: a label moves only to a version that is loaded.
    model_version_policy {{ latest {{ num_versions: 3 }} }}
{labels}  }}
"""
_LABEL = '    version_labels {{ key: "{label}" value: {version} }}\n'
_NAME = r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?"  # of a Service of Kubernetes


FLAGS = {  # default, help, least
    "export_dir": ("", "Directory RUN/export that xkd_keras.export has written."),
    "out_dir": ("", "Where to write; empty: EXPORT_DIR/serving."),
    "models": ("", "Models to serve, comma-separated; empty: all."),
    "models_dir": ("/models", "Path of EXPORT_DIR/savedmodel as the server sees it."),
    "image": ("tensorflow/serving:2.19.0", "Container image."),
    "service": ("xkd", "Name of the service."),
    "replicas": (2, "Smallest number of pods in Kubernetes.", 1),
    "max_batch_size": (32, "Largest number of examples in one call.", 1),
    "cpus": (2, "CPUs of a container, and number of calls that run at a time.", 1),
}


def versions_of(savedmodels: Path) -> dict[str, list[int]]:
    """Return the versions of each exported model, lowest first, by its name.

    Raises:
        MistakeError: There are none.
    """
    models = {}
    for base in sorted(savedmodels.iterdir()) if savedmodels.is_dir() else ():
        numbers = [int(path.name) for path in base.glob("*") if path.name.isdigit()]
        if numbers:
            models[base.name] = sorted(numbers)
    if not models:
        raise command.MistakeError(
            f"--export_dir: {savedmodels} contains no SavedModels; valid: RUN/export after"
            " 'python -m xkd_keras.export --run_dir=RUN'."
        )
    return models


def _chosen(models: dict[str, list[int]], names: str) -> dict[str, list[int]]:
    """Return the models of these names, joined by commas; all if there are none."""
    wanted = [name.strip() for name in names.split(",")] if names else list(models)
    for name in wanted:
        if name not in models:
            raise command.MistakeError(
                f"--models: received '{name}'; valid: {', '.join(models)}."
                f"{command.meant(name, models)}"
            )
    return {name: models[name] for name in wanted}


def models_config(models: Mapping[str, Sequence[int]], base: str) -> str:
    """Return a ModelServerConfig that labels the newest version `canary`, the one before `stable`.

    The server loads a version that is exported later when it finds it, and moves labels when this
    is written again. It cannot do both at once: TF Serving refuses to move a label to a version
    that is not loaded yet, and reads no more of such a file.
    """
    parts = []
    for name, versions in models.items():
        newest = versions[-1]
        labels = {"stable": versions[-2] if len(versions) > 1 else newest, "canary": newest}
        lines = "".join(_LABEL.format(label=k, version=v) for k, v in labels.items())
        parts.append(_MODEL.format(name=name, base=base.rstrip("/"), labels=lines))
    return f"model_config_list {{\n{''.join(parts)}}}\n"


def main() -> int:
    """Write the files and print their names."""
    given = flags.FLAGS
    _check(given)
    savedmodels = Path(given.export_dir) / "savedmodel"
    models = _chosen(versions_of(savedmodels), given.models)
    out = Path(given.out_dir or Path(given.export_dir) / "serving")
    base = str(given.models_dir)
    if not base.startswith("/"):
        base = str(Path(base).resolve())
    values = {
        "name": given.service,
        "image": given.image,
        "models_dir": base,
        "first_model": next(iter(models)),
        "replicas": given.replicas,
        "most_replicas": 5 * given.replicas,
        "batch": given.max_batch_size,
        "cpus": given.cpus,
        "models_volume": _volume(os.path.relpath(savedmodels.resolve(), out.resolve()), base),
    }
    texts = {"models.config": models_config(models, base)}
    for name in ("batching.config", "monitoring.config", "compose.yaml"):
        texts[name] = _filled(name, values)
    settings = texts["batching.config"] + texts["monitoring.config"]
    values["settings"] = hashlib.sha256(settings.encode()).hexdigest()[:12]
    for name in ("models.config", "batching.config", "monitoring.config"):
        key = name.replace(".", "_")
        values[key] = textwrap.indent(texts[name], "    ").rstrip()
    texts["kubernetes.yaml"] = _filled("kubernetes.yaml", values)
    for name, text in texts.items():
        _write(out / name, text)
        print(out / name)
    return 0


def _check(given) -> None:
    """Raise MistakeError for a flag that would spoil the files."""
    if not given.export_dir:
        raise command.MistakeError("--export_dir: missing; valid: RUN/export.")
    if not re.fullmatch(_NAME, given.service):
        raise command.MistakeError(
            f"--service: received '{given.service}'; valid: up to 50 lower-case letters, digits"
            " and '-', beginning with a letter."
        )
    for name in ("image", "models_dir"):
        if not re.fullmatch(r"[^\s'\"{}]+", getattr(given, name)):
            raise command.MistakeError(
                f"--{name}: received '{getattr(given, name)}'; valid: a name without blanks,"
                " quotes or braces."
            )


def _volume(path: str, there: str) -> str:
    """Return an item of Compose's volumes, quoted: a relative path, and where the container has it.

    Without a dot before it, Compose would take a path for a volume's name; it reads $$ as $.
    """
    relative = path if path.startswith(".") else f"./{path}"
    return json.dumps(f"{relative}:{there}:ro".replace("$", "$$"), ensure_ascii=False)


def _filled(name: str, values: Mapping[str, object]) -> str:
    return string.Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises MistakeError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise command.MistakeError(f"--out_dir: {path}: {error.strerror}.") from None


if __name__ == "__main__":
    command.define(FLAGS)
    command.run(main)
