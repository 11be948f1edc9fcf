"""Published configurations rebuilt from library blocks, so that the counter can be held against printed tables.

Only shapes matter for a count, so DynamicViT's tokens are dropped by slicing instead of by score. Everything runs on
meta tensors.
Sources: MAE (He et al. 2021) table 2; MAE-ST (Feichtenhofer et al. 2022) table 1; the READMEs of EViT and DynamicViT;
ToMe (Bolya et al. 2023).

Usage: python benchmarks/published.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from results_file import write_result
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from naslab import sparsify
from naslab.efficiency import count_forward, count_training_step

MAE_HOURS = {"L, [M]": 42.4, "L, 8": 15.4, "L, 1": 11.6, "H, [M]": 119.6, "H, 8": 34.5, "H, 1": 29.3}
"""Table 2: 800 epochs of ImageNet-1K on 128 TPU v3 cores; encoder and decoder blocks."""
MAE_SAMPLES = 800 * 1_281_167
MAE_CORES = 128
EVIT = {0.9: 4.0, 0.8: 3.5, 0.7: 3.0, 0.6: 2.6, 0.5: 2.3}
TOME = {
    ("vit_small_patch16_224", 13): 1.70,
    ("vit_base_patch16_224", 13): 1.69,
    ("vit_base_patch16_224", 16): 2.00,
    ("vit_large_patch16_224", 7): 1.77,
    ("vit_large_patch16_224", 8): 1.99,
}
"""FLOPs of the dense model over those with r merges in every block, by hand: attention at n tokens, MLP at n - r. The
paper prints the counts of ViT-L, r = 8 (61.6 to 31.0) and ViT-B, r = 16 (17.6 to 8.8)."""
DYNAMIC_VIT = {"deit_small_patch16_224": 2.9, "deit_base_patch16_224": 11.4}
MAE_ST = {"encoder with [M]": 627.5, "encoder without": 81.0}
STAGES = (3, 6, 9)


def mae(size: str, with_mask_tokens: bool, decoder_blocks: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """ViT-L/16 or ViT-H/14 at 224 with the 512-wide decoder; an encoder with [M] sees every token."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    width, depth, heads, patch = {"L": (1024, 24, 16, 16), "H": (1280, 32, 16, 14)}[size]
    config = ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        patch_size=patch,
        mask_ratio=0.0 if with_mask_tokens else 0.75,
        decoder_num_hidden_layers=decoder_blocks,
    )
    with torch.device("meta"):
        return ViTMAEForPreTraining(config), {"pixel_values": torch.empty(1, 3, 224, 224)}


class VideoMAE(nn.Module):
    """MAE-ST with ViT-L: 1568 tokens of 2x16x16, `visible` of them encoded, decoder 512 x 4, one frame per tube."""

    def __init__(self, visible: int) -> None:
        super().__init__()
        self.visible = visible
        self.embed = nn.Linear(2 * 16 * 16 * 3, 1024)
        self.encoder = nn.Sequential(*(Block(1024, 16) for _ in range(24)))
        self.narrow = nn.Linear(1024, 512)
        self.decoder = nn.Sequential(*(Block(512, 16) for _ in range(4)))
        self.predict = nn.Linear(512, 16 * 16 * 3)

    def forward(self, tubes: Tensor) -> Tensor:
        """(B, 1568, 1536) tubes to (B, 1569, 768) predictions."""
        tokens = self.embed(tubes)
        encoded = self.narrow(self.encoder(torch.cat([tokens[:, :1], tokens[:, : self.visible]], 1)))
        hidden = tubes.shape[1] - self.visible
        return self.predict(self.decoder(torch.cat([encoded, tubes.new_empty(len(tubes), hidden, 512)], 1)))


