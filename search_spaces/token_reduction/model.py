"""The classifier: a timm vision transformer, dense or reduced, its weights fresh, timm's or from a file.

Names in shapes: B batch, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.search_spaces.common.modules.tokens import Reduction, sparsify

HEADS = ("head.", "head_dist.")
"""Parts of a network that its number of classes decides."""


def reduced(network: VisionTransformer, reduction: Reduction) -> VisionTransformer:
    """The network, its blocks replaced in place where the rule says so."""
    match reduction.rule:
        case "evit":
            return sparsify(network, reduction.keep_rate, reduction.layers, reduction.fuse)
        case "tome":
            return sparsify(network, rule="tome", r=reduction.r, proportional=reduction.proportional)
        case "none":
            return network


class Classifier(nn.Module):
    """A vision transformer that says its loss when it is told the labels.

    Args:
        network: images to logits; reduced by `reduction` in place.
    """

    def __init__(self, network: VisionTransformer, reduction: Reduction) -> None:
        super().__init__()
        self.reduction = reduction
        self.network = reduced(network, reduction)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, K) of images (B, C, H, W); with labels (B,) the mean cross entropy before them."""
        logits: Tensor = self.network(images)
        return logits if labels is None else (F.cross_entropy(logits, labels), logits)

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.network.blocks)


def make_network(name: str, in_channels: int, image_size: int, num_classes: int, pretrained: bool) -> VisionTransformer:
    """A plain vision transformer by timm's name.

    Raises:
        InputError: there is none of this name, it cannot drop tokens, or its weights cannot be had.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:4]) if name else ""
        hint = f"; near: {near}" if near else ""
        raise InputError(f"space.options.model: timm has no model {name!r}; use a plain ViT or DeiT{hint}")
    try:
        network: Any = timm.create_model(
            name, pretrained=pretrained, img_size=image_size, in_chans=in_channels, num_classes=num_classes
        )
    except TypeError:
        raise InputError(f"space.options.model: {name!r} takes no image size; use a plain ViT or DeiT") from None
    except Exception as error:
        if not pretrained:
            raise
        what = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"space.options.pretrained: the weights of {name} cannot be downloaded ({what}); use false or the path of "
            "a safetensors file"
        ) from None
    if not isinstance(network, VisionTransformer) or network.cls_token is None or network.attn_pool is not None:
        raise InputError(
            f"space.options.model: {name!r} is no ViT with a class token; use one such as deit_small_patch16_224"
        )
    return network


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict saved as safetensors; a head of another number of classes stays as it is.

    Raises:
        InputError: the file cannot be read, or is not of this network.
    """
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else str(error).split("\n")[0]
        raise InputError(f"space.options.pretrained: {path} cannot be read as safetensors: {what}") from None
    own = network.state_dict()
    for name in [n for n in state if n in own and n.startswith(HEADS) and state[n].shape != own[n].shape]:
        state[name] = own[name]
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            where = "missing in the file" if name not in state else "unknown to the model"
            raise InputError(f"space.options.pretrained: {path} is not of this model: {name} is {where}")
        if state[name].shape != own[name].shape:
            raise InputError(
                f"space.options.pretrained: {path} is not of this model: {name} is {tuple(state[name].shape)} there, "
                f"{tuple(own[name].shape)} here"
            )
    network.load_state_dict(state)


def forward_flops(network: VisionTransformer, reduction: Reduction, batch_size: int) -> int:
    """Contraction FLOPs (a multiply-add is 2) of a forward; the dense `network` may lie on meta."""
    width, embed, block = network.embed_dim, network.patch_embed, cast(Any, network.blocks[0])
    hidden = _linear(block.mlp) // (2 * width)
    heads = [head for head in (network.head, getattr(network, "head_dist", None)) if head is not None]
    multiply_adds = (
        embed.num_patches * embed.proj.weight.numel()
        + reduction.macs(
            embed.num_patches, len(network.blocks), network.num_prefix_tokens, width, block.attn.num_heads, hidden
        )
        + sum(_linear(head) for head in heads)
    )
    return 2 * batch_size * int(multiply_adds)


def _linear(module: nn.Module) -> int:
    """Multiply-adds of the linear layers in a module, per token."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def on_meta() -> bool:
    """Whether models are being made without memory, so that there is nothing to load weights into."""
    return torch.get_default_device().type == "meta"
