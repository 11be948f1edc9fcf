"""Weights to and from transformers' ViTMAEForPreTraining, which gives the same loss for the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from naslab.errors import InputError
from naslab.search_spaces.common.modules.vit import Sizes
from naslab.search_spaces.common.objectives.masked_patches import Masking
from naslab.search_spaces.mae.model import Design, MaskedAutoencoder, Target

if TYPE_CHECKING:
    from transformers import ViTMAEForPreTraining

MODULES = {
    "decoder_blocks.": "decoder.decoder_layers.",
    "decoder_norm.": "decoder.decoder_norm.",
    "blocks.": "vit.layers.",
    "norm.": "vit.layernorm.",
    "patch_embed.": "vit.embeddings.patch_embeddings.projection.",
    "narrow.": "decoder.decoder_embed.",
    "head.": "decoder.decoder_pred.",
}
"""How names of our modules begin, and theirs."""
IN_BLOCK = {
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".attn.qkv.": ".attention.q_proj.",
    ".attn.proj.": ".attention.o_proj.",
}
"""What differs inside a block; their three projections, of which the queries' stands here, are one of ours."""
TOKENS = {"class_token": "vit.embeddings.cls_token", "mask_token": "decoder.mask_token"}
PLACES = {"encoder_places": "vit.embeddings.position_embeddings", "decoder_places": "decoder.decoder_pos_embed"}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def to_hugging_face(model: MaskedAutoencoder) -> ViTMAEForPreTraining:
    """A ViTMAEForPreTraining with the weights of `model`.

    Raises:
        InputError: the model has what that class has not: another mask than random, an encoder with mask tokens, or
            images that are not square.
    """
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    design = model.design
    _, rows, columns = design.masking.grid
    if design.masking.kind != "random" or design.encoder_mask_tokens:
        what = "an encoder with mask tokens" if design.encoder_mask_tokens else f"{design.masking.kind} mask"
        raise InputError(f"ViTMAEForPreTraining has no {what}; only mask=random without encoder_mask_tokens exports")
    if rows != columns:
        raise InputError(f"ViTMAEForPreTraining takes square images, not {rows} x {columns} patches")
    sizes: dict[str, Any] = {**_sizes(design.encoder, ""), **_sizes(design.decoder, "decoder_")}
    config = ViTMAEConfig(
        **sizes,
        image_size=columns * design.patch_size,
        patch_size=design.patch_size,
        num_channels=design.in_channels,
        mask_ratio=design.masking.ratio,
        norm_pix_loss=design.target == "normalised_pixel",
        layer_norm_eps=model.norm.eps,
    )
    peer = ViTMAEForPreTraining(config)
    peer.load_state_dict(hugging_face_state(model))
    return peer


def from_hugging_face(peer: ViTMAEForPreTraining) -> MaskedAutoencoder:
    """A MaskedAutoencoder with the weights of `peer`.

    Raises:
        InputError: the peer gives its class token a position, has another activation, no qkv biases, dropout, sides of
            images and patches that are not one number each, or widths that no model here has.
    """
    config: Any = peer.config
    if config.hidden_act != "gelu" or not config.qkv_bias:
        raise InputError(f"hf: hidden_act {config.hidden_act!r} and qkv_bias {config.qkv_bias}; use gelu with biases")
    for name in DROPOUTS:
        if getattr(config, name) > 0:
            raise InputError(f"hf: {name} {getattr(config, name):g}; the model here has no dropout, set it to 0")
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(config, name), int):
            raise InputError(f"hf: {name} {getattr(config, name)!r}; use one number, the side of a square")
    if config.image_size % config.patch_size:
        raise InputError(f"hf: patch_size {config.patch_size} does not divide image_size {config.image_size}")
    side = config.image_size // config.patch_size
    target: Target = "normalised_pixel" if config.norm_pix_loss else "pixel"
    masking = Masking("random", config.mask_ratio, (1, side, side))
    encoder, decoder = (Sizes(*(getattr(config, prefix + name) for name in SIZES)) for prefix in ("", "decoder_"))
    encoder.check("hf: hidden_size")
    decoder.check("hf: decoder_hidden_size")
    design = Design(encoder, decoder, masking, config.num_channels, config.patch_size, target)
    model = MaskedAutoencoder(design)
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = config.layer_norm_eps
    model.load_state_dict(own_state(peer.state_dict()))
    return model


SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
"""Their names of what a Sizes holds, in its order."""


def _sizes(sizes: Sizes, prefix: str) -> dict[str, int]:
    values = (sizes.width, sizes.depth, sizes.heads, sizes.hidden)
    return {prefix + name: value for name, value in zip(SIZES, values, strict=True)}


def hugging_face_state(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The state of `model` under the names and in the shapes of ViTMAEForPreTraining; class tokens have position 0."""
    state = {}
    for name, tensor in model.state_dict().items():
        theirs = _renamed(name, MODULES, IN_BLOCK)
        if name in TOKENS:
            state[TOKENS[name]] = tensor.view(1, 1, -1)
        elif name in PLACES:
            state[PLACES[name]] = torch.cat([tensor.new_zeros(1, tensor.shape[1]), tensor])[None]
        elif ".attn.qkv." in name:
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                state[theirs.replace("q_proj", f"{part}_proj")] = chunk
        else:
            state[theirs] = tensor
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def own_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a ViTMAEForPreTraining, or its gradients, under our names.

    Raises:
        InputError: a class token has a position, which our model has not.
    """
    back = {theirs: ours for ours, theirs in {**TOKENS, **PLACES}.items()}
    modules, in_block = ({theirs: ours for ours, theirs in names.items()} for names in (MODULES, IN_BLOCK))
    own: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in PLACES.values():
            if tensor[0, 0].any():
                raise InputError(f"hf: {name} gives the class token a position; MAE's has none")
            own[back[name]] = tensor[0, 1:]
        elif name in TOKENS.values():
            own[back[name]] = tensor.flatten()
        elif ".attention.q_proj." in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            own[_renamed(name, modules, in_block)] = torch.cat(parts)
        elif ".attention.k_proj." not in name and ".attention.v_proj." not in name:
            own[_renamed(name, modules, in_block)] = tensor
    return own


def _renamed(name: str, modules: Mapping[str, str], in_block: Mapping[str, str]) -> str:
    """A name with its beginning and what stands inside a block exchanged."""
    start = next((start for start in modules if name.startswith(start)), "")
    name = modules.get(start, "") + name.removeprefix(start)
    for ours, theirs in in_block.items():
        name = name.replace(ours, theirs)
    return name
