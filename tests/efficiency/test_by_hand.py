"""Counts of models of many kinds against multiply-adds worked out by hand, on meta tensors where nothing is fused."""

import sys
from pathlib import Path

import pytest
import torch

from naslab.efficiency import count_forward

pytest.importorskip("transformers", reason="transformers is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from counter_cases import CASES

ON_META = ("ResNet-50", "ResNeXt-50 32x4d", "VGG-16", "AlexNet", "MobileNetV2", "DenseNet-121", "ConvNeXt-T",
           "ViT-L/16", "Swin-T", "MLP-Mixer-B/16", "ResMLP-12", "ViTMAE-B", "VideoMAE-B")  # fmt: skip
ON_CPU = ("transposed convolution", "Llama, grouped queries", "LSTM", "GRU", "nn.TransformerEncoder",
          "nn.MultiheadAttention", "causal attention", "einsum attention", "custom operation")  # fmt: skip


@pytest.mark.parametrize("name", ON_META)
def test_on_meta(name):
    case = CASES[name]
    with torch.device("meta"):
        model = case.build()
    counted = count_forward(model, case.inputs().to("meta"))
    assert counted.total == pytest.approx(2 * case.multiply_adds, rel=0.01)
    assert counted.coverage == 1.0


@pytest.mark.parametrize("name", ON_CPU)
def test_on_the_cpu(name):
    case = CASES[name]
    counted = count_forward(case.build(), case.inputs())
    assert counted.total == pytest.approx(2 * case.multiply_adds, rel=0.01)
    assert counted.coverage == 1.0
