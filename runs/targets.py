"""From the text of a TARGET to a model and an example input: `timm:`, `hf:`, `space:`, or `module.path:callable`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.efficiency.inputs import batch_size as size_of_batch
from naslab.efficiency.surroundings import seeded
from naslab.errors import InputError
from naslab.runs.example_batch import Batch
from naslab.runs.hugging_face import hugging_face
from naslab.runs.locate import open_study
from naslab.search_spaces import find_space
from naslab.search_spaces.user_modules import import_from


class Target(NamedTuple):
    """A model on the CPU, a batch for it, what tables call it, and the forward's FLOPs by its space's formula."""

    model: nn.Module
    example_input: Inputs
    label: str
    formula_flops: int | None = None


def resolve_target(
    text: str,
    *,
    batch_size: int | None = None,
    input_shape: str | None = None,
    on_meta: bool = False,
    batch_dim: int = 0,
    head: bool = True,
) -> Target:
    """The model that `text` names, freshly initialised on the CPU (or without weights, on meta), with an example batch.

    Args:
        text: `timm:NAME`, `hf:NAME`, `space:NAME[:PRESET]` (its reference configuration), or
            `module.path:callable`, which returns a module or (module, example input). A study's trials are resolved
            by the ledger, which has their configurations.
        batch_size: samples in the batch, 1 when left out. A callable that takes a `batch_size` is given it; one that
            brings an input of another size contradicts it.
        input_shape: shape of one sample, such as "3,224,224", instead of the model's own.
        on_meta: build from meta tensors, which take no memory; a callable decides for itself.
        batch_dim: the dimension of the input that holds the samples.
        head: false leaves a transformers model without the head that its configuration names.

    Raises:
        InputError: nothing has that name, or the shape of its input is not known.
    """
    kind, colon, name = text.partition(":")
    if not colon or not name:
        raise InputError(
            f"target: {text!r} is not a target; use timm:NAME, hf:NAME, space:NAME[:PRESET] or module.path:callable"
        )
    shape = None if input_shape is None else parse_shape(input_shape)
    batch = Batch(batch_size or 1, shape, on_meta, batch_dim, batch_size is not None)
    if kind == "space":
        model, example, formula = _space(name, batch)
        return Target(model, example, text, formula)
    if kind == "timm":
        model, example = _timm(name, batch)
    elif kind == "hf":
        model, example = hugging_face(name, batch, head)
    else:
        model, example = _callable(kind, name, batch)
    return Target(model, example, text)


def parse_shape(text: str) -> tuple[int, ...]:
    """ "3,224,224" or "3x224x224" as numbers.

    Raises:
        InputError: anything but positive whole numbers.
    """
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise InputError(f"--input-shape {text}: write the shape of one sample, such as 3,224,224")
    return tuple(int(part) for part in parts)


def _timm(name: str, batch: Batch) -> tuple[nn.Module, Inputs]:
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name.partition(".")[0]):
        near: list[str] = get_close_matches(name, timm.list_models(), n=3)
        hint = f"near matches: {', '.join(near)}" if near else "timm.list_models() names them"
        raise InputError(f"target: timm has no model {name!r}; {hint}")
    try:
        with batch.building():
            model = timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise InputError(f"target: timm:{name}: {_first_line(error)}") from None
    return model, batch.like(resolve_data_config(model=model)["input_size"])  # type: ignore[no-untyped-call]


def _space(name: str, batch: Batch) -> tuple[nn.Module, Inputs, int | None]:
    name, _, preset = name.partition(":")
    space = find_space(name, preset or None)
    with batch.building():
        model = space.build(space.reference)
    if batch.shape is not None:
        return model, batch.like(batch.shape), None
    with seeded(0):
        example = space.example_input(batch.size)
    if example is None:
        raise InputError(f"target: space {name} does not say what its input is; add --input-shape")
    return model, example, space.forward_flops(space.reference, batch.size)


def resolve_trial(study: str, number: int, *, batch_size: int = 1, storage: str | None = None) -> Target:
    """The model of a study's trial, freshly initialised on the CPU, with a batch of the study's own data.

    Raises:
        InputError: no such study or trial, or the trial has no configuration of its own.
    """
    ledger = open_study(study, storage)
    trials = {trial.number: trial for trial in ledger.trials()}
    if number not in trials:
        known = f"0 to {max(trials)}" if trials else "none"
        raise InputError(f"--trial {number}: study {ledger.study.name} has no such trial; it has {known}")
    configuration = trials[number].job.configuration
    if configuration is None:
        role = trials[number].job.role
        raise InputError(f"--trial {number}: a trial of role {role} has no configuration to build")
    batch = ledger.study.make_task(torch.device("cpu")).example_input(batch_size)
    space = ledger.study.search_space
    label = f"{ledger.study.name} trial {number}"
    return Target(space.build(configuration), batch, label, space.forward_flops(configuration, batch_size))


def _callable(module_name: str, name: str, batch: Batch) -> tuple[nn.Module, Inputs]:
    where = f"{module_name}:{name}"
    import_from(Path.cwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"target: {where}: {error}; run the command where the module can be imported") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        raise InputError(f"target: {where}: importing the module failed: {_named(error)}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"target: module {module_name} has no callable {name!r}")
    sizes = {"batch_size": batch.size} if _takes_batch_size(function) else {}
    try:
        made = function(**sizes)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        raise InputError(f"target: {where}: {_named(error)}") from None
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(f"target: {where} returned {type(model).__name__}, not a module or (module, example input)")
    if batch.shape is not None:
        return model, batch.like(batch.shape)
    if example is None:
        raise InputError(f"target: {where} returned no example input; add --input-shape")
    made_size = size_of_batch(example, batch.dim)
    if batch.asked and made_size != batch.size:
        raise InputError(f"--batch-size {batch.size}: {where} makes a batch of {made_size}; let it take a batch_size")
    return model, example


def _takes_batch_size(function: Any) -> bool:
    try:
        return not isinstance(function, nn.Module) and "batch_size" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
