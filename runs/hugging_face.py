"""Models of `transformers` by their configuration, with an example of the input that each takes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import socket
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.runs.example_batch import Batch

TOKENS = 128
"""Sequence length of a language model's example input, where its configuration allows as many."""


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


def _build(transformers: Any, config: Any, head: bool) -> Any:
    named = next(iter(getattr(config, "architectures", None) or ()), None)
    kind = getattr(transformers, named, None) if head and named is not None else None
    return transformers.AutoModel.from_config(config) if kind is None else kind._from_config(config)


def _hugging_face_inputs(model: Any, name: str, batch: Batch) -> dict[str, torch.Tensor]:
    """The main input; for a decoder beside it also its tokens, for text with images both."""
    config, main = model.config, model.main_input_name
    found = {main: _tokens(config, batch, batch.shape) if main == "input_ids" else _signal(model, name, batch)}
    accepted = inspect.signature(model.forward).parameters
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        found["decoder_input_ids"] = _tokens(config, batch, None)
    size = getattr(_vision(config), "image_size", None)
    if main == "input_ids" and "pixel_values" in accepted and isinstance(size, int):
        channels = getattr(_vision(config), "num_channels", 3)
        pixels = torch.Generator().manual_seed(0)
        found["pixel_values"] = torch.randn(batch.size, channels, size, size, generator=pixels)
        found[main] = _with_image_tokens(config, found[main])
    return found


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", None)


def _with_image_tokens(config: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The text behind as many image tokens as the picture has patches, where the model puts its patches there."""
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    patch = getattr(_vision(config), "patch_size", None)
    if not isinstance(token, int) or not isinstance(patch, int):
        return tokens
    patches = (_vision(config).image_size // patch) ** 2
    if getattr(config, "vision_feature_select_strategy", "default") == "full":
        patches += 1  # the class token stays
    text = torch.where(tokens == token, (token + 1) % config.get_text_config().vocab_size, tokens)
    return torch.cat([torch.full((len(tokens), patches), token), text], dim=1)


def _tokens(config: Any, batch: Batch, shape: tuple[int, ...] | None) -> torch.Tensor:
    text = getattr(config, "decoder", None) or config.get_text_config()
    length = shape or (min(TOKENS, getattr(text, "max_position_embeddings", TOKENS)),)
    return torch.randint(text.vocab_size, (batch.size, *length), generator=torch.Generator().manual_seed(0))


def _signal(model: Any, name: str, batch: Batch) -> torch.Tensor:
    """Pixels, spectrograms, or whatever shape the user gave."""
    config, main = model.config, model.main_input_name
    if batch.shape is not None:
        return batch.like(batch.shape)
    seen = next((part for part in (config, getattr(config, "encoder", None), _vision(config)) if _size(part)), None)
    if seen is not None:
        return batch.like((getattr(seen, "num_channels", 3), seen.image_size, seen.image_size))
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        return batch.like((config.num_mel_bins, 2 * config.max_source_positions))
    raise InputError(f"target: hf:{name} does not say what its {main} are; add --input-shape")


def _size(config: Any) -> bool:
    return isinstance(getattr(config, "image_size", None), int)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
