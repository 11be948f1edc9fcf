"""`naslab bench kernels`: the table of the kernels on this device."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from naslab.runs.commands.model_options import Device, Json, Precision, Seconds
from naslab.runs.output import err, out, print_json


class Subject(StrEnum):
    """What can be measured."""

    kernels = "kernels"


def bench(
    subject: Annotated[Subject, typer.Argument(help="What to measure: kernels.")],
    kernel: Annotated[str | None, typer.Option(help="Only this kernel.")] = None,
    dtype: Annotated[Precision, typer.Option(help="Number format of the tensors.")] = Precision.fp32,
    device: Device = "auto",
    max_seconds: Seconds = 5.0,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also time torch.compile.")] = True,
    tune: Annotated[
        bool, typer.Option("--tune", help="First tune the launch sizes for this GPU and store them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Time each kernel, forward and backward, against eager PyTorch, torch.compile and the memory-bandwidth limit."""
    from naslab.efficiency.device import resolve_device
    from naslab.efficiency.kernel_table import kernel_table
    from naslab.efficiency.kernel_tuning import tune_kernels
    from naslab.runs.commands.ready_models import DTYPES

    where = resolve_device(device)
    if tune:
        for tuned in tune_kernels(where, DTYPES[dtype], max_seconds, kernel):
            err.print(f"{tuned.kernel}: {tuned.chosen}, {tuned.chosen_ms:.4g} ms (was {tuned.before_ms:.4g})")
    document = kernel_table(where, DTYPES[dtype], max_seconds, compiled, kernel)
    if as_json:
        print_json(document)
    else:
        out.print(_table(document))


def _table(document: dict[str, Any]) -> Table:
    gigabytes = document["copy_bytes_per_second"] / 1e9
    where = f"{document['provenance']['device']}; copy {gigabytes:.1f} GB/s"
    title = f"Forward and backward, ms by the {document['clock']} clock, {where}"
    table = Table("kernel", "shape", "dtype", "eager", "compile", "ours", "limit", "share of the limit", title=title)
    for row in document["rows"]:
        times = (_number(row[name]) for name in ("eager_ms", "compile_ms", "ours_ms", "limit_ms"))
        share = "wrong result" if not row["correct"] else f"{row['share']:.0%}"
        table.add_row(row["kernel"], row["shape"], row["dtype"], *times, share)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
