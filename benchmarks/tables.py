"""Write the measured tables of the pages in docs/ from the result files; a test holds the pages to them.

Usage: python benchmarks/tables.py
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import altup_effects
import dysi_effects
import lmbff_effects
import lmbff_replay
import mae_effects
import pmlm_effects
import smaug_effects
import step_profiles
import study_result
import training_tables
import verdicts
import video_difficulty
import vocabulary_loss
import whole_word_collator
from results_file import read_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
EARNED = 1.15
"""Times as fast as torch.compile, by the interval's lower end: a path that is so at no size is code without a use."""
FRAMEWORKS = ("simclr", "simsiam", "mocov2", "byol")
FEW = ("linear_top1", "few_linear_top1", "few_finetune_top1")
"""With all labels and with few: the probe's, and of an encoder that was trained with them."""
STEPS = ("nas", "second_order", "supernet_weight_step")
"""Of a search; each over a plain step."""


WHOLE_WORDS = ("linear_top1", "finetune_top1", "tag_top1", "word_recovery")


def tables() -> str:
    """All tables as Markdown."""
    return "\n\n".join([heads(), step_cost(), quick_start(), driver()])


def heads() -> str:
    """Published and searched heads, by the linear probe, framework by framework, and what each search cost."""
    parts = []
    for framework in FRAMEWORKS:
        found = read_result(f"fashion_{framework}")
        table = study_result.table(f"fashion_{framework}", ("linear_top1", "knn_top1"))
        if found:
            spent = ", ".join(f"{arm['arm']} {arm['search_hours']:.4f}" for arm in found["ranking"]["arms"])
            table += f" Device hours of the searches: {spent}."
        parts.append(f"{framework}:\n\n{table}")
    return "\n\n".join(parts)


def step_cost() -> str:
    """NAS step over plain step, on a CPU and on a GPU."""
    return "\n\n".join(_step_cost(*source) for source in (("CPU", "nas_step_cost"), ("GPU", "gpu/nas_step_cost")))


def _step_cost(place: str, name: str) -> str:
    found = read_result(name)
    if found is None:
        return f"Cost of a NAS step on a {place}: not measured."
    facts = found["provenance"]
    lines = [
        f"{place}: {facts['device']}, {facts['torch_threads']} threads, torch {facts['torch']}.",
        "",
        "| framework | backbone | batch | policy | plain step, ms | NAS step, ms | NAS step over plain | its FLOPs "
        "| in second order | its FLOPs | supernet's weight step | its FLOPs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        spent = " | ".join(
            step_profiles.milliseconds(statistics.median(row["samples_s"][kind])) for kind in ("plain", "nas")
        )
        ratios = " | ".join(f"{ratio_text(row[f'{kind}_over_plain'])} | {_by_flops(row, kind)}" for kind in STEPS)
        what = f"{row['framework']} | {row['backbone']} | {row['batch_size']} | {row['policy']}"
        lines.append(f"| {what} | {spent} | {ratios} |")
    return "\n".join(lines)


def _by_flops(row: dict[str, Any], kind: str) -> str:
    """A step's matrix products and convolutions over a plain one's; of CUDA graphs they are not counted."""
    flops = row.get("flops")
    return f"{flops[kind] / flops['plain']:.2f}" if flops else ""


def ratio_text(ratio: dict[str, float]) -> str:
    """A ratio of medians with its interval."""
    return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def kernels() -> str:
    """Every kernel on the CPU, and on a GPU where one was at hand."""
    return "\n\n".join(_kernels(*source) for source in (("CPU", "kernels_cpu"), ("GPU", "gpu/kernel_table")))


