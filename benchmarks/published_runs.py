"""Published times of training and inference on known accelerators, each against its counted step: the evidence from
which times on devices that were never measured are predicted, and the back-test of those predictions.

Usage: python benchmarks/published_runs.py [--again]

Writes `efficiency/published_runs.json`, which the predictions rest on, and the result file. Steps are counted on meta
tensors. A time per epoch or for a whole training is that of one step on one device, times the devices, over the steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
import transformers
from published import VideoMAE, mae
from results_file import RESULTS, write_result
from torch import Tensor, nn

from naslab.efficiency import count_forward, count_training_step
from naslab.efficiency.gpus import find_gpu
from naslab.efficiency.published_rates import PATH, SCHEMA, PublishedRun, back_test, published_runs
from naslab.efficiency.roofline import Roof, place

IMAGENET, KINETICS = 1_281_167, 240_000
HOUR, DAY = 3600.0, 86_400.0


@dataclass(frozen=True)
class Run:
    """One published time. `seconds` are of one step with `inputs` on one device; `passes` go into each sample."""

    source: str
    name: str
    device: str
    dtype: str
    seconds: float
    build: Callable[[], tuple[nn.Module, Any]]
    training: bool = True


def images(batch: int, side: int = 224) -> Tensor:
    return torch.empty(batch, 3, side, side)


def timm_runs() -> Iterator[Run]:
    """Samples a second on one card, under autocast and channels-last."""
    source = "timm {}, results/benchmark-{}-amp-nhwc-{}.csv"
    training = {
        "resnet18": (3481.78, 512),
        "resnet50": (1218.01, 512),
        "resnext50_32x4d": (1001.03, 384),
        "densenet121": (913.65, 256),
        "vgg16": (546.06, 384),
        "mobilenetv2_100": (2313.1, 512),
        "mobilenetv3_large_100": (2732.43, 512),
        "efficientnet_b0": (1751.72, 512),
        "regnety_008": (993.3, 512),
        "convnext_tiny": (819.24, 256),
        "vit_small_patch16_224": (1057.92, 384),
        "vit_large_patch16_224": (117.2, 64),
        "swin_tiny_patch4_window7_224": (648.69, 256),
        "mixer_b16_224": (556.6, 256),
        "resmlp_12_224": (1577.31, 512),
        "poolformer_s12": (1342.54, 512),
    }
    for name, (rate, batch) in training.items():
        where = source.format("0.6", "train", "pt112-cu113-rtx3090")
        yield Run(where, name, "rtx-3090", "float16", batch / rate, _classifier(name, batch))
    inference = {
        "resnet18": (18247.43, 512),
        "resnet34": (11246.05, 512),
        "mobilenetv2_100": (11768.03, 512),
        "mobilenetv3_large_100": (16891.88, 512),
        "efficientnet_b0": (9831.68, 512),
        "regnety_008": (12684.45, 512),
        "convnext_atto": (13136.13, 512),
        "convnext_nano": (6328.61, 512),
        "vit_tiny_patch16_224": (17589.76, 512),
        "vit_small_patch16_224": (7695.68, 512),
        "vit_base_patch32_224": (10426.38, 512),
        "mixer_s16_224": (7827.39, 512),
        "resmlp_12_224": (7865.04, 512),
    }
    for name, (rate, batch) in inference.items():
        where = source.format("1.0", "infer", "pt240-cu124-rtx4090")
        yield Run(where, name, "rtx-4090", "float16", batch / rate, _classifier(name, batch), training=False)


def _classifier(name: str, batch: int) -> Callable[[], tuple[nn.Module, Any]]:
    return lambda: (timm.create_model(name), images(batch))


def nvidia_runs() -> Iterator[Run]:
    """ResNet-50 v1.5 in mixed precision on one device."""
    source = "NVIDIA DeepLearningExamples, PyTorch ResNet-50 v1.5 README, 21.03"
    for device, rate in {"a100-80": 2470, "v100-16": 1200, "v100-32": 1156}.items():
        yield Run(source, "ResNet-50", device, "float16", 256 / rate, _classifier("resnet50", 256))
    for device, rates in {"v100-16": {16: 1178, 64: 2984, 256: 3382}, "t4": {16: 1050, 64: 1165, 256: 1198}}.items():
        for batch, rate in rates.items():
            seconds = batch / rate
            yield Run(source, f"ResNet-50, {batch}", device, "float16", seconds, _classifier("resnet50", batch), False)


class Views(nn.Module):
    """An encoder on views of several sizes, with a head; a teacher sees the large ones without gradients."""

    def __init__(self, large: nn.Module, small: nn.Module, head: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.large, self.small, self.head, self.teacher = large, small, head, teacher

    def forward(self, large: Tensor, small: Tensor | None = None) -> list[Tensor]:
        """(B, 3, H, W) views."""
        outputs = [self.head(self.large(large))]
        if small is not None:
            outputs.append(self.head(self.small(small)))
        if self.teacher is not None:
            with torch.no_grad():
                self.teacher(large)
        return outputs


def _resnet_views(batch: int, head: nn.Module, small: int = 0) -> tuple[nn.Module, Any]:
    views = (images(2 * batch), *([images(small * batch, 96)] if small else ()))
    encoder = timm.create_model("resnet50", num_classes=0)
    return Views(encoder, encoder, head), views


def _dino() -> tuple[nn.Module, Any]:
    """ViT-S/16 on 2 large and 8 small crops of 64 images; what it has for each size differs in positions only."""
    sizes = {"large": 224, "small": 96, "teacher": 224}
    vits = {
        name: timm.create_model("vit_small_patch16_224", num_classes=0, img_size=side) for name, side in sizes.items()
    }
    return Views(head=nn.Linear(384, 256), **vits), (images(128), images(512, 96))


def self_supervised_runs() -> Iterator[Run]:
    """Whole trainings on ImageNet-1K, data loading and all."""
    for name, seconds, devices in (("batch 4096", 220.0, 64), ("batch 256", 52 * 60 + 10.0, 4)):
        step = seconds * devices * 64 / IMAGENET
        build = lambda: _resnet_views(64, nn.Linear(2048, 128), small=6)  # noqa: E731
        yield Run("SwAV README, time per epoch", f"ResNet-50, {name}", "v100-32", "float16", step, build)
    for name, seconds, devices in (
        ("100 epochs", 1.75 * DAY / 100, 8),
        ("300 epochs", 2.6 * DAY / 300, 16),
    ):
        step = seconds * devices * 64 / IMAGENET
        yield Run("DINO README", f"ViT-S/16, {name}", "v100-32", "float16", step, _dino)
    projector = nn.Sequential(nn.Linear(2048, 8192), nn.Linear(8192, 8192), nn.Linear(8192, 8192))
    step = 7 * DAY * 16 * 128 / (1000 * IMAGENET)
    yield Run("Barlow Twins README", "ResNet-50", "v100-32", "float16", step, lambda: _resnet_views(128, projector))
    step = 2 * DAY * 2 * 128 / (100 * IMAGENET)
    yield Run(
        "lightly documentation, SimCLR", "ResNet-50", "rtx-4090", "float16", step,
        lambda: _resnet_views(128, nn.Linear(2048, 128)),
    )  # fmt: skip


def masked_runs() -> Iterator[Run]:
    """Masked autoencoders on images and video."""
    from published import MAE_CORES, MAE_HOURS, MAE_SAMPLES

    for row, hours in MAE_HOURS.items():
        size, decoder = row.split(", ")
        step = hours * HOUR * (MAE_CORES // 2) * 64 / MAE_SAMPLES
        build = lambda size=size, decoder=decoder: _mae(size, decoder, 64)  # noqa: E731
        yield Run("MAE (He et al. 2021), table 2", row, "tpu-v3", "bfloat16", step, build)
    step = 42 * HOUR * 64 * 64 / MAE_SAMPLES
    yield Run("MAE, PRETRAIN.md", "ViT-L", "v100-32", "float16", step, lambda: _mae("L", "8", 64))
    for name, visible, hours in (("encoder with [M]", 1568, 141.1), ("encoder without", 156, 24.5)):
        step = hours * HOUR * 128 * 4 / (800 * KINETICS)
        build = lambda visible=visible: (VideoMAE(visible), torch.empty(4, 1568, 1536))  # noqa: E731
        yield Run("MAE-ST (Feichtenhofer et al. 2022), table 1", name, "a100-80", "bfloat16", step, build)
    step = 27 * HOUR * 64 * 32 / (800 * KINETICS)
    yield Run("VideoMAE, issue 5", "ViT-B", "v100-32", "float16", step, _video_mae)


def _mae(size: str, decoder: str, batch: int) -> tuple[nn.Module, Any]:
    model, inputs = mae(size, decoder == "[M]", 8 if decoder == "[M]" else int(decoder))
    return model, {"pixel_values": inputs["pixel_values"].expand(batch, -1, -1, -1)}


def _video_mae() -> tuple[nn.Module, Any]:
    """ViT-B on 160 of 1568 tubes, and a decoder of 4 blocks of width 384 on all."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.narrow = nn.Linear(1536, 768), nn.Linear(768, 384)
            self.encoder = nn.Sequential(*(timm.models.vision_transformer.Block(768, 12) for _ in range(12)))
            self.decoder = nn.Sequential(*(timm.models.vision_transformer.Block(384, 6) for _ in range(4)))
            self.predict = nn.Linear(384, 1536)

        def forward(self, tubes: Tensor) -> Tensor:
            seen = self.narrow(self.encoder(self.embed(tubes[:, :160])))
            hidden = tubes.new_empty(len(tubes), 1568 - 160, 384)
            return self.predict(self.decoder(torch.cat([seen, hidden], 1))[:, 160:])

    return Model(), torch.empty(32, 1568, 1536)