class DynamicViT(nn.Module):
    """Keeps int(196 * rate^stage) patches before blocks 3, 6 and 9, chosen by a predictor over all present ones."""

    def __init__(self, name: str, rate: float = 0.7) -> None:
        super().__init__()
        self.vit, self.rate = timm.create_model(name), rate
        width = self.vit.embed_dim
        self.local = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in STAGES)
        self.score = nn.ModuleList(
            nn.Sequential(Mlp(width, width // 2, width // 4), nn.Linear(width // 4, 2)) for _ in STAGES
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 224, 224) images to (B, 1000) logits."""
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        for index, block in enumerate(self.vit.blocks):
            if index in STAGES:
                stage = STAGES.index(index)
                self.score[stage](self.local[stage](x[:, 1:]))
                x = x[:, : int(196 * self.rate ** (stage + 1)) + 1]
            x = block(x)
        return self.vit.head(self.vit.norm(x)[:, 0])


def evit_small(keep_rate: float) -> nn.Module:
    """DeiT-S that keeps a share of the patches in blocks 3, 6 and 9 and fuses the rest."""
    return sparsify(timm.create_model("deit_small_patch16_224"), keep_rate)


def tome_ratio(name: str, r: int) -> float:
    """Counted FLOPs of a timm model over those with r tokens merged in every block."""
    model, images = timm.create_model(name), torch.empty(1, 3, 224, 224)
    dense = gmac(model, images)
    return dense / gmac(sparsify(model, rule="tome", r=r), images)


def gmac(model: nn.Module, inputs: Any) -> float:
    """Counted multiply-adds of the forward for one sample, in 1e9."""
    return count_forward(model, inputs).total / 2e9


def mae_counts() -> dict[str, tuple[float, float]]:
    """Per row of table 2: forward GMAC, and GFLOPs of the training step, of one image."""
    counted = {}
    for row in MAE_HOURS:
        size, decoder = row.split(", ")
        model, inputs = mae(size, decoder == "[M]", 8 if decoder == "[M]" else int(decoder))
        step = count_training_step(model, inputs)
        assert step is not None
        counted[row] = step.by_phase["forward"].contraction / 2e9, step.total / 1e9
    return counted


def predicted_hours(work: dict[str, float], hours: dict[str, float], skip: str | None = None) -> dict[str, float]:
    """Hours of each row from its work and one sustained rate: of all rows but `skip`, the one that misses least."""
    rates = [work[row] / hours[row] for row in hours if row != skip]
    rate = math.sqrt(min(rates) * max(rates))
    return {row: work[row] / rate for row in hours}


def counted() -> dict[str, Any]:
    """Printed and counted figures of every table."""
    images = torch.empty(1, 3, 224, 224, device="meta")
    with torch.device("meta"):
        evit = {f"keep {rate}": (EVIT[rate], gmac(evit_small(rate), images)) for rate in EVIT}
        tome = {f"{name}, r = {r}": (TOME[name, r], tome_ratio(name, r)) for name, r in TOME}
        dynamic = {name: (printed, gmac(DynamicViT(name), images)) for name, printed in DYNAMIC_VIT.items()}
        tubes = torch.empty(1, 1568, 1536)
        visible = {"encoder with [M]": 1568, "encoder without": 156}
        video = {row: (MAE_ST[row], gmac(VideoMAE(visible[row]), tubes)) for row in MAE_ST}
    counts = mae_counts()
    work = {row: step for row, (_, step) in counts.items()}
    fitted = predicted_hours(work, MAE_HOURS)
    return {
        "mae_gmac": {row: forward for row, (forward, _) in counts.items()},
        "mae_training_gflops": work,
        "mae_hours": {row: (hours, fitted[row]) for row, hours in MAE_HOURS.items()},
        "mae_hours_left_out": {row: (h, predicted_hours(work, MAE_HOURS, row)[row]) for row, h in MAE_HOURS.items()},
        "mae_sustained_tflops_per_core": sum(
            work[row] * MAE_SAMPLES / (hours * 3600 * MAE_CORES) / 1e3 for row, hours in MAE_HOURS.items()
        )
        / len(MAE_HOURS),
        "mae_st_gmac": video,
        "evit_gmac": evit,
        "tome_ratio": tome,
        "dynamic_vit_gmac": dynamic,
    }


if __name__ == "__main__":
    result = Path(__file__).parent / "results" / "published.json"
    write_result(result, {"schema": "naslab.published/1", **counted()}, "cpu")
