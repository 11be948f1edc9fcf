"""Backbones: any timm model by name, with the CIFAR stem where images are small, and two that train on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from naslab.errors import InputError

SMALL_IMAGE = 64
"""Up to this side a ResNet gets the CIFAR stem: 3x3 stride-1 first convolution and no max-pooling."""

CONVOLUTIONAL = {
    "small": ((32, 64, 128, 256), (2, 2, 1, 2)),
    "tiny": ((16, 32, 64, 128), (2, 2, 1, 2)),
}
"""Channels and strides of the 3x3 convolutions of the built-in backbones."""


class ConvolutionalBackbone(nn.Sequential):
    """3x3 convolutions with BatchNorm and ReLU, then global average pooling.

    Maps (batch, channels, height, width) to (batch, `num_features`).
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        for width_in, width_out, stride in zip((in_channels, *channels), channels, strides, strict=False):
            layers += [
                nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
            ]
        super().__init__(*layers, GlobalAveragePool(), nn.Flatten())
        self.num_features = channels[-1]


class GlobalAveragePool(nn.Module):
    """Mean over the places of a map: (batch, channels, height, width) to (batch, channels, 1, 1).

    The gradient of a mean is written out, whatever the map's memory layout, in PyTorch's default one; with the channels
    innermost the activation before it then takes several times its time. That of a sum is not written out. In float16,
    whose largest number is 65504, the sum of a large map may be infinite where the mean is not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if x.dtype == torch.float16:
            return x.mean((2, 3), keepdim=True)
        return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


def build_backbone(name: str, in_channels: int, image_size: int) -> tuple[nn.Module, int]:
    """A freshly initialised backbone without classifier, and its number of features F.

    Args:
        name: `tiny`, `small`, or `timm:NAME`.

    Raises:
        InputError: no such model, or one that does not take images of this size.
    """
    if name in CONVOLUTIONAL:
        backbone = ConvolutionalBackbone(in_channels, *CONVOLUTIONAL[name])
        return backbone, backbone.num_features
    import timm  # with torchvision it takes seconds, which a study of the two above does not need

    library, _, model = name.partition(":")
    if library != "timm" or not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model}*")[:4]) if model else ""
        hint = f"; near: {near}" if near else ""
        raise InputError(f"backbone: {name!r} is unknown; use tiny, small or timm:NAME{hint}")
    network = timm.create_model(
        model, pretrained=False, num_classes=0, in_chans=in_channels, **_size(model, image_size)
    )
    if image_size <= SMALL_IMAGE and model.startswith("resnet"):
        _cifar_stem(network, in_channels)
    num_features: Any = network.num_features
    return network, int(num_features)


def _size(model: str, image_size: int) -> dict[str, Any]:
    """Transformers with position embeddings are built for one image size; convolutional nets take any."""
    return {"img_size": image_size} if any(key in model for key in ("vit", "deit", "swin", "mixer")) else {}


def _cifar_stem(network: nn.Module, in_channels: int) -> None:
    first = network.conv1
    assert isinstance(first, nn.Conv2d)
    stem = nn.Conv2d(in_channels, first.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1 = stem
    network.maxpool = nn.Identity()
