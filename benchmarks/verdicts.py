"""Which published effects show in the project's own studies: claims, their figures, and a verdict on each.

Usage: python benchmarks/verdicts.py

Reads the result files of the studies; nothing is measured here. A claim that a method is as accurate counts from 1
point below what it is compared with, the margin of the ranking. Ratios of times are judged by their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from results_file import read_result
from study_result import table_row

from naslab.nas.claims import Claim, Judged, judge
from naslab.nas.statistics import Interval, mean_interval

MARGIN = 1.0
"""Percentage points below which as accurate ends, as in the ranking."""
Effects = list[float]


@dataclass(frozen=True)
class Published:
    """A claim of a paper; `effects` gives it by seed, positive as published, in points or as logarithms of ratios."""

    page: str
    claim: str
    figure: str
    effects: Callable[[], Effects]
    size: float | None = None
    ratio: bool = False
    margin: float = 0.0
    """Added to every effect, so that being less than the margin below counts as an effect."""


def _scores(name: str, metric: str, role: str, **wanted: Any) -> dict[int, float]:
    """The metric by seed, of the trials of a study with this role and these values of arm or configuration."""
    found = read_result(name, {"trials": []})["trials"]
    return {t["seed"]: t["scores"][metric] for t in found if t["role"] == role and _fits(t, wanted)}


def _seconds(name: str, role: str, **wanted: Any) -> dict[int, float]:
    found = read_result(name, {"trials": []})["trials"]
    return {t["seed"]: t["seconds"]["train"] for t in found if t["role"] == role and _fits(t, wanted)}


def _fits(trial: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    own = {**(trial["configuration"] or {}), "arm": trial.get("arm"), "label": trial.get("label")}
    return all(own.get(key) == value for key, value in wanted.items())


def _less(a: Mapping[int, float], b: Mapping[int, float]) -> Effects:
    return [a[seed] - b[seed] for seed in a if seed in b]


def _log_ratio(a: Mapping[int, float], b: Mapping[int, float]) -> Effects:
    return [math.log(a[seed] / b[seed]) for seed in a if seed in b]


def _head(framework: str) -> Callable[[], Effects]:
    name = f"fashion_{framework}"
    return lambda: _less(_scores(name, "linear_top1", "final", arm="darts"), _scores(name, "linear_top1", "reference"))


def _masking(ratio: float) -> Callable[[], Effects]:
    return lambda: _less(
        _scores("mae_masking", "linear_top1", "reference"),
        _scores("mae_masking", "linear_top1", "final", masking_ratio=ratio),
    )


def _tokens(**reduced: Any) -> dict[str, Callable[[], Effects]]:
    role = "reference" if reduced == {"keep_rate": 0.7} else "final"
    return {
        "time": lambda: _log_ratio(
            _seconds("keep_rates", "final", rule="none"), _seconds("keep_rates", role, **reduced)
        ),
        "accuracy": lambda: _less(
            _scores("keep_rates", "top1", role, **reduced), _scores("keep_rates", "top1", "final", rule="none")
        ),
    }


def _smaug(score: str | None) -> Callable[[], Effects]:
    """SMAUG's reference against its dense model in the longer study: a score less, or time over."""

    def effects() -> Effects:
        found = list(read_result("smaug_effects", {"long": {"configurations": {}}})["long"]["configurations"].values())
        groups = {_dense(group["configuration"]): group["trials"] for group in found if _either(group["configuration"])}
        if len(groups) < 2:
            return []
        if score is None:
            return _log_ratio(*({t["seed"]: t["seconds"]["train"] for t in groups[dense]} for dense in (True, False)))
        return _less(*({t["seed"]: t["scores"][score] for t in groups[dense]} for dense in (False, True)))

    return effects


def _dense(configuration: Mapping[str, Any]) -> bool:
    return float(configuration["visual_masking_ratio"]) == 0


def _either(configuration: Mapping[str, Any]) -> bool:
    return _dense(configuration) or configuration["keep_rate"] == 0.7


def _altup(method: str) -> Callable[[], Effects]:
    """Bits per byte below the dense model's after as many steps."""

    def effects() -> Effects:
        against = read_result("altup_effects", {"study": {"against": {}}})["study"]["against"]
        if method not in against:
            return []
        return [d - m for d, m in zip(against["dense"]["bits_per_byte"], against[method]["bits_per_byte"], strict=True)]

    return effects


