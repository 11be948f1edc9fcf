"""From the text of a TARGET to a model and an example input: `timm:`, `hf:`, `space:`, or `module.path:callable`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.runs.locate import open_study
from naslab.search_spaces import find_space

TOKENS = 128
"""Sequence length of a language model's example input, where its configuration allows as many."""


class Target(NamedTuple):
    """A model on the CPU, a batch for it, what tables call it, and the forward's FLOPs by its space's formula."""

    model: nn.Module
    example_input: Inputs
    label: str
    formula_flops: int | None = None


@dataclass(frozen=True)
class _Batch:
    """The batch to make: its size, and the shape of one sample if the user gave one."""

    size: int
    shape: tuple[int, ...] | None
    on_meta: bool = False

    def building(self) -> AbstractContextManager[Any]:
        """Where tensors of a model under construction are made."""
        return torch.device("meta") if self.on_meta else nullcontext()

    def like(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Fixed random numbers of `shape` a sample, or of the user's."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.size, *(self.shape or shape), generator=generator)


def resolve_target(text: str, *, batch_size: int = 1, input_shape: str | None = None, on_meta: bool = False) -> Target:
    """The model that `text` names, freshly initialised on the CPU (or without weights, on meta), with an example batch.

    Args:
        text: `timm:NAME`, `hf:NAME`, `space:NAME[:PRESET]` (its reference configuration), or
            `module.path:callable`, which returns a module or (module, example input). A study's trials are resolved
            by the ledger, which has their configurations.
        batch_size: samples in the batch; a callable that brings its own input decides for itself.
        input_shape: shape of one sample, such as "3,224,224", instead of the model's own.
        on_meta: build from meta tensors, which take no memory; a callable decides for itself.

    Raises:
        InputError: nothing has that name, or the shape of its input is not known.
    """
    kind, colon, name = text.partition(":")
    if not colon or not name:
        raise InputError(
            f"target: {text!r} is not a target; use timm:NAME, hf:NAME, space:NAME[:PRESET] or module.path:callable"
        )
    batch = _Batch(batch_size, None if input_shape is None else parse_shape(input_shape), on_meta)
    if kind == "space":
        model, example, formula = _space(name, batch)
        return Target(model, example, text, formula)
    resolvers = {"timm": _timm, "hf": _hugging_face}
    if kind in resolvers:
        model, example = resolvers[kind](name, batch)
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


def _timm(name: str, batch: _Batch) -> tuple[nn.Module, Inputs]:
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


def _space(name: str, batch: _Batch) -> tuple[nn.Module, Inputs, int | None]:
    name, _, preset = name.partition(":")
    space = find_space(name, preset or None)
    with batch.building():
        model = space.build(space.reference)
    if batch.shape is not None:
        return model, batch.like(batch.shape), None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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


def _callable(module_name: str, name: str, batch: _Batch) -> tuple[nn.Module, Inputs]:
    where = f"{module_name}:{name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"target: {where}: {error}; run the command where the module can be imported") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"target: module {module_name} has no callable {name!r}")
    made = function()
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(f"target: {where} returned {type(model).__name__}, not a module or (module, example input)")
    if batch.shape is not None:
        return model, batch.like(batch.shape)
    if example is None:
        raise InputError(f"target: {where} returned no example input; add --input-shape")
    return model, example


def _hugging_face(name: str, batch: _Batch) -> tuple[nn.Module, Inputs]:
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"target: hf:{name} needs the transformers package: pip install transformers")
    transformers = importlib.import_module("transformers")
    online = _hub_is_reachable()
    try:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=not online)
        with batch.building():
            model = transformers.AutoModel.from_config(config)
    except (OSError, ValueError) as error:
        if not online and isinstance(error, OSError):
            reason = "neither a folder here nor in the local cache, and the hub cannot be reached"
            raise InputError(f"target: hf:{name} is {reason}") from None
        raise InputError(f"target: hf:{name}: {_first_line(error)}") from None
    return model, _hugging_face_inputs(model, name, batch)


def _hub_is_reachable() -> bool:
    """Whether the hub's name resolves. Otherwise its client tries for half a minute, and reports each attempt."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    hub = importlib.import_module("huggingface_hub.constants")
    if hub.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlparse(hub.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _hugging_face_inputs(model: Any, name: str, batch: _Batch) -> dict[str, torch.Tensor]:
    """The main input; for an encoder with a decoder also the decoder's tokens, for text with images both."""
    config, main = model.config, model.main_input_name
    found = {main: _tokens(config, batch, batch.shape) if main == "input_ids" else _signal(model, name, batch)}
    accepted = inspect.signature(model.forward).parameters
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        found["decoder_input_ids"] = _tokens(config, batch, None)
    vision: Any = getattr(config, "vision_config", None)
    size = getattr(vision, "image_size", None)
    if main == "input_ids" and "pixel_values" in accepted and isinstance(size, int):
        pixels = torch.Generator().manual_seed(0)
        found["pixel_values"] = torch.randn(
            batch.size, getattr(vision, "num_channels", 3), size, size, generator=pixels
        )
    return found


def _tokens(config: Any, batch: _Batch, shape: tuple[int, ...] | None) -> torch.Tensor:
    text = config.get_text_config()
    length = shape or (min(TOKENS, getattr(text, "max_position_embeddings", TOKENS)),)
    return torch.randint(text.vocab_size, (batch.size, *length), generator=torch.Generator().manual_seed(0))


def _signal(model: Any, name: str, batch: _Batch) -> torch.Tensor:
    """Pixels, spectrograms, or whatever shape the user gave."""
    config, main = model.config, model.main_input_name
    if batch.shape is not None:
        return batch.like(batch.shape)
    if isinstance(getattr(config, "image_size", None), int):
        return batch.like((getattr(config, "num_channels", 3), config.image_size, config.image_size))
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        return batch.like((config.num_mel_bins, 2 * config.max_source_positions))
    raise InputError(f"target: hf:{name} does not say what its {main} are; add --input-shape")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
