"""Fine-tuning of a timm model: how many of its stages to train, and how fast.

`CHECKPOINT` may be any weights of the model; with None it starts from scratch, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator

import timm
import torch
from torch import nn

import naslab
from naslab.search_spaces.data import DatasetOptions, load_dataset

MODEL, CHECKPOINT = "test_resnet", None
"""timm's own small test model; `resnet18` and the path of its weights are what one would put here."""


def train(
    trained_stages: int = 4, lr: float = 0.003, weight_decay: float = 0.05, epochs: int = 2
) -> Iterator[dict[str, float]]:
    """Fine-tune the last stages and a new head; yield the accuracy on both splits."""
    data = load_dataset(DatasetOptions(train=300, validation=200, test=200))
    model = timm.create_model(
        MODEL, num_classes=len(data.classes), in_chans=1, **({"checkpoint_path": CHECKPOINT} if CHECKPOINT else {})
    )
    for name, parameter in model.named_parameters():
        stage = int(name.split(".")[0].removeprefix("layer")) if name.startswith("layer") else 0
        parameter.requires_grad = name.startswith("fc") or stage > 4 - trained_stages
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr, weight_decay=weight_decay)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(data.train)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(_pixels(data.train, batch)), data.train.labels[batch]).backward()
            optimiser.step()
        yield {"accuracy": _accuracy(model, data.validation), "test_accuracy": _accuracy(model, data.test)}


def _pixels(images, indices: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return images.fetch(indices).float() / 255


@torch.no_grad()
def _accuracy(model: nn.Module, images) -> float:  # type: ignore[no-untyped-def]
    answers = model.eval()(_pixels(images, torch.arange(len(images)))).argmax(1)
    return float(100 * (answers == images.labels).float().mean())


def study(trials: int = 6) -> naslab.Study:
    """How much to train, and the two numbers of AdamW."""
    space = {
        "trained_stages": naslab.Integer(0, 4),
        "lr": naslab.Float(1e-4, 1e-2, log=True),
        "weight_decay": naslab.Float(1e-3, 0.3, log=True),
    }
    return naslab.search(
        train, space, metric="accuracy", trials=trials, name="finetune_timm", seeds=[0, 1], random_architectures=2
    )


if __name__ == "__main__":
    print(naslab.run(study(), workers=2))
