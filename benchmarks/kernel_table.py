"""The table of the kernels on this device: eager, torch.compile, ours, and the memory's limit.

Usage: python benchmarks/kernel_table.py [--dtype fp32] [--device auto] [--seconds 5] [--no-compile]
                                         [--out benchmarks/results/kernels_cpu.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results_file import write_result

from naslab.efficiency.device import resolve_device
from naslab.efficiency.kernel_table import kernel_table
from naslab.runs.commands.model_options import Precision
from naslab.runs.commands.ready_models import DTYPES


def main() -> None:
    """Measure every kernel and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", type=Precision, default=Precision.fp32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes longest")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    document = kernel_table(device, DTYPES[arguments.dtype], arguments.seconds, not arguments.no_compile)
    path = arguments.out or Path(f"benchmarks/results/kernels_{device.type}.json")
    write_result(path, document, str(device))


if __name__ == "__main__":
    main()
