"""A study's answer in words, derived from the columns of its ranking and never contradicting them.

In order: the cheapest that is as good as the reference, the best at any cost, the most per hour, what the search gained
over random architectures, what controls reach, what failed, and what stays open with what would settle it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from naslab.nas.statistics import Critical, Interval, interval_over, over_runs, paired_interval, ratio_interval
from naslab.runs.resolution import resolution
from naslab.runs.rows import Baseline, Row, interval_dict
from naslab.runs.standing import Standing

Kind = Literal["cheapest", "best", "per_hour", "search", "control", "failed", "open"]
NAMED = 3
"""How many rows a sentence names before it counts the others."""
LEAST_SAVING = 0.05
"""Share of the hours that must be shown to be saved: as far as hours vary with a machine's other load, run to run.

Of 10 rows that cost what the reference costs, with hours that vary by 5 %, the mean alone would call one cheaper in a
study of eight; an interval wholly beyond this does in one of fifty (3 seeds).
"""


@dataclass(frozen=True)
class Finding:
    """One statement; `value` is the figure with its interval that it rests on, `row` the digest of its row."""

    kind: Kind
    text: str
    row: str | None = None
    value: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "text": self.text, "row": self.row, "value": interval_dict(self.value)}


@dataclass(frozen=True)
class Answer:
    """The headline, and the findings in order of what a reader acts on."""

    sentence: str
    findings: tuple[Finding, ...] = ()

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"sentence": self.sentence, "findings": [finding.to_dict() for finding in self.findings]}


def answer_of(standing: Standing) -> Answer:
    """The answer that the columns give, no more."""
    failed = [Finding("failed", line) for line in standing.failures]
    if not standing.rows:
        return Answer("No configuration has finished yet, so nothing can be said.", tuple(failed))
    found = [
        *_cheapest(standing),
        *_best(standing),
        *_per_hour(standing),
        *_searches(standing),
        *_controls(standing),
        *failed,
        *_open(standing),
    ]
    return Answer(_headline(standing, found), tuple(found))


def _headline(standing: Standing, found: Sequence[Finding]) -> str:
    if standing.reference is not None and standing.reference.breaks:
        broken = "; ".join(map(str, standing.reference.breaks))
        instead = f", so the floor is {standing.floor_of}" if standing.floor is not None else ", so there is no floor"
        return f"The reference breaks {broken}{instead if standing.floor_of != 'given' else ''}. {_leader(standing)}"
    if standing.objective.kind == "pareto":
        return _front(standing)
    first = next((finding for finding in found if finding.kind in ("cheapest", "best")), None)
    reached = standing.reference.verdict if standing.reference is not None else None
    if first is not None and reached != "below":
        return first.text
    if reached in ("below", "undecided"):
        return _unreached(standing)
    others = _others(standing)
    if not others:
        return "Only the reference has finished, so there is nothing to hold against it yet."
    if standing.reference is None:
        return f"The reference has no finished run. {_leader(standing)}"
    if standing.floor is None:
        lacking = "Nothing else is shown to be better than the reference; without a floor none is held to be as good."
        return f"{lacking} {_leader(standing)}"
    floor = _floor(standing)
    if all(row.verdict == "below" for row in others):
        return f"Keep the reference: nothing else is as good as {floor}."
    cheaper = f"cheaper by {100 * LEAST_SAVING:.0f} % or more"
    if open_rows := _undecided(standing):
        lacking = f"nothing else is shown to be better, or as good and {cheaper}"
        return f"Keep the reference for now: {lacking}; more seeds may show it for {_names(open_rows)}."
    as_good = [row for row in others if row.verdict == "meets" and not row.breaks]
    if not as_good:
        return f"Keep the reference: nothing else that keeps the constraints is as good as {floor}."
    are = "is" if len(as_good) == 1 else "are"
    within = f"as good within {standing.margin:.3g}" if standing.margin else "as good"
    return f"Keep the reference: {_names(as_good)} {are} {within}, but not shown to be better, or {cheaper}."


def _unreached(standing: Standing) -> str:
    """The headline where the floor is a number that the reference itself is not shown to reach."""
    floor = _floor(standing)
    if any(row.verdict == "meets" and not row.breaks for row in standing.rows):
        below = standing.reference is not None and standing.reference.verdict == "below"
        return f"The reference is {'below' if below else 'not shown to be as good as'} {floor}. {_leader(standing)}"
    if open_rows := _undecided(standing):
        return f"Nothing is shown to be as good as {floor}; more seeds may show it for {_names(open_rows)}."
    return f"Nothing is as good as {floor}."


def _floor(standing: Standing) -> str:
    assert standing.floor is not None
    return f"the floor of {standing.shown(standing.floor)} {standing.metric}"


def _leader(standing: Standing) -> str:
    ranked = [row for row in standing.rows if row.rank is not None]
    if not ranked:
        if standing.floor is None:
            return "No configuration is ranked."
        return f"No configuration reaches {_floor(standing)}."
    return f"{ranked[0].name} leads with {standing.shown(ranked[0].metric.mean)} {standing.metric}."


def _front(standing: Standing) -> str:
    front = [row for row in standing.rows if row.rank == 1]
    if not front:
        return f"No configuration has a known {standing.against} yet, so there is no front."
    ends = front if len(front) <= 2 * NAMED else [*front[:NAMED], front[-1]]
    named = [f"{row.name} ({standing.shown(row.metric.mean)})" for row in ends]
    if len(front) > len(ends):
        named.insert(NAMED, f"{len(front) - len(ends)} more")
    listed = ", ".join(named)
    only = "is" if len(front) == 1 else "are"
    return f"On the front of {standing.metric} against {standing.against} {only}, from the cheapest: {listed}."


def _others(standing: Standing) -> list[Row]:
    """All rows but the reference; that of a study beside is one of them."""
    reference = standing.reference
    return [row for row in standing.rows if row is not reference]


def _rivals(standing: Standing) -> list[Row]:
    """The rows that may take the reference's place: they keep the constraints."""
    return [row for row in _others(standing) if not row.breaks]


