"""Trackio: one run a trial, in the project of its study; `trackio show` shows them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from naslab.runs.loggers.protocol import parameters, results, title
from naslab.runs.trial import RungRecord, Trial


class TrackioLogger:
    """Runs of a project on this machine.

    A trial's run has an id that follows from the study's folder, so that a later driver goes on with it.
    """

    def __init__(self, project: str, folder: Path) -> None:
        import trackio.run

        # Its runs print a line each, and it has no switch for that.
        trackio.run.print = lambda *words, **how: None
        self._make, self._project, self._folder = trackio.run.Run, project, folder.absolute()
        self._runs: dict[int, Any] = {}

    def began(self, trial: Trial) -> None:
        """Open the trial's run."""
        self._run(trial)

    def rung(self, trial: Trial, rung: RungRecord) -> None:
        """Write its scores at its epoch."""
        self._run(trial).log({**rung.scores, "device_seconds": rung.device_seconds}, step=rung.epoch)

    def ended(self, trial: Trial) -> None:
        """Write its state and final scores, and close its run."""
        run = self._run(trial)
        run.log({**results(trial), "state": trial.state}, step=trial.last_epoch)
        run.finish()
        del self._runs[trial.number]

    def close(self) -> None:
        """Close what is open."""
        for run in self._runs.values():
            run.finish()

    def _run(self, trial: Trial) -> Any:
        if trial.number not in self._runs:
            name = title(trial)
            self._runs[trial.number] = self._make(
                url=None,
                project=self._project,
                client=None,
                name=name,
                run_id=uuid.uuid5(uuid.NAMESPACE_URL, f"{self._folder}/{name}").hex,
                config=parameters(trial),
            )
        return self._runs[trial.number]
