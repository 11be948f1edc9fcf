"""Where the time of each task's training step goes: share by operation, beside what the measured ceilings allow.

Usage: python benchmarks/step_profiles.py [--device cpu|cuda] [--seconds 6] [--tasks simclr,mae] [--preset small]
                                          [--out FILE]

A step is timed as it is, then with a clock around each operation that PyTorch dispatches, forward, backward and
optimiser. On a GPU the step is a CUDA graph's, and an operation's time that of its kernels in an eager one (PyTorch's
profiler). The bound of an operation is the roofline's (`naslab.efficiency.roofline`): its FLOPs and bytes at the
ceilings that this run measured. `table` renders the file.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from results_file import RESULTS, read_result, write_result
from study_result import table_row
from torch.utils._python_dispatch import TorchDispatchMode
from training_cases import TASKS, Case, make_case

from naslab.efficiency import count
from naslab.efficiency.calibration import calibrate
from naslab.efficiency.device import resolve_device, synchronise
from naslab.efficiency.latency import median_interval
from naslab.efficiency.roofline import Roof
from naslab.efficiency.schemas import operation_name
from naslab.search_spaces.common.training.policy import Policy

POLICIES = {
    "float32": Policy(),
    "bfloat16": Policy("bfloat16"),
    "bfloat16 channels_last": Policy("bfloat16", "channels_last"),
}
"""The last for convolutions alone."""
ON_A_GPU = ("float32", "bfloat16 channels_last")
"""bfloat16 alone where there are none."""
CALLED = {"cudnn_convolution": "convolution", "cudnn_batch_norm": "native_batch_norm"}
"""Names under which kernels are launched, and those under which operations are counted."""
WARM_UP_STEPS = 3
LEAST_STEPS = 5
LARGEST = 3
"""Operations that the table names."""
CALIBRATION_SECONDS = 10.0


@dataclass
class Spent:
    """Calls of one operation, and their seconds."""

    calls: int = 0
    seconds: float = 0.0


class Clock(TorchDispatchMode):
    """Seconds in each operation on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.spent = defaultdict[str, Spent](Spent)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        outputs = func(*args, **(kwargs or {}))
        spent = self.spent[operation_name(func)]
        spent.calls += 1
        spent.seconds += time.perf_counter() - start
        return outputs


def profiled(case: Case, policy: Policy, roof: Roof, seconds: float) -> dict[str, Any]:
    """Samples of whole steps, and for each operation its calls, seconds and least seconds a step."""
    step = case.step(replace(policy, cuda_graphs=case.device.type == "cuda"))
    for _ in range(WARM_UP_STEPS):
        step()
    samples = repeated(step, case.device, seconds / 2)
    step = case.step(policy)
    step()
    found, clocked = clocked_operations(step, case.device, seconds / 2)
    bounds: dict[str, float] = defaultdict(float)
    for operation in count(step).operations:
        bounds[operation.name] += roof.seconds(operation)
    operations = [
        {
            "name": name,
            "calls": spent.calls / clocked,
            "seconds": spent.seconds / clocked,
            "bound_seconds": bounds.get(name, 0.0),
        }
        for name, spent in sorted(found.items(), key=lambda item: -item[1].seconds)
    ]
    return {"step_seconds": samples, "bound_seconds": sum(bounds.values()), "operations": operations}


def clocked_operations(step: Callable[[], None], device: torch.device, seconds: float) -> tuple[dict[str, Spent], int]:
    """What each operation of a number of steps took, and that number."""
    if device.type != "cuda":
        clock = Clock()
        with clock:
            number = len(repeated(step, device, seconds))
        return clock.spent, number
    found = defaultdict[str, Spent](Spent)
    with torch.profiler.profile() as profile:
        number = len(repeated(step, device, 0.0))
    for event in profile.key_averages():
        name = event.key.rpartition("::")[2]
        if event.device_type == torch.autograd.DeviceType.CPU and event.self_device_time_total:
            spent = found[CALLED.get(name, name)]
            spent.calls += event.count
            spent.seconds += event.self_device_time_total / 1e6
    return found, number


def repeated(step: Callable[[], None], device: torch.device, seconds: float) -> list[float]:
    """Seconds of each step, for so long."""
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < LEAST_STEPS or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        synchronise(device)
        samples.append(time.perf_counter() - start)
    return samples


def tables() -> str:
    """The profiles on a GPU and on a CPU."""
    return "\n\n".join(table(*source) for source in (("GPU", "gpu/step_profiles"), ("CPU", "step_profiles_cpu")))


def table(place: str, name: str) -> str:
    """A row for each task and number format: its step, the roofline's share of it, and its largest operations."""
    found = read_result(name)
    if found is None:
        return f"{place}: not measured."
    facts = found["provenance"]
    heads = (
        "step",
        "batch",
        "format",
        "ms",
        "bound, ms",
        "explained",
        "largest operations: share of time, times bound",
    )
    lines = [
        f"Steps on {facts['device']} with {facts['torch_threads']} threads, torch {facts['torch']}.",
        "",
        table_row(heads),
        table_row(["---"] * len(heads)),
    ]
    for case, row in found["cases"].items():
        for precision, profile in row["policies"].items():
            middle = statistics.median(profile["step_seconds"])
            low, high = median_interval(profile["step_seconds"])
            lines.append(
                table_row(
                    [
                        case,
                        str(row["batch_size"]),
                        precision,
                        f"{milliseconds(middle)} [{milliseconds(low)}, {milliseconds(high)}]",
                        milliseconds(profile["bound_seconds"]),
                        f"{profile['bound_seconds'] / middle:.0%}",
                        ", ".join(described(profile)),
                    ]
                )
            )
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """Three digits, or all of whole milliseconds."""
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def is_wanted(name: str, policy: Policy, case: Case) -> bool:
    """On a GPU, where time is short, the plain one and the one that is best."""
    if case.device.type == "cuda" and case.convolutional:
        return name in ON_A_GPU
    return case.convolutional or policy.memory_format == "contiguous"


def described(profile: dict[str, Any]) -> list[str]:
    """The largest operations: their share of all operations' time, and how many times their bound they take."""
    total = sum(operation["seconds"] for operation in profile["operations"])
    return [
        f"`{operation['name']}` {operation['seconds'] / total:.0%}"
        + (f" ({operation['seconds'] / operation['bound_seconds']:.1f})" if operation["bound_seconds"] else "")
        for operation in profile["operations"][:LARGEST]
    ]


def main() -> None:
    """Profile every task and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each task and number format")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    ceilings = calibrate(device, seconds=CALIBRATION_SECONDS)
    cases: dict[str, Any] = {}
    for task in arguments.tasks.split(","):
        case = make_case(task, arguments.preset, device, arguments.batch_size)
        rows = {
            name: profiled(case, policy, Roof.of(ceilings), arguments.seconds)
            for name, policy in POLICIES.items()
            if is_wanted(name, policy, case)
        }
        cases[case.name] = {"batch_size": case.batch_size, "policies": rows}
        for name, row in rows.items():
            print(f"{case.name} {name}: {', '.join(described(row))}", flush=True)
        document = {"schema": "naslab.step_profiles/1", "ceilings": ceilings.to_dict(), "cases": cases}
        write_result(arguments.out or RESULTS / f"step_profiles_{device.type}.json", document, str(device))


if __name__ == "__main__":
    main()