def _cheapest(standing: Standing) -> Iterator[Finding]:
    reference = standing.reference
    if reference is None or reference.breaks or standing.floor_of not in ("reference", "given"):
        return
    cheaper: list[tuple[Row, Interval]] = []
    for row in _rivals(standing):
        ratio = _ratio(row, reference, standing) if row.verdict == "meets" else None
        # Seeds that only one of both has count in the columns, which nothing that is said may contradict.
        if ratio is not None and row.device_hours.mean < reference.device_hours.mean and _is_saving(ratio):
            cheaper.append((row, ratio))
    if not cheaper:
        return
    row, ratio = min(cheaper, key=lambda one: one[0].device_hours.mean)
    floor, its = "reference", "its"
    if standing.floor_of == "given" and standing.floor is not None:
        floor, its = f"floor of {standing.shown(standing.floor)}", "the reference's"
    yield Finding(
        "cheapest",
        f"{row.name} is as good as the {floor} for {_times(ratio)} of {its} {standing.unit}s: its {standing.metric} of "
        f"{standing.shown(row.metric.mean)} is {_apart(row.difference, standing)} (margin {standing.margin:.3g}).",
        row.configuration.digest,
        ratio,
    )


def _ratio(row: Row, reference: Row, standing: Standing) -> Interval | None:
    """The hours of `row` over the reference's; None where they cannot be compared."""
    if row.threads != reference.threads or not all((*row.hours.values(), *reference.hours.values())):
        return None
    return ratio_interval(row.hours, reference.hours, standing.critical)


def _is_saving(ratio: Interval) -> bool:
    return ratio.high is not None and ratio.high <= 1 - LEAST_SAVING


def _best(standing: Standing) -> Iterator[Finding]:
    reference, sign = standing.reference, standing.objective.sign
    if reference is None:
        return
    better: list[tuple[Row, Interval]] = []
    allowed = [row for row in _rivals(standing) if row.verdict != "below"]
    for row in allowed:
        sure = _over(row, reference, standing, standing.better_critical)
        # By its column, too, in which seeds count that only one of both has.
        if sure.low is not None and sure.low > 0 and sign * (row.metric.mean - reference.metric.mean) > 0:
            better.append((row, _over(row, reference, standing, standing.critical)))
    if not better:
        return
    row, gain = max(better, key=lambda one: sign * one[0].metric.mean)
    ratio = _ratio(row, reference, standing)
    cost = f", for {_times(ratio)} times its {standing.unit}s" if ratio is not None else ""
    ahead = [r for r in allowed if sign * (r.metric.mean - row.metric.mean) > 0]
    but = f" {_names(ahead)} had a better mean, not shown to be better than the reference." if ahead else ""
    yield Finding(
        "best",
        f"{row.name} is better than the reference: its {standing.metric} of {standing.shown(row.metric.mean)} is "
        f"{_apart(gain, standing)}{cost}.{but}",
        row.configuration.digest,
        gain,
    )


def _per_hour(standing: Standing) -> Iterator[Finding]:
    if standing.objective.kind == "pareto":
        return
    scored = [row for row in standing.rows if row.rank is not None and row.score is not None]
    sure = [row for row in scored if row.verdict in (None, "meets")]
    if not sure:
        return
    lead = sure[0]
    what = f"gain per {standing.unit}" if standing.by == "gain" else f"{standing.metric} per {standing.unit}"
    tied = [row for row in sure[1:] if row.rank == lead.rank]
    apart = f"; the data cannot tell {_names(tied)} apart from it" if tied else ""
    among = " of what meets the floor" if standing.floor is not None else ""
    assert lead.score is not None
    yield Finding(
        "per_hour",
        f"Most {what}{among}: {lead.name} with {lead.score.mean:.4g}{apart}.",
        lead.configuration.digest,
        lead.score,
    )