EVIT, TOME = _tokens(keep_rate=0.7), _tokens(rule="tome", merged_per_layer=10)
KEPT = {"margin": MARGIN}
CLAIMS = (
    *(
        Published("nasiam", f"{title}: the head that gradient search finds is better than the published one",
                  "no figure read", _head(framework))
        for framework, title in (("simclr", "SimCLR"), ("simsiam", "SimSiam"), ("mocov2", "MoCo v2"), ("byol", "BYOL"))
    ),
    Published("mae", "Linear probe: masking 75 % is better than 25 %", "+11.8 (over 30 %)", _masking(0.25), 11.8),
    Published("mae", "Linear probe: masking 75 % is better than 50 %", "+3.6", _masking(0.5), 3.6),
    Published("mae", "Linear probe: masking 75 % is better than 90 %", "+7.4", _masking(0.9), 7.4),
    Published("mae", "Clips: masking 90 % is better than 75 %", "no figure read (plot)",
              lambda: _less(_scores("mae_video", "linear_top1", "reference"),
                            _scores("mae_video", "linear_top1", "final", masking_ratio=0.75, mask="agnostic"))),
    Published("token-reduction", "EViT, 70 % of the tokens kept: faster than 90 %", "1.37 times",
              lambda: _log_ratio(_seconds("keep_rates", "final", keep_rate=0.9, rule="evit"),
                                 _seconds("keep_rates", "reference")), math.log(1.37), ratio=True),
    Published("token-reduction", "EViT, 70 % of the tokens kept: as accurate as all", "-0.3", EVIT["accuracy"],
              MARGIN - 0.3, **KEPT),
    Published("token-reduction", "ToMe, 80 % merged in the end: faster", "1.67 times", TOME["time"], math.log(1.67),
              ratio=True),
    Published("token-reduction", "ToMe, 80 % merged in the end: as accurate", "-0.44", TOME["accuracy"], MARGIN - 0.44,
              **KEPT),
    Published("smaug", "Pre-training costs less time than dense", "1.9 times", _smaug(None), math.log(1.9), ratio=True),
    Published("smaug", "Retrieval (mean recall) as good as dense", "as good", _smaug("mean_recall"), MARGIN, **KEPT),
    Published("smaug", "Question answering as good as dense", "as good", _smaug("qa_top1"), MARGIN, **KEPT),
    Published("altup", "AltUp, K = 2: better than dense after as many steps (bits per byte)", "no figure read",
              _altup("altup K=2")),
    Published("altup", "AltUp, K = 4: better than dense after as many steps (bits per byte)", "no figure read",
              _altup("altup K=4")),
    Published("altup", "Recycled AltUp, K = 2: better than dense after as many steps (bits per byte)", "no figure read",
              _altup("recycled K=2")),
)  # fmt: skip


def table() -> str:
    """Every claim with the published figure, ours with its interval, seeds and verdict, as Markdown."""
    effects = {published: published.effects() for published in CLAIMS}
    measured = [published for published in CLAIMS if len(effects[published]) >= 2]
    claims = [Claim(tuple(e + p.margin for e in effects[p]), p.size) for p in measured]
    verdicts = dict(zip(measured, judge(claims), strict=True))
    rows = [table_row(["claim", "published", "here", "seeds", "verdict"]), table_row(["---"] * 5)]
    for published in CLAIMS:
        link = f"{published.claim} ([{published.page}]({published.page}.md))"
        if published not in verdicts:
            rows.append(table_row([link, published.figure, "not measured", "", ""]))
            continue
        values = effects[published]
        shown = _shown(mean_interval(values), published.ratio)
        rows.append(table_row([link, published.figure, shown, str(len(values)), _words(verdicts[published])]))
    return "\n".join(rows)


def _shown(found: Interval, ratio: bool) -> str:
    if ratio:
        return f"{math.exp(found.mean):.2f} [{math.exp(found.low or 0):.2f}, {math.exp(found.high or 0):.2f}] times"
    digits = 3 if abs(found.mean) < 0.1 and max(abs(found.low or 0), abs(found.high or 0)) < 0.2 else 2
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def _words(found: Judged) -> str:
    if found.verdict != "undecided":
        return f"**{found.verdict}**"
    wanted = f"about {found.seeds_wanted} seeds" if found.seeds_wanted else "more than a thousand seeds"
    return f"undecided; {wanted} would settle it"


if __name__ == "__main__":
    print(table())
