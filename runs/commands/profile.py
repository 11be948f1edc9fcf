"""`naslab profile`: what one model costs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from naslab.errors import InputError
from naslab.runs.commands.model_options import (
    BatchDim,
    BatchSize,
    Csv,
    Dtype,
    Head,
    InputShape,
    Json,
    Precision,
    Seconds,
    TargetText,
)
from naslab.runs.output import err, models_text_aside, print_json

ProfiledOn = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, or meta: count only.")]
ENERGY_SECONDS = 3.0
ONLY = "Figures to find, of flops, training_step, latency, memory; all by default."


def profile(
    target: TargetText,
    batch_size: BatchSize = None,
    dtype: Dtype = Precision.fp32,
    device: ProfiledOn = "auto",
    input_shape: InputShape = None,
    batch_dim: BatchDim = 0,
    head: Head = "config",
    only: Annotated[str | None, typer.Option(metavar="NAME,...", help=ONLY)] = None,
    autocast: Annotated[
        Precision | None, typer.Option(help="Run under torch.autocast; weights keep their format.")
    ] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Store images and weights in NHWC order.")
    ] = False,
    optimiser: Annotated[
        str, typer.Option(help="For --train: adamw, adam, sgd, adagrad, rmsprop or adafactor.")
    ] = "adamw",
    max_seconds: Seconds = 10.0,
    compiled: Annotated[bool, typer.Option("--compile", help="Time the model compiled by torch.compile.")] = False,
    clock: Annotated[
        list[str] | None, typer.Option(help="Also time by this clock: kernel or graph (CUDA); repeatable.")
    ] = None,
    predict_for: Annotated[
        list[str] | None, typer.Option("--target", help="Predict times on this device of `naslab devices`; repeatable.")
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="TARGET is a study: profile this trial of it.")] = None,
    storage: Annotated[str | None, typer.Option(help="The study's storage.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Also count with fvcore.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Time a training step and account for its memory.")] = False,
    energy: Annotated[bool, typer.Option("--energy", help="Joules of an inference and of a training step.")] = False,
    batch_sweep: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Throughput at these batch sizes, and the knee.")
    ] = None,
    memory_limit_text: Annotated[
        str | None,
        typer.Option(
            "--memory-limit", metavar="SIZE", help="Forecast the largest batch within 24GB, 16GiB or a device's memory."
        ),
    ] = None,
    resident: Annotated[
        bool, typer.Option("--resident", help="Measure the peak resident set of a fresh process (CPU).")
    ] = False,
    samples: Annotated[Path | None, typer.Option(help="Write every timed call to this .csv or .json file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a roofline plot of the model as HTML.")] = None,
    tree: Annotated[int, typer.Option(min=0, help="Show modules to this depth.")] = 0,
    by: Annotated[str, typer.Option(help="Rows of --csv: kind, module, operation or profile.")] = "kind",
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """FLOPs, bytes, latency, throughput, memory, energy and predicted times of one model."""
    import torch

    from naslab import efficiency
    from naslab.efficiency.clocks import CLOCKS
    from naslab.efficiency.frames import LEVELS
    from naslab.efficiency.memory_forecast import memory_limit
    from naslab.efficiency.profiling import FIGURES
    from naslab.efficiency.sample_files import check_name, write_samples
    from naslab.runs.commands.profile_tables import print_csv, print_tables
    from naslab.runs.commands.ready_models import DTYPES, placed, ready, remade
    from naslab.runs.targets import resolve_trial

    others = predict_for or []
    # A model that is wanted for another device is counted; timing it here as well has to be asked for.
    place = "meta" if others and device == "auto" else device
    sizes, limit = _sizes(batch_sweep), None if memory_limit_text is None else memory_limit(memory_limit_text)
    _refuse(as_json and as_csv, "--json and --csv: choose one")
    _refuse(by not in LEVELS, f"--by {by}: use {', '.join(LEVELS)}")
    for name in clock or ():
        _refuse(name not in CLOCKS, f"--clock {name}: use {', '.join(CLOCKS)}")
    running = {"--energy": energy, "--batch-sweep": sizes, "--resident": resident, "--samples": samples, "--plot": plot}
    asked = [option for option, value in running.items() if value]
    _refuse(
        bool(place == "meta" and asked),
        f"{', '.join(asked)}: the model must run for this; add --device cpu or cuda, not meta",
    )
    if samples is not None:
        check_name(samples)
    if plot is not None:
        calibrated = efficiency.load_ceilings(efficiency.resolve_device(place)) is not None
        _refuse(not calibrated, f"--plot: {place} is not calibrated; run `naslab devices calibrate` first")
    _refuse(head not in ("config", "none"), f"--head {head}: use config or none")
    modes = (False, True)  # a model that can only be trained has a training step
    with models_text_aside():
        if trial is None:
            found = ready(target, batch_size, dtype, place, input_shape, batch_dim, head == "config", modes)
        else:
            found = placed(
                resolve_trial(target, trial, batch_size=batch_size or 1, storage=storage), dtype, place, modes
            )
        measured = efficiency.profile(
            torch.compile(found.model) if compiled and place != "meta" else found.model,
            found.example_input,
            target=found.label,
            only=FIGURES if only is None else [name.strip() for name in only.split(",")],
            batch_dim=batch_dim,
            autocast=None if autocast is None else DTYPES[autocast],
            channels_last=channels_last,
            optimiser=optimiser,
            min_seconds=min(0.5, max_seconds),
            max_seconds=max_seconds,
            check=check,
            train=train,
            clocks=clock or (),
            energy_seconds=min(ENERGY_SECONDS, max_seconds) if energy else 0.0,
            batch_sizes=sizes,
            memory_limit_bytes=limit,
            rebuild=partial(remade, target, batch_size, dtype, input_shape, trial, storage) if resident else None,
            predict_for=others,
            module_times=tree > 0,
            formula_flops=found.formula_flops,
        )
    for name, reason in measured.missing.items():
        err.print(f"naslab: no {name.replace('_', ' ')}: {reason}", style="yellow", markup=False, soft_wrap=True)
    if samples is not None:
        measured = write_samples(measured, samples)
    if plot is not None:
        from naslab.runs.report.roofline import write_roofline  # plotly takes long to import

        write_roofline(measured, plot)
    if as_json:
        print_json(measured.to_dict())
    elif as_csv:
        print_csv(measured, by)
    else:
        print_tables(measured, tree)


def _sizes(text: str | None) -> list[int]:
    """Batch sizes from "1,2,4"."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    _refuse(
        not all(part.isdecimal() and int(part) for part in parts),
        f"--batch-sweep {text}: write batch sizes such as 1,4,16,64",
    )
    return sorted({int(part) for part in parts})


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise InputError(message)
