"""What a user would train instead: other libraries' models in a plain loop, float32, on the same kind of batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import timm
import torch
import transformers
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from training_cases import Case

from naslab.search_spaces import find_space

Make = Callable[[], Callable[[], None]]


def lightly_simclr(case: Case, preset: str) -> Mapping[str, Make]:
    """lightly's loss and transforms of images in PyTorch's loader, around the same network; none without lightly.

    All in one process, as the cores are what is compared; its blur is left out, as ours has none on small images.
    """
    if find_spec("lightly") is None:
        return {}

    def make() -> Callable[[], None]:
        from lightly.loss import NTXentLoss
        from lightly.transforms import SimCLRTransform

        model, _ = case.make()
        options = find_space("nasiam", preset, {"framework": "simclr"}).options
        views = SimCLRTransform(input_size=options.image_size, gaussian_blur=0.0, normalize=None)
        pixels = torch.randint(256, (case.batch_size, options.image_size, options.image_size), dtype=torch.uint8)
        images = [Image.fromarray(image) for image in pixels.numpy()]
        loader = DataLoader(_Viewed(images, views), case.batch_size, shuffle=True)
        batches, criterion = _endless(loader), NTXentLoss(temperature=model.temperature)

        def loss() -> torch.Tensor:
            first, second = next(batches)
            return criterion(model.project(first.to(case.device)), model.project(second.to(case.device)))

        return _loop(model, case, loss)

    return {"lightly SimCLR": make}


class _Viewed(Dataset):
    """Views of images, made when they are asked for."""

    def __init__(self, images: list[Image.Image], views: Callable[[Image.Image], list[torch.Tensor]]) -> None:
        self.images, self.views = images, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> list[torch.Tensor]:
        return self.views(self.images[number])


def _endless(loader: DataLoader) -> Iterator[list[torch.Tensor]]:
    while True:
        yield from loader


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
        return _loop(model, case, lambda: model(pixel_values=case.batch(False)[0]).loss)

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

        def loss() -> torch.Tensor:
            images, labels = case.batch(False)
            return F.cross_entropy(model(images), labels)

        return _loop(model, case, loss)

    return {"timm VisionTransformer": make}


def plain_gpt(case: Case, preset: str) -> Mapping[str, Make]:
    """PyTorch's own transformer layers of the reference's sizes, causal, one residual stream."""

    def make() -> Callable[[], None]:
        options = find_space("altup", preset).options
        model = GPT(options)
        return _loop(model, case, lambda: model(**case.batch(False)))

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


def _loop(model: nn.Module, case: Case, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    model.to(case.device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


PEERS: Mapping[str, Callable[[Case, str], Mapping[str, Make]]] = {
    "simclr": lightly_simclr,
    "mae": vit_mae,
    "token_reduction": plain_vit,
    "altup": plain_gpt,
}