def _llama(
    length: int, batch: int, vocabulary: int, width: int, inner: int, layers: int, heads: int, groups: int
) -> Callable[[], tuple[nn.Module, Any]]:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
    )
    return lambda: (
        transformers.LlamaForCausalLM(config), {"input_ids": torch.empty(batch, length, dtype=torch.long)}
    )  # fmt: skip


def _gpt(length: int, batch: int, layers: int, width: int, heads: int) -> Callable[[], tuple[nn.Module, Any]]:
    config = transformers.GPT2Config(vocab_size=50_368, n_positions=length, n_layer=layers, n_embd=width, n_head=heads)
    return lambda: (
        transformers.GPT2LMHeadModel(config), {"input_ids": torch.empty(batch, length, dtype=torch.long)}
    )  # fmt: skip


def language_runs() -> Iterator[Run]:
    """Language models; tokens a second on one device where it is not the hours of the whole training."""
    for name, sizes, hours in (
        ("7B", (4096, 11_008, 32, 32, 32), 184_320),
        ("13B", (5120, 13_824, 40, 40, 40), 368_640),
        ("70B", (8192, 28_672, 80, 64, 8), 1_720_320),
    ):
        step = hours * HOUR * 4096 / 2e12
        yield Run("Llama 2 model card", name, "a100-80", "bfloat16", step, _llama(4096, 1, 32_000, *sizes))
    for name, sizes, hours in (("8B", (4096, 14_336, 32, 32, 8), 1.3e6), ("70B", (8192, 28_672, 80, 64, 8), 6.4e6)):
        step = hours * HOUR * 8192 / 15e12
        yield Run("Llama 3 model card", name, "h100-sxm", "bfloat16", step, _llama(8192, 1, 128_256, *sizes))
    step = 8 * 2048 / 24e3
    tiny = _llama(2048, 8, 32_000, 2048, 5632, 22, 32, 4)
    yield Run("TinyLlama README", "1.1B", "a100-40", "bfloat16", step, tiny)
    step = 4830 * HOUR * 8 * 2048 / 300e9
    pythia = _gpt(2048, 8, 16, 2048, 8)
    yield Run("Pythia, as quoted by TinyLlama's README", "1.0B", "a100-40", "float16", step, pythia)
    step = 7920 * HOUR * 8 * 2048 / 300e9
    yield Run(
        "MPT-1B model card, as quoted by TinyLlama's README", "1.3B", "a100-40", "bfloat16", step,
        _gpt(2048, 8, 24, 2048, 16),
    )  # fmt: skip
    step = 4 * DAY * 8 * 12 * 1024 / (600_000 * 491_520)
    yield Run("nanoGPT README", "GPT-2 124M", "a100-40", "bfloat16", step, _gpt(1024, 12, 12, 768, 12))
    smol = _llama(2048, 8, 49_152, 576, 1536, 30, 9, 3)
    step = DAY * 64 * 8 * 2048 / 600e9
    yield Run("SmolLM-135M, discussion 13", "135M", "h100-sxm", "bfloat16", step, smol)


