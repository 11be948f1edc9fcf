"""What commands about models share: their options, the model that is ready to run, and the words of their tables."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import nn

from naslab import efficiency
from naslab.efficiency.errors import InputError, NaslabError
from naslab.efficiency.inputs import Inputs, call_model, map_tensors, tensors_in
from naslab.efficiency.latency import Latency
from naslab.runs.output import out
from naslab.runs.targets import Target, resolve_target, resolve_trial


class Precision(StrEnum):
    """Number format that model and input are cast to."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}

TargetText = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="timm:NAME, hf:NAME, space:NAME[:PRESET], module.path:callable, or a study with --trial"
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples in a batch.")]
Dtype = Annotated[Precision, typer.Option(help="Cast model and input to this number format.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
InputShape = Annotated[str | None, typer.Option(help="Shape of one sample, such as 3,224,224.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Time at most so long.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print comma-separated lines.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def ready(text: str, batch_size: int, dtype: Precision, device: str, input_shape: str | None) -> Target:
    """The model that `text` names, as `placed` leaves it."""
    target = resolve_target(text, batch_size=batch_size, input_shape=input_shape, on_meta=device == "meta")
    return placed(target, batch_size, dtype, device)


def placed(target: Target, batch_size: int, dtype: Precision, device: str) -> Target:
    """`target` on the device in the number format, in evaluation mode, after one trial run.

    Raises:
        InputError: the model does not run on its input.
        NaslabError: it does not fit in memory.
    """
    model, example, label, _ = target
    place = torch.device("meta") if device == "meta" else efficiency.resolve_device(device)
    kind = DTYPES[dtype]
    model = model.to(place, kind).eval()
    inputs: Inputs = map_tensors(lambda t: t.to(place, kind if t.is_floating_point() else None), example)
    try:
        with torch.no_grad():
            call_model(model, inputs)
    except torch.OutOfMemoryError as error:
        raise NaslabError(f"{label}: out of memory with a batch of {batch_size}: {error}") from None
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, NotImplementedError) as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(inputs))
        where = "on meta tensors " if device == "meta" else ""
        raise InputError(f"{label}: the model does not run {where}on an input of shape {shapes}: {error}") from None
    return target._replace(model=model, example_input=inputs)


def remade(
    text: str, batch_size: int, dtype: Precision, input_shape: str | None, trial: int | None, storage: str | None
) -> tuple[nn.Module, Inputs]:
    """Model and inputs made anew on the CPU: what a fresh process calls."""
    if trial is None:
        made = resolve_target(text, batch_size=batch_size, input_shape=input_shape)
    else:
        made = resolve_trial(text, trial, batch_size=batch_size, storage=storage)
    kind = DTYPES[dtype]
    inputs = map_tensors(lambda t: t.to(kind) if t.is_floating_point() else t, made.example_input)
    return made.model.to(kind), inputs


def print_rows(title: str, rows: Mapping[str, str]) -> None:
    """A table of names and values."""
    table = Table(title=title, show_header=False, caption="A multiply-add is 2 FLOPs; docs/efficiency.md")
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def flops_text(number: int | None) -> str:
    """Giga or mega; a dash where there is none."""
    if number is None:
        return "-"
    if not number:
        return "0"
    return f"{number / 1e9:,.3f} G" if number >= 1e8 else f"{number / 1e6:,.3f} M"


def short(number: int | None) -> str:
    """Four digits and a prefix, for narrow columns; a dash where there is none."""
    if not number:
        return "-" if number is None else "0"
    power = min((len(str(number)) - 1) // 3, 5)
    return f"{number / 1000**power:.4g}{' kMGTP'[power].strip()}"


def megabytes(number: int | None) -> str:
    """In MB (10^6 bytes); a dash where there is none."""
    return "-" if number is None else f"{number / 1e6:,.1f} MB"


def milliseconds(latency: Latency) -> str:
    """Median, its interval, and the spread."""
    median = f"{latency.median:.3f} ms ({latency.low:.3f} to {latency.high:.3f})"
    return f"{median}; p10 {latency.p10:.3f}, p90 {latency.p90:.3f}"


def noise(noisy: bool) -> dict[str, str]:
    """A row of warning where the machine was too noisy."""
    return {"warning": "noisy machine: the interval is wider than 5 %; time longer or elsewhere"} if noisy else {}
