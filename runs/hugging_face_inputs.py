"""An example of the input that a model of `transformers` takes, as far as its configuration says."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from naslab.efficiency.tensors import tensors_within
from naslab.errors import InputError
from naslab.runs.example_batch import Batch

TOKENS = 128
"""Sequence length of a language model's example input, where its configuration allows as many."""
SAMPLES = 16_000
"""Of a waveform: one second at the usual rate."""
FRAMES = 500
"""Of a spectrogram whose length the configuration leaves open."""
SIDE = 224
"""Of a picture for a vision tower that takes any size."""


def example_inputs(model: Any, name: str, batch: Batch) -> dict[str, Tensor]:
    """The main input; for a decoder beside it also its tokens, for text with pictures both.

    Raises:
        InputError: the configuration does not say what the input is like.
    """
    config, main = model.config, model.main_input_name
    accepted = inspect.signature(model.forward).parameters
    found = {main: _tokens(config, batch, batch.shape) if main == "input_ids" else _signal(model, name, batch)}
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        found["decoder_input_ids"] = _tokens(config, batch, None)
    if main == "pixel_values" and _is_needed(accepted.get("input_ids")):
        found["input_ids"] = _tokens(config, batch, None)
    elif main == "input_ids" and "pixel_values" in accepted:
        found |= _pictures(config, batch, "image_grid_thw" in accepted)
    if "pixel_values" in found and "input_ids" in found:
        found["input_ids"] = _with_image_tokens(model, found)
        if "mm_token_type_ids" in accepted:
            found["mm_token_type_ids"] = (found["input_ids"] == _image_token(config)).long()
    return found


def _is_needed(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _pictures(config: Any, batch: Batch, in_patches: bool) -> dict[str, Tensor]:
    """A picture for each sample, where the configuration has a vision tower; some take it cut into patches."""
    vision = _vision(config)
    generator = torch.Generator().manual_seed(0)
    if in_patches and isinstance(patch := getattr(vision, "patch_size", None), int):
        side = SIDE // patch // 2 * 2
        channels = getattr(vision, "in_channels", getattr(vision, "in_chans", 3))
        width = channels * getattr(vision, "temporal_patch_size", 1) * patch**2
        patches = torch.randn(batch.size * side**2, width, generator=generator)
        return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, side, side]] * batch.size)}
    if not isinstance(size := getattr(vision, "image_size", None), int):
        return {}
    channels = getattr(vision, "num_channels", 3)
    return {"pixel_values": torch.randn(batch.size, channels, size, size, generator=generator)}


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", None)


def _with_image_tokens(model: Any, given: dict[str, Tensor]) -> Tensor:
    """The text behind as many image tokens as the picture has features, where the model puts them there."""
    config, tokens = model.config, given["input_ids"]
    token = _image_token(config)
    features = _features_of_a_picture(model, given, len(tokens))
    if not isinstance(token, int) or not features:
        return tokens
    text = torch.where(tokens == token, (token + 1) % config.get_text_config().vocab_size, tokens)
    return torch.cat([torch.full((len(tokens), features), token), text], dim=1)


def _image_token(config: Any) -> Any:
    return getattr(config, "image_token_id", getattr(config, "image_token_index", None))


def _features_of_a_picture(model: Any, given: dict[str, Tensor], pictures: int) -> int:
    """How many features the vision tower makes of one picture; 0 for a model that keeps them apart from the text."""
    encode = getattr(model, "get_image_features", None)
    if encode is None:
        return 0
    accepted, weight = inspect.signature(encode).parameters, next(model.parameters())
    inputs = {name: t.to(weight.device) for name, t in given.items() if name in accepted and name != "input_ids"}
    try:
        with torch.no_grad():
            found = encode(**inputs)
    except Exception:  # noqa: BLE001 - then the model itself will say what it misses
        return 0
    rows = [t.shape[:-1].numel() for t in tensors_within(getattr(found, "pooler_output", found)) if t.ndim > 1]
    return sum(rows) // pictures


def _tokens(config: Any, batch: Batch, shape: tuple[int, ...] | None) -> Tensor:
    text = getattr(config, "decoder", None) or config.get_text_config()
    length = shape or (min(TOKENS, getattr(text, "max_position_embeddings", TOKENS)),)
    return torch.randint(text.vocab_size, (batch.size, *length), generator=torch.Generator().manual_seed(0))


def _signal(model: Any, name: str, batch: Batch) -> Tensor:
    """Pixels, frames, spectrograms, waveforms, or whatever shape the user gave."""
    shape = batch.shape or _shape_of_signal(model.config)
    if shape is None:
        raise InputError(f"target: hf:{name} does not say what its {model.main_input_name} are; add --input-shape")
    return batch.like(shape)


def _shape_of_signal(config: Any) -> tuple[int, ...] | None:
    seen = next((part for part in (config, getattr(config, "encoder", None), _vision(config)) if _size(part)), None)
    if seen is not None:
        sides = seen.image_size if isinstance(seen.image_size, (list, tuple)) else [seen.image_size] * 2
        picture = (getattr(seen, "num_channels", 3), *sides)
        return (seen.num_frames, *picture) if isinstance(getattr(seen, "num_frames", None), int) else picture
    if hasattr(config, "conv_stride"):
        return (SAMPLES,)
    if hasattr(config, "input_feat_per_channel"):
        return (FRAMES, config.input_feat_per_channel)
    if hasattr(config, "num_mel_bins"):
        longest = getattr(config, "max_source_positions", None)
        return (config.max_length, config.num_mel_bins) if longest is None else (config.num_mel_bins, 2 * longest)
    return None


def _size(config: Any) -> bool:
    return isinstance(getattr(config, "image_size", None), (int, list, tuple))
