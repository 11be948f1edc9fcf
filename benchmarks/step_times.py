"""Step times of many models on this machine, and how well each is predicted from all others.

Writes `efficiency/step_times/<device>.json` beside the result file: the steps that predictions for this device rest on.

    python benchmarks/step_times.py
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from results_file import write_result
from torch import nn

from naslab.efficiency import Inputs, count_forward, count_training_step, measure_latency
from naslab.efficiency.calibration import calibrate
from naslab.efficiency.ceilings import Ceilings
from naslab.efficiency.device import resolve_device
from naslab.efficiency.inputs import call_model
from naslab.efficiency.prediction import StepTime, StepTimes, fit, leave_one_out
from naslab.efficiency.roofline import Roof
from naslab.efficiency.step_features import features

TIMM = {
    "resnet18": 4,
    "resnet50": 2,
    "vgg11": 1,
    "densenet121": 2,
    "regnety_008": 4,
    "mobilenetv2_100": 4,
    "mobilenetv3_large_100": 4,
    "efficientnet_b0": 4,
    "convnext_atto": 4,
    "convnext_tiny": 1,
    "vit_tiny_patch16_224": 4,
    "deit_small_patch16_224": 2,
    "vit_base_patch32_224": 4,
    "swin_tiny_patch4_window7_224": 1,
    "mixer_s32_224": 8,
    "mixer_b16_224": 1,
    "resmlp_12_224": 4,
    "gmlp_s16_224": 2,
    "coatnet_0_224": 1,
    "repvgg_a0": 4,
    "pit_s_224": 4,
    "poolformer_s12": 2,
}
BERT = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
LANGUAGE: dict[str, tuple[type, Any, int, int]] = {
    "bert_mini": (transformers.BertModel, transformers.BertConfig(**BERT), 8, 128),
    "bert_base": (transformers.BertModel, transformers.BertConfig(), 1, 128),
    "roberta_mini": (transformers.RobertaModel, transformers.RobertaConfig(**BERT), 4, 256),
    "distilbert": (transformers.DistilBertModel, transformers.DistilBertConfig(), 2, 128),
    "gpt2": (transformers.GPT2Model, transformers.GPT2Config(), 1, 128),
    "t5_encoder_small": (transformers.T5EncoderModel, transformers.T5Config(), 4, 128),
}


METHOD = (
    "seconds at the device's peak by kind of product and phase, bytes at its bandwidth and operations begun by phase, "
    "module calls; robust relative errors, a prior for each factor; each model predicted from all others"
)


class Recurrent(nn.Module):
    """An LSTM over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5000, 256)
        self.lstm = nn.LSTM(256, 512, num_layers=2, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, L) tokens to (B, L, 512) states."""
        return self.lstm(self.embed(tokens))[0]


def models() -> dict[str, Callable[[], tuple[nn.Module, Inputs]]]:
    made: dict[str, Callable[[], tuple[nn.Module, Inputs]]] = {}
    for name, batch in TIMM.items():
        made[f"timm:{name}"] = lambda name=name, batch=batch: (timm.create_model(name), torch.randn(batch, 3, 224, 224))
    for name, (model, config, batch, length) in LANGUAGE.items():
        made[f"transformers:{name}"] = lambda model=model, config=config, batch=batch, length=length: (
            model(config),
            {"input_ids": torch.randint(config.vocab_size, (batch, length))},
        )
    made["lstm"] = lambda: (Recurrent(), torch.randint(5000, (8, 64)))
    return made


def training_step(model: nn.Module, inputs: Inputs) -> Callable[[], None]:
    def step() -> None:
        outputs = call_model(model, inputs)
        tensors = [t for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.grad_fn]
        torch.stack([t.sum() for t in tensors]).sum().backward()
        model.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=Path, help="analyse the times of this result file again instead of measuring")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.times.read_text()) if arguments.times else None
    device = resolve_device()
    ceilings = Ceilings.from_dict(earlier["ceilings"]) if earlier else calibrate(device, seconds=20.0)
    samples: dict[str, list[float]] = earlier["samples_ms"] if earlier else {}
    roof = Roof.of(ceilings)
    if not earlier:
        measure_latency(lambda: timm.create_model("resnet18")(torch.randn(4, 3, 224, 224)), device)  # wake the threads
    steps: list[StepTime] = []
    for name, build in models().items():
        torch.manual_seed(0)
        model, inputs = build()
        for training in (False, True):
            key = f"{name}, {'training' if training else 'inference'}"
            if not earlier:
                samples[key] = measure(model, inputs, training, device)
            counted = count_training_step(model, inputs) if training else count_forward(model, inputs)
            assert counted is not None
            fastest = min(samples[key]) / 1e3  # what a busy neighbour adds is not the model's
            steps.append(StepTime(name, training, features(counted, roof), fastest))
            print(f"{key:54} {1e3 * steps[-1].seconds:9.2f} ms", flush=True)
    report(roof, steps, samples, ceilings.to_dict(), earlier and earlier["provenance"])


def measure(model: nn.Module, inputs: Inputs, training: bool, device: torch.device) -> list[float]:
    model.train(training)
    run = training_step(model, inputs) if training else lambda: call_model(model, inputs)
    with torch.set_grad_enabled(training):
        return list(measure_latency(run, device, min_seconds=1.0, max_seconds=5.0).samples_ms)


def report(
    roof: Roof,
    steps: list[StepTime],
    samples: dict[str, list[float]],
    ceilings: dict[str, Any],
    provenance: dict[str, Any] | None,
) -> None:
    """Write the steps and their back-test; `provenance` is that of times that were measured before."""
    threads = ceilings["provenance"]["torch_threads"]
    predicted = leave_one_out(steps)
    rows = [
        {
            "model": step.name,
            "training": step.training,
            "measured_ms": 1e3 * step.seconds,
            "predicted_ms": None if found is None else 1e3 * found,
            "error": None if found is None else found / step.seconds - 1,
        }
        for step, found in zip(steps, predicted, strict=True)
    ]
    errors = sorted(abs(row["error"]) for row in rows if row["error"] is not None)
    fitted = fit(roof.device, steps)
    summary = {
        "method": METHOD,
        "steps": len(rows),
        "models": len({s.name for s in steps}),
        "refused": [row["model"] for row in rows if row["error"] is None],
        "median_absolute_error": errors[len(errors) // 2],
        "p90_absolute_error": errors[int(0.9 * len(errors))],
        "largest_absolute_error": errors[-1],
        "factors": dict(fitted.factors),
        "interval": [fitted.low, fitted.high],
    }
    print(json.dumps(summary, indent=1))
    slug = re.sub(r"[^a-z0-9]+", "-", f"{roof.device} {threads} threads".lower()).strip("-")
    folder = Path(__file__).parent.parent / "efficiency" / "step_times"
    folder.mkdir(exist_ok=True)
    (folder / f"{slug}.json").write_text(json.dumps(StepTimes(roof, tuple(steps)).to_dict(), indent=1) + "\n")
    write_result(
        Path(__file__).parent / "results" / "step_times.json",
        {
            "schema": "naslab.step_times_backtest/1",
            "seed": 0,
            "summary": summary,
            "rows": rows,
            "ceilings": ceilings,
            "samples_ms": samples,
            **({} if provenance is None else {"provenance": provenance}),
        },
    )


if __name__ == "__main__":
    main()
