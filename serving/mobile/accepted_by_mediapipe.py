"""Show that MediaPipe's ImageClassifier accepts a .tflite unchanged. Not part of the tests.

Images are given as they are: neither turned, nor laid on white, cropped or scaled beforehand.

MediaPipe needs another absl than tfmot does, so it needs a separate environment:

    python3 -m venv /tmp/mediapipe && /tmp/mediapipe/bin/pip install mediapipe pillow
    /tmp/mediapipe/bin/python serving/mobile/accepted_by_mediapipe.py MODEL.tflite IMAGE...
"""

import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from PIL import Image


def main() -> None:
    """Print MediaPipe's three best labels of each image."""
    model, *images = sys.argv[1:]
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=model), max_results=3
    )
    print(f"mediapipe {mediapipe.__version__}, {model}")
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for path in images:
            pixels = np.array(Image.open(path).convert("RGB"))  # MediaPipe keeps grey images grey
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            result = classifier.classify(image)
            best = result.classifications[0].categories
            print(path, "  ".join(f"{c.category_name} {100 * c.score:.1f}%" for c in best))


if __name__ == "__main__":
    main()
