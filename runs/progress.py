"""Progress on standard error: a live table in a terminal, one line per finished trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from naslab.runs.events import Follower
from naslab.runs.output import significant_digits
from naslab.runs.plan import NamedControl, expected_jobs
from naslab.runs.study import Study
from naslab.runs.trial import ENDED, Job, Trial

REFRESHES = 4
"""Times a second that the live table is drawn."""


class Progress:
    """Shows a study as it runs. `quiet` shows nothing."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._drawn = 0.0

    @contextmanager
    def watching(self, study: Study, controls: Sequence[NamedControl], metric: str, slots: int) -> Iterator[None]:
        """Show the study while inside."""
        self._study, self._metric, self._slots = study, metric, slots
        self._expected = sum(expected_jobs(study, controls).values())
        if self._quiet or not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=REFRESHES, transient=True) as self._live:
            yield
        self._live = None

    def update(self, trials: Callable[[], Sequence[Trial]], running: Sequence[tuple[Job, Follower]]) -> None:
        """Draw the present state, unless it was drawn just now: `trials` are gone over only for that."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= 1 / REFRESHES:
            self._drawn = now
            self._live.update(Group(self._table(running), Text(self.summary(trials()))))

    def say(self, line: str) -> None:
        """Say something about the study as a whole."""
        if not self._quiet:
            self._console.print(Text(line), highlight=False)

    def finished(self, job: Job, state: str, value: float | None, seconds: float, error: str | None) -> None:
        """Say that a trial ended."""
        if self._quiet:
            return
        score = "" if value is None else f"{significant_digits(value, 4):>8}"
        line = f"{state:9} {job.label:24} seed {job.seed % 10_000:<5} {score:8} {seconds:7.1f} s"
        self._console.print(Text(f"{line}  {error or ''}".rstrip()), highlight=False)

    def summary(self, trials: Sequence[Trial]) -> str:
        """Finished of expected, cost so far, time left by the mean of what finished."""
        finished = [t for t in trials if t.state in ENDED]
        spent = sum(t.device_seconds for t in trials)
        left = max(self._expected - len(finished), 0)
        mean = sum(t.full_seconds for t in finished) / len(finished) if finished else 0.0
        wall = sum(t.full_seconds / t.device_share for t in finished) / len(finished) if finished else 0.0
        minutes = left * wall / self._slots / 60
        budget = self._study.limits.gpu_hours
        of_budget = "" if budget is None else f" of {budget:g}"
        rest = "" if budget is None else f", which need {left * mean / 3600:.3f} device hours"
        return (
            f"{len(finished)} of about {self._expected} trials, {spent / 3600:.3f}{of_budget} device hours, "
            f"about {minutes:.1f} min left{rest}"
        )

    def _table(self, running: Sequence[tuple[Job, Follower]]) -> Table:
        table = Table("trial", "seed", "phase", "rung", self._metric, "device s", title=self._study.name)
        for job, follower in running:
            rung = follower.rungs[-1] if follower.rungs else None
            score = rung.scores.get(self._metric) if rung else None
            spent = sum(follower.seconds().values())
            table.add_row(
                job.label, str(job.seed % 10_000), follower.phase, str(rung.epoch) if rung else "",
                "" if score is None else significant_digits(score, 4), f"{spent:.0f}",
            )  # fmt: skip
        return table