def _searches(standing: Standing) -> Iterator[Finding]:
    sign = standing.objective.sign
    for arm in standing.arms:
        row = next((row for row in standing.own_rows if arm.arm in row.arms and not row.reference), None)
        if not arm.search_hours or row is None:
            continue
        cost = f"its search took {arm.search_hours:.3g} {standing.unit}s"
        if row.device_hours.mean:  # a run may be too short for its clock
            cost += f", as much as {arm.search_hours / row.device_hours.mean:.2g} runs of what it found"
        if standing.random is None:
            yield Finding(
                "search", f"{arm.arm}: no random architecture was measured, so luck cannot be ruled out; {cost}."
            )
            continue
        gain = over_runs(list(row.metrics.values()), standing.random.values, standing.critical).scaled(sign)
        yield Finding("search", f"{arm.arm}: {_gained(gain, standing)}; {cost}.", row.configuration.digest, gain)


def _gained(gain: Interval, standing: Standing) -> str:
    mean = standing.shown(gain.mean, "+")
    if gain.low is None or gain.high is None:
        return f"{mean} against random architectures; so few runs tell nothing"
    figures = f"{mean} [{standing.shown(gain.low, '+')}, {standing.shown(gain.high, '+')}]"
    if gain.low > 0:
        return f"the search gained {figures} over random architectures"
    if gain.high < 0:
        return f"the search ended below random architectures, by {figures}"
    return f"no gain over random architectures is shown ({figures})"


def _controls(standing: Standing) -> Iterator[Finding]:
    """Controls that the best configuration is not shown to be above."""
    ranked = [row for row in standing.rows if row.rank is not None]
    if not ranked:
        return
    sign = standing.objective.sign
    best = max(ranked, key=lambda row: sign * row.metric.mean)
    for control in standing.controls:
        over = _over_baseline(best, control, standing.critical).scaled(sign)
        # Another with less spread may be shown to be above it; of many, one would be by luck alone.
        sure = (_over_baseline(row, control, standing.better_critical).scaled(sign) for row in ranked)
        if any(one.low is not None and one.low > 0 for one in (over, *sure)):
            continue
        how = {None: "", True: ", which is trained too,", False: ", which takes no training,"}[control.trained]
        yield Finding(
            "control",
            f"No configuration is shown to be above the control {control.name.replace('_', ' ')}{how} with "
            f"{standing.shown(control.metric.mean)}: the best, {best.name}, has {standing.shown(best.metric.mean)}.",
            best.configuration.digest,
            over,
        )


def _over_baseline(row: Row, control: Baseline, critical: Critical) -> Interval:
    return interval_over(row.metrics, control.values or (control.metric.mean,), critical)


def _open(standing: Standing) -> Iterator[Finding]:
    if all(len(row.seeds) < 2 for row in standing.rows):
        yield Finding("open", "With one seed nothing can be told apart; run more seeds.")
        return
    undecided = _undecided(standing)
    if not undecided:
        return
    margin = standing.margin or 0.0
    verb = "is" if len(undecided) == 1 else "are"
    yield Finding(
        "open",
        f"Open: {_names(undecided)} {verb} neither shown to be as good as the floor within {margin:.3g}, nor to be "
        f"worse.{resolution(standing, undecided)}",
    )


def _undecided(standing: Standing) -> list[Row]:
    return [row for row in standing.rows if row.verdict == "undecided" and not row.breaks]


def _over(row: Row, reference: Row, standing: Standing, critical: Critical) -> Interval:
    """By how much `row` is better than the reference."""
    return paired_interval(row.metrics, reference.metrics, critical).scaled(standing.objective.sign)


def _apart(difference: Interval | None, standing: Standing) -> str:
    """A difference in words: of the metric itself, whatever direction is better."""
    if difference is None:
        return "not compared"
    raw = difference.scaled(standing.objective.sign)
    said = f"{standing.shown(abs(raw.mean))} {'higher' if raw.mean >= 0 else 'lower'}"
    if raw.low is None or raw.high is None:
        return said
    return f"{said} [{standing.shown(raw.low, '+')}, {standing.shown(raw.high, '+')}]"


def _times(ratio: Interval) -> str:
    if ratio.low is None or ratio.high is None:
        return f"{ratio.mean:.2f}"
    return f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _names(rows: Sequence[Row]) -> str:
    names = [row.name for row in rows[:NAMED]]
    if len(rows) > NAMED:
        names.append(f"{len(rows) - NAMED} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
