"""What a decoder gains from reading its own predictions in training, and what that costs: DySI against teacher forcing.

Usage: python benchmarks/dysi_effects.py [--parts steps quality] [--seeds 5] [--steps 700]
                                         [--out benchmarks/results/dysi_effects.json]

Two parts, each kept from an earlier result file when it is not asked for:

quality  both, trained for as many steps on phrases without their vowels, at 5 seeds: chrF of what they write freely,
         behind gold prefixes and behind corrupted ones (about ten minutes of one core)
steps    a training step of DySI over one of teacher forcing, interleaved in one process, in both forms, beside the
         ratio of their FLOPs

`table()` renders the result file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from results_file import Part, measure_parts, read_result
from study_result import table_row

from naslab.efficiency import compare_latency
from naslab.nas.statistics import mean_interval
from naslab.search_spaces import SearchSpace, find_space, seed_everything
from naslab.search_spaces.dysi.networks import step_flops
from naslab.search_spaces.dysi.scoring import prefix_chrf
from naslab.search_spaces.find import make_task

OPTIONS = {"vocabulary": 259, "source_tokens": 12, "target_tokens": 18}
PREFIX, CORRUPTIONS = 4, (0.0, 0.25, 0.5)
TASK = {
    "data": {"name": "vowels", "pairs": 20_000},
    "learning_rate": 5e-3,
    "prefix_tokens": PREFIX,
    "policy": {"precision": "float32", "compile": "off"},
}
FACTS = ("accuracy", "replaced", "imitation", "loss")
NOT_MEASURED = "DySI: not measured."


def quality(seeds: int, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """Scores on the test part by arm and seed, with the training's core seconds and the facts of its last epoch."""
    space = find_space("dysi", "tiny", OPTIONS)
    task: Any = make_task(space, {**TASK, "epochs": 4, "steps_per_epoch": steps // 4}, device)
    pairs, rows = task.pairs["test"], task.pairs["test"].longer_than(PREFIX)
    found = []
    for seed in range(seeds):
        for arm, configuration in arms(space).items():
            seed_everything(seed)
            model: Any = space.build(configuration)
            began = time.process_time()
            rungs = list(task.train(model, seed))
            seconds = time.process_time() - began
            scores = task.evaluate(model, "test")
            curve = {str(c): prefix_chrf(model, pairs, rows, task.tokenizer, 64, PREFIX, c) for c in CORRUPTIONS}
            facts = {name: rungs[-1].facts[name] for name in FACTS if name in rungs[-1].facts}
            line = {"arm": arm, "seed": seed, "core_seconds": seconds, "scores": scores, "curve": curve, "facts": facts}
            print(json.dumps(line), flush=True)
            found.append(line)
    return found


def arms(space: SearchSpace) -> Mapping[str, Any]:
    """What is compared."""
    return {"teacher forcing": space.published["teacher-forcing"], "DySI": space.reference}


def step_costs(device: torch.device) -> list[dict[str, Any]]:
    """Ratio of the times of a step, and of its FLOPs, in both forms."""
    rows = []
    for form in ("encoder_decoder", "decoder"):
        space = find_space("dysi", "tiny", {**OPTIONS, "form": form})
        forced, dysi = (step_of(space, configuration, device) for configuration in arms(space).values())
        flops = [step_flops(space.options, 32, passes) or 0 for passes in (2, 1)]
        ratio = asdict(compare_latency(dysi, forced, device, max_seconds=10.0))
        rows.append({"form": form, "flops_ratio": flops[0] / flops[1], "comparison": ratio})
    return rows


def step_of(space: SearchSpace, configuration: Any, device: torch.device) -> Callable[[], None]:
    """Forward and backward of a batch of 32."""
    seed_everything(0)
    model, inputs = space.build(configuration).to(device).train(), space.example_input(32)
    assert isinstance(inputs, dict)
    batch = {name: tensor.to(device) for name, tensor in inputs.items()}

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(**batch)["loss"].backward()

    return step


def effects(score: str) -> list[float]:
    """DySI's score less teacher forcing's, by seed."""
    trials = read_result("dysi_effects", {"quality": []}).get("quality", [])
    by_arm = {arm: {t["seed"]: t["scores"][score] for t in trials if t["arm"] == arm} for arm in _names(trials)}
    forced, dysi = by_arm.get("teacher forcing", {}), by_arm.get("DySI", {})
    return [dysi[seed] - forced[seed] for seed in forced if seed in dysi]


def _names(trials: list[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(t["arm"] for t in trials))


def table() -> str:
    """Scores of both arms, how they fall behind corrupted prefixes, and what a step costs, as Markdown."""
    document = read_result("dysi_effects", {})
    trials = document.get("quality", [])
    if not trials:
        return NOT_MEASURED
    shown = ("chrf", "nats", "token_accuracy")
    head = ["arm", *shown, *(f"prefix, {float(c):.0%} corrupted" for c in CORRUPTIONS), "core s"]
    lines = [table_row(head), table_row(["---"] * len(head))]
    for arm in _names(trials):
        own = [t for t in trials if t["arm"] == arm]
        values = [[t["scores"][name] for t in own] for name in shown]
        values += [[t["curve"][str(c)] for t in own] for c in CORRUPTIONS] + [[t["core_seconds"] for t in own]]
        lines.append(table_row([arm, *(_interval(numbers) for numbers in values)]))
    for row in document.get("steps", []):
        form, found = row["form"].replace("_", "-"), row["comparison"]
        timed = f"time {found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
        lines += ["", f"A step of DySI over one of teacher forcing, {form}: {timed}, FLOPs {row['flops_ratio']:.2f}."]
    return "\n".join(lines)


def _interval(numbers: list[float]) -> str:
    found = mean_interval(numbers)
    return f"{found.mean:.2f} [{found.low or 0:.2f}, {found.high or 0:.2f}]"


def main() -> None:
    """Measure the parts that are asked for and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=700)
    parts: dict[str, Part] = {
        "steps": lambda _, device: [step_costs(device)],
        "quality": lambda given, device: [quality(given.seeds, given.steps, device)],
    }
    measure_parts("dysi_effects", parts, parser)


if __name__ == "__main__":
    main()
