"""Each complaint of docs/other-counters.md, tried: the right count by hand."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from naslab.efficiency import count, count_forward, count_training_step, profile
from naslab.efficiency.memory import parameter_count

PAGE = (Path(__file__).parents[2] / "docs" / "other-counters.md").read_text()


class Fn(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *inputs, **named):
        return self.function(*self.layers, *inputs, **named)


def lstm():
    expected = 2 * 5 * 3 * 4 * 20 * (10 + 20)
    for device in ("cpu", "meta"):
        layer, x = nn.LSTM(10, 20).to(device), torch.randn(5, 3, 10, device=device)
        assert count_forward(layer, x).total == expected


def attention():
    for heads in (4, 8):
        layer = nn.MultiheadAttention(64, heads, batch_first=True)
        model = Fn(lambda layer, x: layer(x, x, x)[0], layer)
        assert count_forward(model, torch.randn(2, 30, 64)).total == 2 * 2 * (4 * 30 * 64**2 + 2 * 30**2 * 64)


def bmm():
    q = torch.randn(6, 10, 8)
    counted = count(lambda: torch.bmm(torch.bmm(q, q.transpose(1, 2)).softmax(-1), q))
    assert counted.total == 2 * 2 * 6 * 10 * 10 * 8


def pointwise():
    x = torch.randn(7, 5)
    counted = count(lambda: torch.sigmoid(x + x) * x)
    assert (counted.total, counted.work.pointwise, counted.coverage) == (0, 35 * (1 + 4 + 1), 1.0)


def vit():
    tokens, width = 197, 192
    by_hand = 196 * 768 * width + 12 * (12 * tokens * width**2 + 2 * tokens**2 * width) + width * 1000
    with torch.device("meta"):
        model, images = timm.create_model("vit_tiny_patch16_224"), torch.empty(1, 3, 224, 224)
    assert count_forward(model, images).total == 2 * by_hand


def sdpa():
    def of(tokens, device="cpu"):
        q = torch.randn(1, 4, tokens, 16, device=device)
        # On meta tensors attention is told from its parts by the model, so there has to be one.
        model = Fn(lambda layer, q: F.scaled_dot_product_attention(q, q, q), nn.Linear(1, 1, device=device))
        return count_forward(model, q).total

    assert of(32) == of(32, "meta") == 2 * 2 * 4 * 32 * 32 * 16
    assert of(64) == 4 * of(32)


def layer():
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    rows = profile(model, torch.randn(3, 8), only=("flops", "training_step")).by_module
    assert rows["1"]["forward"] == 2 * 3 * 16 * 4
    assert (rows["0"]["backward"], rows["1"]["backward"]) == (2 * 3 * 8 * 16, 2 * 2 * 3 * 16 * 4)


def shares():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 4))
    found = profile(model, torch.randn(3, 8), only=("flops",))
    assert sum(row["own"] for row in found.by_module.values()) == found.flops.forward


def multimodal():
    model = Fn(
        lambda see, read, *, pixels, tokens: see(pixels).flatten(2).mean(-1) + read(tokens).mean(1),
        nn.Conv2d(3, 16, 4, stride=4),
        nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16)),
    )
    inputs = {"pixels": torch.randn(2, 3, 16, 16), "tokens": torch.randint(50, (2, 7))}
    counted = count_forward(model, inputs)
    assert counted.by_module["layers.0"].contraction == 2 * 2 * 16 * 16 * 48
    assert counted.by_module["layers.1"].contraction == 2 * 2 * 7 * 8 * 16


def frozen():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1)
    x = torch.randn(2, 9, 32)
    expected = 2 * 2 * (4 * 9 * 32**2 + 2 * 9**2 * 32 + 2 * 9 * 32 * 64)
    assert count_forward(encoder, x).total == expected
    assert count_forward(encoder.requires_grad_(False), x).total == expected


def middle():
    assert count_forward(nn.Linear(3, 8), torch.randn(5, 10, 3)).total == 2 * 50 * 3 * 8
    assert count_forward(nn.Linear(3, 8), torch.randn(5, 100, 100, 3)).total == 2 * 50_000 * 3 * 8


def parameter():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 64))

        def forward(self, x):
            return x @ self.weight

    assert parameter_count(Bare()) == 1024
    assert count_forward(Bare(), torch.randn(3, 16)).total == 2 * 3 * 1024


def zero():
    counted = count(lambda: torch.linalg.svd(torch.ones(4, 4)))
    assert counted.uncovered == ("_linalg_svd",)
    assert counted.coverage < 1


def shared():
    one = nn.Linear(100, 100)
    model = Fn(lambda f, x: sum(f(part) for part in x.chunk(3, -1)), one)
    assert count_forward(model, torch.randn(1, 300)).total == 60_000
    assert count_forward(nn.Sequential(one, one, one), torch.randn(1, 100)).total == 60_000
    assert parameter_count(nn.Sequential(one, one, one)) == 100 * 100 + 100


def again():
    model, x = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)), torch.randn(4, 8)
    assert {count_training_step(model, x).total for _ in range(4)} == {2 * 2 * 4 * 8 * 16}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def transposed():
    layer, x = nn.ConvTranspose2d(12, 24, 2, stride=2), torch.rand(2, 12, 6, 5, requires_grad=True)
    assert count_training_step(layer, x).total == 3 * 2 * 2 * 12 * 24 * 4 * 6 * 5


def compiled():
    model = torch.compile(nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64)), backend="eager")
    assert count_forward(model, torch.randn(3, 32)).total == 2 * 3 * 32 * 64


def entered():
    def five(layer, x):
        for _ in range(5):
            x = layer(x)
        return x

    counted = count_forward(Fn(five, nn.Linear(8, 8)), torch.randn(2, 8))
    assert counted.total == max(work.contraction for work in counted.by_module.values()) == 5 * 2 * 2 * 8 * 8


def masked():
    q = torch.randn(1, 3, 16, 8)
    counted = count(lambda: nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True))
    assert counted.total == 2 * 2 * 3 * 16 * 16 * 8
    assert counted.work.effective == 2 * 2 * 3 * (16 * 17 // 2) * 8


def linear_attention():
    counted = count(lambda q: q @ (q.transpose(-1, -2) @ q), torch.randn(1, 3, 16, 8))
    assert counted.total == 2 * 2 * 3 * 16 * 8 * 8


TRIED = (
    lstm,
    attention,
    bmm,
    pointwise,
    vit,
    sdpa,
    layer,
    shares,
    multimodal,
    frozen,
    middle,
    parameter,
    zero,
    shared,
    again,
    transposed,
    compiled,
    entered,
    masked,
    linear_attention,
)


@pytest.mark.parametrize("tried", TRIED, ids=lambda function: function.__name__)
def test_the_answer_to_a_complaint(tried):
    tried()


def test_every_complaint_of_the_page_is_tried_and_has_its_thread():
    rows = re.findall(r"^\| [^|]+\| \[.*\]\((https://github\.com/\S+/\d+)\) \|.*\| `(\w+)` \|$", PAGE, re.MULTILINE)
    assert len({thread for thread, _ in rows}) >= 15
    assert {name for _, name in rows} == {function.__name__ for function in TRIED}
