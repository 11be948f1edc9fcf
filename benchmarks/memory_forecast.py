"""Forecast memory of training steps against the truth: the resident memory of fresh processes that run them.

The forecast is made on meta tensors from a batch of 2. The truth is by how much a new process's resident set grows, at
its peak, over making the model and running two training steps with AdamW at the batch of the table: once with the C
library's allocator as it is, which keeps freed blocks for later, and once told to give every block of 64 KiB or more
back.

    python benchmarks/memory_forecast.py [--only NAME ...] [--out benchmarks/results/memory_forecast.json]
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from results_file import write_result
from torch import nn

from naslab.efficiency import Inputs, forecast_peak_bytes
from naslab.efficiency.resident_memory import resident_memory

GIVEN = 2
"""The batch from which the forecast is made."""
TIMM = {
    "resnet18": 16,
    "resnet50": 8,
    "mobilenetv3_large_100": 16,
    "efficientnet_b0": 8,
    "densenet121": 8,
    "convnext_atto": 16,
    "vit_tiny_patch16_224": 16,
    "deit_small_patch16_224": 8,
    "swin_tiny_patch4_window7_224": 4,
    "mixer_s32_224": 32,
    "resmlp_12_224": 8,
    "poolformer_s12": 8,
}
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
LANGUAGE: dict[str, tuple[str, dict[str, Any], int]] = {
    "bert_mini": ("Bert", SMALL, 32),
    "roberta_mini": ("Roberta", SMALL, 16),
    "gpt2_half": ("GPT2", {"n_layer": 6, "n_embd": 384, "n_head": 6}, 8),
    "t5_small": ("T5", {"num_layers": 3}, 8),
}
TOKENS = 128


def build(name: str, batch: int) -> tuple[nn.Module, Inputs]:
    """The model called `name` with a batch of random inputs."""
    if name in TIMM:
        import timm

        return timm.create_model(name), torch.randn(batch, 3, 224, 224)
    import transformers

    family, options, _ = LANGUAGE[name]
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**options))
    tokens = torch.randint(1000, (batch, TOKENS))
    return model, {"input_ids": tokens, "decoder_input_ids": tokens} if family == "T5" else tokens


def measure(name: str, batch: int) -> dict[str, Any]:
    """One row: forecast, truth, and the relative error of the forecast."""
    with torch.device("meta"):
        model, inputs = build(name, GIVEN)
    forecast = forecast_peak_bytes(model, inputs, batch, training=True)
    assert forecast is not None
    truth = resident_memory(partial(build, name, batch), training=True)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    returned = resident_memory(partial(build, name, batch), training=True)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    row = {
        "model": name,
        "batch_size": batch,
        "forecast_bytes": forecast,
        "resident_growth_bytes": truth.growth,
        "resident_peak_bytes": truth.peak,
        "error": forecast / truth.growth - 1,
        "returned_growth_bytes": returned.growth,
        "returned_error": forecast / returned.growth - 1,
    }
    found = f"{truth.growth / 1e6:.0f} MB ({row['error']:+.1%}), {returned.growth / 1e6:.0f} MB"
    print(f"{name}, batch {batch}: {forecast / 1e6:.0f} MB; {found} ({row['returned_error']:+.1%})", flush=True)
    return row


def main() -> None:
    """Measure every model and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory_forecast.json"))
    arguments = parser.parse_args()
    batches = TIMM | {name: batch for name, (*_, batch) in LANGUAGE.items()}
    rows = [measure(name, n) for name, n in batches.items() if arguments.only is None or name in arguments.only]
    summary = {}
    for key in ("error", "returned_error"):
        errors = [abs(row[key]) for row in rows]
        summary |= {f"median_{key}": statistics.median(errors), f"largest_{key}": max(errors)}
    print(", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in summary.items()))
    write_result(arguments.out, {"rows": rows, **summary})


if __name__ == "__main__":
    main()
