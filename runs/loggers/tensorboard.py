"""TensorBoard: event files by PyTorch's own writer; `tensorboard --logdir FOLDER` shows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from naslab.runs.loggers.protocol import parameters, results, title
from naslab.runs.trial import RungRecord, Trial


class TensorBoardLogger:
    """One folder a trial: scores by epoch, and with its end its parameters and final scores (the HPARAMS tab)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._open = folder, SummaryWriter
        self._writers: dict[int, Any] = {}

    def began(self, trial: Trial) -> None:
        """Open the trial's folder."""
        self._writer(trial)

    def rung(self, trial: Trial, rung: RungRecord) -> None:
        """Write its scores at its epoch."""
        writer = self._writer(trial)
        for name, score in rung.scores.items():
            writer.add_scalar(name, score, rung.epoch)
        writer.add_scalar("device_seconds", rung.device_seconds, rung.epoch)
        writer.flush()

    def ended(self, trial: Trial) -> None:
        """Write parameters, state and final scores, and close its file."""
        writer = self._writer(trial)
        finite = {name: value for name, value in results(trial).items() if math.isfinite(value)}
        writer.add_hparams({**parameters(trial), "state": trial.state}, finite, run_name=".")
        writer.close()
        del self._writers[trial.number]

    def close(self) -> None:
        """Close what is open."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, trial: Trial) -> Any:
        if trial.number not in self._writers:
            self._writers[trial.number] = self._open(str(self._folder / title(trial)))
        return self._writers[trial.number]
