"""What a study would do, determined before it runs."""

from __future__ import annotations

from typing import Any

import torch

from naslab.efficiency.device import device_name, resolve_kind
from naslab.errors import InputError
from naslab.nas.arms import Grid
from naslab.nas.grid import describe_point
from naslab.nas.verdict import tellable
from naslab.runs.constraints import COUNTED, find_costs
from naslab.runs.executors.options import Local
from naslab.runs.ledger import Ledger
from naslab.runs.made_with import made_with
from naslab.runs.plan import known_jobs
from naslab.runs.reuse import Circumstances, reusable
from naslab.runs.study import Study
from naslab.runs.threads import threads_per_slot
from naslab.search_spaces import Configuration, Task


def here_or_not(study: Study) -> tuple[Task | None, str | None]:
    """The study's task; of one whose trials run elsewhere, where its data may be, None and why, if it is not to be had.

    Raises:
        InputError: it cannot be made, and its trials would run on this machine.
    """
    try:
        if not isinstance(study.executor, Local):
            resolve_kind(study.device)
        return study.make_checked_task(torch.device("cpu")), None
    except InputError as error:
        if isinstance(study.executor, Local):
            raise
        words = "controls, epochs, predictions and reused trials are known once a worker has reported them"
        return None, f"{words}; here: {error}"


def breaks(study: Study, task: Task) -> list[dict[str, Any]]:
    """The reference and the points of grids that break a constraint on what can be counted without running them."""
    limits, space = study.constraints, study.search_space
    wanted = [cost for cost in COUNTED if cost in limits.limits]
    named: dict[Configuration, tuple[str | None, str]] = {}
    if wanted:
        named[space.reference] = (None, "reference")
        for arm in (arm for arm in study.arms if isinstance(arm, Grid)):
            for point in study.grids[arm.name]:
                named.setdefault(point, (arm.name, f"{arm.name} {describe_point(arm, point)}"))
    found = []
    for configuration, (arm_name, name) in named.items():
        for check in limits.judge(find_costs(wanted, space, configuration, task, limits.batch_size)):
            if check.broken:
                where = {"arm": arm_name, "name": name, "configuration": configuration.as_dict()}
                found.append({**where, "constraint": check.constraint, "value": check.value, "limit": check.limit})
    return found


def taken_over(study: Study, task: Task, url: str, slots: int) -> dict[str, Any]:
    """What `reuse` would take over of the jobs that are known before anything runs, and a line on each study named.

    Proposals, and what follows from them, are known only as the study runs.

    Raises:
        InputError: a study that is not in the storage.
    """
    if not study.reuse:
        return {"lines": [], "trials": []}
    here = Circumstances(device_name(resolve_kind(study.device)), threads_per_slot(slots), made_with(task))
    found, lines = reusable(url, study, here)
    done = _keys_of(url, study.name)
    wanted = [job for job in known_jobs(study, task.controls()) if job.key not in done]
    sources = [(job, source) for job in wanted if (source := found.find(job)) is not None]
    return {"lines": lines, "trials": [{"job": job.key, **source.origin} for job, source in sources]}


def _keys_of(url: str, name: str) -> set[str]:
    """Jobs that the study has begun; none where it is new."""
    try:
        return {trial.job.key for trial in Ledger.open(url, name).trials()}
    except InputError:
        return set()


def seed_advice(study: Study) -> dict[str, Any]:
    """Which difference to the reference the seeds tell nine times in ten, in standard deviations of the difference.

    The deviation is that between seeds, of the difference in pairs of the same seed; it is known after the first runs,
    when `naslab rank` says the same in the metric's own unit.
    """
    first, most = len(study.seeds), study.race_to or len(study.seeds)
    tells = {n: tellable(1.0, n, study.critical) if n > 1 else None for n in (first, most)}
    return {"first": first, "most": most, "first_tells": tells[first], "most_tells": tells[most]}


def seed_words(advice: dict[str, Any]) -> str:
    """The advice in a line."""
    if advice["first_tells"] is None:
        return "seeds: one run each cannot show a difference; use more"
    text = (
        f"seeds: {advice['first']} detect a difference of {advice['first_tells']:.1f} standard deviations between seeds"
    )
    if advice["most"] > advice["first"]:
        text += f", the {advice['most']} that a race may use {advice['most_tells']:.1f}"
    return f"{text}, with power 0.9"


def slot_words(study: Study, slots: int) -> str | None:
    """That trials on a CPU with several threads each had better be as many trials; None where there is nothing to say.

    Threads of one trial wait for one another at each operation, and the longer the more else the machine does.
    """
    threads = threads_per_slot(slots)
    if not isinstance(study.executor, Local) or resolve_kind(study.device).type != "cpu" or threads == 1:
        return None
    wanted = slots * threads
    trials = "trial" if slots == 1 else "trials"
    return (
        f"slots: {slots} {trials} at once, {threads} threads each; --slots {wanted} runs {wanted} at once, one thread "
        "each, which usually takes less time in all"
    )
