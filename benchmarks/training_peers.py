"""What a user would train instead: other libraries' models in a plain loop, float32, on the same kind of batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from training_cases import Case

from naslab.search_spaces import find_space

Make = Callable[[], Callable[[], None]]


def vit_mae(case: Case, preset: str) -> Mapping[str, Make]:
    """transformers' masked autoencoder of the reference's sizes."""

    def make() -> Callable[[], None]:
        design = case.make()[0].design
        channels, side, _ = design.frame_shape
        encoder, decoder = design.encoder, design.decoder
        config = transformers.ViTMAEConfig(
            hidden_size=encoder.width,
            num_hidden_layers=encoder.depth,
            num_attention_heads=encoder.heads,
            intermediate_size=4 * encoder.width,
            decoder_hidden_size=decoder.width,
            decoder_num_hidden_layers=decoder.depth,
            decoder_num_attention_heads=decoder.heads,
            decoder_intermediate_size=4 * decoder.width,
            image_size=side,
            patch_size=design.patch_size,
            num_channels=channels,
            norm_pix_loss=True,
        )
        model = transformers.ViTMAEForPreTraining(config)
        return _loop(model, case, lambda batch: model(pixel_values=batch[0]).loss)

    return {"transformers ViTMAE": make}


def plain_vit(case: Case, preset: str) -> Mapping[str, Make]:
    """timm's vision transformer of the reference's sizes, all tokens kept."""

    def make() -> Callable[[], None]:
        options = find_space("token_reduction", preset).options
        model = timm.models.VisionTransformer(
            img_size=options.image_size,
            patch_size=options.patch_size,
            in_chans=options.in_channels,
            num_classes=options.num_classes,
            embed_dim=options.width,
            depth=options.depth,
            num_heads=options.heads,
        )
        return _loop(model, case, lambda batch: F.cross_entropy(model(batch[0]), batch[1]))

    return {"timm VisionTransformer": make}


def plain_gpt(case: Case, preset: str) -> Mapping[str, Make]:
    """PyTorch's own transformer layers of the reference's sizes, causal, one residual stream."""

    def make() -> Callable[[], None]:
        options = find_space("altup", preset).options
        model = GPT(options)
        return _loop(model, case, lambda batch: model(**batch))

    return {"plain PyTorch GPT": make}


class GPT(nn.Module):
    """Embedding, learned positions, nn.TransformerEncoder under a causal mask, output table."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        width = options.width
        self.embedding = nn.Embedding(options.vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(options.context, width))
        layer = nn.TransformerEncoderLayer(
            width, width // options.head_width, options.hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, options.layers, enable_nested_tensor=False)
        self.output = nn.Linear(width, options.vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the targets (B, L)."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        x = self.layers(self.embedding(tokens) + self.positions, mask=mask, is_causal=True)
        return F.cross_entropy(self.output(x).flatten(0, 1), targets.flatten())


def _loop(model: nn.Module, case: Case, loss: Callable[[Any], torch.Tensor]) -> Callable[[], None]:
    model.to(case.device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        loss(case.batch()).backward()
        optimiser.step()

    return step


PEERS: Mapping[str, Callable[[Case, str], Mapping[str, Make]]] = {
    "mae": vit_mae,
    "token_reduction": plain_vit,
    "altup": plain_gpt,
}
