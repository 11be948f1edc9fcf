"""Profiling: each figure of a model separately, on the model itself, which is restored after each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from naslab.efficiency import profile_parts as parts
from naslab.efficiency.clocks import END_TO_END, Clock, Prepare, clock_named, nothing
from naslab.efficiency.cross_check import against_formula, against_fvcore
from naslab.efficiency.device import current
from naslab.efficiency.figures import Figures
from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.flops import forward_count, training_count
from naslab.efficiency.inputs import Inputs, batch_size, call_model, device_of, map_tensors, tensors_of
from naslab.efficiency.latency import Latency, measure_latency
from naslab.efficiency.memory import parameter_bytes, parameter_count, peak_memory, quantised_weights
from naslab.efficiency.memory_forecast import memory_needs
from naslab.efficiency.module_times import measure_module_times
from naslab.efficiency.optimisers import optimiser_named
from naslab.efficiency.profile_document import HERE, Bytes, EfficiencyProfile, Flops
from naslab.efficiency.provenance import Provenance, collect_provenance, dtype_name
from naslab.efficiency.resident_memory import Rebuild, resident_memory
from naslab.efficiency.state import Checkpoint, preserved, state_keeper
from naslab.efficiency.targets import evidence_for, predict, target_name
from naslab.efficiency.tensors import is_abstract
from naslab.efficiency.unwrap import as_module, eager, is_compiled
from naslab.errors import InputError, NaslabError

__all__ = ["FIGURES", "EfficiencyProfile", "Flops", "profile"]

FIGURES = ("flops", "training_step", "latency", "memory")
"""What is found without being asked for, and can be chosen with `only`."""


def profile(
    model: Callable[..., Any],
    example_input: Inputs,
    *,
    target: str = "",
    dtype: torch.dtype | None = None,
    only: Collection[str] = FIGURES,
    batch_dim: int = 0,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    optimiser: str = "adamw",
    module_times: bool = False,
    min_seconds: float = 0.5,
    max_seconds: float = 10.0,
    check: bool = False,
    train: bool = False,
    clocks: Sequence[str] = (),
    energy_seconds: float = 0.0,
    batch_sizes: Sequence[int] = (),
    memory_limit_bytes: int | None = None,
    rebuild: Rebuild | None = None,
    predict_for: Sequence[str] = (),
    formula_flops: int | None = None,
) -> EfficiencyProfile:
    """Profile inference of `model` on `example_input`, and count its training step.

    Model, inputs, gradients and random states are afterwards as before, see `naslab.efficiency.state`. A model whose
    calls change its state (a cache that grows, a counter) is put back before each timed call. What fails is None, with
    its reason in `missing`. A model on meta tensors is counted only.

    Args:
        model: a module, or any function of tensors.
        example_input: a batch: one tensor, a tuple of positional or a mapping of keyword arguments; moved to the
            model's device.
        target: what the profile calls the model; its class when left out.
        dtype: cast floating-point parameters, buffers and inputs to this for the profile.
        only: of `FIGURES`, the ones that are wanted.
        batch_dim: which dimension of the first input tensor holds the samples.
        autocast: run everything under `torch.autocast` to this number format; the weights stay in theirs.
        channels_last: weights of convolutions and inputs of four dimensions in NHWC order for the profile.
        optimiser: of the training step that `train` times, see `naslab.efficiency.optimisers`.
        module_times: time each module, too.
        min_seconds: time at least as long.
        max_seconds: time no longer; the profile says `noisy` if the median is then known to less than 5 %.
        check: count the forward with fvcore, too.
        train: time a training step (but not on meta), and account for its memory.
        clocks: time by these, too ("kernel" and "graph" need CUDA; see `naslab.efficiency.clocks`).
        energy_seconds: measure the energy of an inference and of a training step, each for so long; 3 is enough.
        batch_sizes: time inference at each of these, too, for `max_seconds` in all.
        memory_limit_bytes: forecast the largest batch that stays within it.
        rebuild: makes model and inputs anew on the CPU, so that the resident memory of a fresh process is measured.
        predict_for: devices of the table (`naslab.efficiency.gpus`) to predict times for.
        formula_flops: what a closed formula says of the forward's FLOPs; stands beside the count.

    Raises:
        InputError: the module hides its operations, holds something that cannot be put back, or does not run on the
            input; a device in `predict_for`, a figure or a batch size does not exist; or something that has to run was
            asked for on meta tensors or on a device that cannot do it.
    """
    module = as_module(model)
    plain = eager(module)  # refuse before anything is measured
    device = device_of(plain, example_input)
    if device.type != "meta" and any(map(is_abstract, tensors_of(plain))):
        raise InputError("model: fake tensors have no values to time; build it under torch.device('meta') to count it")
    wanted, make_optimiser = _clocks(clocks, device), optimiser_named(optimiser)
    _refuse_impossible(device, only, batch_sizes, energy_seconds, rebuild)
    others = list(dict.fromkeys(map(target_name, predict_for)))
    for name in others:
        evidence_for(name)  # refuse before anything is measured
    casting = nullcontext() if autocast is None else torch.autocast(device.type, autocast)
    with current(device), preserved(model=plain, inputs=example_input), casting:
        inputs = map_tensors(lambda t: t.to(device, dtype if t.is_floating_point() else None), example_input)
        if channels_last:
            plain.to(memory_format=torch.channels_last)
            inputs = map_tensors(_channels_last, inputs)
        subject = _Subject(module, plain if dtype is None else plain.to(dtype), inputs, device, batch_dim)
        find, found = subject.figures.find, dict[str, Any]()
        if device.type != "meta":
            found |= subject.run(only, wanted, (min_seconds, max_seconds), batch_sizes, energy_seconds)
        if module_times and device.type != "meta":
            found["module_times"] = find("module_times", subject.module_times)
        if rebuild is not None:
            found["resident"] = find("resident_memory", lambda: resident_memory(rebuild))
        if train:
            found["training"] = find(
                "training", lambda: parts.training_part(plain, inputs, max_seconds, make_optimiser)
            )
        forward = find("flops", lambda: forward_count(plain, inputs)) if "flops" in only else None
        training = find("training_step", lambda: training_count(plain, inputs)) if "training_step" in only else None
        if memory_limit_bytes is not None:
            limit = memory_limit_bytes
            found["memory_forecast"] = find("memory_forecast", lambda: parts.forecast_part(plain, inputs, limit))
        predicted = {
            name: find(f"prediction_for_{name}", partial(subject.predict, name, forward, training)) for name in others
        }
        found["predicted"] = {name: entry for name, entry in predicted.items() if entry is not None}
        checks = find("cross_checks", lambda: _cross_checks(plain, inputs, forward, check, formula_flops))
        found["cross_checks"] = checks or ()
        found["autocast"] = None if autocast is None else dtype_name(autocast)
        return subject.record(target, batch_size(inputs, batch_dim), found, forward, training)


class _Subject:
    """A model with its inputs as they are profiled, and the figures that were found of them."""

    def __init__(
        self, module: nn.Module, plain: nn.Module, inputs: Inputs, device: torch.device, batch_dim: int
    ) -> None:
        self.module, self.plain, self.inputs, self.device = module, plain.eval(), inputs, device
        self.dtype, self._batch_dim = _dtype_name(plain), batch_dim
        self._checkpoint = Checkpoint(model=plain, inputs=inputs)
        self.figures = Figures(self._checkpoint)

    def call(self) -> Any:
        """One inference."""
        with torch.no_grad():
            return call_model(self.module, self.inputs)

    @cached_property
    def before(self) -> Prepare:
        """What puts the state back ahead of a timed call."""
        return state_keeper(self.call, self._checkpoint, model=self.plain, inputs=self.inputs)

    def run(
        self,
        only: Collection[str],
        clocks: Sequence[Clock],
        seconds: tuple[float, float],
        batch_sizes: Sequence[int],
        energy_seconds: float,
    ) -> dict[str, Any]:
        """What is found by running the model: times, memory, energy."""
        find, found = self.figures.find, dict[str, Any]()
        if "latency" in only:
            found["latency"] = find("latency", lambda: self._latencies(clocks, *seconds))
            found["provenance"] = self.provenance()  # while the clocks are still those of the timed work
        if batch_sizes:
            found["batch_sweep"] = find("batch_sweep", lambda: self._sweep(batch_sizes, seconds[1]))
        if energy_seconds:
            found["energy"] = find("energy", lambda: self._energy(energy_seconds))
        if "memory" in only:
            found["memory"] = find("memory", self._peaks)
        return found

    def provenance(self) -> Provenance:
        """Where and with what this is measured, now."""
        compiled = "torch.compile" if is_compiled(self.module) else "eager"
        return collect_provenance(self.device, self.dtype, compiled, HERE)

    def module_times(self) -> dict[str, float]:
        """Milliseconds of each module."""
        return measure_module_times(self.call, self.plain, self.device, self.before)

    def predict(self, device: str, forward: FlopCount | None, training: FlopCount | None) -> dict[str, Any]:
        """Times on a device that is not here."""
        return predict(device, self.dtype, forward, training, memory_needs(self.plain, self.inputs))

    def record(
        self,
        target: str,
        size: int,
        found: Mapping[str, Any],
        forward: FlopCount | None,
        training: FlopCount | None,
    ) -> EfficiencyProfile:
        """The profile of what was found."""
        latency, clocks = found.get("latency") or (None, {})
        peak, reserved = found.get("memory") or (None, None)
        resident = found.get("resident")
        return EfficiencyProfile(
            target=target or type(self.plain).__name__,
            batch_size=size,
            dtype=self.dtype,
            parameters=parameter_count(self.plain),
            parameter_bytes=parameter_bytes(self.plain),
            flops=_flops(forward, training),
            **parts.coverage_parts(forward, training),
            latency_ms=latency,
            throughput=None if latency is None else 1e3 * size / latency.median,
            peak_memory_bytes=peak,
            provenance=found.get("provenance") or self.provenance(),
            bytes_moved=Bytes(*(None if count is None else count.bytes_moved for count in (forward, training))),
            by_kind=parts.by_kind(forward, training),
            by_module=parts.by_module(forward, training, self.plain, found.get("module_times") or {}),
            by_operation=parts.by_operation(forward, training),
            roofline=self.figures.find("roofline", lambda: parts.roofline_part(forward, self.device, latency)),
            achieved=self.figures.find(
                "achieved", lambda: parts.achieved_part(forward, self.device, self.dtype, latency)
            ),
            cross_checks=found["cross_checks"],
            training=found.get("training"),
            clocks=clocks,
            memory={
                "allocated_bytes": peak,
                "reserved_bytes": reserved,
                "resident_bytes": None if resident is None else resident.peak,
                "resident_growth_bytes": None if resident is None else resident.growth,
            },
            energy=found.get("energy"),
            batch_sweep=found.get("batch_sweep"),
            memory_forecast=found.get("memory_forecast"),
            predicted=found["predicted"],
            missing=self.figures.missing,
            autocast=found["autocast"],
        )

    def _latencies(
        self, clocks: Sequence[Clock], min_seconds: float, max_seconds: float
    ) -> tuple[Latency, dict[str, Any]]:
        """By the host's clock, and by the others."""
        timed = partial(
            measure_latency,
            self.call,
            self.device,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            before=self.before,
        )
        others: dict[str, Any] = {}
        for clock in clocks:
            found = timed(clock=clock)
            others[clock.name] = parts.latency_part(found) | {"samples_ms": list(found.samples_ms)}
        return timed(), others

    def _sweep(self, sizes: Sequence[int], max_seconds: float) -> dict[str, Any]:
        return parts.sweep_part(self.module, self.inputs, sizes, max_seconds, self.before, self._batch_dim)

    def _energy(self, seconds: float) -> dict[str, Any]:
        if self.before is not nothing:
            raise NaslabError("each call changes the model's state, and putting it back would be in the joules")
        return parts.energy_part(self.plain, self.call, self.inputs, self.device, seconds)

    def _peaks(self) -> tuple[int, int | None]:
        with torch.no_grad():
            return peak_memory(self.plain, self.inputs)


