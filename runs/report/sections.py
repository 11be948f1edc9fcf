"""The report's sections. Each is a function of the findings; one that has no data says so in a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from naslab.nas.health import HealthReport
from naslab.runs.output import significant_digits
from naslab.runs.ranking import Ranking
from naslab.runs.report import figures
from naslab.runs.report.leaderboard import FEW, leaderboard, trials_of
from naslab.runs.report.markup import (
    Html,
    html,
    interval,
    join,
    note,
    plot,
    table,
    tag,
    trial_links,
)
from naslab.runs.report.predicted import predicted
from naslab.runs.report.proposals import proposals
from naslab.runs.report.roofline import HOW, drawable, roofline_body
from naslab.runs.report.section import Findings, Section, empty
from naslab.runs.trial import GIVEN_UP, Trial

DRAWN = 12
"""How many architectures are drawn."""


def all_sections(found: Findings) -> list[Section]:
    """Every section in reading order."""
    costs = (spend, predicted, profiles, roof)
    parts = (leaderboard, front, controls, proposals, health, drawings, trajectories, curves, *costs)
    return [part(found) for part in (*parts, provenance, ledger)]


def controls(found: Findings) -> Section:
    """What the metric says without any search."""
    id, title, ranking = "controls", "Controls", found.ranking
    lines = ranking.baselines
    if not lines:
        return empty(id, title, "No control and no random architecture has finished yet.")
    best = next((row for row in ranking.rows if row.rank is not None), None)
    rows = [
        [line.name.replace("_", " "), interval(line.metric, ranking.decimals), trial_links(line.trials)]
        for line in lines
    ]
    if best is not None:
        rows.append(
            [
                tag("strong", f"best ranked: {best.name}"),
                interval(best.metric, ranking.decimals),
                trials_of(best, ranking.study),
            ]
        )
    text = "A result means something only beside what needs no search: these are scored on the same test split."
    return Section(id, title, join([table(["", f"#{ranking.metric}", "Trials"], rows), note(text)]))


def front(found: Findings) -> Section:
    """Pareto front of metric against hours."""
    id, title, ranking = "pareto", f"{found.ranking.metric} against {found.against}", found.ranking
    if all(row.cost is None for row in ranking.rows):
        why = (
            f"No configuration has a known {found.against} yet."
            if ranking.rows
            else "No configuration has finished yet."
        )
        return empty(id, title, why)
    best = [row.name for row in ranking.rows if row.pareto]
    named = ", ".join(best) if len(best) <= FEW else f"{len(best)} of {len(ranking.rows)} configurations"
    text = (
        f"Filled: on the Pareto front, no other configuration is at once as good and as cheap ({named}). "
        "Bars: 95 % intervals over seeds. Dashed: controls."
    )
    figure = figures.pareto(ranking)
    return Section(id, title, join([plot(figure, f"{title}; front: {named}"), note(text)]))


def health(found: Findings) -> Section:
    """The verdict on every search, warnings first."""
    id, title = "health", "Health of the searches"
    if not found.health:
        return empty(id, title, "This study has no arm that searches, so there is no search to judge.")
    parts = [_card(report, max(3, found.ranking.decimals)) for report in found.health]
    if found.searches:
        parts.append(plot(figures.decisiveness(found.searches), "entropy and share of skips by epoch"))
    else:
        parts.append(note("No differentiable search has finished, so there is no entropy to show."))
    return Section(id, title, join(parts))


def _card(report: HealthReport, decimals: int) -> Html:
    warnings = [tag("p", tag("strong", "Warning: "), warning, css="warning") for warning in report.warnings]
    facts = [
        ("mean entropy at the end", report.entropy[-1] if report.entropy else None),
        ("share of skips and poolings in the supernet", report.skip_share),
        ("parameter-free layers in the genotype", report.parameter_free_share),
        ("discretisation gap (supernet minus retrained)", report.discretisation_gap),
        ("loss gap (one-hot minus relaxed)", report.loss_gap),
        ("std of the normalised embedding (1: healthy, 0: collapsed)", report.feature_std),
        ("effective rank of the embedding", report.effective_rank),
    ]
    rows = [[name, f"{value:.{decimals}f}"] for name, value in facts if value is not None]
    more = table(["", "#"], rows, css="facts") if rows else Html("")
    return tag("article", tag("h3", report.verdict), *warnings, more, css="card")


def drawings(found: Findings) -> Section:
    """The ranked configurations as the space draws them."""
    id, title = "drawings", "Architectures"
    space = found.study.search_space
    drawn = [(row, space.draw(row.configuration)) for row in found.ranking.own_rows[:DRAWN]]
    items = [
        tag("figure", tag("figcaption", row.name), tag("div", Html(svg), css="scroll")) for row, svg in drawn if svg
    ]
    if not items:
        why = "No configuration has finished yet." if not drawn else f"The space {space.name} draws no pictures."
        return empty(id, title, why)
    return Section(id, title, join(items))


def trajectories(found: Findings) -> Section:
    """Architecture parameters over the search, per chain and layer."""
    id, title = "alphas", "Architecture parameters over the search"
    if not found.searches:
        return empty(id, title, "No differentiable search has finished in this study.")
    parts: list[Html] = []
    for name, search in found.searches.items():
        for chain in search["candidates"]:
            label = f"{name}: {chain}"
            parts += [tag("h3", label), plot(figures.alphas(search, chain), f"architecture parameters of {label}")]
    parts.append(note("Before the relaxation; in each layer the candidate that ends highest is the one chosen."))
    return Section(id, title, join(parts))


def curves(found: Findings) -> Section:
    """Validation metric by rung."""
    id, title = "curves", "Learning curves"
    figure = figures.learning_curves(found.ranking, found.by_number)
    if figure is None:
        return empty(id, title, "No trial has reported a rung yet.")
    text = "Validation split, one line a trial and a mark a rung. Thin grey lines: configurations that a search tried."
    return Section(id, title, join([plot(figure, "validation metric by device hours"), note(text)]))


def spend(found: Findings) -> Section:
    """Every second, by arm, phase and state."""
    id, title = "spend", "What was spent"
    if not any(trial.device_seconds for trial in found.trials):
        return empty(id, title, "No device time has been charged yet.")
    rows = []
    for arm in found.ranking.arms:
        states = ", ".join(f"{number} {state}" for state, number in arm.states.items())
        search = significant_digits(arm.search_hours)
        rows.append([arm.arm, significant_digits(arm.device_hours), search, states])
    total = significant_digits(sum(arm.device_hours for arm in found.ranking.arms))
    rows.append([tag("strong", "all"), tag("strong", total), "", f"{len(found.trials)} trials"])
    columns = ["Arm", f"#{found.hours}", "#of these, search", "Trials"]
    figure = figures.spend(found.trials, found.hours)
    text = "Failed, pruned and interrupted trials are charged like all others."
    return Section(id, title, join([plot(figure, "device hours by arm and phase"), table(columns, rows), note(text)]))


def profiles(found: Findings) -> Section:
    """What each profiled configuration costs."""
    id, title = "profiles", "Measured cost of the models"
    profiled = _profiled(found)
    if not profiled:
        return empty(id, title, "No configuration has been profiled.")
    rows = [[name, *_costs(profile), trial_links([trial.number])] for name, trial, profile in profiled]
    columns = ["Configuration", "#Parameters", "#Batch", "#Forward MFLOP", "#Training step MFLOP", "#Covered",
               "#Latency ms", "#Peak memory MB", "Trials"]  # fmt: skip
    text = "FLOPs are for the whole batch, a multiply-add is 2. Latency: median of a forward, 10th to 90th percentile."
    if not any(drawable(profile) for _, _, profile in profiled):
        text += f" No profile was placed under a roof: {HOW}."
    return Section(id, title, join([table(columns, rows), note(text)]))


def _profiled(found: Findings) -> list[tuple[str, Trial, Mapping[str, Any]]]:
    """Name in the ranking, trial and document of each profile."""
    names = {row.configuration.digest: row.name for row in found.ranking.rows}
    return [
        (names.get(t.job.configuration.digest if t.job.configuration else "", t.job.label), t, t.result["profile"])
        for t in found.trials
        if t.result.get("profile")
    ]


def roof(found: Findings) -> Section:
    """Where the profiled configurations stand under the device's measured roofline."""
    id, title = "roofline", "Under the roofline"
    profiled = _profiled(found)
    if not profiled:
        return empty(id, title, "No configuration has been profiled.")
    placed = [(name, trial.number, profile) for name, trial, profile in profiled if drawable(profile)]
    if not placed:
        return empty(id, title, f"No profile was placed under a roof: {HOW}.")
    return Section(id, title, roofline_body(placed))


