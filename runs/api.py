"""naslab from Python, in a script or a notebook: run, rank and export a study.

def train(lr=0.1, width=32, epochs=3):
    for epoch in range(epochs):
        ...
        yield {"accuracy": accuracy}

space = {"lr": naslab.Float(1e-4, 1, log=True), "width": [16, 32, 64]}
naslab.run(naslab.search(train, space, metric="accuracy", trials=20), workers=2)
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console

from naslab.efficiency import compare_latency
from naslab.efficiency.latency import Comparison
from naslab.errors import InputError
from naslab.runs import ranking as rankings
from naslab.runs.beside import load_beside
from naslab.runs.driver import run_study
from naslab.runs.export import Exported
from naslab.runs.export import export as export_best
from naslab.runs.facts import check_here
from naslab.runs.ledger import Ledger
from naslab.runs.locate import open_study
from naslab.runs.progress import Progress
from naslab.runs.study import Study, load_study, parse_study

if TYPE_CHECKING:
    import pandas as pd

StudyLike: TypeAlias = Study | str | Path | Mapping[str, Any]
"""A study, a study file, or a study's plain values; where it has run already, its name, too."""


@dataclass(frozen=True, repr=False)
class Results:
    """A study that has run. In a notebook, and printed, it is the table of its ranking."""

    ledger: Ledger

    @cached_property
    def ranking(self) -> rankings.Ranking:
        """Rows in order of rank."""
        return rankings.rank(self.ledger.study, self.ledger.trials(), load_beside(self.ledger))

    @property
    def best(self) -> dict[str, object]:
        """The configuration of rank 1.

        Raises:
            InputError: nothing is ranked.
        """
        for row in self.ranking.rows:
            if row.rank is not None:
                return row.configuration.as_dict()
        raise InputError(f"study {self.ledger.study.name}: nothing is ranked; see `naslab status`")

    def frame(self) -> pd.DataFrame:
        """One row per attempt, as pandas."""
        return self.ledger.frame()

    def __str__(self) -> str:
        """The table of the ranking."""
        return str(self.ranking)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.ranking._repr_html_()


def run(study: StudyLike, *, workers: int = 1, storage: str | None = None, quiet: bool = False) -> Results:
    """Run what the study still needs, with live progress, and return its results.

    Args:
        study: a Study, the path of a study file, or its plain values.
        workers: trials that run at once, each in a process of its own, where the study's `executor` says.
        storage: SQLite file or URL; default naslab-runs/naslab.db.
        quiet: show no progress.

    Raises:
        InputError: as `naslab run`; or a script that would run itself again in its workers.
    """
    _check_guarded()
    wanted = _study(study)
    check_here(wanted)
    ledger = Ledger.start(storage, wanted)
    run_study(ledger, workers, Progress(Console(stderr=True), quiet=quiet))
    return Results(ledger)


def rank(study: StudyLike, trials: Any = None, beside: Any = (), *, storage: str | None = None) -> rankings.Ranking:
    """The ranking of a study: a Study, a path, a name; or of a Study and the `trials` given.

    Raises:
        InputError: no such study, or results that cannot be ranked together.
    """
    if trials is not None:
        return rankings.rank(_study(study), trials, beside)
    ledger = _ledger(study, storage)
    return rankings.rank(ledger.study, ledger.trials(), load_beside(ledger, beside))


def compare(a: Any, b: Any, *more: Any, storage: str | None = None, **options: Any) -> Comparison | rankings.Ranking:
    """Two functions timed in turn (see `compare_latency`); or studies, by name, path or Study, in one ranking.

    The first study's objective and floor decide, and the others stand beside it.

    Raises:
        InputError: no such study, or results that cannot be ranked together.
    """
    if callable(a):
        return compare_latency(a, b, *more, **options)
    ledger = _ledger(a, storage)
    others = [_ledger(one, storage).study.name for one in (b, *more)]
    return rankings.rank(ledger.study, ledger.trials(), load_beside(ledger, others))


def export(
    study: StudyLike, out: str | Path | None = None, *, top: int = 1, storage: str | None = None
) -> tuple[Exported, ...]:
    """Write the best `top` configurations as folders below `out` (default: exports/ in the study's folder).

    Raises:
        InputError: as `naslab export`.
    """
    ledger = _ledger(study, storage)
    return export_best(ledger.study, ledger.trials(), ledger.files, Path(out or ledger.files / "exports"), top)


def _study(study: StudyLike) -> Study:
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return parse_study(dict(study), "study")
    return load_study(Path(study))


def _ledger(study: StudyLike, storage: str | None) -> Ledger:
    if isinstance(study, str | Path):
        return open_study(str(study), storage)
    return Ledger.open(storage, _study(study).name)


def _check_guarded() -> None:
    """Refuse a call at the top level of a script: its workers would import the script, and run it again.

    Raises:
        InputError: the file and line, and what to write there.
    """
    frame = inspect.currentframe()
    while frame is not None and not (
        frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") in ("__main__", "__mp_main__")
    ):
        frame = frame.f_back
    if frame is None or not Path(frame.f_code.co_filename).is_file():
        return
    path, line = Path(frame.f_code.co_filename), frame.f_lineno
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if statement.lineno <= line <= (statement.end_lineno or line) and not _is_guard(statement):
            raise InputError(
                f"{path.name}, line {line}: workers import this file and would start again from its top; put the call "
                'under `if __name__ == "__main__":`'
            )


def _is_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )
