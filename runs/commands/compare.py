"""`naslab compare`: two models compared, timed alternately and then counted."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from naslab.errors import InputError
from naslab.runs.commands.model_options import (
    BatchSize,
    Csv,
    Device,
    Dtype,
    InputShape,
    Json,
    Precision,
    Seconds,
    TargetText,
)
from naslab.runs.commands.words import flops_text, megabytes, milliseconds, noise
from naslab.runs.output import models_text_aside, out, print_json

if TYPE_CHECKING:
    from naslab.efficiency.latency import Comparison


def compare(
    a: TargetText,
    b: TargetText,
    batch_size: BatchSize = None,
    dtype: Dtype = Precision.fp32,
    device: Device = "auto",
    input_shape: InputShape = None,
    max_seconds: Seconds = 20.0,
    train: Annotated[bool, typer.Option("--train", help="Compare training steps with AdamW, not inference.")] = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Time, FLOPs, parameters and memory of two models; they are timed alternately."""
    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    from naslab.runs.comparison import compare_models

    with models_text_aside():
        document, measured = compare_models(a, b, batch_size, dtype, device, input_shape, max_seconds, train)
    if as_json:
        print_json(document)
    elif as_csv:
        _print_csv(document)
    else:
        _print_table(document, measured)


def _figures(document: dict[str, Any], side: str) -> dict[str, Any]:
    found = document[side]
    return {
        "parameters": found["parameters"],
        "forward_flops": found["flops"]["forward"],
        "training_step_flops": found["flops"]["training_step"],
        "effective_forward_flops": found["flops"]["effective_forward"],
        "peak_memory_bytes": found["peak_memory_bytes"],
    }


def _print_csv(document: dict[str, Any]) -> None:
    lines = []
    where = {key: value for key, value in document["provenance"].items() if key not in ("gpu", "samples")}
    for side in ("a", "b"):
        times = {f"{key}_ms": value for key, value in document[side]["latency_ms"].items()}
        facts = {"target": document[side]["target"], "batch_size": document["batch_size"]}
        lines.append(facts | {"measured": document["measured"]} | times | _figures(document, side) | where)
    writer = csv.DictWriter(sys.stdout, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)


def _print_table(document: dict[str, Any], measured: Comparison) -> None:
    title = (
        f"{document['measured'].capitalize()}, batch of {document['batch_size']}, {document['provenance']['device']}"
    )
    caption = "A multiply-add is 2 FLOPs; docs/efficiency.md"
    table = Table(
        "", document["a"]["target"], document["b"]["target"], "first over second", title=title, caption=caption
    )
    ratio = f"{measured.ratio:.3f} ({measured.low:.3f} to {measured.high:.3f})"
    table.add_row("time, median (95 %)", milliseconds(measured.a), milliseconds(measured.b), ratio)
    first, second = (_figures(document, side) for side in ("a", "b"))
    for key, (name, words) in _SHOWN.items():
        value, other = first[key], second[key]
        shown = f"{value / other:.3f}" if value is not None and other else "-"
        table.add_row(name, words(value), words(other), shown)
    out.print(table)
    for text in noise(measured.noisy).values():
        out.print(text)


_SHOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "parameters": ("parameters", lambda number: f"{number:,}"),
    "forward_flops": ("FLOPs, forward", flops_text),
    "training_step_flops": ("FLOPs, step", flops_text),
    "effective_forward_flops": ("FLOPs, effective", flops_text),
    "peak_memory_bytes": ("peak memory", megabytes),
}
