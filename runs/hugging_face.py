"""Models of `transformers` by their configuration, with an example of the input that each takes."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import socket
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.runs.example_batch import Batch
from naslab.runs.hugging_face_inputs import example_inputs


def hugging_face(name: str, batch: Batch, head: bool = True) -> tuple[nn.Module, Inputs]:
    """The model that a configuration describes, of the class that it names, with an example input.

    Args:
        name: a folder, or a model in the cache or on the hub.
        head: false for the bare model, without the head of the class.

    Raises:
        InputError: no such configuration, no such class, or the shape of its input is not known.
    """
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"target: hf:{name} needs the transformers package: pip install transformers")
    transformers = importlib.import_module("transformers")
    online = _hub_is_reachable()
    try:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=not online)
        with batch.building():
            model = _build(transformers, config, head)
    except (OSError, ValueError, ImportError) as error:
        if not online and isinstance(error, OSError):
            reason = "neither a folder here nor in the local cache, and the hub cannot be reached"
            raise InputError(f"target: hf:{name} is {reason}") from None
        raise InputError(f"target: hf:{name}: {_first_line(error)}") from None
    return model, example_inputs(model, name, batch)


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


def _build(transformers: Any, config: Any, head: bool) -> Any:
    named = next(iter(getattr(config, "architectures", None) or ()), None)
    if not head or named is None:
        return transformers.AutoModel.from_config(config)
    if (kind := getattr(transformers, named, None)) is None:
        raise ValueError(f"transformers has no {named}, which the configuration names; --head none leaves it out")
    return kind._from_config(config)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