def _costs(profile: Mapping[str, Any]) -> list[object]:
    flops, latency = profile.get("flops", {}), profile.get("latency_ms", {})
    spread = tag("small", f"{latency['p10']:.2f} to {latency['p90']:.2f}") if "p10" in latency else ""
    return [
        _number(profile.get("parameters")),
        _number(profile.get("batch_size")),
        _number(flops.get("forward"), 1e6),
        _number(flops.get("training_step"), 1e6),
        f"{profile['coverage']:.0%}" if "coverage" in profile else "—",
        join([f"{latency['median']:.2f}", spread]) if "median" in latency else "—",
        _number(profile.get("peak_memory_bytes"), 1e6),
    ]


def _number(value: float | None, divisor: float = 1) -> str:
    if value is None:
        return "—"
    return f"{value:,}" if divisor == 1 else f"{value / divisor:,.1f}"


def provenance(found: Findings) -> Section:
    """Study, seeds, device and versions, and the ranking to download."""
    study, ranking = found.study, found.ranking
    facts: list[list[object]] = [
        ["study", study.name],
        ["digest of the study", tag("code", study.digest)],
        ["space", f"{study.space.name}, preset {study.space.preset or 'none'}"],
        ["study seed, training seeds", f"{study.seed}; {', '.join(map(str, study.seeds))}"],
        ["device", ranking.device or "no device time charged"],
    ]
    recorded = [t.result["profile"]["provenance"] for t in found.trials if t.result.get("profile")]
    if recorded:
        facts += [[f"measured: {key}", value] for key, value in recorded[0].items() if value is not None]
    document = json.dumps(study.document(), indent=2)
    study_file = tag("details", tag("summary", "The whole study file"), tag("pre", document))
    return Section("provenance", "Provenance", join([table(["", ""], facts, css="facts"), study_file]))


