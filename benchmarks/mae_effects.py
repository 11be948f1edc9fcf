"""What masking saves, counted and measured.

Usage: python benchmarks/mae_effects.py [counts steps] [--out benchmarks/results/mae_effects.json]

Two parts, both where none is named; what an earlier call wrote of the other stays in the file. What masking does to
accuracy is measured by a study, studies/mae_masking.yaml, and study_result.py.
- counts: multiply-adds of published configurations on meta tensors, beside the printed ratios.
- steps: training steps of the sparse encoder against the encoder with mask tokens, A-B-A-B in one process, each
  beside its ratio of FLOPs. A finished case is not measured again; remove it from the file to repeat it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from results_file import write_result

from naslab.efficiency import count_forward
from naslab.efficiency.latency import compare_latency
from naslab.search_spaces import find_space, seed_everything

RESULT = Path(__file__).parent / "results" / "mae_effects.json"
PRINTED = {
    "ViT-L, 8 blocks": ("paper", {"decoder_depth": 8}, 3.23),
    "ViT-L, 1 block": ("paper", {"decoder_depth": 1}, 4.15),
    "ViT-H, 8 blocks": ("paper-huge", {"decoder_depth": 8}, 3.59),
    "ViT-H, 1 block": ("paper-huge", {"decoder_depth": 1}, 4.11),
    "MAE-ST ViT-L, 90 %": ("paper-video", {}, 7.7),
}
"""Preset, changed parameters, ratio to the encoder with mask tokens: MAE table 2's FLOPs as re-derived for all parts
of the model (blocks alone give the printed 3.3 for the first), and MAE-ST table 1's.
"""
STEPS = {
    "ViT-B, 8 blocks": ("paper-base", {"decoder_depth": 8}),
    "ViT-B, 1 block": ("paper-base", {"decoder_depth": 1}),
    "ViT-L, 8 blocks": ("paper", {"decoder_depth": 8}),
    "ViT-L, 1 block": ("paper", {"decoder_depth": 1}),
}


def gmac(preset: str, values: Mapping[str, Any]) -> float:
    """Counted multiply-adds of one sample's forward, in 1e9."""
    space = find_space("mae", preset)
    configuration = space.configuration({**space.reference.as_dict(), **values})
    with torch.device("meta"):
        return count_forward(space.build(configuration), space.example_input(1) or ()).total / 2e9


def counts() -> dict[str, Any]:
    """Sparse and dense encoder of every printed ratio; the dense one has the decoder of 8 blocks, as in the paper."""
    rows = {}
    for name, (preset, values, printed) in PRINTED.items():
        sparse, dense = gmac(preset, values), gmac(preset, {"encoder_mask_tokens": True})
        rows[name] = {"sparse_gmac": sparse, "dense_gmac": dense, "ratio": dense / sparse, "printed": printed}
    return rows


def training_step(preset: str, values: Mapping[str, Any], batch_size: int, device: torch.device) -> Callable[[], None]:
    """One whole step of AdamW on random images."""
    space = find_space("mae", preset)
    seed_everything(0)
    model = space.build(space.configuration({**space.reference.as_dict(), **values})).to(device).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    images = torch.randn(batch_size, 3, 224, 224, device=device)
    noise = torch.rand(batch_size, 4096, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(images, noise)[0]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def measured_step(name: str, batch_size: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Step time of the dense encoder over the sparse one's, both with the same decoder, interleaved."""
    preset, values = STEPS[name]
    dense_values = {**values, "encoder_mask_tokens": True}
    dense = training_step(preset, dense_values, batch_size, device)
    sparse = training_step(preset, values, batch_size, device)
    found = compare_latency(dense, sparse, device, min_seconds=seconds / 2, max_seconds=seconds)
    return {
        "device": str(device),
        "batch_size": batch_size,
        "dtype": "bfloat16 autocast" if device.type == "cuda" else "float32",
        "threads": torch.get_num_threads(),
        "flop_ratio": gmac(preset, dense_values) / gmac(preset, values),
        "step_ratio": {"ratio": found.ratio, "low": found.low, "high": found.high, "noisy": found.noisy},
        "dense_ms": list(found.a.samples_ms),
        "sparse_ms": list(found.b.samples_ms),
    }


def table(path: Path = RESULT) -> str:
    """The result file as Markdown; "not measured" for what it does not hold."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts = {"counts": _count_table, "steps": _step_table}
    titles = {"counts": "Counted FLOPs", "steps": "Measured training steps"}
    return "\n\n".join(
        render(found[part]) if part in found else f"{titles[part]}: not measured." for part, render in parts.items()
    )


def _count_table(rows: Mapping[str, Any]) -> str:
    lines = [
        "| encoder, decoder | sparse GMAC | with mask tokens | ratio | printed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        figures = f"{row['sparse_gmac']:.2f} | {row['dense_gmac']:.2f} | {row['ratio']:.2f} | {row['printed']}"
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


def _step_table(rows: Mapping[str, Any]) -> str:
    lines = [
        "| encoder, decoder | device, batch | step time, with mask tokens over sparse | FLOP ratio |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        step = row["step_ratio"]
        ratio = f"{step['ratio']:.2f} [{step['low']:.2f}, {step['high']:.2f}]"
        lines.append(f"| {name} | {row['device']}, {row['batch_size']} | {ratio} | {row['flop_ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Do the chosen parts, writing the file after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="counts, steps; both where none is named")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=None, help="of the steps; default 4, on a GPU 64")
    parser.add_argument("--seconds", type=float, default=120.0, help="at most this long for a case of the steps")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - {"counts", "steps"}:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; use counts, steps")
    chosen = arguments.parts or ["counts", "steps"]
    device = torch.device(arguments.device)
    batch_size = arguments.batch_size or (64 if device.type == "cuda" else 4)
    found = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    document = {part: found[part] for part in ("counts", "steps") if part in found}

    def write() -> None:
        write_result(arguments.out, {"schema": "naslab.mae_effects/1", **document}, str(device))

    if "counts" in chosen:
        document["counts"] = counts()
        write()
    if "steps" in chosen:
        steps = document.setdefault("steps", {})
        for name in STEPS:
            if name not in steps:
                steps[name] = measured_step(name, batch_size, arguments.seconds, device)
                print(name, steps[name]["step_ratio"], flush=True)
                write()


if __name__ == "__main__":
    main()
