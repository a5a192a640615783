"""Which networks there are, what pixels the weights of others expect, and how each learns best.

Data only: a command's help reads it without waiting for Keras.
"""

# File of the family -> the names that it builds. Each file says what they mean, and their source.
FAMILIES = {
    "alexnet": ("alexnet",),
    "vgg": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "resnet": ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    "densenet": ("densenet-bc-40-12", "densenet-bc-100-12"),
    "wide_resnet": ("wrn-16-2", "wrn-28-10"),
    "mobilenet": ("mobilenet_v2",),
    "imagenet": (
        "imagenet_alexnet",
        "imagenet_vgg16",
        "imagenet_resnet18",
        "imagenet_resnet50",
        "imagenet_densenet121",
        "imagenet_mobilenet_v2",
        "imagenet_mobilenet_v3",
    ),
}
BUILDERS = {name: family for family, names in FAMILIES.items() for name in names}
FILE, APPLICATIONS = "file:", "applications:"
SUFFIXES = (".keras", ".h5")  # of the files that Keras saves, also of weights

# What a network sees of a pixel 0..255: (pixel - mean) / std, for red, green, blue.
# Source: keras.applications' preprocess_input, and its networks' own first layers.
PIXELS = {
    "0..255": ((0.0,) * 3, (1.0,) * 3),
    "0..1": ((0.0,) * 3, (255.0,) * 3),
    "-1..1": ((127.5,) * 3, (127.5,) * 3),
    "x/128-1": ((128.0,) * 3, (128.0,) * 3),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "bgr": ((123.68, 116.779, 103.939), (1.0,) * 3),  # and blue, green, red in this order
}
# The classifiers of keras.applications, by what their weights expect.
_EXPECT = {
    "-1..1": "MobileNet MobileNetV2 MobileNetV3Small MobileNetV3Large NASNetMobile NASNetLarge"
    " InceptionV3 InceptionResNetV2 Xception ResNet50V2 ResNet101V2 ResNet152V2",
    "x/128-1": "EfficientNetV2S EfficientNetV2M EfficientNetV2L",
    "imagenet": "DenseNet121 DenseNet169 DenseNet201 EfficientNetV2B0 EfficientNetV2B1"
    " EfficientNetV2B2 EfficientNetV2B3 EfficientNetB0 EfficientNetB1 EfficientNetB2"
    " EfficientNetB3 EfficientNetB4 EfficientNetB5 EfficientNetB6 EfficientNetB7 ConvNeXtTiny"
    " ConvNeXtSmall ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge",
    "bgr": "ResNet50 ResNet101 ResNet152 VGG16 VGG19",
}
EXPECTED = {name: kind for kind, names in _EXPECT.items() for name in names.split()}

# How a network learns where it does not as most do, by the names of flags. Of the paper's networks,
# after bearpaw/pytorch-classification; wrn: Zagoruyko and Komodakis; imagenet_*: torchvision.
_PLAIN_SGD, _L2 = {"learning_rate": 0.01}, {"weight_decay": 1e-4}
_HALF, _WRN = {"learning_rate": 0.05}, {"nesterov": True}
_MOBILE = {"learning_rate": 0.05, "weight_decay": 4e-5}
# Liu et al., 2022; but they spare biases, norms and scales from decay.
_CONVNEXT = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
SUITS = {
    "alexnet": _PLAIN_SGD,  # no batch normalisation: 0.1 makes it diverge
    **dict.fromkeys(FAMILIES["vgg"], _HALF),
    **dict.fromkeys((*FAMILIES["resnet"], *FAMILIES["densenet"]), _L2),
    **dict.fromkeys(FAMILIES["wide_resnet"], _WRN),
    "mobilenet_v2": _MOBILE,
    "imagenet_alexnet": _PLAIN_SGD | _L2,
    "imagenet_vgg16": _PLAIN_SGD,
    **dict.fromkeys(("imagenet_resnet18", "imagenet_resnet50", "imagenet_densenet121"), _L2),
    **dict.fromkeys(("imagenet_mobilenet_v2", "imagenet_mobilenet_v3"), _MOBILE),
    **{f"{APPLICATIONS}{name}": _MOBILE for name in EXPECTED},
    **{f"{APPLICATIONS}{name}": _CONVNEXT for name in EXPECTED if name.startswith("ConvNeXt")},
    **dict.fromkeys((f"{APPLICATIONS}VGG16", f"{APPLICATIONS}VGG19"), _PLAIN_SGD),
}
OTHERWISE = {"sgd": {}, "adamw": {"learning_rate": 1e-3}}  # with another optimizer than its own
FINE_TUNED = 0.1  # of a network's own rate, where it starts from trained weights
