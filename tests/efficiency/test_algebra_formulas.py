"""Operations outside the common layers, each against a count by hand."""

from math import log2

import pytest
import timm
import torch
from torch import nn

from naslab.efficiency import count, count_forward, count_training_step
from naslab.efficiency.kinds import MATRIX_PRODUCT

SQUARE = torch.eye(8) + 0.1
SPARSE = torch.eye(8).to_sparse()
OFFSETS = torch.tensor([6, 16], dtype=torch.int32)
HALF = torch.bfloat16
CONTRACTIONS = {
    "bilinear": (nn.Bilinear(5, 6, 7), (torch.ones(3, 5), torch.ones(3, 6)), 2 * 3 * 5 * 6 * 7),
    "sparse times dense": (torch.mm, (SPARSE, torch.ones(8, 5)), 2 * 8 * 5),
    "sparse times vector": (torch.mv, (SPARSE, torch.ones(8)), 2 * 8),
    "rows by expert": (
        lambda x, w: torch._grouped_mm(x, w, offs=OFFSETS),
        (torch.ones(16, 32, dtype=HALF), torch.ones(2, 32, 64, dtype=HALF)),
        2 * 16 * 32 * 64,
    ),
    "gradients by expert": (
        lambda x, w: torch._grouped_mm(x, w, offs=OFFSETS),
        (torch.ones(32, 16, dtype=HALF), torch.ones(16, 64, dtype=HALF)),
        2 * 16 * 32 * 64,
    ),
    "solve": (torch.linalg.solve, (SQUARE, torch.ones(8, 3)), 2 * 8**3 // 3 + 2 * 8**2 * 3),
    "solve for a vector": (torch.linalg.solve, (SQUARE, torch.ones(8)), 2 * 8**3 // 3 + 2 * 8**2),
    "Cholesky": (torch.linalg.cholesky, (SQUARE,), 8**3 // 3),
    "inverse of each of two": (torch.linalg.inv, (torch.stack([SQUARE, SQUARE]),), 2 * 2 * 8**3),
    "triangular": (
        lambda a, b: torch.linalg.solve_triangular(a, b, upper=True),
        (SQUARE.triu(), torch.ones(8, 3)),
        8**2 * 3,
    ),
    "QR": (torch.linalg.qr, (torch.ones(9, 4),), 2 * 9 * 4**2 - 2 * 4**3 // 3),
    "distances by a product": (torch.cdist, (torch.ones(30, 4), torch.ones(40, 4)), 2 * 30 * 40 * (4 + 2)),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions_by_hand(name):
    function, inputs, flops = CONTRACTIONS[name]
    counted = count(function, *inputs)
    assert counted.total == flops
    assert counted.uncovered == ()
    assert {o.kind for o in counted.operations if o.work.contraction} == {MATRIX_PRODUCT}


def test_a_complex_multiply_add_is_four_real_ones():
    a, b = torch.ones(3, 4, dtype=torch.cfloat), torch.ones(4, 5, dtype=torch.cfloat)
    assert count(torch.mm, a, b).total == 4 * 2 * 3 * 4 * 5


@pytest.mark.parametrize(
    ("function", "shape", "flops"),
    [
        (torch.fft.rfft2, (2, 8, 8), 2.5 * 128 * log2(64)),
        (lambda x: torch.fft.irfft(torch.fft.rfft(x)), (2, 8), 2 * 2.5 * 16 * log2(8)),
        (torch.fft.fft, (2, 8), 2.5 * 16 * log2(8)),
    ],
)
def test_fourier_transforms(function, shape, flops):
    counted = count(function, torch.ones(shape))
    assert (counted.total, counted.work.pointwise, counted.uncovered) == (0, flops, ())


def test_a_bag_adds_up_its_rows():
    counted = count_forward(nn.EmbeddingBag(10, 8), torch.randint(10, (3, 4)))
    assert (counted.work.pointwise, counted.uncovered) == (3 * 4 * 8, ())


def test_backward_of_bilinear_is_twice_the_forward_and_needs_its_inputs_gradients():
    inputs = (torch.ones(3, 5, requires_grad=True), torch.ones(3, 6, requires_grad=True))
    counted = count_training_step(nn.Bilinear(5, 6, 7), inputs)
    assert counted.by_phase["backward"].contraction == 3 * 2 * 3 * 5 * 6 * 7


def test_a_learned_attention_bias_trains_on_meta_as_on_the_cpu():
    with torch.device("meta"):
        on_meta = timm.create_model("beit_base_patch16_224", depth=1, embed_dim=64, num_heads=2)
    on_cpu = timm.create_model("beit_base_patch16_224", depth=1, embed_dim=64, num_heads=2)
    images = torch.zeros(2, 3, 224, 224)
    for counted in (count_forward, count_training_step):
        assert counted(on_meta, images.to("meta")).total == counted(on_cpu, images).total
