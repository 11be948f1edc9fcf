"""Judgements at rungs: each rung of a proposal is judged once, in one order, by all that were recorded there before.

The worker waits at the rung for the answer, so that no epoch is trained after it that is not wanted. Judgements stand
in the ledger, with their order; an interrupted proposal that comes to a rung again gets the answer that it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from naslab.nas.arms import Sampled
from naslab.nas.pruning import hyperband_bracket, is_behind
from naslab.runs.plan import proposal_index
from naslab.runs.study import Study
from naslab.runs.trial import Job


@dataclass(frozen=True)
class Judgement:
    """What was decided of the proposal `key` after `epoch`; `order` counts the judgements of the study."""

    order: int
    key: str
    epoch: int
    score: float
    pruned: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judged_arm(study: Study, job: Job) -> Sampled | None:
    """The arm whose pruner judges the job; None where none does."""
    arm = next((arm for arm in study.arms if arm.name == job.arm), None)
    return arm if isinstance(arm, Sampled) and job.role == "proposal" and arm.pruner != "none" else None


class Judge:
    """Decides from what it decided before.

    Args:
        study: whose arms have pruners.
        max_epochs: of the task; its last epoch is recorded, and ends no proposal.
        judgements: those made so far, as recorded, in any order.
    """

    def __init__(self, study: Study, max_epochs: int, judgements: Iterable[Judgement] = ()) -> None:
        self._study, self._max_epochs = study, max_epochs
        self._made: dict[tuple[str, int], Judgement] = {}
        self._curves: dict[str, dict[str, dict[int, float]]] = {}
        """Scores by arm, proposal and epoch, in the order in which they were judged."""
        for judgement in sorted(judgements, key=lambda one: one.order):
            self._keep(judgement)

    def decide(self, job: Job, epoch: int, score: float) -> Judgement:
        """The judgement of a proposal of a judged arm after `epoch`: the one that was made, or a new one."""
        made = self._made.get((job.key, epoch))
        if made is None:
            made = Judgement(len(self._made), job.key, epoch, score, self._is_behind(job, epoch, score))
            self._keep(made)
        return made

    def of(self, key: str) -> list[Judgement]:
        """The judgements of one proposal, by epoch."""
        return [self._made[key, epoch] for epoch in sorted(self._curves.get(_arm_of(key), {}).get(key, {}))]

    def _keep(self, judgement: Judgement) -> None:
        self._made[judgement.key, judgement.epoch] = judgement
        curves = self._curves.setdefault(_arm_of(judgement.key), {})
        curves.setdefault(judgement.key, {})[judgement.epoch] = judgement.score

    def _is_behind(self, job: Job, epoch: int, score: float) -> bool:
        arm = judged_arm(self._study, job)
        if arm is None or epoch >= self._max_epochs:
            return False
        curves = self._curves.get(arm.name, {})
        own = {**curves.get(job.key, {}), epoch: score}
        bracket = self._bracket(arm, job.key)
        peers = [c for key, c in curves.items() if key != job.key and self._bracket(arm, key) == bracket]
        first = min(min(curve) for curve in [own, *curves.values()])
        return is_behind(arm, own, peers, first, bracket)

    def _bracket(self, arm: Sampled, key: str) -> int:
        return (
            hyperband_bracket(proposal_index(key), self._max_epochs, arm.reduction) if arm.pruner == "hyperband" else 0
        )


def _arm_of(key: str) -> str:
    """The arm in the key of a proposal, `proposal/ARM/INDEX`."""
    return key.split("/")[1]


def read_judgement(facts: Mapping[str, Any]) -> Judgement:
    """A judgement from its plain values."""
    return Judgement(**facts)
