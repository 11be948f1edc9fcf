"""A section of the report, and the data that all sections use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from naslab.nas.health import HealthReport
from naslab.runs.ranking import Ranking
from naslab.runs.report import findings
from naslab.runs.report.markup import Html, note
from naslab.runs.study import Study
from naslab.runs.trial import Trial


@dataclass(frozen=True)
class Section:
    """A titled part of the page; `empty` where the study has no data for it."""

    id: str
    title: str
    body: Html
    empty: bool = False


@dataclass(frozen=True)
class Findings:
    """All that the sections draw from."""

    study: Study
    ranking: Ranking
    trials: tuple[Trial, ...]

    @cached_property
    def by_number(self) -> dict[int, Trial]:
        """Trials by number."""
        return {trial.number: trial for trial in self.trials}

    @cached_property
    def searches(self) -> dict[str, Mapping[str, Any]]:
        """Finished differentiable searches."""
        return findings.searches(self.trials)

    @cached_property
    def health(self) -> list[HealthReport]:
        """One report per arm."""
        return findings.health(self.study, self.ranking, self.trials)

    @property
    def hours(self) -> str:
        """The cost unit in words, plural."""
        return f"{self.ranking.unit}s"

    @property
    def against(self) -> str:
        """What the front trades the metric against, in words."""
        return self.hours if self.ranking.objective.cost is None else self.ranking.against


def empty(id: str, title: str, why: str) -> Section:
    """A section that has nothing to show: left out of the page, listed with its reason in the document."""
    return Section(id, title, note(why), empty=True)
