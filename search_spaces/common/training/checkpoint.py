"""Checkpoints: a nested state saved as one safetensors file and one JSON file, atomically.

`checkpoint.json` names the tensor file that belongs to it. A save writes the tensors under a name that nothing
refers to yet, then replaces `checkpoint.json` in one rename; a process killed at any instant leaves either the old
checkpoint or the new one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from naslab.errors import InputError

SCHEMA = "naslab.checkpoint/1"


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Save `state` in `folder` (made if missing) in place of the checkpoint there.

    Args:
        folder: holds one checkpoint and nothing else of that name.
        state: nested dicts, lists and tuples of tensors, strings, numbers, booleans and None; dict keys may be
            any of the scalars. Tensors are stored contiguously and one by one: memory that they share is not
            shared after loading.

    Raises:
        InputError: the folder cannot be written, or the disk is full; the old checkpoint is still there.
        TypeError: something in `state` that is none of the above.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, tensors)
    blob = safetensors.torch.save(tensors)
    digest = _digest(tree, blob)
    name = f"tensors-{digest[:16]}.safetensors"
    document = {"schema": SCHEMA, "digest": digest, "tensors": name, "state": tree}
    text = json.dumps(document, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / name, blob)
        _replace(folder / "checkpoint.json", text.encode())
        for stale in folder.glob("tensors-*.safetensors"):
            if stale.name != name:
                os.unlink(stale)
    except OSError as error:
        raise InputError(f"{folder}: the checkpoint cannot be written: {error.strerror or error}") from None


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that `save_checkpoint` put in `folder`, tensors on the CPU; None when there is none.

    Raises:
        InputError: there is one, but it is damaged, of another version, or cannot be read.
    """
    try:
        text = (folder / "checkpoint.json").read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{folder}: the checkpoint cannot be read: {error.strerror or error}") from None
    try:
        document = json.loads(text)
        blob = (folder / document["tensors"]).read_bytes()
        if document["schema"] != SCHEMA or _digest(document["state"], blob) != document["digest"]:
            raise ValueError("contents and digest disagree")
        state = _decode(document["state"], safetensors.torch.load(blob))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        raise InputError(f"{folder}: the checkpoint is damaged; delete the folder to start afresh") from None
    return dict(state)


def save_training(
    folder: Path, epoch: int, model: nn.Module, optimiser: Mapping[str, Any], step: Mapping[str, Any]
) -> None:
    """Save a training after `epoch` epochs, random generators included; see `save_checkpoint`.

    Args:
        optimiser: its state.
        step: state of how its steps are taken.
    """
    rng = rng_state(_device_of(model))
    state = {"model": model.state_dict(), "optimiser": optimiser, "rng": rng, "step": step}
    save_checkpoint(folder, {"epoch": epoch, **state})


def resume_training(
    folder: Path | None, model: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device
) -> tuple[int, Mapping[str, Any]]:
    """Restore what `save_training` put in `folder`.

    Returns:
        The epochs already done and the `step` that was saved; 0 and nothing where there is no checkpoint.
    """
    # From the CPU: the optimiser knows what of its state belongs on the device. Adam's counts of steps do not, where
    # they would be read back at every step.
    state = load_checkpoint(folder) if folder is not None else None
    if state is None:
        return 0, {}
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    restore_rng(state["rng"], device)
    return int(state["epoch"]), state.get("step", {})


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def rng_state(device: torch.device) -> dict[str, Any]:
    """States of the global random generators: torch's on the CPU and on `device`, and numpy's."""
    kind, keys, position, has_gauss, cached_gaussian = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached_gaussian),
    }


def restore_rng(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the global random generators to what `rng_state` returned; on another GPU, or beside others, will do."""
    torch.set_rng_state(state["torch"].cpu())
    cuda = state["cuda"]
    if isinstance(cuda, list):  # of every device, as earlier versions had it
        cuda = cuda[min(device.index or 0, len(cuda) - 1)] if cuda else None
    if cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(cuda.cpu(), device)
    kind, keys, position, has_gauss, cached_gaussian = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached_gaussian))


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Plain JSON for `value`: containers, tensors and non-finite floats become one-key objects."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format).cpu()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, tensors) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": struct.pack(">d", value).hex()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}: {value!r}")


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, body),) = node.items()
    if kind == "tensor":
        return tensors[body]
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(body))[0]
    if kind == "dict":
        return {_decode(key, tensors): _decode(value, tensors) for key, value in body}
    items = [_decode(item, tensors) for item in body]
    return tuple(items) if kind == "tuple" else items


def _digest(tree: Any, blob: bytes) -> str:
    return hashlib.sha256(json.dumps(tree, allow_nan=False).encode() + blob).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one rename, on disk before this returns."""
    new = path.parent / "checkpoint.new"
    with open(new, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
