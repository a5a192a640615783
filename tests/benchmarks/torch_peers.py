"""The peers and their losses as PyTorch's users write them, for `train_step.py` to compare with.

Modules are named as the layers of `xkd_keras.peers` are, with a dot for an underscore: so weights
find their place.
"""

from collections import OrderedDict

import torch
from measured import L2, MIDDLE, MOMENTUM, RATE, TEMPERATURE
from torch import nn
from torch.nn import functional


def conv(inputs: int, filters: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded by half the kernel."""
    return nn.Conv2d(inputs, filters, kernel, stride, kernel // 2, bias=False)


def alexnet(classes: int) -> nn.Module:
    """Five convolutions, three max-pools, one dense layer."""
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 64, 11, stride=4, padding=5),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(64, 192, 5, padding=2),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(2),
    )
    for i, (inputs, filters) in enumerate(((192, 384), (384, 256), (256, 256)), start=3):
        layers[f"conv{i}"] = nn.Conv2d(inputs, filters, 3, padding=1)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
    layers["pool5"] = nn.MaxPool2d(2)
    return _with_logits(layers, 256, classes)


def vgg11(classes: int) -> nn.Module:
    """Configuration A with batch normalisation; convolutions keep their biases."""
    layers, inputs = OrderedDict(), 3
    blocks = ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2))
    for block, (filters, units) in enumerate(blocks, start=1):
        for unit in range(1, units + 1):
            name = f"block{block}_conv{unit}"
            layers[name] = nn.Conv2d(inputs, filters, 3, padding=1)
            layers[f"{name}_bn"] = nn.BatchNorm2d(filters)
            layers[f"{name}_relu"] = nn.ReLU(inplace=True)
            inputs = filters
        layers[f"block{block}_pool"] = nn.MaxPool2d(2)
    return _with_logits(layers, inputs, classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.conv1, self.conv1_bn = conv(inputs, filters, 3, stride), nn.BatchNorm2d(filters)
        self.conv2, self.conv2_bn = conv(filters, filters, 3), nn.BatchNorm2d(filters)
        self.projects = stride > 1 or inputs != filters
        if self.projects:
            self.shortcut = conv(inputs, filters, 1, stride)
            self.shortcut_bn = nn.BatchNorm2d(filters)

    def forward(self, x):
        """Return [B, filters, H / stride, W / stride]."""
        y = functional.relu(self.conv1_bn(self.conv1(x)), inplace=True)
        y = self.conv2_bn(self.conv2(y))
        y += self.shortcut_bn(self.shortcut(x)) if self.projects else x
        return functional.relu(y, inplace=True)


def resnet20(classes: int) -> nn.Module:
    """Three stages of three basic blocks, 16, 32 and 64 channels."""
    layers = OrderedDict(stem=conv(3, 16, 3), stem_bn=nn.BatchNorm2d(16))
    layers["stem_relu"], inputs = nn.ReLU(inplace=True), 16
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in (1, 2, 3):
            stride = 2 if block == 1 and stage > 1 else 1
            layers[f"stage{stage}_block{block}"] = BasicBlock(inputs, filters, stride)
            inputs = filters
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    return _with_logits(layers, inputs, classes)


class DenseLayer(nn.Module):
    """A bottleneck of four times the growth; appends `growth` channels."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.in_bn, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, 4 * growth, 1)
        self.mid_bn, self.conv2 = nn.BatchNorm2d(4 * growth), conv(4 * growth, growth, 3)

    def forward(self, x):
        """Return [B, inputs + growth, H, W]."""
        y = self.conv1(functional.relu(self.in_bn(x), inplace=True))
        y = self.conv2(functional.relu(self.mid_bn(y), inplace=True))
        return torch.cat([x, y], 1)


def densenet_bc_40_12(classes: int) -> nn.Module:
    """Three blocks of six layers; transitions keep half of the channels."""
    growth, channels = 12, 24
    layers = OrderedDict(stem=conv(3, channels, 3))
    for block in (1, 2, 3):
        for unit in range(1, 7):
            layers[f"block{block}_layer{unit}"] = DenseLayer(channels, growth)
            channels += growth
        if block < 3:
            name, kept = f"transition{block}", channels // 2
            layers[f"{name}_bn"] = nn.BatchNorm2d(channels)
            layers[f"{name}_relu"] = nn.ReLU(inplace=True)
            layers[f"{name}_conv"], channels = conv(channels, kept, 1), kept
            layers[f"{name}_pool"] = nn.AvgPool2d(2)
    layers["final_bn"], layers["final_relu"] = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    return _with_logits(layers, channels, classes)


def _with_logits(layers: OrderedDict, features: int, classes: int) -> nn.Sequential:
    layers["flatten"], layers["logits"] = nn.Flatten(), nn.Linear(features, classes)
    return nn.Sequential(layers)


BUILDERS = {
    "alexnet": alexnet,
    "vgg11": vgg11,
    "resnet20": resnet20,
    "densenet-bc-40-12": densenet_bc_40_12,
}


class Cohort(nn.Module):
    """Peers that see the same batch: labels, and the mean of the logits as teacher."""

    def __init__(self, names, classes: int):
        super().__init__()
        self.peers = nn.ModuleList(BUILDERS[name](classes) for name in names)

    def forward(self, images, labels):
        """Return the loss to minimise, and the logits [P, B, C]."""
        images = (images - MIDDLE) / MIDDLE
        logits = torch.stack([peer(images) for peer in self.peers])
        peers, count, classes = logits.shape
        labelled = functional.cross_entropy(
            logits.reshape(-1, classes), labels.repeat(peers), reduction="sum"
        )
        taught = functional.log_softmax(logits.detach().mean(0) / TEMPERATURE, -1)
        own = functional.log_softmax(logits / TEMPERATURE, -1)
        distilled = functional.kl_div(own, taught.expand_as(own), reduction="sum", log_target=True)
        return (labelled + TEMPERATURE**2 * distilled) / count, logits


class Training:
    """A cohort, its optimizer, and the running loss and top-1 that everybody keeps.

    Args:
        names: Keys of `BUILDERS`.
        pixels: float32 [B, H, W, 3], 0..255.
        labels: int [B].
        classes: Their number.
        compiled: Whether forward and backward go through torch.compile.
    """

    def __init__(self, names, pixels, labels, classes: int, compiled: bool):
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.from_numpy(labels).long()
        self.cohort = Cohort(names, classes).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.cohort.parameters(), RATE, MOMENTUM, weight_decay=L2, fused=True
        )
        self.call = torch.compile(self.cohort) if compiled else self.cohort
        self.loss, self.hits, self.steps = torch.zeros(()), torch.zeros(len(names)), 0

    def step(self) -> None:
        """Learn from the batch once."""
        self.optimizer.zero_grad()
        loss, logits = self.call(self.images, self.labels)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.loss += loss
            self.hits += (logits.argmax(-1) == self.labels).float().mean(-1)
            self.steps += 1


def load(network: nn.Module, weights: dict[str, list]) -> None:
    """Copy the weights of a Keras model, by layer."""
    modules = {name.replace(".", "_"): module for name, module in network.named_modules()}
    for name, arrays in weights.items():
        # Batch normalisation counts its batches besides, which Keras does not.
        for tensor, array in zip(modules[name].state_dict().values(), arrays, strict=False):
            order = (3, 2, 0, 1) if array.ndim == 4 else None  # None reverses
            tensor.copy_(torch.tensor(array.transpose(order)))


def parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())
