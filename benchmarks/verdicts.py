"""Which published effects show in the project's own studies: claims, their figures, and a verdict on each.

Usage: python benchmarks/verdicts.py

Reads the result files of the studies; nothing is measured here. A claim that a method is as accurate counts from 1
point below what it is compared with, the margin of the ranking. Ratios of times are judged by their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dysi_effects
import lmbff_effects
import pmlm_effects
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
    unmet: Callable[[], str] = lambda: ""
    """What must hold before anything is said, where it does not; no test is made then."""


Row = tuple[str, Mapping[str, Any]]
"""Trials of a study: their role, and values of arm or configuration."""
REFERENCE: Row = ("reference", {})


def _final(**values: Any) -> Row:
    return "final", values


def _gain(study: str, metric: str, row: Row, than: Row) -> Callable[[], Effects]:
    """The metric of one row of a study less another's."""
    return lambda: _less(_scores(_trials(study, row), metric), _scores(_trials(study, than), metric))


def _faster(study: str, row: Row, than: Row) -> Callable[[], Effects]:
    """Logarithm of how many times less one row of a study trains than another."""
    return lambda: _log_ratio(_seconds(_trials(study, than)), _seconds(_trials(study, row)))


def _trials(study: str, row: Row) -> list[Mapping[str, Any]]:
    role, wanted = row
    trials = [t for t in read_result(study, {"trials": []})["trials"] if t["role"] == role]
    return [t for t in trials if wanted.items() <= {"arm": t["arm"], **t["configuration"]}.items()]


