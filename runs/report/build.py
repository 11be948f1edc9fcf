"""Builds the report: one self-contained HTML file that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from naslab.errors import InputError
from naslab.runs.answer import Answer
from naslab.runs.beside import Neighbour
from naslab.runs.hours import by_clock
from naslab.runs.ranking import rank
from naslab.runs.report.kernels import kernels
from naslab.runs.report.markup import Html, html, join, numeric_cells, tag
from naslab.runs.report.section import Findings, Section
from naslab.runs.report.sections import all_sections
from naslab.runs.spend import hours
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.whole_file import write_whole

SCHEMA = "naslab.report/1"


@dataclass(frozen=True)
class Report:
    """The page and what it says."""

    study: str
    answer: Answer
    sections: tuple[Section, ...]
    page: str

    def write(self, path: Path) -> None:
        """Save the page.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self.page)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None

    def to_dict(self, path: Path) -> dict[str, Any]:
        """The document of `naslab report --json`."""
        return {
            "schema": SCHEMA,
            "study": self.study,
            "file": str(path),
            "answer": self.answer.sentence,
            "caveats": [finding.text for finding in self.answer.findings if finding.text != self.answer.sentence],
            "sections": [{"id": s.id, "title": s.title, "empty": s.empty} for s in self.sections],
        }


def build_report(
    study: Study,
    trials: Sequence[Trial],
    beside: Sequence[Neighbour] = (),
    kernel_table: Mapping[str, Any] | None = None,
) -> Report:
    """The report on a study as its ledger stands; a study that still runs gives a partial one.

    Args:
        beside: studies whose configurations stand in leaderboard and front, too; all else is of the study itself.
        kernel_table: what `naslab bench kernels --json` wrote, to be shown too.

    Raises:
        InputError: as for `rank`.
    """
    ranking = rank(study, trials, beside)
    found = Findings(study, ranking, tuple(sorted(by_clock(trials, ranking.clock), key=lambda t: t.number)))
    said = ranking.answer
    sections = (*all_sections(found), *([] if kernel_table is None else [kernels(kernel_table)]))
    shown = [section for section in sections if not section.empty]
    template = Template(files("naslab.runs.report").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html(study.name),
        description=html(study.description),
        answer=html(said.sentence),
        caveats=_findings(said, ranking.doubts),
        summary=html(_summary(found)),
        navigation=join(Html(f'<a href="#{s.id}">{html(s.title)}</a>') for s in shown),
        sections=join(_section(s) for s in shown),
        numbers=numeric_cells("th", "td"),
        figures=numeric_cells("td"),
        download=Html(
            f'<a class="button" id="download" download="{html(study.name)}-ranking.json">Ranking as JSON</a>'
        ),
        ranking=_script_safe(json.dumps(ranking.to_dict(), separators=(",", ":"))),
        plotly=get_plotlyjs(),
    )
    return Report(study.name, said, sections, page)


def _summary(found: Findings) -> str:
    spent = hours(trial.device_seconds for trial in found.trials)
    seeds = len(found.study.seeds)
    return (
        f"{found.study.space.name} · {len(found.trials)} trials · {spent:.3g} {found.ranking.unit}s in all · "
        f"{seeds} seed{'s' if seeds != 1 else ''} · metric {found.ranking.metric}"
    )


WARNING = ("failed", "control", "open")


def _findings(said: Answer, doubts: Sequence[str]) -> Html:
    """What the answer says beside its headline, warnings marked."""
    lines = [(one.text, one.kind in WARNING) for one in said.findings if one.text != said.sentence]
    lines += [(doubt, True) for doubt in doubts]
    return join(tag("p", text, css="caveat" if warning else "finding") for text, warning in lines)


def _section(section: Section) -> Html:
    return Html(f'<section id="{section.id}"><h2>{html(section.title)}</h2>{section.body}</section>')


def _script_safe(text: str) -> Html:
    """JSON that cannot close the script element around it."""
    return Html(text.replace("<", "\\u003c"))
