import importlib

import pytest
import torch

from naslab.efficiency import count
from naslab.kernels import patch_loss
from naslab.kernels._dispatch import switched


def test_against_the_published_order_of_pixels():
    """patchify of the published code, written out: einsum over (rows, columns, channels)."""
    images = torch.randn(2, 3, 8, 12)
    every = torch.einsum("nchpwq->nhwpqc", images.reshape(2, 3, 2, 4, 3, 4)).reshape(2, 6, 48)
    target = (every - every.mean(-1, keepdim=True)) / (every.var(-1, keepdim=True) + 1e-6) ** 0.5
    masked = torch.tensor([[1, 4], [5, 0]])
    predicted = torch.randn(2, 2, 48)
    chosen = torch.stack([target[0, [1, 4]], target[1, [5, 0]]])
    for way in ("fused", "reference"):
        with switched(way):
            assert torch.allclose(patch_loss(predicted, images, masked, 4), (predicted - chosen).square().mean())


def test_a_flat_patch_has_a_target_of_zeros():
    predicted = torch.randn(1, 1, 16)
    with switched("fused"):
        loss = patch_loss(predicted, torch.full((1, 1, 4, 4), 7.0), torch.zeros(1, 1, dtype=torch.int64), 4)
    assert torch.allclose(loss, predicted.square().mean())


def test_a_patch_that_fills_no_registers_takes_the_reference(monkeypatch):
    module = importlib.import_module("naslab.kernels.patch_loss")
    monkeypatch.setattr(module, "way", lambda tensor, source: "triton")
    images = torch.empty(1, 3, 64, 64)
    assert module._way(torch.empty(1, 1, 32 * 32 * 3), images) == "triton"
    assert module._way(torch.empty(1, 1, 64 * 64 * 3), images) == "reference"


def test_images_get_no_gradient():
    images = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = patch_loss(torch.randn(1, 1, 16, requires_grad=True), images, torch.zeros(1, 1, dtype=torch.int64), 4)
    loss.backward()
    assert images.grad is None


def test_the_profiler_sees_it():
    predicted = torch.randn(2, 3, 16, requires_grad=True)
    with switched("fused"):
        counted = count(
            lambda: patch_loss(predicted, torch.randn(2, 1, 8, 8), torch.zeros(2, 3, dtype=torch.int64), 4).backward()
        )
    assert counted.coverage == 1, counted.uncovered
    assert counted.by_operation["naslab::patch_loss"].pointwise == 8 * 6 * 16


@pytest.mark.parametrize(
    ("predicted", "images", "masked", "size", "message"),
    [
        ((1, 2, 16), (1, 4, 4), torch.zeros(1, 2).long(), 4, "images_BCHW"),
        ((1, 2, 16), (1, 1, 4, 4), torch.zeros(1, 2).long(), 3, "patch_size: 3"),
        ((1, 2, 16), (1, 1, 4, 4), torch.zeros(1, 2), 4, "masked_BM"),
        ((1, 2, 15), (1, 1, 4, 4), torch.zeros(1, 2).long(), 4, "predicted_BMP"),
    ],
)
def test_wrong_arguments_are_named(predicted, images, masked, size, message):
    with pytest.raises(ValueError, match=message):
        patch_loss(torch.randn(predicted), torch.randn(images), masked, size)
