"""Models for the table of counters: how each is built, beside its multiply-adds by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
import transformers as hf
from hand_counts import (
    alexnet,
    blocks,
    bottlenecks,
    conv,
    convnext_tiny,
    densenet121,
    grouped_queries,
    mae_base,
    mobilenet_v2,
    resnet18,
    swin_tiny,
    t5_small,
    vgg16,
    vit,
)
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.efficiency import Work, register_formula


@dataclass(frozen=True)
class Case:
    """A model of one tensor, its input, and its multiply-adds by hand."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    multiply_adds: float


class Language(nn.Module):
    """A transformers model as a function of one tensor that returns one tensor."""

    def __init__(self, model: nn.Module, name: str, **fixed: Tensor) -> None:
        super().__init__()
        self.model, self.name, self.fixed = model, name, fixed

    def forward(self, x: Tensor) -> Tensor:
        """The first tensor of the model's output."""
        fixed = {key: value.to(x.device) for key, value in self.fixed.items()}
        return self.model(**{self.name: x}, **fixed, return_dict=False)[0]


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        """The function's value, the layers given first."""
        return self.function(*self.layers, x)


@torch.library.custom_op("naslab_benchmark::scaled_product", mutates_args=())
def scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """A product that no counter can know unless it is told."""
    return a @ b * scale


@scaled_product.register_fake
def _(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


register_formula(
    "naslab_benchmark::scaled_product", lambda call: Work(2 * call.shape("a")[1] * call.elements, call.elements)
)


def images(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*(shape or (1, 3, 224, 224)), generator=torch.Generator().manual_seed(0))


def tokens(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(1000, shape, generator=torch.Generator().manual_seed(0))


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name)


def _language(model: str, name: str = "input_ids", **sizes: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        kind = getattr(hf, model)
        return Language(kind(kind.config_class(**sizes)), name)

    return build


def _t5() -> nn.Module:
    return Language(hf.T5Model(hf.T5Config()), "input_ids", decoder_input_ids=tokens(1, 32)())


def _attend(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def _einsum(x: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", x, x).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", scores, x)


def _encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2)


def _graph(layout: str) -> Callable[[], nn.Module]:
    """Two layers of a graph network over 64 nodes with 374 edges."""

    def build() -> nn.Module:
        adjacency = torch.zeros(4096)
        adjacency[torch.randperm(4096, generator=torch.Generator().manual_seed(0))[:374]] = 1.0
        sparse = getattr(adjacency.view(64, 64), f"to_sparse_{layout}")()
        first, second = nn.Linear(16, 32), nn.Linear(32, 8)

        def forward(first: nn.Module, second: nn.Module, x: Tensor) -> Tensor:
            hidden = torch.sparse.mm(sparse, first(x)).relu()
            return torch.sparse.mm(sparse, second(hidden))

        return Function(forward, first, second)

    return build


class Denoiser(nn.Module):
    """A small diffusion UNet: down, attention in the middle, up with a skip, the time step added to the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.down = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.time, self.attention = nn.Linear(16, 64), nn.MultiheadAttention(64, 4, batch_first=True)
        self.up, self.outside = nn.ConvTranspose2d(64, 32, 2, stride=2), nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 16, 16) noise to as much."""
        skip = self.inside(x).relu()
        hidden = self.down(skip) + self.time(torch.ones(len(x), 16))[:, :, None, None]
        tokens = hidden.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        hidden = self.up(tokens.transpose(1, 2).unflatten(2, (8, 8)))
        return self.outside(torch.cat([hidden, skip], 1))


DENOISER = (
    conv(16, 3, 32, 3) + conv(8, 32, 64, 3) + 16 * 64 + (4 * 64 * 64**2 + 2 * 64**2 * 64)
    + 8 * 8 * 64 * 32 * 4 + conv(16, 64, 3, 3)
)  # fmt: skip


class StateSpace(nn.Module):
    """A linear state space h = A h + B x, y = C h, step by step over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(*s) / 8) for s in ((32, 32), (32, 16), (16, 32)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 16) to the same."""
        state, outputs = x.new_zeros(len(x), 32), []
        for step in x.unbind(1):
            state = state @ self.a.t() + step @ self.b.t()
            outputs.append(state @ self.c.t())
        return torch.stack(outputs, 1)


class Selective(nn.Module):
    """A diagonal selective scan as in Mamba (Gu and Dao 2023), its two projections included; the scan itself is
    pointwise work, which the hand counts leave out as everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(16, 64), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 16) to the same."""
        values, gates = self.inside(x).chunk(2, -1)
        decay = torch.sigmoid(gates)
        state, outputs = torch.zeros_like(values[:, 0]), []
        for step in range(x.shape[1]):
            state = decay[:, step] * state + (1 - decay[:, step]) * values[:, step]
            outputs.append(state)
        return self.outside(torch.stack(outputs, 1))


class Adapted(nn.Module):
    """A frozen layer with a low-rank update (Hu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(64, 64).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(4, 64)), nn.Parameter(torch.zeros(64, 4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64) to (B, 64)."""
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


def _quantised() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


def _experts(router: nn.Module, first: nn.Module, second: nn.Module, x: Tensor) -> Tensor:
    """Top one of two experts: half of the tokens to each, whatever the router says."""
    half = len(x) // 2
    return torch.cat([first(x[:half]), second(x[half:])]) * router(x).amax(-1, keepdim=True)


def _unrolled(cell: nn.Module, x: Tensor) -> Tensor:
    state = None
    for step in x:
        state = cell(step, state)
    return state[0]


def _retina() -> nn.Module:
    """The heads of a one-stage detector over three levels of a pyramid: four shared convolutions, classes and boxes."""
    tower = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())))
    classes, boxes = nn.Conv2d(32, 9 * 20, 3, padding=1), nn.Conv2d(32, 9 * 4, 3, padding=1)

    def forward(tower: nn.Module, classes: nn.Module, boxes: nn.Module, x: Tensor) -> Tensor:
        levels = (x, F.max_pool2d(x, 2), F.max_pool2d(x, 4))
        shared = [tower(level) for level in levels]
        return torch.cat([torch.cat([classes(s), boxes(s)], 1).flatten(2) for s in shared], 2)

    return Function(forward, tower, classes, boxes)


