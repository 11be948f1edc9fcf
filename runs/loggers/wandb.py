"""Weights & Biases: one run a trial, offline unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from naslab.runs.loggers.protocol import OpenRuns, parameters, reported, results, title
from naslab.runs.trial import RungRecord, Trial


class WandBLogger:
    """Runs below `wandb/` in the study's folder."""

    def __init__(self, project: str, folder: Path, mode: Literal["offline", "online"]) -> None:
        import wandb

        self._wandb, self._project, self._folder, self._mode = wandb, project, folder, mode
        self._runs = OpenRuns[Any](self._open)

    def began(self, trial: Trial) -> None:
        """Open the trial's run."""
        self._runs.of(trial)

    def rung(self, trial: Trial, rung: RungRecord) -> None:
        """Write its scores at its epoch."""
        self._runs.of(trial).log(reported(rung), step=rung.epoch)

    def ended(self, trial: Trial) -> None:
        """Write its state and final scores, and close its run."""
        run = self._runs.take(trial)
        run.summary.update({**results(trial), "state": trial.state})
        run.finish(exit_code=int(trial.state not in ("complete", "pruned")))

    def close(self) -> None:
        """Close what is open."""
        for run in self._runs.rest():
            run.finish(exit_code=1)

    def _open(self, trial: Trial) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._wandb.init(
            project=self._project,
            name=title(trial),
            config=parameters(trial),
            dir=self._folder,
            mode=self._mode,
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )
