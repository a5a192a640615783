"""Classify an image, or a folder of them, with a .tflite file: what an app on a device does.

python -m serving.mobile.classify MODEL.tflite IMAGE_OR_FOLDER [--top=3]

Needs ai-edge-litert, NumPy and Pillow, and no other file of this project. An app in the language of
the device needs nothing but the functions below: load, packed, prepare (with orientation and
as_seen) and classify.
"""

import argparse
import math
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 65_500  # pixels of an image's side, and of the whole image: as the networks' own decoder
PIXELS = 100_000_000
BACKGROUND = "white"  # transparent pixels are laid on it, as in training
# Of the names that pictures have, those of formats that Pillow can open here.
KINDS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".jp2", ".ico", ".heic", ".heif"),
} & Image.registered_extensions().keys()
ORIENTATION = 0x0112  # of EXIF: how a picture is turned that is stored as the sensor saw it
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class MistakeError(Exception):
    """An argument cannot be used; the message is one line and says what is valid."""


def load(path: Path, threads: int = 1) -> tuple[Any, list[str]]:
    """Return LiteRT's interpreter, ready for input, and the labels that are packed in the file.

    A .tflite with metadata ends with a ZIP archive, which holds labels.txt.
    """
    from ai_edge_litert.interpreter import Interpreter  # the other functions do without

    try:
        with zipfile.ZipFile(path) as archive:
            labels = archive.read("labels.txt").decode("utf-8").split("\n")[:-1]
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
        interpreter.invoke()  # the first call takes longer; its input is whatever is there
    except FileNotFoundError:
        raise MistakeError(f"{path}: there is no such file.") from None
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, OSError):
        raise MistakeError(
            f"{path}: not a .tflite file with labels, as xkd_keras.export makes."
        ) from None
    return interpreter, labels


def packed(path: Path, name: str, otherwise: float) -> float:
    """Return a number that is packed beside the labels, or another where it is not there.

    threshold.txt: The probability below which an answer is none of the labels.
    crop_ratio.txt: The share of the sides that the network saw when it was evaluated.
    """
    with zipfile.ZipFile(path) as archive:
        return float(archive.read(name)) if name in archive.namelist() else otherwise


def orientation(image: Image.Image) -> int:
    """Return the way that its EXIF says a picture is turned; 1 (as stored) if it says none.

    As in training, what XMP says does not count (`Image.getexif` reads it), nor damaged EXIF.
    """
    try:
        if image.format == "TIFF":  # it is built as EXIF is
            return image.tag_v2.get(ORIENTATION, 1)
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return exif.get(ORIENTATION, 1)
    except Exception:  # Pillow lets out whatever its parser ran into
        return 1


def as_seen(image: Image.Image) -> Image.Image:
    """Return a picture as people see it, RGB: upright, on white, of what moves the first frame."""
    if max(image.size) > SIDE or image.size[0] * image.size[1] > PIXELS:
        raise MistakeError(
            f"the image has {image.size[0]} x {image.size[1]} pixels;"
            f" valid: sides up to {SIDE}, {PIXELS} in all."
        )
    if image.format == "TIFF":
        image.load()  # Pillow turns it itself, and takes the way out of its tags
    way = UPRIGHT.get(orientation(image))
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit grey: `convert` would clip it
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode[-1:] in "Aa" or "transparency" in image.info:
        pixels = image.convert("RGBA")
        image = Image.new("RGBA", image.size, BACKGROUND)
        image.alpha_composite(pixels)
    image = image.convert("RGB")
    return image.transpose(way) if way is not None else image


def prepare(image: Image.Image, size: tuple[int, int], crop_ratio: float = 1.0) -> np.ndarray:
    """Return pixels as the network saw them when it was evaluated: float32 [1, H, W, 3], 0..255.

    The picture is turned upright and laid on white. It is scaled until it covers the network's
    size, divided by `crop_ratio`, then the centre is cut out. The network
    itself normalises.

    To port: Pillow's BILINEAR is a triangle as wide as a pixel of the smaller image, so that it
    averages when it shrinks. OpenCV's INTER_LINEAR and Android's createScaledBitmap do not.
    """
    height, width = size
    sides = round(width / crop_ratio), round(height / crop_ratio)
    image = as_seen(image)
    scale = max(side / length for side, length in zip(sides, image.size, strict=True))
    scaled = [
        max(side, round(length * scale)) for side, length in zip(sides, image.size, strict=True)
    ]
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    if tuple(scaled) == image.size:
        image = image.crop((left, top, left + width, top + height))
    else:  # the part that the centre is made of: the rest of a long strip would be huge
        across, down = (new / old for new, old in zip(scaled, image.size, strict=True))
        box = (left / across, top / down, (left + width) / across, (top + height) / down)
        image = image.resize((width, height), Image.Resampling.BILINEAR, box)
    return np.asarray(image, np.float32)[None]


