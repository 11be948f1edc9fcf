"""A profile as a table, a tree of modules, or CSV."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from naslab.efficiency import EfficiencyProfile
from naslab.efficiency.frames import rows as frame_rows
from naslab.efficiency.profile_parts import read_rows
from naslab.runs.commands.words import flops_text, megabytes, milliseconds, noise, print_rows, short
from naslab.runs.output import out


def print_csv(measured: EfficiencyProfile, by: str) -> None:
    """One line for each kind, module or operation, with the provenance in every line."""
    lines = list(frame_rows(measured, by))
    writer = csv.DictWriter(sys.stdout, list(lines[0]) if lines else ["target"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)


def print_tables(measured: EfficiencyProfile, depth: int) -> None:
    """The figures, then the kinds of work, then, `depth` levels deep, the modules."""
    print_rows(f"{measured.target}, batch of {measured.batch_size}, {measured.dtype}", _rows(measured))
    _print_kinds(measured)
    if depth:
        _print_tree(measured, depth)


def _print_kinds(measured: EfficiencyProfile) -> None:
    title = "Forward by kind of work; effective: without masked and zero work"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("kind", "calls", "FLOPs", "effective", "backward", "pointwise", "bytes"):
        table.add_column(column, justify="left" if column == "kind" else "right", overflow="fold")
    for kind, cost in read_rows(measured.by_kind):
        work = (short(cost[name]) for name in ("flops", "effective", "backward", "pointwise", "bytes"))
        table.add_row(kind, str(cost["calls"]), *work)
    out.print(table)


def _print_tree(measured: EfficiencyProfile, depth: int) -> None:
    columns = ("module", "params", "output", "forward", "effective", "backward", "own", "ms")
    table = Table(
        title="FLOPs by module with its children; own: outside its children", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("module", "output") else "right", overflow="fold")
    for name, row in read_rows(measured.by_module):
        level = name.count(".") + 1 if name else 0
        if level <= depth:
            shown = "  " * level + (name.rpartition(".")[2] or measured.target)
            shape = "x".join(map(str, row.get("output_shape") or ())) or "-"
            work = (short(row.get(column)) for column in ("forward", "effective", "backward", "own"))
            time = "-" if row.get("ms") is None else f"{row['ms']:.3g}"
            table.add_row(shown, short(row.get("parameters")), shape, *work, time)
    out.print(table)


def _rows(measured: EfficiencyProfile) -> dict[str, str]:
    flops = measured.flops
    least = "at least " if measured.uncovered else ""

    def known(number: int | None) -> str:
        return "-" if number is None else least + flops_text(number)

    rows = {
        "parameters": f"{measured.parameters:,}",
        "FLOPs, forward": known(flops.forward),
        "FLOPs, training step": known(flops.training_step),
        "FLOPs, effective forward": known(flops.effective_forward),
        "pointwise FLOPs, forward": known(flops.forward_pointwise),
    }
    if measured.coverage is not None:
        rows["operations with a formula"] = _coverage(measured)
    if measured.uncovered:
        rows["without a formula"] = ", ".join(measured.uncovered)
    rows |= {f"no {name.replace('_', ' ')}": reason for name, reason in measured.missing.items()}
    for check in measured.cross_checks:
        rows[f"forward by {check['source']}"] = _check(check)
    if measured.latency_ms is not None:
        rows |= {
            f"latency {measured.clock}, median (95 %)": milliseconds(measured.latency_ms),
            **{f"latency by the {name} clock": _times(part) for name, part in measured.clocks.items()},
            "throughput": f"{measured.throughput:,.1f} samples/s",
            "peak memory": megabytes(measured.peak_memory_bytes),
        }
        rows |= _memory_rows(measured.memory) | noise(measured.latency_ms.noisy)
    if measured.achieved is not None:
        rows["achieved"] = _achieved(measured.achieved)
    if measured.roofline is not None:
        roofline = measured.roofline
        rows["roofline"] = (
            f"at least {roofline['bound_ms']:.3f} ms, {roofline['explained']:.0%} of the latency; "
            f"{roofline['intensity']:.1f} FLOPs a byte, ridge at {roofline['ridge']:.1f}"
        )
    rows |= _training_rows(measured.training) if measured.training is not None else {}
    rows |= _energy_rows(measured.energy) if measured.energy is not None else {}
    rows |= _sweep_rows(measured.batch_sweep) if measured.batch_sweep is not None else {}
    rows |= _forecast_rows(measured) if measured.memory_forecast is not None else {}
    for entry in measured.predicted.values():
        rows |= _predicted_rows(entry)
    return rows | {"device": measured.provenance.device}


def _achieved(found: Mapping[str, Any]) -> str:
    rate = f"{found['flops_per_second'] / 1e9:,.1f} GFLOP/s"
    if found["share"] is None:
        return rate
    return f"{rate}, {found['share']:.1%} of the {found['peak']} peak (MFU)"


def _coverage(measured: EfficiencyProfile) -> str:
    """Rounded down, so that 100 % is said only where nothing is unknown."""
    shares = ", ".join(f"{_floor(share)} of {name}" for name, share in measured.coverage_by.items())
    return _floor(measured.coverage or 0.0) if not measured.uncovered else shares


def _floor(share: float) -> str:
    return f"{math.floor(1000 * share) / 10:.1f}%"


def _memory_rows(memory: Mapping[str, int | None]) -> dict[str, str]:
    rows = {}
    if memory.get("reserved_bytes") is not None:
        rows["peak memory, reserved by the allocator"] = megabytes(memory["reserved_bytes"])
    if memory.get("resident_bytes") is not None:
        text = f"{megabytes(memory['resident_bytes'])}, of which the model {megabytes(memory['resident_growth_bytes'])}"
        rows["peak resident set of a fresh process"] = text
    return rows


def _training_rows(training: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for name, part in training["latency_ms"].items():
        rows["training step, whole" if name == "step" else f"training step, {name}"] = _times(part)
    held = training["memory_bytes"]
    split = ", ".join(f"{key.replace('_', ' ')} {value / 1e6:,.1f}" for key, value in held.items() if key != "peak")
    return rows | {"training step, peak memory": f"{megabytes(held['peak'])}: {split}"}


def _energy_rows(energy: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for name, found in energy.items():
        if found is None:
            continue
        if found["joules_per_call"] is None:
            text = f"not measured: {found['reason']}"
        else:
            shared = ", shared: may include the work of others" if found["shared"] else ""
            text = f"{found['joules_per_call']:.4g} J, {found['watts']:.1f} W by {found['counter']}{shared}"
        rows[f"energy, {name.replace('_', ' ')}"] = text
    return rows


def _sweep_rows(sweep: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for row in sweep["rows"]:
        knee = ", the knee" if row["batch_size"] == sweep["knee"] else ""
        text = f"{row['throughput']:,.1f} samples/s, {row['latency_ms']['median']:.3f} ms{knee}"
        rows[f"batch of {row['batch_size']}"] = text
    if sweep["out_of_memory"] is not None:
        rows[f"batch of {sweep['out_of_memory']}"] = "out of memory"
    return rows


def _forecast_rows(measured: EfficiencyProfile) -> dict[str, str]:
    found, rows = measured.memory_forecast, {}
    assert found is not None
    for name in ("inference", "training_step"):
        part = found[name]
        if part["refused"] is not None:
            text = f"no forecast: {part['refused']}"
        else:
            fits = "fits" if part["fits"] else "does not fit"
            largest = f"largest batch {part['largest_batch']}" if part["largest_batch"] else "no batch fits"
            text = f"this batch needs {megabytes(part['peak_bytes'])} and {fits}; {largest}"
        rows[f"within {megabytes(found['limit_bytes'])}, {name.replace('_', ' ')}"] = text
    return rows


def _times(part: Mapping[str, Any]) -> str:
    return f"{part['median']:.3f} ms ({part['low']:.3f} to {part['high']:.3f})"


def _check(check: Mapping[str, Any]) -> str:
    if check["flops"] is None:
        return str(check["cause"])
    text = f"{flops_text(check['flops'])}, ours is {check['difference']:+.1%}"
    return f"{text}: {check['cause']}" if check["cause"] else text


def _predicted_rows(entry: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for key, name in (("forward", "forward"), ("training_step", "training step")):
        if key in entry:
            found = entry[key]
            times = found["ms"]
            text = f"predicted {times['median']:.3g} ms ({times['low']:.3g} to {times['high']:.3g})" if times else ""
            reason = f"no prediction: {found['refused']}" if "refused" in found else text
            rows[f"{entry['device']}, {name}"] = f"at least {found['bound_ms']:.3g} ms ({found['limit']}); {reason}"
    for key, held in entry.get("memory", {}).items():
        if not held["fits"]:
            rows[f"{entry['device']}, {key.replace('_', ' ')} does not fit"] = (
                f"needs {held['needs_bytes'] / 1e9:,.1f} GB of {held['device_bytes'] / 1e9:,.1f}; "
                f"the smallest number of devices that would hold it, evenly divided: {held['devices']}"
            )
    return rows | {f"{entry['device']}, basis": entry["basis"]}