def _cross_checks(
    model: nn.Module, inputs: Inputs, forward: FlopCount | None, check: bool, formula_flops: int | None
) -> tuple[Mapping[str, Any], ...]:
    if forward is None:
        return ()
    checks = [] if formula_flops is None else [against_formula(forward, formula_flops, "formula of the space")]
    if check:
        checks.append(against_fvcore(copy.deepcopy(model), inputs, forward))
    return tuple(one.to_dict() for one in checks)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _clocks(names: Sequence[str], device: torch.device) -> list[Clock]:
    return [clock_named(name, device) for name in dict.fromkeys(names) if name != END_TO_END]


def _refuse_impossible(
    device: torch.device,
    only: Collection[str],
    batch_sizes: Sequence[int],
    energy_seconds: float,
    rebuild: Rebuild | None,
) -> None:
    for name in only:
        if name not in FIGURES:
            raise InputError(f"profile: no figure is called {name!r}; only takes {', '.join(FIGURES)}")
    for size in batch_sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"profile: a batch of {size!r} cannot be timed; batch sizes are whole numbers from 1")
    if device.type == "meta" and (energy_seconds or batch_sizes or rebuild is not None):
        raise InputError("profile: energy, batch sweep and resident memory need a device that runs the model, not meta")


def _flops(forward: FlopCount | None, training: FlopCount | None) -> Flops:
    return Flops(
        forward=None if forward is None else forward.total,
        training_step=None if training is None else training.total,
        effective_forward=None if forward is None else forward.work.effective,
        forward_pointwise=None if forward is None else forward.work.pointwise,
        training_step_pointwise=None if training is None else training.work.pointwise,
    )


def _dtype_name(model: nn.Module) -> str:
    held = [*model.parameters(), *quantised_weights(model)]
    tensor = next((p for p in held if p.is_floating_point() or p.is_quantized), None)
    dtype = torch.get_default_dtype() if tensor is None else tensor.dtype
    return dtype_name(dtype)
