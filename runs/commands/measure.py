"""Commands about models and the machine: profile, compare, doctor, spaces. None needs a study."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

import efficiency
from efficiency.errors import InputError, NaslabError
from efficiency.inputs import Inputs, call_model, map_tensors, tensors_in
from efficiency.latency import Comparison, Latency
from efficiency.provenance import dtype_name
from runs.machine import doctor_document
from runs.output import out, print_json
from runs.targets import Target, resolve_target, resolve_trial
from search_spaces import find_space, space_names


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
ProfiledOn = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, or meta: count only.")]
InputShape = Annotated[str | None, typer.Option(help="Shape of one sample, such as 3,224,224.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Time at most so long.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def profile(
    target: TargetText,
    batch_size: BatchSize = 1,
    dtype: Dtype = Precision.fp32,
    device: ProfiledOn = "auto",
    input_shape: InputShape = None,
    max_seconds: Seconds = 10.0,
    compiled: Annotated[bool, typer.Option("--compile", help="Time what torch.compile makes of it.")] = False,
    predict_for: Annotated[
        list[str] | None, typer.Option("--target", help="Predict for a device of the table; may be repeated.")
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="TARGET is a study: profile this trial of it.")] = None,
    storage: Annotated[str | None, typer.Option(help="The study's storage.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Count with fvcore, too.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Time a training step and account for its memory.")] = False,
    tree: Annotated[int, typer.Option(min=0, help="Show FLOPs of modules down to this depth.")] = 0,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line per kind of work, comma-separated.")] = False,
    as_json: Json = False,
) -> None:
    """FLOPs, bytes, latency, throughput, peak memory and predicted times of one model."""
    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    others = predict_for or []
    # A model that is wanted for another device is counted; timing it here as well has to be asked for.
    place = "meta" if others and device == "auto" else device
    if trial is None:
        model, example, label, formula = _ready(target, batch_size, dtype, place, input_shape)
    else:
        model, example, label, formula = _placed(
            resolve_trial(target, trial, batch_size=batch_size, storage=storage), batch_size, dtype, place
        )
    measured = efficiency.profile(
        torch.compile(model) if compiled and place != "meta" else model,  # type: ignore[arg-type]
        example,
        target=label,
        min_seconds=min(0.5, max_seconds),
        max_seconds=max_seconds,
        check=check,
        train=train,
        predict_for=others,
        formula_flops=formula,
    )
    if as_json:
        print_json(measured.to_dict())
    elif as_csv:
        _print_kinds(measured)
    else:
        _print_rows(f"{label}, batch of {measured.batch_size}, {measured.dtype}", _profile_rows(measured))
        if tree:
            _print_tree(measured, tree)


def compare(
    a: TargetText,
    b: TargetText,
    batch_size: BatchSize = 1,
    dtype: Dtype = Precision.fp32,
    device: Device = "auto",
    input_shape: InputShape = None,
    max_seconds: Seconds = 20.0,
    as_json: Json = False,
) -> None:
    """Inference time of two models, measured in turn."""
    first, second = (_ready(target, batch_size, dtype, device, input_shape) for target in (a, b))
    place = efficiency.resolve_device(device)
    with torch.no_grad():
        measured = efficiency.compare_latency(
            lambda: call_model(first.model, first.example_input),
            lambda: call_model(second.model, second.example_input),
            place,
            min_seconds=min(1.0, max_seconds),
            max_seconds=max_seconds,
        )
    provenance = efficiency.collect_provenance(place, dtype_name(DTYPES[dtype]))
    if as_json:
        print_json(_comparison_document(a, b, batch_size, measured) | {"provenance": provenance.to_dict()})
    else:
        rows = {a: _milliseconds(measured.a), b: _milliseconds(measured.b)}
        rows["time of the first over the second"] = f"{measured.ratio:.3f} ({measured.low:.3f} to {measured.high:.3f})"
        _print_rows(f"Inference, batch of {batch_size}, {provenance.device}", rows | _noise(measured.noisy))


def doctor(as_json: Json = False) -> None:
    """What of this machine naslab can use."""
    document = doctor_document()
    if as_json:
        print_json(document)
        return
    table = Table("", "part", "found", title="What of this machine is usable")
    for check in document["checks"]:
        table.add_row("[green]yes" if check["usable"] else "[yellow]no", check["part"], check["found"])
    out.print(table)


def spaces(as_json: Json = False) -> None:
    """The search spaces, what varies in them, and why."""
    described = [_describe_space(name) for name in space_names()]
    if as_json:
        print_json({"schema": "naslab.spaces/1", "spaces": described})
        return
    for space in described:
        table = Table(
            "parameter", "allowed", "reason", title=f"{space['name']}  (presets: {', '.join(space['presets'])})"
        )
        for parameter in space["parameters"]:
            table.add_row(parameter["name"], parameter["allowed"], parameter["reason"])
        out.print(table)


def _ready(text: str, batch_size: int, dtype: Precision, device: str, input_shape: str | None) -> Target:
    """The target on the device in the number format, in evaluation mode, after one trial run."""
    target = resolve_target(text, batch_size=batch_size, input_shape=input_shape, on_meta=device == "meta")
    return _placed(target, batch_size, dtype, device)


def _placed(target: Target, batch_size: int, dtype: Precision, device: str) -> Target:
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


def _print_kinds(measured: efficiency.EfficiencyProfile) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["target", "batch_size", "dtype", "kind", "flops", "pointwise", "bytes", "calls"])
    for kind, cost in measured.by_kind.items():
        writer.writerow([measured.target, measured.batch_size, measured.dtype, kind, *cost.values()])


def _print_tree(measured: efficiency.EfficiencyProfile, depth: int) -> None:
    table = Table("module", "forward", "backward", "share", title="FLOPs by module, each with its children")
    whole = measured.flops.forward or 1
    for name, flops in measured.by_module.items():
        level = name.count(".") + 1 if name else 0
        if level <= depth:
            shown = "  " * level + (name.rpartition(".")[2] or measured.target)
            share = f"{flops['forward'] / whole:.1%}"
            table.add_row(shown, _flops(flops["forward"]), _flops(flops["backward"]), share)
    out.print(table)


def _profile_rows(measured: efficiency.EfficiencyProfile) -> dict[str, str]:
    flops = measured.flops
    rows = {
        "parameters": f"{measured.parameters:,}",
        "FLOPs, forward": _flops(flops.forward),
        "FLOPs, training step": "-" if flops.training_step is None else _flops(flops.training_step),
        "FLOPs, effective forward": _flops(flops.effective_forward),
        "pointwise FLOPs, forward": _flops(flops.forward_pointwise),
        "operations with a formula": f"{measured.coverage:.1%}",
    }
    if measured.uncovered:
        rows["without a formula"] = ", ".join(measured.uncovered)
    for kind, cost in measured.by_kind.items():
        rows[f"  {kind}"] = f"{_flops(cost['flops'] + cost['pointwise'])}, {cost['bytes'] / 1e6:,.1f} MB moved"
    for check in measured.cross_checks:
        rows[f"forward by {check['source']}"] = _check(check)
    if measured.latency_ms is not None:
        rows |= {
            "latency, median (95 %)": _milliseconds(measured.latency_ms),
            "throughput": f"{measured.throughput:,.1f} samples/s",
            "peak memory": f"{(measured.peak_memory_bytes or 0) / 1e6:,.1f} MB",
        }
        rows |= _noise(measured.latency_ms.noisy)
    if measured.roofline is not None:
        roofline = measured.roofline
        rows["roofline"] = (
            f"at least {roofline['bound_ms']:.3f} ms, {roofline['explained']:.0%} of the latency; "
            f"{roofline['intensity']:.1f} FLOPs a byte, ridge at {roofline['ridge']:.1f}"
        )
    if measured.training is not None:
        rows |= _training_rows(measured.training)
    for entry in measured.predicted.values():
        rows |= _predicted_rows(entry)
    return rows | {"device": measured.provenance.device}


def _training_rows(training: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for name, part in training["latency_ms"].items():
        label = "training step, whole" if name == "step" else f"training step, {name}"
        rows[label] = f"{part['median']:.3f} ms ({part['low']:.3f} to {part['high']:.3f})"
    held = training["memory_bytes"]
    split = ", ".join(f"{key.replace('_', ' ')} {value / 1e6:,.1f}" for key, value in held.items() if key != "peak")
    return rows | {"training step, peak memory": f"{held['peak'] / 1e6:,.1f} MB: {split}"}


def _check(check: Mapping[str, Any]) -> str:
    if check["flops"] is None:
        return str(check["cause"])
    text = f"{_flops(check['flops'])}, ours is {check['difference']:+.1%}"
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
    return rows | {f"{entry['device']}, basis": entry["basis"]}


def _comparison_document(a: str, b: str, batch_size: int, measured: Comparison) -> dict[str, Any]:
    return {
        "schema": "naslab.compare/1",
        "a": {"target": a} | _latency_document(measured.a),
        "b": {"target": b} | _latency_document(measured.b),
        "batch_size": batch_size,
        "ratio": {"median": measured.ratio, "low": measured.low, "high": measured.high},
        "noisy": measured.noisy,
    }


def _latency_document(latency: Latency) -> dict[str, Any]:
    names = ("median", "p10", "q1", "q3", "p90", "low", "high")
    return {
        "latency_ms": {name: getattr(latency, name) for name in names},
        "samples_ms": list(latency.samples_ms),
    }


def _describe_space(name: str) -> dict[str, Any]:
    space = find_space(name)
    return {
        "name": name,
        "presets": list(space.presets),
        "reference": space.reference.as_dict(),
        "parameters": [{"name": p.name, "allowed": p.allowed, "reason": p.reason} for p in space.parameters],
    }


def _print_rows(title: str, rows: Mapping[str, str]) -> None:
    table = Table(title=title, show_header=False, caption="A multiply-add is 2 FLOPs; docs/efficiency.md")
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def _flops(number: int) -> str:
    return f"{number / 1e9:,.3f} G" if number >= 1e8 else f"{number / 1e6:,.3f} M"


def _milliseconds(latency: Latency) -> str:
    median = f"{latency.median:.3f} ms ({latency.low:.3f} to {latency.high:.3f})"
    return f"{median}; p10 {latency.p10:.3f}, p90 {latency.p90:.3f}"


def _noise(noisy: bool) -> dict[str, str]:
    return {"warning": "noisy machine: the interval is wider than 5 %; time longer or elsewhere"} if noisy else {}
