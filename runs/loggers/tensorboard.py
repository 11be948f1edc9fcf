"""TensorBoard: event files by PyTorch's own writer; `tensorboard --logdir FOLDER` shows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from naslab.runs.loggers.protocol import OpenRuns, parameters, reported, results, title
from naslab.runs.trial import RungRecord, Trial


class TensorBoardLogger:
    """One folder a trial: scores by epoch, and with its end its parameters and final scores (the HPARAMS tab)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writers = OpenRuns[Any](lambda trial: SummaryWriter(str(folder / title(trial))))

    def began(self, trial: Trial) -> None:
        """Open the trial's folder."""
        self._writers.of(trial)

    def rung(self, trial: Trial, rung: RungRecord) -> None:
        """Write its scores at its epoch."""
        writer = self._writers.of(trial)
        for name, score in reported(rung).items():
            writer.add_scalar(name, score, rung.epoch)
        writer.flush()

    def ended(self, trial: Trial) -> None:
        """Write parameters, state and final scores, and close its file."""
        writer = self._writers.take(trial)
        finite = {name: value for name, value in results(trial).items() if math.isfinite(value)}
        writer.add_hparams({**parameters(trial), "state": trial.state}, finite, run_name=".")
        writer.close()

    def close(self) -> None:
        """Close what is open."""
        for writer in self._writers.rest():
            writer.close()
