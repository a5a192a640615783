"""What the paper reports, by family of networks."""

import re

SOURCE = "Gao et al., Entropy 2019, 21(4), 357"
# What SOURCE reports for CIFAR-100, by family of networks: the gain over training alone in points
# and, of AlexNet, whose accuracy alone we know, as the part of the errors that went away
# (43.85 -> 49.79: 5.94 / 56.15).
PAPER = {
    "alexnet": {"points": 5.94, "error_reduction": 0.106},
    "vgg": {"points": 2.88},
    "resnet": {"points": 5.07},
    "densenet": {"points": 1.28},
}


def family(builder: str) -> str | None:
    """Return the family in PAPER of one of our networks, or None: not in it, or the user's own."""
    match = re.match(r"(?:imagenet_)?(alexnet|vgg|resnet|densenet)[^:]*$", builder)
    return match and match[1]
