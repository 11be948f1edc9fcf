"""The cross-entropy over a vocabulary, forward and backward: PyTorch's, the same compiled, and Liger's where it runs.

Usage: python benchmarks/vocabulary_loss.py [--device cuda] [--seconds 5]
                                            [--out benchmarks/results/vocabulary_loss_cpu.json]

Each is timed in turns with PyTorch's eager one. `table()` renders the result files as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from results_file import RESULTS, read_result, write_result
from study_result import table_row
from torch import Tensor

from naslab.efficiency import compare_latency
from naslab.efficiency.device import resolve_device
from naslab.search_spaces.common.objectives.vocabulary_loss import suits_liger, vocabulary_loss

SHAPES = ((512, 8192), (2048, 8192), (2048, 32_768))
"""Tokens and words: of the presets `small` and `paper`."""
NOT_MEASURED = "Vocabulary loss: not measured."
Step = Callable[[], None]


def measured(tokens: int, words: int, device: torch.device, seconds: float) -> dict[str, Any]:
    """How long PyTorch's takes over each other, with intervals."""
    torch.manual_seed(0)
    logits = torch.randn(1, tokens, words, device=device, requires_grad=True)
    targets = torch.randint(words, (1, tokens), device=device)

    def step(loss: Callable[..., Tensor], **how: Any) -> Step:
        return lambda: torch.autograd.backward(loss(logits * 1.0, targets, "mean", **how), inputs=[logits])

    eager = step(vocabulary_loss, read_again=True)  # which is what keeps Liger out
    others = {"compiled": step(torch.compile(vocabulary_loss))}
    if suits_liger(logits, read_again=False):
        others["Liger"] = step(vocabulary_loss)
    row: dict[str, Any] = {"tokens": tokens, "words": words}
    for name, other in others.items():
        logits.grad = None
        other()  # compiles, outside of the clock
        found = compare_latency(eager, other, device, max_seconds=seconds)
        row[name] = asdict(found)
        row["eager_ms"] = found.a.median
    return row


def table() -> str:
    """All result files as one Markdown table."""
    lines = []
    for device in ("cpu", "cuda"):
        document = read_result(f"vocabulary_loss_{device}", {"rows": []})
        for row in document["rows"]:
            times = [f"{row[n]['ratio']:.2f} [{row[n]['low']:.2f}, {row[n]['high']:.2f}]" if n in row else ""
                     for n in ("compiled", "Liger")]  # fmt: skip
            where = document["provenance"]["device"]
            lines.append(table_row([where, f"{row['tokens']} x {row['words']:,}", f"{row['eager_ms']:.2f}", *times]))
    head = ["device", "tokens x words", "PyTorch, ms", "PyTorch's time over torch.compile's", "over Liger's"]
    return "\n".join([table_row(head), table_row(["---"] * len(head)), *lines]) if lines else NOT_MEASURED


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    rows = [measured(*shape, device, arguments.seconds) for shape in SHAPES]
    out = arguments.out or RESULTS / f"vocabulary_loss_{device.type}.json"
    write_result(out, {"schema": "naslab.vocabulary_loss/1", "rows": rows}, str(device))


if __name__ == "__main__":
    main()
