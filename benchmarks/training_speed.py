"""Samples a second of each task's training step under each policy, interleaved in one run.

    python benchmarks/training_speed.py [--device cpu|cuda] [--seconds 90] [--tasks simclr,mae] [--presets small,tiny]

Every policy of a case has a model of its own; bursts of steps take turns, so that a drift of the machine meets all
alike. First all cases without torch.compile, then, in what is left of the time, those with it. A case that the time did
not reach, or a policy that failed, is written down as that. Peers are plain loops around other libraries' models.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from results_file import write_result
from training_cases import TASKS, Case, make_case
from training_peers import PEERS

from naslab.efficiency.calibration import tf32
from naslab.efficiency.device import resolve_device, synchronise
from naslab.efficiency.latency import median_interval, ratio_interval
from naslab.search_spaces.common.training.choice import Sampled, best
from naslab.search_spaces.common.training.policy import Policy

RESULTS = Path(__file__).parent / "results"
EAGER_SHARE = 0.8
"""Of the time, for what is not compiled."""
BURST_SECONDS = 0.05
WARM_UP_STEPS = 3
LEAST_ROUNDS = 5
LONG_STEPS = 100_000
LEAST_TO_COMPILE = 12.0
"""Seconds that must be left for another case to be compiled."""

EAGER = {
    "float32": Policy(),
    "tf32": Policy(),
    "bfloat16": Policy("bfloat16"),
    "channels_last": Policy(memory_format="channels_last"),
    "bfloat16 channels_last": Policy("bfloat16", "channels_last"),
    "CUDA graphs": Policy(cuda_graphs=True),
    "bfloat16 CUDA graphs": Policy("bfloat16", cuda_graphs=True),
    "bfloat16 channels_last CUDA graphs": Policy("bfloat16", "channels_last", cuda_graphs=True),
}
COMPILED = {
    "float32": Policy(),
    "compile": Policy(compile=True),
    "bfloat16 compile": Policy("bfloat16", compile=True),
    "bfloat16 channels_last compile": Policy("bfloat16", "channels_last", compile=True),
    "bfloat16 CUDA graphs compile": Policy("bfloat16", compile=True, cuda_graphs=True),
}
ON_A_GPU = ("tf32", "CUDA graphs")
"""Parts of the names of those that mean something there alone."""


@dataclass
class Timed:
    """One policy of one case: its step, how many of them make a burst, and seconds a step, burst by burst."""

    step: Callable[[], None]
    reduced: bool
    first_seconds: float
    burst: int = 1
    seconds: list[float] = field(default_factory=list)

    def sample(self, device: torch.device) -> None:
        """Time one burst."""
        synchronise(device)
        start = time.perf_counter()
        with _products(self.reduced, device):
            for _ in range(self.burst):
                self.step()
        synchronise(device)
        self.seconds.append((time.perf_counter() - start) / self.burst)


def prepare(make: Callable[[], Callable[[], None]], reduced: bool, device: torch.device) -> Timed:
    """A step after its warm-up."""
    start = time.perf_counter()
    with _products(reduced, device):
        step = make()
        step()
        synchronise(device)
        first = time.perf_counter() - start
        for _ in range(WARM_UP_STEPS):
            step()
    synchronise(device)
    timed = Timed(step, reduced, first)
    timed.sample(device)
    timed.burst = max(1, round(BURST_SECONDS / timed.seconds.pop()))
    return timed


def _products(reduced: bool, device: torch.device) -> Any:
    return tf32(reduced, device) if device.type == "cuda" else nullcontext()


def measure(
    steps: Mapping[str, Callable[[], Callable[[], None]]], device: torch.device, until: float
) -> dict[str, Any]:
    """All steps in turn until the moment `until`; a step that fails says why."""
    ready: dict[str, Timed] = {}
    found: dict[str, Any] = {}
    for name, make in steps.items():
        try:
            ready[name] = prepare(make, name == "tf32", device)
        except Exception as error:  # noqa: BLE001 - one policy that fails must not end a run on a lent machine
            found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    rounds = 0
    while ready and (rounds < LEAST_ROUNDS or time.perf_counter() < until):
        for timed in ready.values():
            timed.sample(device)
        rounds += 1
    return found | {name: {"first_seconds": t.first_seconds, "step_seconds": t.seconds} for name, t in ready.items()}


def summary(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """Samples a second of each, and how many times as fast as float32 it is."""
    plain = found.get("float32", {}).get("step_seconds")
    for row in found.values():
        if (seconds := row.get("step_seconds")) is None:
            continue
        low, high = median_interval(seconds)
        row["samples_per_second"] = [case.batch_size / s for s in (statistics.median(seconds), high, low)]
        if plain:
            low, high = ratio_interval(plain, seconds)
            row["speed_up"] = [statistics.median(plain) / statistics.median(seconds), low, high]
    return {"batch_size": case.batch_size, "auto": auto(found), "policies": found}


def auto(found: Mapping[str, Any]) -> str | None:
    """What `auto` takes for a long training, by the rule that training itself follows."""
    samples = [
        Sampled(policy, tuple(found[name]["step_seconds"]), found[name]["first_seconds"])
        for name, policy in {**EAGER, **COMPILED}.items()
        if name != "tf32" and "step_seconds" in found.get(name, {})
    ]
    return str(best(samples, LONG_STEPS)) if samples and samples[0].policy == Policy() else None


def policies(case: Case, chosen: Mapping[str, Policy]) -> dict[str, Callable[[], Callable[[], None]]]:
    """Those that make a difference: some on a GPU alone, channels last to convolutions."""
    steps = {}
    for name, policy in chosen.items():
        elsewhere = case.device.type != "cuda" and any(part in name for part in ON_A_GPU)
        if elsewhere or ("channels_last" in name and not case.convolutional):
            continue
        steps[name] = lambda policy=policy: case.step(policy)
    return steps


def tell(name: str, part: str, row: Mapping[str, Any]) -> None:
    """One line on the console."""
    rates = [
        f"{policy} {found['speed_up'][0]:.2f}" if "speed_up" in found else f"{policy} {found.get('failed', '?')}"
        for policy, found in row["policies"].items()
    ]
    print(f"{name} {part}: {', '.join(rates)}", flush=True)


def main() -> None:
    """Measure what the time allows and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--presets", default="small,tiny")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device, start = resolve_device(arguments.device), time.perf_counter()
    names = [(t, p) for p in arguments.presets.split(",") for t in arguments.tasks.split(",")]
    rows: dict[str, Any] = {f"{task} {preset}": {"eager": None, "compiled": None} for task, preset in names}
    end = start + arguments.seconds

    def write() -> None:
        """After each case: a lent machine may be gone before the last."""
        document = {
            "schema": "naslab.training_speed/1",
            "unit": "samples a second: median, low, high (95 %); speed_up: over float32 of the same rounds",
            "seconds": time.perf_counter() - start,
            "cases": rows,
        }
        write_result(arguments.out or RESULTS / f"training_speed_{device.type}.json", document, str(device))

    for index, (task, preset) in enumerate(names):
        left = start + EAGER_SHARE * arguments.seconds - time.perf_counter()
        if left <= 0:
            break
        case = make_case(task, preset, device, arguments.batch_size)
        until = time.perf_counter() + left / (len(names) - index)
        peers = {f"peer: {name}": make for name, make in PEERS.get(task, lambda case, preset: {})(case, preset).items()}
        row = summary(case, measure(policies(case, EAGER) | peers, device, until))
        rows[case.name]["eager"] = row
        tell(case.name, "eager", row)
        write()
    for index, (task, preset) in enumerate(names):
        if (left := end - time.perf_counter()) < LEAST_TO_COMPILE:
            break
        torch.compiler.reset()  # the cases share functions, each of which is compiled a limited number of times
        case = make_case(task, preset, device, arguments.batch_size)
        until = time.perf_counter() + left / (len(names) - index)
        row = summary(case, measure(policies(case, COMPILED), device, until))
        rows[case.name]["compiled"] = row
        tell(case.name, "compiled", row)
        write()


if __name__ == "__main__":
    main()
