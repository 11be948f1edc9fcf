"""Weights to and from transformers' ViTMAEForPreTraining, which gives the same loss for the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from naslab.efficiency.errors import InputError
from naslab.search_spaces.common.modules.vit import Sizes
from naslab.search_spaces.common.objectives.masked_patches import Masking
from naslab.search_spaces.mae.model import Design, MaskedAutoencoder

if TYPE_CHECKING:
    from transformers import ViTMAEForPreTraining

STACKS = {"blocks": "vit.layers", "decoder_blocks": "decoder.decoder_layers"}
"""Our stacks of blocks and theirs."""
IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Modules of a block; `attention.qkv` stands for their three projections, which are one here."""
OUTSIDE = {
    "patch_embed": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "narrow": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm",
    "head": "decoder.decoder_pred",
}
TOKENS = {"class_token": "vit.embeddings.cls_token", "mask_token": "decoder.mask_token"}
PLACES = {"encoder_places": "vit.embeddings.position_embeddings", "decoder_places": "decoder.decoder_pos_embed"}


def to_hugging_face(model: MaskedAutoencoder) -> ViTMAEForPreTraining:
    """A ViTMAEForPreTraining with the weights of `model`.

    Raises:
        InputError: the model has what that class has not: another mask than random, or an encoder with mask tokens.
    """
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    design = model.design
    if design.masking.kind != "random" or design.encoder_mask_tokens:
        what = "an encoder with mask tokens" if design.encoder_mask_tokens else f"{design.masking.kind} mask"
        raise InputError(f"ViTMAEForPreTraining has no {what}; only mask=random without encoder_mask_tokens exports")
    config = ViTMAEConfig(
        hidden_size=design.encoder.width,
        num_hidden_layers=design.encoder.depth,
        num_attention_heads=design.encoder.heads,
        intermediate_size=design.encoder.hidden,
        decoder_hidden_size=design.decoder.width,
        decoder_num_hidden_layers=design.decoder.depth,
        decoder_num_attention_heads=design.decoder.heads,
        decoder_intermediate_size=design.decoder.hidden,
        image_size=design.masking.grid[1] * design.patch_size,
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
        InputError: the peer gives its class token a position, has another activation, or no qkv biases.
    """
    config: Any = peer.config
    if config.hidden_act != "gelu" or not config.qkv_bias:
        raise InputError(f"hf: hidden_act {config.hidden_act!r} and qkv_bias {config.qkv_bias}; use gelu with biases")
    side = config.image_size // config.patch_size
    encoder = Sizes(config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    decoder = Sizes(
        config.decoder_hidden_size,
        config.decoder_num_hidden_layers,
        config.decoder_num_attention_heads,
        config.decoder_intermediate_size,
    )
    model = MaskedAutoencoder(
        Design(
            encoder,
            decoder,
            Masking("random", config.mask_ratio, (1, side, side)),
            config.num_channels,
            config.patch_size,
            "normalised_pixel" if config.norm_pix_loss else "pixel",
        )
    )
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = config.layer_norm_eps
    model.load_state_dict(own_state(peer.state_dict()))
    return model


def hugging_face_state(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The state of `model` under the names and in the shapes of ViTMAEForPreTraining; class tokens have position 0."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name in TOKENS:
            state[TOKENS[name]] = tensor.view(1, 1, -1)
        elif name in PLACES:
            state[PLACES[name]] = torch.cat([tensor.new_zeros(1, tensor.shape[1]), tensor])[None]
        elif ".attn.qkv." in name:
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                state[_peer_name(name).replace("attention.qkv", f"attention.{part}_proj")] = chunk
        else:
            state[_peer_name(name)] = tensor
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def own_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a ViTMAEForPreTraining, or its gradients, under our names.

    Raises:
        InputError: a class token has a position, which our model has not.
    """
    back = {theirs: ours for ours, theirs in {**TOKENS, **PLACES, **OUTSIDE}.items()}
    own: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if "attention.k_proj" in name or "attention.v_proj" in name:
            continue
        if name in PLACES.values():
            if tensor[0, 0].any():
                raise InputError(f"hf: {name} gives the class token a position; MAE's has none")
            own[back[name]] = tensor[0, 1:]
        elif name in TOKENS.values():
            own[back[name]] = tensor.flatten()
        elif "attention.q_proj" in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            own[f"{_own_name(stem.replace('q_proj', 'qkv'))}.{kind}"] = torch.cat(parts)
        else:
            own[f"{back[stem] if stem in back else _own_name(stem)}.{kind}"] = tensor
    return own


def _peer_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    stack, number, part = stem.split(".", 2)
    return f"{STACKS[stack]}.{number}.{IN_BLOCK[part]}.{kind}"


def _own_name(stem: str) -> str:
    """Our name of a module inside a block."""
    for ours, theirs in STACKS.items():
        if stem.startswith(theirs + "."):
            number, part = stem.removeprefix(theirs + ".").split(".", 1)
            return f"{ours}.{number}.{next(o for o, t in IN_BLOCK.items() if t == part)}"
    raise InputError(f"hf: {stem} is no module of a ViTMAEForPreTraining")
