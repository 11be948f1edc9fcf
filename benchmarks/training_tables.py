"""Tables of how training runs: speed under each policy, and scores in two number formats, from their result files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from results_file import read_result

POLICIES = (
    *("tf32", "bfloat16", "channels_last", "bfloat16 channels_last"),
    *("CUDA graphs", "bfloat16 CUDA graphs", "bfloat16 channels_last CUDA graphs"),
)
SPEEDS = ("gpu/training_speed", "gpu/training_speed_h200", "training_speed_cpu", "training_speed_cpu_avx2")
"""The second is of the loop before it had CUDA graphs of its own."""
COMPILED = ("compile", "bfloat16 compile", "bfloat16 channels_last compile", "bfloat16 CUDA graphs compile")


def speeds() -> str:
    """Speed on a GPU and on a CPU, and that of the loop before there was a policy."""
    return "\n\n".join((*(speed(name) for name in SPEEDS), since()))


def speed(name: str) -> str:
    """Samples a second in float32, and how many times as many under the other policies."""
    found = read_result(name)
    if found is None:
        return "Speed: not measured."
    shown = [name for name in (*POLICIES, *COMPILED) if any(name in timed for _, timed in _timed(found))]
    heads = ("task", "batch", "float32, samples a second", *shown, "peer")
    lines = [
        f"Speed on {_machine(found)}; each policy over float32 of the same rounds, 95 % interval.",
        "",
        *_head(heads),
    ]
    for case, timed in _timed(found):
        peers = [f"{key.removeprefix('peer: ')} {_ratio(value)}" for key, value in timed.items() if "peer" in key]
        cells = [_ratio(timed[policy]) if policy in timed else "-" for policy in shown]
        per_second = f"{timed['float32']['samples_per_second'][0]:,.0f}"
        size = str(found["cases"][case]["eager"]["batch_size"])
        lines.append(_row((case, size, per_second, *cells, ", ".join(peers) or "-")))
    return "\n".join(lines)


def _timed(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case with the policies and peers that were timed, the compiled ones by float32 of their own rounds."""
    for case, parts in found["cases"].items():
        eager, compiled = ((parts.get(kind) or {}).get("policies", {}) for kind in ("eager", "compiled"))
        timed = {key: value for key, value in eager.items() if "speed_up" in value}
        if "float32" in timed:
            yield case, timed | {k: compiled[k] for k in COMPILED if "speed_up" in compiled.get(k, {})}


def since() -> str:
    """How many times as fast as an earlier commit's a whole SimCLR training is."""
    found = read_result("loop_since")
    if found is None:
        return "The loop since: not measured."
    lines = [
        f"Whole SimCLR trainings on {_machine(found)}, in turns with those of commit {found['commit']}, the last "
        "before the policy; its time over today's, 95 % interval.",
        "",
        *_head(("preset", *next(iter(found["cases"].values()))["faster"])),
    ]
    for preset, case in found["cases"].items():
        lines.append(_row((preset, *(_times(row) for row in case["faster"].values()))))
    return "\n".join(lines)


def precisions() -> str:
    """Scores in both number formats on a GPU and on a CPU."""
    return "\n\n".join(precision(name) for name in ("gpu/precision_scores", "precision_scores_cpu_quick"))


def precision(name: str) -> str:
    """The difference that bfloat16 makes to each task's score, paired by seed."""
    found = read_result(name)
    if found is None:
        return "Scores: not measured."
    lines = [
        f"Scores on {_machine(found)}; bfloat16 less float32, paired by seed, 95 % interval (Student).",
        "",
        *_head(("task", "metric", "seeds", "float32", "bfloat16", "difference")),
    ]
    for task, row in found["tasks"].items():
        difference = row["difference"]
        between = f"{difference['mean']:+.2g} [{difference['low']:+.2g}, {difference['high']:+.2g}]"
        means = (f"{row[kind]['mean']:.4g}" for kind in ("float32", "bfloat16"))
        lines.append(_row((task, row["metric"], str(len(row["pairs"])), *means, between)))
    return "\n".join(lines)


def _machine(found: dict[str, Any]) -> str:
    facts = found["provenance"]
    return f"{facts['device']}, torch {facts['torch']}"


def _ratio(timed: dict[str, Any]) -> str:
    return _times(timed["speed_up"])


def _times(row: Sequence[float]) -> str:
    middle, low, high = row
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _head(cells: tuple[str, ...]) -> list[str]:
    return [_row(cells), _row(("---",) * len(cells))]


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
