"""Compare serving/mobile/android/Prepare.kt with classify.py: pixels of odd pictures.

python tests/benchmarks/kotlin_port.py

Needs kotlinc and java (in Debian: the package kotlin). Prints the largest difference, in levels of
0..255, over pictures of many shapes, crop ratios and with transparency. Fails if a row is not read
from the top, or more than once.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from serving.mobile import classify

PORT = Path(__file__).parents[2] / "serving" / "mobile" / "android" / "Prepare.kt"
MAIN = """\
import java.io.DataInputStream
import java.io.DataOutputStream

fun main(args: Array<String>) {
    val input = DataInputStream(System.`in`.buffered())
    val output = DataOutputStream(System.out.buffered())
    repeat(input.readInt()) {
        val (across, down, width, height) = List(4) { input.readInt() }
        val ratio = input.readDouble()
        val argb = IntArray(across * down) { input.readInt() }
        var last = -1
        val pixels = xkd.prepare(across, down, width, height, ratio) { y, row ->
            check(y > last && row.size == across) { "row $y after row $last" }
            last = y
            argb.copyInto(row, 0, y * across, (y + 1) * across)
        }
        pixels.forEach { output.writeFloat(it) }
    }
    output.flush()
}
"""
# Width and height of a picture, height and width of the network's input, crop ratio.
CASES = [
    *((640, 480, 32, 32, 1.0), (480, 640, 32, 32, 0.875), (33, 31, 32, 32, 1.0)),
    *((20, 300, 64, 64, 1.0), (17, 9, 96, 128, 0.875), (64, 64, 64, 64, 1.0)),
    *((1001, 667, 24, 16, 0.5), (3, 2, 5, 7, 1.0), (73, 73, 64, 64, 0.875)),
]


def main() -> None:
    """Compile, run on random pictures, half of them with transparent pixels, and compare."""
    rng, expected, told = np.random.default_rng(0), [], [np.array([len(CASES)], ">i4").tobytes()]
    for i, (across, down, height, width, ratio) in enumerate(CASES):
        coarse = rng.integers(0, 256, (down // 4 + 1, across // 4 + 1, 4), np.uint8)
        pixels = np.kron(coarse, np.ones((4, 4, 1), np.uint8))[:down, :across]
        pixels[..., 3] = pixels[..., 3] if i % 2 else 255
        expected.append(classify.prepare(Image.fromarray(pixels), (height, width), ratio))
        argb = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1, 1 << 24], np.uint32)
        told.append(np.array([across, down, width, height], ">i4").tobytes())
        told += [np.array([ratio], ">f8").tobytes(), argb.astype(">u4").tobytes()]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "Main.kt").write_text(MAIN)
        shutil.copy(PORT, directory)
        files = ["Main.kt", PORT.name]
        command = ["kotlinc", *files, "-include-runtime", "-d", "m.jar"]
        subprocess.run(command, cwd=directory, check=True)
        found = subprocess.run(
            ["java", "-cp", "m.jar", "MainKt"],
            cwd=directory,
            input=b"".join(told),
            capture_output=True,
            check=True,
        ).stdout
    values = np.frombuffer(found, ">f4")
    ends = np.cumsum([each.size for each in expected])
    for case, each, end in zip(CASES, expected, ends, strict=True):
        apart = np.abs(values[end - each.size : end] - each.ravel())
        print(f"{case}: at most {apart.max():.0f} of 255, {apart.mean():.3f} in the mean")


if __name__ == "__main__":
    main()