def ledger(found: Findings) -> Section:
    """Every trial, so that any figure above can be followed to its source."""
    id, title = "ledger", "Every trial"
    if not found.trials:
        return empty(id, title, "The ledger is empty.")
    columns = ["#Trial", "Role", "Arm", "State", "#Seed", "Configuration", f"#{found.ranking.metric}", "#Seconds",
               "Key", "Error"]  # fmt: skip
    rows = [_ledger_row(trial, found.ranking) for trial in found.trials]
    summary = tag("summary", f"{len(rows)} trials of the ledger")
    text = "Figures above name the trials that they come from; this is what the ledger holds of each."
    ids = [f"trial-{trial.number}" for trial in found.trials]
    return Section(id, title, join([note(text), tag("details", summary, table(columns, rows, css="ledger", ids=ids))]))


def _ledger_row(trial: Trial, ranking: Ranking) -> list[object]:
    digest = trial.job.configuration.digest if trial.job.configuration else ""
    return [
        trial.number,
        trial.job.role,
        html(trial.job.arm or ""),
        tag("span", trial.state, css="lost") if trial.state in GIVEN_UP else trial.state,
        trial.job.seed,
        digest,
        ranking.shown(trial.scores[ranking.metric]) if ranking.metric in trial.scores else "",
        f"{trial.device_seconds:.1f}",
        trial.job.key,
        trial.error or "",
    ]
