"""Small archives in the true formats of CIFAR and ImageNet, where TFDS's builders find them."""

import hashlib
import io
import pathlib
import tarfile

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.utils import gcs_utils

CIFAR10_NAMES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


def no_network(monkeypatch) -> None:
    """Keep TFDS from asking its bucket for data sets that are not prepared yet."""
    monkeypatch.setattr(gcs_utils, "gcs_dataset_info_files", lambda name: None)
    monkeypatch.setattr(gcs_utils, "is_dataset_on_gcs", lambda name: False)


def write_cifar10(data_dir, monkeypatch, *, per_class: int = 12, seed: int = 0):
    """Write CIFAR-10's binary archive: five train batches and one of test, 3073 bytes a record.

    Returns:
        {"train" or "test": (images uint8 [n, 32, 32, 3], labels [n])}, as written.
    """
    parts = {
        "train": _examples(10, per_class, seed),
        "test": _examples(10, 4, seed + 1),
    }
    members = {"batches.meta.txt": "\n".join([*CIFAR10_NAMES, ""]).encode()}
    images, labels = parts["train"]
    for number, chosen in enumerate(np.array_split(np.arange(len(labels)), 5), 1):
        members[f"data_batch_{number}.bin"] = _binary(images[chosen], labels[chosen, None])
    members["test_batch.bin"] = _binary(parts["test"][0], parts["test"][1][:, None])
    _place(data_dir, monkeypatch, "cifar10", "cifar-10-batches-bin", members)
    return parts


def write_cifar100(data_dir, monkeypatch, *, per_class: int = 3, seed: int = 0):
    """Write CIFAR-100's binary archive: coarse label, fine label, 3072 pixels a record.

    Returns:
        {"train" or "test": (images uint8 [n, 32, 32, 3], fine labels [n])}, as written. The coarse
        label is the fine one // 5.
    """
    parts = {"train": _examples(100, per_class, seed), "test": _examples(100, 1, seed + 1)}
    members = {
        f"{part}.bin": _binary(images, np.stack([fine // 5, fine], 1))
        for part, (images, fine) in parts.items()
    }
    members["fine_label_names.txt"] = "".join(f"fine{i}\n" for i in range(100)).encode()
    members["coarse_label_names.txt"] = "".join(f"coarse{i}\n" for i in range(20)).encode()
    _place(data_dir, monkeypatch, "cifar100", "cifar-100-binary", members)
    return parts


def write_imagenet(data_dir, *, synsets, per_synset: int = 6, validation: int = 5, seed: int = 0):
    """Write ImageNet's two archives: JPEGs of odd sizes, train nested by synset.

    Returns:
        {file name: uint8 [h, w, 3] as decoded by PIL}.
    """
    rng = np.random.default_rng(seed)
    manual = pathlib.Path(data_dir, "downloads", "manual")
    manual.mkdir(parents=True)
    written = {}

    def jpegs(names):
        for name in names:
            height, width = rng.integers(17, 90, 2)
            smooth = np.kron(rng.integers(0, 256, (3, 4, 3)), np.ones((30, 30, 1)))
            encoded = io.BytesIO()
            Image.fromarray(smooth[:height, :width].astype(np.uint8)).save(encoded, "JPEG")
            written[name] = np.asarray(Image.open(encoded))
            yield name, encoded.getvalue()

    train = {
        f"{synset}.tar": _tar(dict(jpegs(f"{synset}_{i}.JPEG" for i in range(per_synset))))
        for synset in synsets
    }
    (manual / "ILSVRC2012_img_train.tar").write_bytes(_tar(train))
    names = [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(validation)]
    (manual / "ILSVRC2012_img_val.tar").write_bytes(_tar(dict(jpegs(names))))
    return written


def _examples(classes: int, per_class: int, seed: int):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), per_class))
    return rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels


def _binary(images: np.ndarray, labels: np.ndarray) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # all red, all green, all blue
    return np.concatenate([labels.astype(np.uint8), planes], 1).tobytes()


def _tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _place(data_dir, monkeypatch, name: str, folder: str, members: dict[str, bytes]) -> None:
    """Put the archive where TFDS looks for files fetched by hand, under the checksum it expects."""
    builder = tfds.builder_cls(name)
    (url,) = builder.url_infos
    archive = _tar({f"{folder}/{member}": content for member, content in members.items()}, "w:gz")
    manual = pathlib.Path(data_dir, "downloads", "manual")
    manual.mkdir(parents=True, exist_ok=True)
    file_name = url.rsplit("/", 1)[1]
    (manual / file_name).write_bytes(archive)
    checksum = hashlib.sha256(archive).hexdigest()
    info = checksums.UrlInfo(len(archive), checksum, file_name)
    monkeypatch.setattr(builder, "url_infos", {url: info})
    no_network(monkeypatch)