def classify(interpreter: Any, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the probabilities [classes] and the milliseconds that the call took."""
    began = time.perf_counter()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    return probabilities, 1000 * (time.perf_counter() - began)


def write(pixels: np.ndarray, path: Path) -> None:
    """Write what the network sees as a PNG: what a port of `prepare` has to make of the image."""
    try:
        Image.fromarray(pixels[0].astype(np.uint8)).save(path, "PNG")
    except OSError as error:
        raise MistakeError(f"--pixels: {path} cannot be written ({error.strerror}).") from None


def images(path: Path) -> list[Path]:
    """Return the image, or all images in a folder and its subfolders."""
    if not path.exists():
        raise MistakeError(f"{path}: there is no such file or folder.")
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in KINDS
        and not any(
            part.startswith(".") or part == "__MACOSX" for part in file.relative_to(path).parts
        )
    )
    if not files:
        raise MistakeError(f"{path}: holds no image ({', '.join(sorted(KINDS))}).")
    return files


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the parsed options, top as a number and crop_ratio as one or None; may exit with 2."""
    about = "Classify an image, or a folder of them, with a .tflite file of xkd_keras.export."
    parser = argparse.ArgumentParser(prog="serving.mobile.classify", description=about)
    parser.add_argument("model", type=Path, help="the .tflite file")
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("--top", default="3", help="how many classes to print (3)")
    parser.add_argument("--crop_ratio", help="share of the sides that is seen (the file's)")
    parser.add_argument("--threads", default="1", help="threads that compute an image (1)")
    parser.add_argument("--pixels", type=Path, help="a PNG to write, of what the network sees")
    options = parser.parse_args(arguments)
    for name in ("top", "threads"):
        value = getattr(options, name)
        if not (value.isdecimal() and value.isascii()) or not int(value):
            parser.error(f"--{name}: received '{value}'; valid: a whole number, 1 or more.")
        setattr(options, name, int(value))
    try:
        ratio = None if options.crop_ratio is None else float(options.crop_ratio)
    except ValueError:
        ratio = math.nan
    if ratio is not None and not 0 < ratio <= 1:
        parser.error(f"--crop_ratio: received '{options.crop_ratio}'; valid: above 0, up to 1.")
    options.crop_ratio = ratio
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print one line per image; return 1 if a file could not be used, else 0."""
    options, failed = _options(arguments), False
    # Whatever a file is called, its name is printed, and at once.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        interpreter, labels = load(options.model, options.threads)
        least = packed(options.model, "threshold.txt", 0.0)
        ratio = options.crop_ratio or packed(options.model, "crop_ratio.txt", 1.0)
        Image.MAX_IMAGE_PIXELS = None  # `prepare` has the limits
        size = tuple(interpreter.get_input_details()[0]["shape"][1:3])
        found = images(options.images)
        if options.pixels and len(found) > 1:
            raise MistakeError(f"--pixels: received {len(found)} images; valid: one.")
        for path in found:
            try:
                pixels = prepare(Image.open(path), size, ratio)
            except MistakeError as mistake:
                print(f"error: {path}: {mistake}", file=sys.stderr)
                failed = True
                continue
            except Exception:  # of a damaged file, a decoder may raise anything
                print(f"error: {path}: cannot be read as an image.", file=sys.stderr)
                failed = True
                continue
            if options.pixels:
                write(pixels, options.pixels)
            probabilities, milliseconds = classify(interpreter, pixels)
            best = np.argsort(-probabilities, kind="stable")[: options.top]
            named = "  ".join(f"{labels[i]} {100 * probabilities[i]:.1f}%" for i in best)
            unsure = "none of these?  " if probabilities[best[0]] < least else ""
            print(f"{path}  {unsure}{named}  {milliseconds:.2f} ms")
    except MistakeError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `... | head`: the reader is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
