"""The best weights of a training so far, kept beside its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from naslab.search_spaces.common.training.checkpoint import load_checkpoint, save_checkpoint
from naslab.search_spaces.common.training.together import rank


class Best:
    """The weights of the highest score, the first of equals.

    They are saved before the checkpoint of their epoch: a training that is taken up sees that epoch again, with the
    same score, or has it.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self._folder = None if checkpoint is None else checkpoint / "best"
        self._kept: dict[str, Any] | None = load_checkpoint(self._folder) if self._folder is not None else None

    def see(self, model: nn.Module, score: float) -> None:
        """Keep the weights if none had as high a score."""
        if self._kept is not None and score <= self._kept["score"]:
            return
        self._kept = {"score": score, "weights": _copy(model.state_dict())}
        if self._folder is not None and rank() == 0:
            save_checkpoint(self._folder, self._kept)

    def restore(self, model: nn.Module) -> None:
        """Put them back."""
        if self._kept is not None:
            model.load_state_dict(self._kept["weights"])


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
