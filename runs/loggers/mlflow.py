"""MLflow: one run a trial, in the experiment of its study."""

from __future__ import annotations

import time
from typing import Any

from naslab.runs.loggers.protocol import OpenRuns, parameters, reported, results, title
from naslab.runs.trial import RungRecord, State, Trial

STATUS: dict[State, str] = {
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "timed_out": "FAILED",
    "interrupted": "KILLED",
}
NUMBER = "naslab.trial"


class MLflowLogger:
    """Runs of the tracking server, or database, at `uri`."""

    def __init__(self, uri: str, experiment: str) -> None:
        import mlflow.entities
        import mlflow.tracking

        self._mlflow, self._uri, self._name = mlflow, uri, experiment
        self._client: Any = None
        self._experiment = ""
        self._runs = OpenRuns[str](self._found_or_created)

    def began(self, trial: Trial) -> None:
        """Open the trial's run."""
        self._runs.of(trial)

    def rung(self, trial: Trial, rung: RungRecord) -> None:
        """Write its scores at its epoch."""
        self._write(self._runs.of(trial), reported(rung), rung.epoch)

    def ended(self, trial: Trial) -> None:
        """Write its state and final scores."""
        run = self._runs.take(trial)
        self._write(run, results(trial), trial.last_epoch)
        self._client.set_tag(run, "naslab.state", trial.state)
        self._client.set_terminated(run, STATUS[trial.state])

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, run: str, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            run, [self._mlflow.entities.Metric(name, value, now, step) for name, value in values.items()]
        )

    def _found_or_created(self, trial: Trial) -> str:
        if self._client is None:  # only now: it may wait for a server
            self._client = self._mlflow.tracking.MlflowClient(self._uri)
            found = self._client.get_experiment_by_name(self._name)
            self._experiment = found.experiment_id if found else self._client.create_experiment(self._name)
        wanted = f"tags.`{NUMBER}` = '{trial.number}'"
        known = self._client.search_runs([self._experiment], wanted, max_results=1)
        return str(known[0].info.run_id) if known else self._create(trial)

    def _create(self, trial: Trial) -> str:
        of = self._mlflow.entities
        run = self._client.create_run(self._experiment, run_name=title(trial)).info.run_id
        facts = [of.Param(name, str(value)) for name, value in parameters(trial).items()]
        self._client.log_batch(run, params=facts, tags=[of.RunTag(NUMBER, str(trial.number))])
        return str(run)
