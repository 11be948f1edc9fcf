"""Trackio: one run a trial, in the project of its study; `trackio show` shows them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from naslab.runs.loggers.protocol import OpenRuns, parameters, reported, results, title
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
        run.log({**results(trial), "state": trial.state}, step=trial.last_epoch)
        run.finish()

    def close(self) -> None:
        """Close what is open."""
        for run in self._runs.rest():
            run.finish()

    def _open(self, trial: Trial) -> Any:
        name = title(trial)
        return self._make(
            url=None,
            project=self._project,
            client=None,
            name=name,
            run_id=uuid.uuid5(uuid.NAMESPACE_URL, f"{self._folder}/{name}").hex,
            config=parameters(trial),
        )
