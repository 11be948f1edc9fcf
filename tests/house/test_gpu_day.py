"""The day on a GPU: its steps fit into its time, and its record names each failure once."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu_day(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu_day

    yield gpu_day
    del sys.modules["gpu_day"]


def test_every_step_has_its_time_within_eight_minutes(gpu_day, tmp_path):
    first, more = gpu_day.steps(tmp_path, "cuda:0", 8), gpu_day.longer(tmp_path, "cuda:0")
    assert sum(step.limit_s for step in first) <= 8 * 60
    assert sum(step.limit_s for step in (*first, *more)) <= 13 * 60


def test_the_files_of_its_tests_are_all_that_there_are(gpu_day, tmp_path):
    named = {part for step in gpu_day.steps(tmp_path, "cuda:0", 8) for part in step.command if part.endswith(".py")}
    assert named >= {str(path.relative_to(ROOT)) for path in (ROOT / "tests/gpu").glob("test_*.py")}
    assert all((ROOT / name).is_file() for name in named)


def test_a_failure_stands_once_with_its_reason(gpu_day):
    log = (
        "FAILED a.py::b[x y] - left 1 - 2\n.F..\nFAILED c.py::d - gone\n== summary ==\nFAILED a.py::b[x y] - left...\n"
    )
    assert gpu_day.failures(log) == ["FAILED a.py::b[x y] - left 1 - 2", "FAILED c.py::d - gone"]
