"""Networks for images of about 224x224: AlexNet and ResNet-18, the rest from keras.applications.

AlexNet: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, as in
torchvision. ResNet-18: He et al., CVPR 2016, table 1. The others start untrained and without their
own preprocessing.
"""

import keras

from xkd_keras.peers import resnet
from xkd_keras.peers.layers import BN_MOMENTUM, conv, conv_bn_relu, logits, pad, relu

MIN_SIDE = 64  # the largest need: AlexNet has nothing left to pool below 63


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C]."""
    return logits(VARIANTS[name](x), num_classes)


def _alexnet(x):
    x = conv(x, 64, 11, "conv1", stride=4, padding=2, use_bias=True)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool1")(relu(x, "relu1"))
    x = conv(x, 192, 5, "conv2", use_bias=True)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool2")(relu(x, "relu2"))
    for i, filters in enumerate((384, 256, 256), start=3):
        x = relu(conv(x, filters, 3, f"conv{i}", use_bias=True), f"relu{i}")
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool5")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for i in (6, 7):
        x = keras.layers.Dropout(0.5, name=f"dropout{i}")(x)
        x = keras.layers.Dense(4096, "relu", kernel_initializer="he_normal", name=f"fc{i}")(x)
    return x


def _resnet18(x):
    x = pad(conv_bn_relu(x, 64, 7, "stem", stride=2), 1, "stem_pool")
    x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    x = resnet.stages(x, (64, 128, 256, 512), (2, 2, 2, 2))
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def _application(application, pooling="avg", **options):
    """Return a function from normalised images to the last features of a keras.application."""

    def features(x):
        backbone = application(
            include_top=False, weights=None, input_tensor=x, pooling=pooling, **options
        )
        for layer in backbone.layers:
            # Shipped with 0.99 and 0.999: thousands of steps until inference sees them trained.
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = BN_MOMENTUM
        return backbone.output

    return features


def _vgg16(x):
    x = _application(keras.applications.VGG16, pooling=None)(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(4096, "relu", name="fc1")(x)
    x = keras.layers.Dropout(0.5, name="dropout1")(x)  # which keras.applications has not
    x = keras.layers.Dense(4096, "relu", name="fc2")(x)
    return keras.layers.Dropout(0.5, name="dropout2")(x)


def _mobilenet_v3(x):
    x = _application(keras.applications.MobileNetV3Large, include_preprocessing=False)(x)
    x = keras.layers.Dense(1280, "hard_swish", name="head")(x)
    return keras.layers.Dropout(0.2, name="dropout")(x)


VARIANTS = {
    "imagenet_alexnet": _alexnet,
    "imagenet_vgg16": _vgg16,
    "imagenet_resnet18": _resnet18,
    "imagenet_resnet50": _application(keras.applications.ResNet50),
    "imagenet_densenet121": _application(keras.applications.DenseNet121),
    "imagenet_mobilenet_v2": _application(keras.applications.MobileNetV2),
    "imagenet_mobilenet_v3": _mobilenet_v3,
}
