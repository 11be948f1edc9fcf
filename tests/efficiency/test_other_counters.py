"""Each complaint of docs/other-counters.md, tried: the right count by hand."""

import re
import time
import warnings
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from naslab.efficiency import (
    InputError,
    Work,
    count,
    count_forward,
    count_training_step,
    profile,
    register_formula,
)
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


def conv1d():
    model = Fn(lambda a, b, x: b(a(x).relu()).relu(), nn.Conv1d(1, 20, 5), nn.Conv1d(20, 20, 5))
    counted = count_forward(model, torch.randn(1, 1, 48))
    assert counted.total == 2 * (20 * 5 * 44 + 20 * 100 * 40)
    assert counted.by_module["layers.1"].contraction == 2 * 20 * 100 * 40
    assert counted.work.pointwise == 2 * (20 * 44 + 20 * 40)  # bias and ReLU


def resnet():
    def convolutions(blocks, widths, side):
        """Multiply-adds of the bottleneck stages, the stride in the 3 x 3 convolution."""
        total, c_in = 0, 64
        for stage, (number, width) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(number):
                before, after = side, side // 2 if stage and not block else side
                total += c_in * width * before**2 + (9 * width**2 + 4 * width**2) * after**2
                total += 0 if block else c_in * 4 * width * after**2
                c_in, side = 4 * width, after
        return total

    stem, head = 3 * 64 * 49 * 112**2, 2048 * 1000
    with torch.device("meta"):
        model, images = timm.create_model("resnet50"), torch.empty(1, 3, 224, 224)
    expected = 2 * (stem + convolutions((3, 4, 6, 3), (64, 128, 256, 512), 56) + head)
    assert count_forward(model, images).total == expected


def state_dict():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    profile(model, torch.randn(2, 3, 8, 8), only=("flops", "training_step"))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model, "total_ops")


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        model = torch.jit.script(nn.Linear(3, 4))
    with pytest.raises(InputError, match="TorchScript module hides its operations"):
        profile(model, torch.randn(2, 3))


def one_convolution():
    counted = count_forward(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), torch.randn(1, 3, 32, 32))
    assert counted.total == 2 * 16 * 27 * 16 * 16


def nested_modules():
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))), nn.Linear(4, 2))
    rows = profile(model, torch.randn(3, 8), only=("flops",)).by_module
    assert [rows[name]["forward"] for name in ("0.0.0", "0.0.1", "1")] == [2 * 3 * n for n in (64, 32, 8)]
    assert rows["0"]["forward"] == rows["0.0"]["forward"] == 2 * 3 * 96
    assert rows[""]["forward"] == 2 * 3 * 104


def mappings():
    def forward(layer, x, sizes):
        return {"mean": layer(x["image"]).mean(), "parts": [layer(x["image"]), {"sizes": sizes}]}

    found = profile(
        Fn(forward, nn.Linear(8, 4)),
        {"x": {"image": torch.randn(3, 8)}, "sizes": [{"name": "a", "rate": 500}]},
        only=("flops", "training_step"),
    )
    assert found.flops.forward == 2 * 2 * 3 * 8 * 4
    assert found.flops.training_step == 2 * found.flops.forward  # no gradient of the input


def flex():
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.randn(1, 2, 32, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it had better be compiled
        counted = count(flex_attention, q, q, q)
    assert (counted.total, counted.coverage) == (2 * 2 * 2 * 32 * 32 * 16, 1.0)


def custom():
    with torch.library._scoped_library("naslab_complaints", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CPU")
        x = torch.randn(4, 8)
        model = Fn(lambda layer, x: torch.ops.naslab_complaints.twice(layer(x)), nn.Linear(8, 8))
        unknown = count_forward(model, x)
        assert (unknown.uncovered, unknown.coverage < 1) == (("naslab_complaints::twice",), True)
        register_formula("naslab_complaints::twice", lambda call: Work(pointwise=call.elements))
        known = count_forward(model, x)
        assert (known.uncovered, known.coverage, known.work.pointwise) == ((), 1.0, 2 * 32)  # and the bias


def decoded():
    """6 FLOPs of training for each weight and token, and 12 layers * width * length for the attention."""
    import transformers

    layers, width, length, vocabulary = 2, 64, 32, 100
    config = transformers.GPT2Config(n_layer=layers, n_embd=width, n_head=4, vocab_size=vocabulary, n_positions=length)
    with torch.device("meta"):
        model, tokens = transformers.GPT2LMHeadModel(config), torch.zeros(2, length, dtype=torch.long)
    weights = layers * 12 * width**2 + vocabulary * width
    forward = count_forward(model, tokens).total
    assert forward == 2 * length * (2 * weights + 4 * layers * width * length)
    step = count_training_step(model, tokens).total
    recomputed = 2 * 2 * layers * width * length**2  # the scores, by the fused backward
    assert step == 3 * forward + recomputed


def products():
    a, b, x = torch.randn(3, 4, 5), torch.randn(3, 5, 6), torch.randn(4, 5)
    each = 2 * 3 * 4 * 5 * 6
    for function in (torch.matmul, torch.bmm, lambda a, b: a @ b, lambda a, b: torch.einsum("bij,bjk->bik", a, b)):
        assert count(function, a, b).total == each
    assert count(torch.baddbmm, torch.zeros(3, 4, 6), a, b).total == each
    assert count(torch.mm, x, x.T).total == count(torch.matmul, x, x.T).total == 2 * 4 * 5 * 4
    assert count(torch.mv, x, x[0]).total == 2 * 4 * 5


def milliseconds():
    def slow(layer, x):
        time.sleep(0.02)
        return layer(x)

    found = profile(Fn(slow, nn.Linear(2, 2)), torch.ones(1, 2), only=("latency",), min_seconds=0.1, max_seconds=0.5)
    assert found.latency_ms is not None
    assert found.latency_ms.low >= 20  # no sleep is shorter than asked, and a busy machine makes it longer only


def macs():
    assert count_forward(nn.Linear(10, 20, bias=False), torch.ones(1, 10)).total == 2 * 10 * 20


def fused_encoder():
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    few, many = (count_forward(encoder, torch.randn(1, tokens, 32)).total for tokens in (8, 16))
    expected = [2 * (4 * n * 32**2 + 2 * n**2 * 32 + 2 * n * 32 * 64) for n in (8, 16)]
    assert [few, many] == expected


def alias():
    inner = nn.Linear(8, 8)
    model = nn.ModuleDict({"a": inner, "b": inner})
    counted = count_forward(Fn(lambda both, x: both["b"](x), model), torch.randn(2, 8))
    assert counted.total == 2 * 2 * 8 * 8
    assert parameter_count(model) == 72


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
    conv1d,
    resnet,
    state_dict,
    scripted,
    one_convolution,
    nested_modules,
    mappings,
    flex,
    custom,
    decoded,
    products,
    milliseconds,
    macs,
    fused_encoder,
    alias,
)


@pytest.mark.parametrize("tried", TRIED, ids=lambda function: function.__name__)
def test_the_answer_to_a_complaint(tried):
    tried()


def test_every_complaint_of_the_page_is_tried_and_has_its_thread():
    rows = re.findall(r"^\| [^|]+\| \[.*\]\((https://github\.com/\S+/\d+)\) \|.*\| `(\w+)` \|$", PAGE, re.MULTILINE)
    assert len({thread for thread, _ in rows}) >= 15
    assert {name for _, name in rows} == {function.__name__ for function in TRIED}