def _kernels(place: str, name: str) -> str:
    found = read_result(name, None)
    if found is None:
        return f"{place}: not measured."
    facts, gigabytes = found["provenance"], found["copy_bytes_per_second"] / 1e9
    dtype = found["rows"][0]["dtype"]
    lines = [
        f"{place}: {facts['device']}, {facts['torch_threads']} threads, torch {facts['torch']}, {dtype}; "
        f"copy {gigabytes:.1f} GB/s. Forward and backward together, medians.",
        "",
        "| kernel | shape | eager ms | ours ms | eager over ours | torch.compile over ours | limit over ours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        if not row["correct"]:
            lines.append(f"| {row['kernel']} | {row['shape']} | wrong result | | | | |")
            continue
        against = [ratio_text(row[key]) if row[key] else "-" for key in ("eager_over_ours", "compile_over_ours")]
        if not row.get("fused", True):
            against[0] = "eager itself"
        cells = [f"{row['eager_ms']:.3g}", f"{row['ours_ms']:.3g}", *against, f"{row['share']:.0%}"]
        lines.append(f"| {row['kernel']} | {row['shape']} | {' | '.join(cells)} |")
    return "\n".join([*lines, *_idle(found["rows"])])


def _idle(rows: list[dict[str, Any]]) -> list[str]:
    """The kernels that torch.compile could replace: nowhere surely ahead of it."""
    best: dict[str, float] = {}
    for row in rows:
        if row["compile_over_ours"]:
            low = row["compile_over_ours"]["low"] if row.get("fused", True) else 0.0
            best[row["kernel"]] = max(best.get(row["kernel"], 0.0), low)
    idle = [name for name, low in best.items() if low < EARNED]
    return ["", f"At no size {EARNED} times as fast as torch.compile: {', '.join(idle)}."] if idle else []


def quick_start() -> str:
    """Time of the quick start."""
    found = read_result("quickstart_time", None)
    if found is None:
        return "Quick start: not measured."
    share = 100 * found["training_share"]
    return f"Quick start: {found['total_seconds']:.0f} s, {share:.0f} % of the slots' time in `naslab run` is training."


def driver() -> str:
    """Overhead of the driver."""
    words = []
    for sampler in ("random", "tpe"):
        found = read_result(f"driver_overhead_{sampler}", None)
        rows = found["marks"] if found else []
        words += [
            f"{sampler} at {r['trials']} trials {r['overhead_ms']:.1f} (Optuna {r['optuna_ms']:.1f})" for r in rows
        ]
        words += [f"{tool} {p['ms']:.0f} at {p['trials']}" for tool, p in (found or {}).get("peers", {}).items()]
    return f"Driver, ms a trial: {', '.join(words)}." if words else "Driver: not measured."


def step_times() -> str:
    """How well each model's step time is predicted from all other models."""
    found = read_result("step_times", None)
    if found is None:
        return "Back-test of the step times: not measured."
    summary, device = found["summary"], found["ceilings"]["provenance"]
    lines = [
        f"Measured on {device['device']} with {device['torch_threads']} threads, float32: {summary['steps']} steps of "
        f"{summary['models']} models, each predicted from the other models. Half of the errors are below "
        f"{summary['median_absolute_error']:.0%}, nine of ten below {summary['p90_absolute_error']:.0%}; the largest "
        f"is {summary['largest_absolute_error']:.0%}. A dash was refused: no other model has work of that kind.",
        "",
        "| model | inference ms | predicted | error | training ms | predicted | error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = {(row["model"], row["training"]): row for row in found["rows"]}
    for model in dict.fromkeys(row["model"] for row in found["rows"]):
        cells = [cell for training in (False, True) for cell in _times(rows[model, training])]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def published_runs() -> str:
    """How well the published runs of each source are predicted from those of all others."""
    found = read_result("published_runs", None)
    if found is None:
        return "Back-test of the published runs: not measured."
    parts = []
    for kind in ("training", "inference"):
        rate, rows = found[kind]["rate"], found[kind]["rows"]
        alone = "of all sources, as they are too few to leave one out,"
        made = "made without the source" if found[kind]["left_out"] else alone
        parts.append(
            f"{kind.capitalize()}: {rate['runs']} published times of {rate['sources']} sources reach "
            f"{rate['share']:.0%} of their roof (the mean over sources). Measured over predicted is within "
            f"{rate['low']:.2f} to {rate['high']:.1f} for nine of ten; an interval {made} held "
            f"{found[kind]['held']:.0%}."
        )
        lines = [
            "| source | devices | times | share of the roof | measured over predicted | held |",
            "| --- " * 6 + "|",
        ]
        for source in dict.fromkeys(row["source"] for row in rows):
            own = [row for row in rows if row["source"] == source]
            devices = ", ".join(dict.fromkeys(row["device"] for row in own))
            shares, ratios = (sorted(row[key] for row in own) for key in ("share", "measured_over_predicted"))
            held = sum(row["held"] for row in own)
            lines.append(
                f"| {source} | {devices} | {len(own)} | {shares[0]:.0%} to {shares[-1]:.0%} | {ratios[0]:.2f} to "
                f"{ratios[-1]:.2f} | {held} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def calibration() -> str:
    """How well the suite of `naslab devices calibrate` predicts each of its models from the others."""
    found = read_result("calibration_error", None)
    if found is None:
        return "Error of a calibration: not measured."
    summary, device = found["summary"], found["provenance"]
    rows = {(*row["model"].rsplit(", ", 1), row["training"]): row for row in found["rows"]}
    sizes = list(dict.fromkeys(size for _, size, _ in rows))
    columns = [(size, training) for size in sizes for training in (False, True)]
    lines = [
        f"Measured on {device['device']} with {device['torch_threads']} threads, float32: {summary['steps']} steps of "
        f"{summary['models']} models, each predicted from the other models. Half of the errors are below "
        f"{summary['median_absolute_error']:.0%}, nine of ten below {summary['p90_absolute_error']:.0%}; the largest "
        f"is {summary['largest_absolute_error']:.0%}.",
        "",
        f"| model | {' | '.join(f'{size}, {_WAYS[training]}' for size, training in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for kind in dict.fromkeys(kind for kind, _, _ in rows):
        cells = [_times(rows[kind, *column])[2] for column in columns]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


_WAYS = {False: "inference", True: "training"}


def _times(row: dict[str, Any]) -> list[str]:
    if row["predicted_ms"] is None:
        return [f"{row['measured_ms']:.0f}", "-", "-"]
    error = row["predicted_ms"] / row["measured_ms"] - 1
    return [f"{row['measured_ms']:.0f}", f"{row['predicted_ms']:.0f}", f"{error:+.0%}"]


def published() -> str:
    """Counted beside printed."""
    found = read_result("published", None)
    if found is None:
        return "Published tables: not counted."
    lines = ["| table | row | printed | counted |", "| --- | --- | --- | --- |"]
    tables = {
        "mae_st_gmac": "MAE-ST, GMAC",
        "evit_gmac": "EViT, DeiT-S, GMAC",
        "tome_ratio": "ToMe, FLOPs saved (first figure by hand)",
        "dynamic_vit_gmac": "DynamicViT, GMAC",
    }
    for key, name in tables.items():
        rows = found.get(key, {})
        lines += [f"| {name} | {row} | {printed:g} | {counted:.2f} |" for row, (printed, counted) in rows.items()]
    lines += ["", "| MAE, encoder and decoder blocks | GMAC | hours | predicted | predicted, left out |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row, (hours, predicted) in found["mae_hours"].items():
        left_out = found["mae_hours_left_out"][row][1]
        gmac = found["mae_gmac"][row]
        lines.append(
            f"| {row} | {gmac:.2f} | {hours} | {predicted:.1f} ({predicted / hours - 1:+.1%}) | {left_out:.1f} |"
        )
    return "\n".join(lines)


def counters() -> str:
    """Counts of every tool over the count by hand."""
    found = read_result("counter_table", None)
    if found is None:
        return "Counters: not compared."
    tools = list(found["wrong"])
    lines = [f"| model | GFLOPs by hand | {' | '.join(tools)} |", f"| --- | --- |{' --- |' * len(tools)}"]
    for row in found["rows"]:
        lines.append(f"| {row['model']} | {row['by_hand'] / 1e9:.4g} | {' | '.join(_ratio(row[t]) for t in tools)} |")
    lines.append(f"| **wrong rows** | | {' | '.join(str(found['wrong'][tool]) for tool in tools)} |")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join([*lines, "", f"Versions: {versions}."])


def _ratio(cell: dict[str, Any]) -> str:
    if cell["ratio"] is None:
        return "fails"
    return f"**{cell['ratio']:.3f}**" if cell["wrong"] else f"{cell['ratio']:.3f}"


def mutation() -> str:
    """How many small faults the tests notice, by part of the code that decides."""
    lines = ["| part | modules | faults tried | noticed | equal | share |", "| --- | --- | --- | --- | --- | --- |"]
    for path in sorted(RESULTS.glob("mutation_*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        modules = ", ".join(f"`{module}`" for module in found["modules"])
        noticed = found["killed"] + found["hung"]
        name, equal = path.stem.removeprefix("mutation_"), len(found.get("equal", {}))
        tried = f"{found['faults']}{', unseen' if found.get('skipped') else ''}"
        lines.append(f"| {name} | {modules} | {tried} | {noticed} | {equal} | {found['share_noticed']:.0%} |")
    return "\n".join(lines)


PAGES = (
    (DOCS / "effects.md", "verdicts", verdicts.table),
    (DOCS / "effects.md", "mae", mae_effects.table),
    (DOCS / "effects.md", "mae-masking", partial(study_result.table, "mae_masking", FEW)),
    (DOCS / "effects.md", "difficulty", video_difficulty.table),
    (DOCS / "effects.md", "smaug", smaug_effects.table),
    (DOCS / "effects.md", "altup", altup_effects.table),
    (DOCS / "effects.md", "dysi", dysi_effects.table),
    (DOCS / "effects.md", "lmbff", lmbff_effects.table),
    (DOCS / "effects.md", "lmbff-replay", lmbff_replay.table),
    (DOCS / "effects.md", "pmlm", pmlm_effects.table),
    (DOCS / "effects.md", "whole-words", partial(study_result.table, "whole_words", WHOLE_WORDS)),
    (DOCS / "whole-word.md", "whole-word-collator", whole_word_collator.table),
    (DOCS / "effects.md", "keep-rates", partial(study_result.table, "keep_rates", ("top1",))),
    (DOCS / "effects.md", "mae-video", partial(study_result.table, "mae_video", ("linear_top1",))),
    (DOCS / "nasiam.md", "results", tables),
    (DOCS / "kernels.md", "kernels", kernels),
    (DOCS / "kernels.md", "vocabulary-loss", vocabulary_loss.table),
    (DOCS / "efficiency.md", "step-times", step_times),
    (DOCS / "efficiency.md", "published-runs", published_runs),
    (DOCS / "devices.md", "calibration", calibration),
    (DOCS / "efficiency.md", "published", published),
    (DOCS / "efficiency.md", "counters", counters),
    (DOCS / "training.md", "speed", training_tables.speeds),
    (DOCS / "training.md", "precision", training_tables.precisions),
    (DOCS / "training.md", "profiles", step_profiles.tables),
    (ROOT / "CONTRIBUTING.md", "mutation", mutation),
)
"""Page, name of its generated block, and what makes the block."""


def page_with(page: Path, mark: str, text: str) -> str:
    """The page with the generated block replaced."""
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    for page, mark, make in PAGES:
        page.write_text(page_with(page, mark, make()), encoding="utf-8")
