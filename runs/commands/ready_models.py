"""The model that a command names, on its device and in its number format, ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import nn

from naslab import efficiency
from naslab.efficiency.inputs import Inputs, call_model, map_tensors, tensors_in
from naslab.efficiency.state import preserved
from naslab.efficiency.unwrap import eager
from naslab.errors import InputError, NaslabError
from naslab.runs.commands.model_options import Precision
from naslab.runs.targets import Target, resolve_target, resolve_trial

DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


def ready(
    text: str,
    batch_size: int | None,
    dtype: Precision,
    device: str,
    input_shape: str | None,
    batch_dim: int = 0,
    head: bool = True,
    modes: Sequence[bool] = (False,),
) -> Target:
    """The model that `text` names, as `placed` leaves it."""
    on_meta = device == "meta"
    target = resolve_target(
        text, batch_size=batch_size, input_shape=input_shape, on_meta=on_meta, batch_dim=batch_dim, head=head
    )
    return placed(target, dtype, device, modes)


def placed(target: Target, dtype: Precision, device: str, modes: Sequence[bool] = (False,)) -> Target:
    """`target` on the device in the number format, in evaluation mode, after one trial run, which changes nothing.

    Args:
        modes: whether in training; the model has to run in one of them.

    Raises:
        InputError: the model does not run on its input.
        NaslabError: it does not fit in memory.
    """
    model, example, label, _ = target
    place = torch.device("meta") if device == "meta" else efficiency.resolve_device(device)
    kind = DTYPES[dtype]
    model = model.to(place, kind).eval()
    inputs: Inputs = map_tensors(lambda t: t.to(place, kind if t.is_floating_point() else None), example)
    problems = [problem for mode in modes if (problem := _problem(model, inputs, mode)) is not None]
    if len(problems) == len(modes):
        _refuse(label, inputs, problems[0], device == "meta")
    return target._replace(model=model, example_input=inputs)


def _problem(model: nn.Module, inputs: Inputs, training: bool) -> Exception | None:
    """Why the model does not run in this mode; None where it does. Everything is afterwards as before."""
    try:
        with preserved(model=eager(model), inputs=inputs), torch.no_grad():
            call_model(model.train(training), inputs)
    except Exception as error:  # noqa: BLE001 - a model fails in as many ways as there are models
        return error
    return None


def _refuse(label: str, inputs: Inputs, problem: Exception, on_meta: bool) -> NoReturn:
    if isinstance(problem, torch.OutOfMemoryError):
        raise NaslabError(f"{label}: out of memory with this batch: {problem}") from None
    if isinstance(problem, NaslabError):
        raise problem
    shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(inputs))
    where = "on meta tensors " if on_meta else ""
    reason = " ".join(str(problem).split()) or type(problem).__name__
    raise InputError(f"{label}: the model does not run {where}on an input of shape {shapes}: {reason}")


def remade(
    text: str, batch_size: int | None, dtype: Precision, input_shape: str | None, trial: int | None, storage: str | None
) -> tuple[nn.Module, Inputs]:
    """Model and inputs made anew on the CPU: what a fresh process calls."""
    if trial is None:
        made = resolve_target(text, batch_size=batch_size, input_shape=input_shape)
    else:
        made = resolve_trial(text, trial, batch_size=batch_size or 1, storage=storage)
    kind = DTYPES[dtype]
    inputs = map_tensors(lambda t: t.to(kind) if t.is_floating_point() else t, made.example_input)
    return made.model.to(kind), inputs
