"""Multiply-adds of published architectures, worked out by hand from their sizes.

Contractions only; nothing is run for them. `n` is tokens, `d` width.
"""

from __future__ import annotations


def blocks(n: int, d: int, depth: int, hidden: int | None = None) -> float:
    """Transformer blocks: four projections, two attention products, two feed-forward products."""
    return depth * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * (hidden or 4 * d))


def vit(n: int, d: int, depth: int, patch_values: int, classes: int = 1000) -> float:
    """A vision transformer with a class token."""
    return n * patch_values * d + blocks(n + 1, d, depth) + d * classes


def conv(side: int, c_in: int, c_out: int, kernel: int, groups: int = 1) -> float:
    """A square convolution, `side` being the output's."""
    return side**2 * c_out * (c_in // groups) * kernel**2


def resnet18() -> float:
    """He et al. 2016, table 1: two blocks of two 3x3 convolutions a stage."""
    total, c_in = conv(112, 3, 64, 7), 64
    for c, side in ((64, 56), (128, 28), (256, 14), (512, 7)):
        total += conv(side, c_in, c, 3) + 3 * conv(side, c, c, 3)
        total += conv(side, c_in, c, 1) if c_in != c else 0
        c_in = c
    return total + 512 * 1000


def bottlenecks(width: int, groups: int) -> float:
    """ResNet-50 and ResNeXt-50: 1x1, 3x3 (which has the stride), 1x1 to four times the stage's channels."""
    total, c_in, before = conv(112, 3, 64, 7), 64, 56
    for stage, (depth, side) in enumerate(((3, 56), (4, 28), (6, 14), (3, 7))):
        inner, c_out = width * 2**stage, 256 * 2**stage
        for index in range(depth):
            total += conv(before if index == 0 else side, c_in, inner, 1)
            total += conv(side, inner, inner, 3, groups) + conv(side, inner, c_out, 1)
            total += conv(side, c_in, c_out, 1) if index == 0 else 0
            c_in = c_out
        before = side
    return total + 2048 * 1000


def vgg16() -> float:
    """Simonyan and Zisserman 2015, configuration D."""
    total, c_in = 0.0, 3
    for side, channels in ((224, (64, 64)), (112, (128,) * 2), (56, (256,) * 3), (28, (512,) * 3), (14, (512,) * 3)):
        for c in channels:
            total += conv(side, c_in, c, 3)
            c_in = c
    return total + 512 * 49 * 4096 + 4096**2 + 4096 * 1000


def alexnet() -> float:
    """Krizhevsky 2014 ("one weird trick"), as in torchvision."""
    layers = ((55, 3, 64, 11), (27, 64, 192, 5), (13, 192, 384, 3), (13, 384, 256, 3), (13, 256, 256, 3))
    return sum(conv(*layer) for layer in layers) + 9216 * 4096 + 4096**2 + 4096 * 1000


def mobilenet_v2() -> float:
    """Sandler et al. 2018, table 2: expand by t, 3x3 depthwise, project."""
    total, c_in, side = conv(112, 3, 32, 3), 32, 112
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for t, c, repeats, stride in rows:
        for index in range(repeats):
            hidden = t * c_in
            total += conv(side, c_in, hidden, 1) if t > 1 else 0
            side //= stride if index == 0 else 1
            total += conv(side, hidden, hidden, 3, hidden) + conv(side, hidden, c, 1)
            c_in = c
    return total + conv(7, 320, 1280, 1) + 1280 * 1000


def densenet121() -> float:
    """Huang et al. 2017, table 1: growth 32, bottlenecks of 128, transitions that halve."""
    total, c = conv(112, 3, 64, 7), 64
    for side, layers in ((56, 6), (28, 12), (14, 24), (7, 16)):
        for _ in range(layers):
            total += conv(side, c, 128, 1) + conv(side, 128, 32, 3)
            c += 32
        if side > 7:
            total += conv(side, c, c // 2, 1)
            c //= 2
    return total + 1024 * 1000


def swin_tiny() -> float:
    """Liu et al. 2021: windows of 49 tokens, merging of four neighbours between stages."""
    total, n, d = 56**2 * 48 * 96.0, 56**2, 96
    for stage, depth in enumerate((2, 2, 6, 2)):
        total += depth * (12 * n * d**2 + 2 * n * 49 * d)
        if stage < 3:
            n, total = n // 4, total + n // 4 * 4 * d * 2 * d
            d *= 2
    return total + 768 * 1000


def convnext_tiny() -> float:
    """Liu et al. 2022: 7x7 depthwise, then four times as wide and back."""
    total, c_in = conv(56, 3, 96, 4), 96
    for (c, side), depth in zip(((96, 56), (192, 28), (384, 14), (768, 7)), (3, 3, 9, 3), strict=True):
        total += conv(side, c_in, c, 2) if c != c_in else 0
        total += depth * (conv(side, c, c, 7, c) + 2 * conv(side, c, 4 * c, 1))
        c_in = c
    return total + 768 * 1000


def t5_small(n: int, m: int) -> float:
    """Raffel et al. 2020: 6 + 6 layers, width 512, feed-forward 2048; the decoder attends to itself and to n keys."""
    d, hidden = 512, 2048
    cross = 2 * m * d**2 + 2 * n * d**2 + 2 * m * n * d
    return blocks(n, d, 6, hidden) + blocks(m, d, 6, hidden) + 6 * cross


def grouped_queries(n: int) -> float:
    """Llama-like: width 256, 4 layers, 8 query and 2 key heads, gated feed-forward of 688."""
    d = 256
    return 4 * (2 * n * d**2 + 2 * n * d * d // 4 + 2 * n**2 * d + 3 * n * d * 688)


def mae_base() -> float:
    """He et al. 2021, ViT-B: 49 of 196 patches encoded, 8 decoder blocks 512 wide over all."""
    projections = 50 * 768 * 512 + 197 * 512 * 768
    return 196 * 768 * 768 + blocks(50, 768, 12) + blocks(197, 512, 8) + projections
