"""A day on a GPU in eight minutes: tests first, then measurements, each step under its own limit, all results kept.

Usage: python3 benchmarks/gpu_day.py [--out benchmarks/results/gpu] [--only compile,tests,...] [--processes 8] [--more]

It needs the interpreter's own torch and Triton, no virtual environment and no network. A step that fails or runs out of
time does not stop the next. `day.json` says what became of each, its command and the end of what it printed.
NASLAB_TEST_DEVICE=cpu tries the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GPU_TESTS = "tests/gpu"
TAIL = 4000
ASKED = "name,driver_version,memory.total,mig.mode.current"
NEEDED = (
    *("torch", "triton", "numpy", "scipy", "pandas", "timm", "transformers", "safetensors", "pydantic", "optuna"),
    *("typer", "rich", "nvidia-ml-py", "pytest", "pytest-xdist", "hypothesis"),
)


@dataclass(frozen=True)
class Step:
    """A command with its limit; its output is kept under its name."""

    name: str
    command: tuple[str, ...]
    limit_s: float


def steps(out: Path, device: str, processes: int) -> list[Step]:
    """What is done, in order."""
    python = sys.executable

    def tests(name: str, limit_s: float, *chosen: str, alone: bool = False) -> Step:
        command = ("env", "OMP_NUM_THREADS=1", python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu")
        command += ("--tb=short", "--durations=12", "--disable-warnings")  # those of our own modules are failures
        # A filter of warnings names a class of optuna, which a machine for kernels need not have.
        command += () if importlib.util.find_spec("optuna") else ("-o", "filterwarnings=default")
        command += ("-p", "no:benchmark") if importlib.util.find_spec("pytest_benchmark") else ()  # warns of xdist
        command += (
            ("-n", str(processes), "--dist", "worksteal") if importlib.util.find_spec("xdist") and not alone else ()
        )
        return Step(name, (*command, *(f"{GPU_TESTS}/test_gpu_{file}.py" for file in chosen)), limit_s)

    script = partial(_script, out, device)
    return [
        tests("compile", 80, "operations"),
        tests("kernels", 55, "kernels"),
        tests("tests", 90, "recording", "study", "tasks"),  # the longest first
        tests("profiler", 40, "profiler", alone=True),  # it measures times
        script("first", 35, "gpu_first", "--seconds", "0.2"),
        script("kernel_table", 50, "gpu_kernel_table", "--minutes", "0.6"),
        script("training_speed", 130, "training_speed", "--seconds", "120", "--presets", "small"),
    ]  # fmt: skip


def longer(out: Path, device: str) -> list[Step]:
    """What is measured where there is more time: GPU_DAY=--more."""
    python, script = sys.executable, partial(_script, out, device)
    return [
        script("nas_step_cost", 75, "nas_step_cost", "--cases", "2", "--repeats", "9"),
        script("step_profiles", 120, "step_profiles", "--seconds", "1"),
        Step("calibration", (python, "-m", "naslab", "devices", "calibrate", "--device", device,
                             "--seconds", "8", "--step-seconds", "12", "--json"), 35),
        script("precision_scores", 55, "precision_scores", "--quick", "--seconds", "40"),
    ]  # fmt: skip


def _script(out: Path, device: str, name: str, limit_s: float, file: str, *arguments: str) -> Step:
    command = (sys.executable, f"benchmarks/{file}.py", "--device", device, "--out", str(out / f"{name}.json"))
    return Step(name, (*command, *arguments), limit_s)


def main() -> None:
    """Run the steps, and write what became of each after it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--only", default="", help="these steps alone, by name, separated by commas")
    processes = max(min(12, (os.cpu_count() or 1) - 2), 1)
    parser.add_argument("--processes", type=int, default=processes, help="of tests")
    parser.add_argument("--more", action="store_true", help="also what takes five more minutes")
    parser.add_argument("--minutes", type=float, help="no step begins after this (8, or 13)")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    device = os.environ.get("NASLAB_TEST_DEVICE", "cuda:0")
    wanted = [name for name in arguments.only.split(",") if name]
    began = time.monotonic()
    day: dict[str, Any] = {"schema": "naslab.gpu-day/1", "command": sys.argv, "machine": machine(), "steps": []}
    minutes = arguments.minutes or (13 if arguments.more else 8)
    more = longer(out, device) if arguments.more or wanted else []
    for step in (*steps(out, device, arguments.processes), *more):
        if wanted and step.name not in wanted:
            continue
        left_s = 60 * minutes - (time.monotonic() - began)
        found = run(step, min(step.limit_s, left_s), out) if left_s > 5 else {"outcome": "no time left"}
        day["steps"].append(asdict(step) | found)
        (out / "day.json").write_text(json.dumps(day, indent=1) + "\n", encoding="utf-8")
        print(
            f"== {step.name}: {found['outcome']} in {found.get('seconds', 0):.0f} s {found.get('counts', '')}",
            flush=True,
        )
    failed = [step["name"] for step in day["steps"] if step["outcome"] != "done"]
    print(f"results in {out}; " + (f"not done: {', '.join(failed)}" if failed else "every step is done"))
    sys.exit(bool(failed))


def run(step: Step, limit_s: float, out: Path) -> dict[str, Any]:
    """Do it, with its output in a log, and end it with all that it started when its time is up."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    environment |= {"PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    log, began = out / "logs" / f"{step.name}.log", time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    if step.name == "calibration" and code == 0:
        (out / "calibration.json").write_text(text[text.index("{") :], encoding="utf-8")
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped|xfailed)", text[-TAIL:])
    return {
        "outcome": "done" if code == 0 else f"failed ({code})" if code is not None else "out of time",
        "seconds": round(time.monotonic() - began, 1),
        "counts": ", ".join(dict.fromkeys(counts)),
        "failures": failures(text),
        "end": text[-TAIL:],
    }


def failures(log: str) -> list[str]:
    """Each test that failed, once, with why: it stands where it happened and in the summary."""
    found: dict[str, str] = {}
    for line in re.findall(r"^(?:FAILED|ERROR) .*$", log, re.MULTILINE):
        found.setdefault(line.partition(" - ")[0], line)
    return list(found.values())


def machine() -> dict[str, Any]:
    """Host, GPU and driver as its tool names them, and the versions of what is used."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "gpu": _said("nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"),
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"),
        "versions": {name: _version(name) for name in NEEDED},
    }


def _said(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
