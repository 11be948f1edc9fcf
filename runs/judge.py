"""Pruning verdicts: each rung of a proposal is judged once, against earlier proposals that reached it.

The worker waits at the rung for the answer, so that no epoch is trained after it that is not wanted; and the answer
waits for those proposed before that may still come there. So it depends on the scores alone: not on the slots, nor on
who was faster, nor on interruptions. With `order: reports` nobody waits for others, and a rung is judged by all that
were recorded there before it, as in asynchronous halving. Judgements stand in the ledger; an interrupted proposal that
comes to a rung again gets the answer that it had.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from naslab.nas.arms import Sampled
from naslab.nas.pruning import hyperband_bracket, is_behind
from naslab.runs.past import proposal_index
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
        self._waiting: dict[tuple[str, int], tuple[Job, float]] = {}
        """Reports that are not judged yet, by proposal and epoch."""
        for judgement in sorted(judgements, key=lambda one: one.order):
            self._keep(judgement)

    def report(self, job: Job, epoch: int, score: float) -> Judgement | None:
        """Take in what a proposal of a judged arm scored after `epoch`, which `settle` judges.

        One that has come there before gets the judgement that it had.
        """
        made = self._made.get((job.key, epoch))
        if made is None:
            self._waiting.setdefault((job.key, epoch), (job, score))
        return made

    def settle(self, open_keys: Collection[str]) -> list[Judgement]:
        """Judge every report that waits for no other proposal any more.

        Args:
            open_keys: proposals that may still report: they run, or are to be tried again.
        """
        made = []
        for (key, epoch), (job, score) in sorted(self._waiting.items(), key=lambda one: _place(*one[0])):
            if not any(self._must_come_first(other, job, epoch) for other in open_keys):
                del self._waiting[key, epoch]
                made.append(self.decide(job, epoch, score))
        return made

    def is_awaited(self, key: str) -> int | None:
        """The last epoch that the proposal reported and that is not judged yet; None where there is none."""
        return max((epoch for waiting, epoch in self._waiting if waiting == key), default=None)

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
        peers = [curve for key, curve in curves.items() if self._counts(arm, key, job.key)]
        first = min(min(curve) for curve in [own, *peers])
        return is_behind(arm, own, peers, first, self._bracket(arm, job.key))

    def _counts(self, arm: Sampled, peer: str, key: str) -> bool:
        """Whether the proposal `peer` is one that `key` is held against."""
        if peer == key or self._bracket(arm, peer) != self._bracket(arm, key):
            return False
        return arm.order == "reports" or proposal_index(peer) < proposal_index(key)

    def _must_come_first(self, other: str, job: Job, epoch: int) -> bool:
        """Whether the rung can only be judged when `other` has come to it, or ended."""
        arm = judged_arm(self._study, job)
        if arm is None or arm.order == "reports" or epoch >= self._max_epochs or _arm_of(other) != arm.name:
            return False
        return (
            self._counts(arm, other, job.key) and max(self._curves.get(arm.name, {}).get(other, {}), default=0) < epoch
        )

    def _bracket(self, arm: Sampled, key: str) -> int:
        return (
            hyperband_bracket(proposal_index(key), self._max_epochs, arm.reduction) if arm.pruner == "hyperband" else 0
        )


def _arm_of(key: str) -> str:
    """The arm in the key of a proposal, `proposal/ARM/INDEX`."""
    return key.split("/")[1]


def _place(key: str, epoch: int) -> tuple[str, int, int]:
    return _arm_of(key), proposal_index(key), epoch


def read_judgement(facts: Mapping[str, Any]) -> Judgement:
    """A judgement from its plain values."""
    return Judgement(**facts)