RETINA = sum(4 * conv(side, 32, 32, 3) + conv(side, 32, 9 * 24, 3) for side in (32, 16, 8))

LLAMA = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2}

CASES = {
    "ResNet-18": Case(_timm("resnet18"), images(), resnet18()),
    "ResNet-50": Case(_timm("resnet50"), images(), bottlenecks(64, 1)),
    "ResNeXt-50 32x4d": Case(_timm("resnext50_32x4d"), images(), bottlenecks(128, 32)),
    "VGG-16": Case(_timm("vgg16"), images(), vgg16()),
    "AlexNet": Case(torchvision.models.alexnet, images(), alexnet()),
    "MobileNetV2": Case(_timm("mobilenetv2_100"), images(), mobilenet_v2()),
    "DenseNet-121": Case(_timm("densenet121"), images(), densenet121()),
    "ConvNeXt-T": Case(_timm("convnext_tiny"), images(), convnext_tiny()),
    "transposed convolution": Case(
        lambda: nn.ConvTranspose2d(16, 8, 4, 2, 1), images(2, 16, 14, 14), 2 * 196 * 16 * 8 * 16
    ),
    "ViT-B/16": Case(_timm("vit_base_patch16_224"), images(), vit(196, 768, 12, 768)),
    "ViT-L/16": Case(_timm("vit_large_patch16_224"), images(), vit(196, 1024, 24, 768)),
    "DeiT-S": Case(_timm("deit_small_patch16_224"), images(), vit(196, 384, 12, 768)),
    "Swin-T": Case(_timm("swin_tiny_patch4_window7_224"), images(), swin_tiny()),
    "MLP-Mixer-B/16": Case(
        _timm("mixer_b16_224"), images(), 196 * 768**2 + 12 * 2 * 196 * 768 * (384 + 3072) + 768 * 1000
    ),
    "ResMLP-12": Case(
        _timm("resmlp_12_224"), images(), 196 * 768 * 384 + 12 * (196**2 * 384 + 8 * 196 * 384**2) + 384 * 1000
    ),
    "BERT-base": Case(_language("BertModel"), tokens(1, 128), blocks(128, 768, 12)),
    "RoBERTa-base": Case(_language("RobertaModel"), tokens(1, 128), blocks(128, 768, 12)),
    "DistilBERT": Case(_language("DistilBertModel"), tokens(1, 128), blocks(128, 768, 6)),
    "ALBERT-base": Case(
        _language("AlbertModel", hidden_size=768, num_attention_heads=12, intermediate_size=3072),
        tokens(1, 128),
        128 * 128 * 768 + blocks(128, 768, 12),
    ),
    "GPT-2": Case(_language("GPT2Model"), tokens(1, 128), blocks(128, 768, 12)),
    "T5-small": Case(_t5, tokens(1, 64), t5_small(64, 32)),
    "Llama, grouped queries": Case(
        _language("LlamaModel", **LLAMA, intermediate_size=688), tokens(1, 64), grouped_queries(64)
    ),
    "ViTMAE-B": Case(_language("ViTMAEForPreTraining", "pixel_values"), images(), mae_base()),
    "VideoMAE-B": Case(
        _language("VideoMAEModel", "pixel_values"),
        images(1, 16, 3, 224, 224),
        1568 * 1536 * 768 + blocks(1568, 768, 12),
    ),
    "CLIP image B/32": Case(
        _language("CLIPVisionModel", "pixel_values"), images(), 49 * 3072 * 768 + blocks(50, 768, 12)
    ),
    "CLIP text": Case(_language("CLIPTextModel"), tokens(1, 77), blocks(77, 512, 12)),
    "LSTM": Case(lambda: nn.LSTM(64, 128, 2), images(10, 3, 64), 30 * 4 * 128 * (64 + 128 + 128 + 128)),
    "GRU": Case(lambda: nn.GRU(64, 128), images(10, 3, 64), 30 * 3 * 128 * (64 + 128)),
    "nn.TransformerEncoder": Case(_encoder, images(2, 32, 64), 2 * blocks(32, 64, 2, 128)),
    "nn.MultiheadAttention": Case(
        lambda: Function(lambda layer, x: layer(x, x, x)[0], nn.MultiheadAttention(64, 4, batch_first=True)),
        images(2, 32, 64),
        2 * (4 * 32 * 64**2 + 2 * 32**2 * 64),
    ),
    "causal attention": Case(lambda: Function(_attend), images(2, 4, 64, 32), 2 * 4 * 2 * 64**2 * 32),
    "einsum attention": Case(lambda: Function(_einsum), images(2, 4, 64, 32), 2 * 4 * 2 * 64**2 * 32),
    "GCN, COO adjacency": Case(_graph("coo"), images(64, 16), 64 * 16 * 32 + 374 * 32 + 64 * 32 * 8 + 374 * 8),
    "GCN, CSR adjacency": Case(_graph("csr"), images(64, 16), 64 * 16 * 32 + 374 * 32 + 64 * 32 * 8 + 374 * 8),
    "detector's heads, 3 levels": Case(_retina, images(1, 32, 32, 32), RETINA),
    "diffusion UNet": Case(Denoiser, images(1, 3, 16, 16), DENOISER),
    "state space": Case(StateSpace, images(2, 24, 16), 2 * 24 * (32 * 32 + 16 * 32 + 32 * 16)),
    "selective scan": Case(Selective, images(2, 24, 16), 2 * 24 * (16 * 64 + 32 * 16)),
    "RNN, two ways": Case(lambda: nn.RNN(32, 64, bidirectional=True), images(12, 4, 32), 2 * 12 * 4 * 64 * (32 + 64)),
    "LSTM cell, 10 steps": Case(
        lambda: Function(lambda cell, x: _unrolled(cell, x), nn.LSTMCell(32, 64)),
        images(10, 4, 32),
        10 * 4 * 4 * 64 * 96,
    ),
    "dynamic quantisation": Case(_quantised, images(8, 64), 8 * (64 * 128 + 128 * 32)),
    "LoRA": Case(Adapted, images(8, 64), 8 * (64 * 64 + 2 * 4 * 64)),
    "two experts": Case(
        lambda: Function(_experts, nn.Linear(32, 2), nn.Linear(32, 32), nn.Linear(32, 32)),
        images(16, 32),
        16 * (32 * 2 + 32 * 32),
    ),
    "complex convolution": Case(
        lambda: nn.Conv2d(3, 4, 3, dtype=torch.complex64),
        lambda: torch.randn(1, 3, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)),
        4 * 36 * 4 * 27,
    ),
    "custom operation": Case(lambda: Function(lambda x: scaled_product(x, x.t(), 2.0)), images(48, 32), 48 * 48 * 32),
}
