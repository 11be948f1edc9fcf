"""Options shared by commands about models. Nothing here imports torch, so usage errors are immediate."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Precision(StrEnum):
    """Number format that model and input are cast to."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


TargetText = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="timm:NAME, hf:NAME, space:NAME[:PRESET], module.path:callable, or a study with --trial"
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Batch size; by default 1, or that of TARGET's callable.")]
BatchDim = Annotated[int, typer.Option(min=0, help="Batch dimension of the input.")]
Head = Annotated[str, typer.Option(help="hf: config (the head that the configuration names) or none.")]
Dtype = Annotated[Precision, typer.Option(help="Cast model and input to this number format.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
InputShape = Annotated[str | None, typer.Option(help="Shape of one sample, such as 3,224,224.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Maximum seconds of timing.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
