"""The table of the kernels on a GPU within a given time: largest sizes first, what was left out named.

torch.compile takes seconds a row, so its results are first brought into its cache by several processes at once, and
only then timed, alone.

Usage: python benchmarks/gpu_kernel_table.py [--device auto] [--dtype bf16] [--seconds 0.3] [--minutes 1.5]
                                             [--out benchmarks/results/gpu/kernel_table.json]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from results_file import write_result

from naslab.efficiency.clocks import kernel_clock
from naslab.efficiency.device import resolve_device
from naslab.efficiency.kernel_cases import Case, cases
from naslab.efficiency.kernel_table import compile_case, copy_bandwidth, measure_case
from naslab.runs.commands.model_options import Precision
from naslab.runs.commands.ready_models import DTYPES


def main() -> None:
    """Warm the compiler's cache, then measure row by row until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", type=Precision, default=Precision.bf16)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each measurement")
    parser.add_argument("--minutes", type=float, default=1.5, help="for all")
    parser.add_argument("--processes", type=int, default=8, help="that fill the compiler's cache")
    parser.add_argument("--warm", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu/kernel_table.json"))
    arguments = parser.parse_args()
    end = monotonic() + 60 * arguments.minutes
    device, dtype = resolve_device(arguments.device), DTYPES[arguments.dtype]
    every = largest_first(cases(device, dtype))
    if arguments.warm is not None:
        warm(every[arguments.warm :: arguments.processes], dtype)
        return
    fill_the_cache(arguments, 60 * arguments.minutes * 0.4)
    rows: list[dict[str, Any]] = []
    clock, bandwidth = kernel_clock(device), copy_bandwidth(device)
    for number, case in enumerate(every):
        if monotonic() > end:
            left_out = [f"{case.kernel} {case.shape}" for case in every[number:]]
            break
        rows.append(asdict(measure_case(case, device, clock, dtype, bandwidth, arguments.seconds, compiled=True)))
        print({name: value for name, value in rows[-1].items() if name != "samples_ms"}, flush=True)
    else:
        left_out = []
    facts = {"schema": "naslab.bench/1", "clock": clock.name, "copy_bytes_per_second": bandwidth}
    write_result(arguments.out, {**facts, "rows": rows, "left_out": left_out}, str(device))


def largest_first(every: list[Case]) -> list[Case]:
    """Each kernel's largest, then each one's second largest, and so on."""
    ranks: dict[str, int] = {}
    keyed = []
    for case in reversed(every):
        ranks[case.kernel] = ranks.get(case.kernel, -1) + 1
        keyed.append((ranks[case.kernel], case))
    return [case for _, case in sorted(keyed, key=lambda pair: pair[0])]


def fill_the_cache(arguments: argparse.Namespace, seconds: float) -> None:
    """Compile every case in other processes, for so long at most."""
    begun = [
        subprocess.Popen([sys.executable, *sys.argv, "--warm", str(n)], stdout=subprocess.DEVNULL)
        for n in range(arguments.processes)
    ]
    end = monotonic() + seconds
    for process in begun:
        try:
            process.wait(max(0.1, end - monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def warm(mine: list[Case], dtype: torch.dtype) -> None:
    """Compile these cases; what cannot be compiled is found again, and said, when it is measured."""
    for case in mine:
        try:
            compile_case(case)()
        except Exception as error:  # noqa: BLE001 - the compiler raises as many kinds as there are
            print(f"{case.kernel} {case.shape}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
