"""Classify images with MediaPipe's ImageClassifier and a .tflite file. Not part of the tests.

MediaPipe needs another absl than tfmot does, so it needs a separate environment:

    python3 -m venv /tmp/mediapipe && /tmp/mediapipe/bin/pip install mediapipe pillow
    /tmp/mediapipe/bin/python -m serving.mobile.accepted_by_mediapipe MODEL HEIGHT WIDTH IMAGE...

HEIGHT and WIDTH are those of the network, which MediaPipe does not tell.
"""

import sys
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from PIL import Image

from serving.mobile import classify


def main() -> None:
    """Print MediaPipe's three best labels of each image, prepared as in evaluation."""
    model, height, width, *images = sys.argv[1:]
    # In Python, MediaPipe's default of 0 would replace the threshold in the file.
    threshold = classify.packed(Path(model), "threshold.txt", 0.0)
    ratio = classify.packed(Path(model), "crop_ratio.txt", 1.0)
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=model), max_results=3, score_threshold=threshold
    )
    print(f"mediapipe {mediapipe.__version__}, {model}")
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for path in images:
            pixels = classify.prepare(Image.open(path), (int(height), int(width)), ratio)
            pixels = pixels[0].astype(np.uint8)
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            best = classifier.classify(image).classifications[0].categories
            named = "  ".join(f"{c.category_name} {100 * c.score:.1f}%" for c in best)
            print(path, named or "none of these?")


if __name__ == "__main__":
    main()