def _scores(trials: Iterable[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """The metric by seed."""
    return {t["seed"]: t["scores"][metric] for t in trials}


def _seconds(trials: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Training time by seed."""
    return {t["seed"]: t["seconds"]["train"] for t in trials}


def _less(a: Mapping[int, float], b: Mapping[int, float]) -> Effects:
    return [a[seed] - b[seed] for seed in a if seed in b]


def _log_ratio(a: Mapping[int, float], b: Mapping[int, float]) -> Effects:
    return [math.log(a[seed] / b[seed]) for seed in a if seed in b]


def _smaug(score: str | None) -> Callable[[], Effects]:
    """SMAUG's reference against its dense model in the longer study: a score less, or time over."""

    def effects() -> Effects:
        found = list(read_result("smaug_effects", {"long": {"configurations": {}}})["long"]["configurations"].values())
        groups = {_dense(group["configuration"]): group["trials"] for group in found if _either(group["configuration"])}
        if len(groups) < 2:
            return []
        if score is None:
            return _log_ratio(_seconds(groups[True]), _seconds(groups[False]))
        return _less(_scores(groups[False], score), _scores(groups[True], score))

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


def _lmbff(data: str) -> Callable[[], Effects]:
    """Accuracy of the prompt less the head's by split, after the longest adaptation."""
    return lambda: lmbff_effects.gaps(found) if (found := lmbff_effects.longest().get(data)) else []


def _knows_no_words(data: str) -> Callable[[], str]:
    def unmet() -> str:
        known = lmbff_effects.longest().get(data, {}).get("zero_shot", lmbff_effects.GATE)
        if known >= lmbff_effects.GATE:
            return ""
        return f"undecided; zero-shot {known:.0f} %, {lmbff_effects.GATE:.0f} % wanted: a longer adaptation on a GPU"

    return unmet


DENSE, TOME = _final(rule="none"), _final(rule="tome", merged_per_layer=10)
KEPT = {"margin": MARGIN}
CLAIMS = (
    *(
        Published("nasiam", f"{title}: the head that gradient search finds is better than the published one",
                  "no figure read", _gain(f"fashion_{framework}", "linear_top1", _final(arm="darts"), REFERENCE))
        for framework, title in (("simclr", "SimCLR"), ("simsiam", "SimSiam"), ("mocov2", "MoCo v2"), ("byol", "BYOL"))
    ),
    Published("mae", "Linear probe: masking 75 % is better than 25 %", "+11.8 (over 30 %)",
              _gain("mae_masking", "linear_top1", REFERENCE, _final(masking_ratio=0.25)), 11.8),
    Published("mae", "Linear probe: masking 75 % is better than 50 %", "+3.6",
              _gain("mae_masking", "linear_top1", REFERENCE, _final(masking_ratio=0.5)), 3.6),
    Published("mae", "Linear probe: masking 75 % is better than 90 %", "+7.4",
              _gain("mae_masking", "linear_top1", REFERENCE, _final(masking_ratio=0.9)), 7.4),
    *(
        Published("mae", f"Linear probe with ten labels a class: masking 75 % is better than {100 * ratio:.0f} %",
                  "unpublished", _gain("mae_masking", "few_linear_top1", REFERENCE, _final(masking_ratio=ratio)))
        for ratio in (0.25, 0.5, 0.9)
    ),
    Published("mae", "Clips: masking 90 % is better than 75 %", "no figure read (plot)",
              _gain("mae_video", "linear_top1", REFERENCE, _final(masking_ratio=0.75, mask="agnostic"))),
    Published("token-reduction", "EViT, 70 % of the tokens kept: faster than 90 %", "1.37 times",
              _faster("keep_rates", REFERENCE, _final(keep_rate=0.9, rule="evit")), math.log(1.37), ratio=True),
    Published("token-reduction", "EViT, 70 % of the tokens kept: as accurate as all", "-0.3",
              _gain("keep_rates", "top1", REFERENCE, DENSE), MARGIN - 0.3, **KEPT),
    Published("token-reduction", "ToMe, 80 % merged in the end: faster", "1.67 times",
              _faster("keep_rates", TOME, DENSE), math.log(1.67), ratio=True),
    Published("token-reduction", "ToMe, 80 % merged in the end: as accurate", "-0.44",
              _gain("keep_rates", "top1", TOME, DENSE), MARGIN - 0.44, **KEPT),
    Published("smaug", "Pre-training costs less time than dense", "1.9 times", _smaug(None), math.log(1.9), ratio=True),
    Published("smaug", "Retrieval (mean recall) as good as dense", "as good", _smaug("mean_recall"), MARGIN, **KEPT),
    Published("smaug", "Question answering as good as dense", "as good", _smaug("qa_top1"), MARGIN, **KEPT),
    Published("altup", "AltUp, K = 2: better than dense after as many steps (bits per byte)", "no figure read",
              _altup("altup K=2")),
    Published("altup", "AltUp, K = 4: better than dense after as many steps (bits per byte)", "no figure read",
              _altup("altup K=4")),
    Published("altup", "Recycled AltUp, K = 2: better than dense after as many steps (bits per byte)", "no figure read",
              _altup("recycled K=2")),
    Published("pmlm", "AE + PAR: better classes (SST-2) than AE alone after as many steps", "+0.6",
              lambda: pmlm_effects.effects("classification_top1", "ae"), 0.6, unmet=pmlm_effects.useless),
    Published("pmlm", "AE + PAR: better classes than AE alone after as many hours", "unpublished",
              lambda: pmlm_effects.effects("classification_top1", "ae for as long"), unmet=pmlm_effects.useless),
    Published("pmlm", "AE + PAR: fewer nats a masked word than AE alone after as many steps", "no figure read",
              lambda: [-more for more in pmlm_effects.effects("masked_loss", "ae")]),
    Published("pmlm", "AE + PAR: fewer nats a masked word than AE alone after as many hours", "unpublished",
              lambda: [-more for more in pmlm_effects.effects("masked_loss", "ae for as long")]),
    Published("dysi", "DySI: writes better than teacher forcing after as many steps (chrF)", "no figure read",
              lambda: dysi_effects.effects("chrf")),
    Published("dysi", "DySI: decays less behind corrupted prefixes than teacher forcing (chrF)", "no figure read",
              lambda: [-more for more in dysi_effects.effects("decay")]),
    Published("lmbff", "Film reviews (MR), 16 examples a class: a prompt is better than a new head", "+10.1",
              _lmbff("movie_reviews"), 10.1, unmet=_knows_no_words("movie_reviews")),
    Published("lmbff", "Product reviews (as CR), 16 examples a class: a prompt is better than a new head", "+14.5",
              _lmbff("product_reviews"), 14.5, unmet=_knows_no_words("product_reviews")),
    Published("whole-word", "Chinese: hiding whole words is better than characters (sentiment)", "+0.3 (ChnSentiCorp)",
              _gain("whole_words", "linear_top1", REFERENCE, _final(unit="character")), 0.3),
    Published("whole-word", "Chinese: hiding whole words is better than characters (tags)", "+0.2 (names)",
              _gain("whole_words", "tag_top1", REFERENCE, _final(unit="character")), 0.2),
    Published("whole-word", "Chinese: hiding whole words is better than spans as long as words (tags)", "no control",
              _gain("whole_words", "tag_top1", REFERENCE, _final(unit="span"))),
)  # fmt: skip


def table() -> str:
    """Every claim with the published figure, ours with its interval, seeds and verdict, as Markdown."""
    effects = {published: published.effects() for published in CLAIMS}
    measured = [published for published in CLAIMS if len(effects[published]) >= 2 and not published.unmet()]
    claims = [Claim(tuple(e + p.margin for e in effects[p]), p.size) for p in measured]
    verdicts = dict(zip(measured, judge(claims), strict=True))
    rows = [table_row(["claim", "published", "here", "seeds", "verdict"]), table_row(["---"] * 5)]
    for published in CLAIMS:
        link = f"{published.claim} ([{published.page}]({published.page}.md))"
        if len(effects[published]) < 2:
            rows.append(table_row([link, published.figure, "not measured", "", ""]))
            continue
        values = effects[published]
        shown = _shown(mean_interval(values), published.ratio)
        verdict = published.unmet() or _words(verdicts[published])
        rows.append(table_row([link, published.figure, shown, str(len(values)), verdict]))
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
