"""`naslab run`, `naslab status` and `naslab logs`."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from naslab.runs.commands.model_options import Json
from naslab.runs.commands.study_options import Storage, StudyName
from naslab.runs.output import err, out, print_json
from naslab.runs.shipped import find_study_file

if TYPE_CHECKING:
    from naslab.runs.study import Study


def run(
    study_file: Annotated[
        Path, typer.Argument(metavar="STUDY.yaml", help="A study file, or a study that ships, such as quickstart.")
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value.")] = None,
    storage: Storage = None,
    slots: Annotated[int, typer.Option(min=1, help="Trials that run at once, one per device slot.")] = 1,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry trials that failed or timed out.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Start or resume a study; no finished trial is repeated.

    Exit code 3: it finished, but trials were given up; --retry-failed retries them.
    """
    path = find_study_file(study_file)
    from naslab.runs.driver import run_study
    from naslab.runs.facts import check_here
    from naslab.runs.ledger import Ledger
    from naslab.runs.progress import Progress
    from naslab.runs.status import status as study_status
    from naslab.runs.storage_url import shown
    from naslab.runs.study import load_study

    study = load_study(path, set_)
    study.check_arms()
    study.check_packages()
    if dry_run:
        _show_plan(study, storage, slots, as_json)
        return
    with redirect_stdout(sys.stderr):  # standard output is for the answer, whatever a task prints
        check_here(study)
        ledger = Ledger.start(storage, study)
        run_study(ledger, slots, Progress(err), retry_failed)
        document = study_status(ledger)
    if as_json:
        facts = {"schema": "naslab.run/1", "storage": shown(ledger.url), "files": str(ledger.files)}
        print_json({**document, **facts})
    else:
        _print_status(document)
        err.print(f"next: {_again('rank', study.name, storage)}", highlight=False, markup=False, soft_wrap=True)
    if document["failures"]:
        again = _again(
            "run", str(study_file), storage, *(f"--set={shown(one)}" for one in set_ or ()), "--retry-failed"
        )
        line = f"trials that were given up: {len(document['failures'])}; `{again}` retries them"
        err.print(line, highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(3)


def _again(command: str, study: str, storage: str | None, *more: str) -> str:
    """What to type for another command on the same study: a password stays hidden."""
    from naslab.runs.storage_url import shown

    where = () if storage is None else ("--storage", shown(storage))
    return shlex.join(("naslab", command, study, *where, *more))


def status(
    study: StudyName,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Progress of a study and where its device time went."""
    from naslab.runs.locate import open_study
    from naslab.runs.status import status as study_status

    document = study_status(open_study(study, storage))
    if as_json:
        print_json(document)
    else:
        _print_status(document)


def logs(
    study: StudyName,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's number, or its key for all its attempts.")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """What the task printed in a trial, and the traceback if it failed."""
    from naslab.runs.locate import open_study
    from naslab.runs.log import find_logs

    ledger = open_study(study, storage)
    found = find_logs(ledger.files, ledger.trials(), trial)
    if as_json:
        print_json({"schema": "naslab.logs/1", "study": ledger.study.name, "logs": found})
        return
    for one in found:
        if len(found) > 1:
            err.print(f"trial {one['trial']} ({one['state']}):", highlight=False)
        sys.stdout.write(one["text"])
    if not any(one["text"] for one in found):
        err.print("the trial printed nothing", highlight=False)


def _show_plan(study: Study, storage: str | None, slots: int, as_json: bool) -> None:
    from naslab.runs.dry_run import breaks, here_or_not, seed_advice, seed_words, slot_words, taken_over
    from naslab.runs.plan import expected_jobs
    from naslab.runs.predicted_hours import expected_hours
    from naslab.runs.storage_url import shown, storage_url

    document: dict[str, Any] = {
        "schema": "naslab.run/1",
        "study": study.name,
        "dry_run": True,
        "storage": shown(storage_url(storage)),
        "seeds": seed_advice(study),
    }
    with redirect_stdout(sys.stderr):
        task, unknown = here_or_not(study)
        jobs = dict(expected_jobs(study, task.controls() if task else ()))
        reuse = taken_over(study, task, storage_url(storage), slots) if task else {"lines": [], "trials": []}
        document |= {
            "jobs": jobs,
            "epochs": task.max_epochs if task else None,
            "breaks": breaks(study, task) if task else [],
            "reuse": reuse,
            "predicted_hours": expected_hours(study, task, jobs) if task else {},
        }
    if unknown is not None:
        document["unknown"] = unknown
    if as_json:
        print_json(document)
        return
    epochs = f", {task.max_epochs} epochs per training" if task else ""
    table = Table("role", "jobs", title=f"{study.name}: what would run{epochs}")
    for role, number in jobs.items():
        table.add_row(role, str(number))
    out.print(table)
    if unknown is not None:
        out.print(unknown, highlight=False, markup=False, soft_wrap=True)
    for words in (seed_words(document["seeds"]), slot_words(study, slots)):
        if words is not None:
            out.print(words, highlight=False, markup=False, soft_wrap=True)
    for name, found in document["predicted_hours"].items():
        for line in _hours_lines(name, found):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in (
        *reuse["lines"],
        *(f"{one['job']}: trial {one['trial']} of {one['study']}" for one in reuse["trials"]),
    ):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    for one in document["breaks"]:
        fate = "trained anyway, not ranked" if one["arm"] is None else "would not be trained"
        line = f"{one['name']}: {one['constraint']} is {one['value']:,}, at most {one['limit']:,} is allowed: {fate}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _hours_lines(device: str, found: dict[str, Any]) -> list[str]:
    from naslab.runs.predicted_hours import fit_words, hours_words

    run, whole = found["run"], found["study"]
    if whole["hours"] is None:
        lines = [hours_words(device, whole)]
    else:
        many = f"{found['trainings']} trainings, the whole study"
        lines = [f"a training: {hours_words(device, run)}", f"{many}: {hours_words(device, whole)}; {whole['basis']}"]
    return [*lines, *([f"{device}: {text}"] if (text := fit_words(whole["memory"])) else [])]


def _print_status(document: dict[str, Any]) -> None:
    seconds = document["device_seconds"]
    table = Table("state", "trials", "device s", title=document["study"])
    for state, number in document["trials"].items():
        table.add_row(state, str(number), f"{seconds['by_state'].get(state, 0):.1f}")
    out.print(table)
    phases = ", ".join(f"{phase} {spent:.1f}" for phase, spent in seconds["by_phase"].items())
    out.print(f"device seconds by phase: {phases or 'none'}", highlight=False)
    out.print(
        f"slots held for {document['slot_seconds']:.1f} s, of which {document['unaccounted']:.1f} s unaccounted for",
        highlight=False,
    )
    budget = document["budget"]
    if budget["limit_hours"] is not None:
        need = "" if budget["forecast_hours"] is None else f"; the rest will need about {budget['forecast_hours']:.3g}"
        out.print(f"{budget['spent_hours']:.3g} of {budget['limit_hours']:g} device hours spent{need}", highlight=False)
    for one in document["warm_starts"]:
        known = f"{one['configurations']} configurations measured in {', '.join(one['studies'])}"
        out.print(f"arm {one['arm']} started with {known}", highlight=False, markup=False, soft_wrap=True)
    for one in document["reused"]:
        where = f"{one['study']}, where they cost {one['carried_seconds']:.1f} s"
        line = f"{len(one['trials'])} trials were reused from {where}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    for failure in document["failures"]:
        line = f"{failure['state'].replace('_', ' ')}: trial {failure['trial']}, {failure['key']}: {failure['error']}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)
