"""`naslab devices`: this machine's and known devices; `naslab devices calibrate`: measures one of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from naslab.errors import InputError
from naslab.runs.commands.model_options import Device, Json
from naslab.runs.output import out, print_json

if TYPE_CHECKING:
    import torch

    from naslab.efficiency.calibration import Ceilings, Samples

group = typer.Typer(help="The devices of this machine, known accelerators, and calibration.")


@group.callback(invoke_without_command=True)
def _group(context: typer.Context, as_json: Json = False) -> None:
    """The devices of this machine and the table of known accelerators."""
    if context.invoked_subcommand is None:
        devices(as_json)
    elif as_json:
        raise InputError(f"--json: write it after the subcommand: naslab devices {context.invoked_subcommand} --json")


def devices(as_json: bool = False) -> None:
    """Print the devices of this machine and the table of known accelerators."""
    from naslab.runs.machine import devices_document

    document = devices_document()
    if as_json:
        print_json(document)
        return
    out.print(_here(document["devices"]))
    for table in _known(document["known"]):
        out.print(table)
    out.print(f"{_CAPTION}\nPrices: {document['prices_file']}", soft_wrap=True, highlight=False)


def _here(rows: list[dict[str, Any]]) -> Table:
    table = _narrow("Devices here", "device", "name", "memory", "calibrated")
    for row in rows:
        calibrated = row["calibrated"] or "no"
        table.add_row(row["device"], row["name"], f"{row['memory_bytes'] / 1e9:.1f} GB", calibrated)
    if not all(row["calibrated"] for row in rows):
        table.caption = "To calibrate: naslab devices calibrate"
    return table


def _known(rows: list[dict[str, Any]]) -> list[Table]:
    """Two tables, so that no figure is cut at 80 columns."""
    peaks = _narrow("Known accelerators: dense peak TFLOP/s", "name", *_RATES.values())
    rest = _narrow("Known accelerators: memory, power, price", "name", "GiB", "GB/s", "W", "price/h")
    for row in rows:
        name, *cells = _known_cells(row)
        peaks.add_row(name, *cells[: len(_RATES)])
        rest.add_row(name, *cells[len(_RATES) :])
    return [peaks, rest]


def _narrow(title: str, first: str, *others: str) -> Table:
    """A table without lines, whose cells are folded rather than cut."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, overflow="fold", justify="right" if title.startswith("Known") else "left")
    return table


@group.command()
def calibrate(
    device: Device = "auto",
    seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of sampling.")] = 20.0,
    step_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds for timing a suite of models; 0 skips it. [default: 60]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a device's peak rates and the step times of a suite of models, and save them for later commands."""
    from naslab.efficiency.calibration import calibrate as measure_ceilings
    from naslab.efficiency.ceilings import ceilings_path, refuse_unwritable
    from naslab.efficiency.device import resolve_device

    place = resolve_device(device)
    refuse_unwritable(ceilings_path(place))
    ceilings = measure_ceilings(place, seconds=seconds)
    path = ceilings.save()
    # A calibration of a few seconds is a look; one that is meant to last times the models, too.
    wanted = (60.0 if seconds >= LASTING_SECONDS else 0.0) if step_seconds is None else step_seconds
    steps = _time_models(place, ceilings, wanted) if wanted else None
    if as_json:
        print_json(ceilings.to_dict() | {"file": str(path), "steps": steps})
        return
    table = Table("", "ceiling", "middle 80 % of samples", title=f"{ceilings.device}, {_circumstances(ceilings)}")
    for name, value, spread in _ceiling_rows(ceilings):
        table.add_row(name, value, spread)
    out.print(table)
    if steps is not None:
        out.print(
            f"{steps['steps']} steps of {steps['models']} models, each predicted from the other models: half of "
            f"the errors are below {steps['median_error']:.0%}, nine of ten below {steps['p90_error']:.0%}",
            soft_wrap=True,
        )
    out.print(f"saved in {path}", soft_wrap=True)


LASTING_SECONDS = 5.0


def _time_models(device: torch.device, ceilings: Ceilings, seconds: float) -> dict[str, Any]:
    """The suite of models timed, kept, and how well each is predicted from the others."""
    from naslab.efficiency.roofline import Roof
    from naslab.efficiency.step_suite import measure_steps
    from naslab.efficiency.targets import steps_path

    measured = measure_steps(device, Roof.of(ceilings), seconds=seconds)
    path, errors = steps_path(device), measured.errors()
    measured.save(path)
    return {
        "file": str(path),
        "steps": len(measured.steps),
        "models": len({step.name for step in measured.steps}),
        "median_error": errors[len(errors) // 2],
        "p90_error": errors[int(0.9 * len(errors))],
    }


_RATES = {"float32": "fp32", "tf32": "tf32", "bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "int8": "int8"}
_CAPTION = "A multiply-add is 2. ~: from memory, not looked up; --json has every source."


def _known_cells(row: dict[str, Any]) -> list[str]:
    from naslab.efficiency.gpu_table import RECALLED

    def cell(figure: str, value: float | None) -> str:
        return "-" if value is None else f"{'~' if row['sources'][figure].endswith(RECALLED) else ''}{value:g}"

    peaks = row["peak_flops"]
    price = row["price_per_hour"]
    return [
        row["name"],
        *(cell(dtype, peaks[dtype] / 1e12 if dtype in peaks else None) for dtype in _RATES),
        cell("memory_bytes", row["memory_bytes"] / 2**30),
        cell("bandwidth_bytes_per_second", row["bandwidth_bytes_per_second"] / 1e9),
        cell("power_watts", row["power_watts"]),
        "-" if price is None else f"{price:g}",
    ]


def _circumstances(ceilings: Ceilings) -> str:
    if ceilings.tf32_allowed is None:
        return f"{ceilings.provenance.torch_threads} threads"
    return f"TF32 is {'on' if ceilings.tf32_allowed else 'off'} for float32 products"


def _ceiling_rows(ceilings: Ceilings) -> list[tuple[str, str, str]]:
    best = {dtype: max(_matmuls(ceilings, dtype), key=lambda s: s.rate) for dtype in ceilings.flops_per_second}
    copy, dispatch = ceilings.samples[-2:]
    return [
        *(_row(f"{dtype}, {s.size} x {s.size} product", s, 1e9, "GFLOP/s") for dtype, s in best.items()),
        _row(f"copy of {copy.size / 2**20:.0f} MiB, read and written", copy, 1e9, "GB/s"),
        _dispatch_row(dispatch),
    ]


def _matmuls(ceilings: Ceilings, dtype: str) -> list[Samples]:
    from naslab.efficiency.ceilings import MATMUL

    return [samples for samples in ceilings.samples if samples.kind == MATMUL and samples.dtype == dtype]


def _row(name: str, samples: Samples, unit: float, unit_name: str) -> tuple[str, str, str]:
    low, high = (samples.rate_at(percentile) / unit for percentile in (90, 10))
    return name, f"{samples.rate / unit:,.2f} {unit_name}", f"{low:,.2f} to {high:,.2f}"


def _dispatch_row(samples: Samples) -> tuple[str, str, str]:
    low, high = (1e6 / samples.rate_at(percentile) for percentile in (10, 90))
    return "dispatch of one operation", f"{1e6 * samples.median:.2f} us", f"{low:.2f} to {high:.2f}"