def mosaic_runs() -> Iterator[Run]:
    """MPT models under FSDP, at 2048 tokens."""
    shapes = {"125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 12), "1b": (24, 2048, 16),
              "3b": (32, 2560, 20), "7b": (32, 4096, 32), "13b": (40, 5120, 40), "30b": (48, 7168, 56)}  # fmt: skip
    rates = {
        "h100-sxm": {"760m": 63_147, "1b": 45_455, "7b": 10_643, "13b": 4792, "30b": 2002},
        "a100-80": {"125m": 142_830, "350m": 58_782, "1b": 20_513, "7b": 4641, "30b": 916},
        "a100-40": {"7b": 3679, "13b": 1668},
    }
    for device, measured in rates.items():
        for name, rate in measured.items():
            step = 4 * 2048 / rate
            yield Run("MosaicML llm-foundry, benchmarking README", name, device, "bfloat16", step,
                      _gpt(2048, 4, *shapes[name]))  # fmt: skip


def counted(run: Run) -> PublishedRun:
    """A published time beside what its step counts."""
    dtype = getattr(torch, run.dtype)
    with torch.device("meta"):
        model, inputs = run.build()
    model = model.to("meta", dtype)
    to = lambda t: t.to("meta", dtype if t.is_floating_point() else None)  # noqa: E731
    inputs = torch.utils._pytree.tree_map_only(Tensor, to, inputs)
    count = count_training_step(model, inputs) if run.training else count_forward(model, inputs)
    assert count is not None
    bound = place(count, Roof.of(find_gpu(run.device))).bound_seconds
    print(f"{run.source[:40]:40} {run.name:28} {run.device:9} {run.seconds:9.4f} s, {bound / run.seconds:6.1%} of roof")
    return PublishedRun(
        run.source, run.name, run.device, run.dtype, run.training, run.seconds, count.total, bound,
        len(count.operations),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="only test again what was counted")
    if not parser.parse_args().again:
        made = (timm_runs, nvidia_runs, self_supervised_runs, masked_runs, language_runs, mosaic_runs)
        rows = [counted(run).to_dict() for runs in made for run in runs()]
        PATH.write_text(json.dumps({"schema": SCHEMA, "runs": rows}, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {PATH}")
    tested = {
        name: back_test([run for run in published_runs() if run.training == (name == "training")]) for name in KINDS
    }
    for name, found in tested.items():
        rate = found["rate"]
        print(
            f"{name}: {rate['runs']} runs of {rate['sources']} sources reach {rate['share']:.0%} of their roof; "
            f"measured over predicted {rate['low']:.2f} to {rate['high']:.2f}; {found['held']:.0%} held by the "
            "interval of the other sources"
        )
    write_result(RESULTS / "published_runs.json", {"schema": "naslab.published_runs_test/1", **tested})


KINDS = ("training", "inference")


if __name__ == "__main__":
    main()
