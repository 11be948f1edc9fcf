"""The closed cost of a masked autoencoder's forward.

A block of width d on n tokens takes, in multiply-adds, 4 n d^2 for its projections, 2 n d h for its MLP and 2 n^2 d
for the two products of attention. What is counted is what is executed: the prediction runs on the decoded masked
tokens alone, where published figures have it on every token; that is below 0.2 % of a ViT-L.
"""

from __future__ import annotations

from naslab.search_spaces.mae.model import Autoencoder
from naslab.search_spaces.mae.vit import Sizes


def forward_flops(model: Autoencoder, batch_size: int) -> int:
    """Contraction FLOPs (a multiply-add is 2) of one training forward on a batch; the model may lie on meta."""
    design, masking = model.design, model.design.masking
    leading = 0 if model.class_token is None else 1
    length, visible = masking.length, masking.visible
    encoded = (length if design.encoder_mask_tokens else visible) + leading
    predicted = length - visible if design.decoded is None else design.decoded
    in_decoder = leading + (length if design.decoded is None else visible + predicted)
    embedding = next(p for name, p in model.named_parameters() if name.endswith("_embed.weight"))
    width, narrow = design.encoder.width, design.decoder.width
    multiply_adds = (
        length * embedding.numel()
        + blocks(encoded, design.encoder)
        + encoded * width * narrow
        + blocks(in_decoder, design.decoder)
        + predicted * narrow * model.head.out_features
    )
    return 2 * batch_size * multiply_adds


def blocks(tokens: int, sizes: Sizes) -> int:
    """Multiply-adds of a stack of transformer blocks."""
    one = tokens * sizes.width * (4 * sizes.width + 2 * sizes.hidden) + 2 * tokens**2 * sizes.width
    return sizes.depth * one
