"""Small networks of keras.applications become TFLite files, or it is told why not."""

import keras
import numpy as np
import pytest
from scipy.special import softmax

from tests import statistics
from xkd_keras import peers
from xkd_keras.errors import InputError
from xkd_keras.ship import lite

SHAPE = (32, 32, 3)
# The largest difference of a probability, float32 first; int8's is what 8 bits leave.
BOUNDS = {"float32": 1e-4, "float16": 0.02, "dynamic": 0.25, "int8": 0.35}
IN_FULL = "MobileNetV3Small"  # the others in float32 and int8: float16 and dynamic keep its graph
NO_INT8 = {"ConvNeXtTiny": "int8: .* tensors stay float"}  # layer normalisation and GELU


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("MobileNetV3Small", marks=pytest.mark.slow),
        pytest.param("EfficientNetV2B0", marks=pytest.mark.exhaustive),
        pytest.param("NASNetMobile", marks=pytest.mark.exhaustive),
        pytest.param("ConvNeXtTiny", marks=pytest.mark.exhaustive),
    ],
)
def test_every_variant_is_made_and_answers(name):
    model = peers.build(f"applications:{name}", SHAPE, 4, seed=1)
    model = peers.stock(peers.fused(model))
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE)).astype("uint8")
    statistics.settle(model, images, passes=6)
    # As trained networks do, let logits differ by some units.
    head = peers.head(model)
    logits = keras.ops.convert_to_numpy(model(images.astype("float32")))
    head.set_weights([head.get_weights()[0] / max(logits.std(), 1e-9), head.get_weights()[1]])
    want = softmax(keras.ops.convert_to_numpy(model(images[:8].astype("float32"))), axis=-1)
    assert np.ptp(want) > 0.1
    with lite.converters(model) as convert:
        for variant, bound in BOUNDS.items():
            if variant in ("float16", "dynamic") and name != IN_FULL:
                continue
            if variant == "int8" and name in NO_INT8:
                with pytest.raises(InputError, match=NO_INT8[name]):
                    convert(variant, images)
                continue
            got = lite.Lite(convert(variant, images))(images[:8])
            assert np.abs(got - want).max() < bound, variant
