"""A whole study on the device through the command line, two slots sharing it, and what running out of memory does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("optuna")

import yaml

ROOT = Path(__file__).parents[2]
STUDY = {
    "schema": "naslab.study/1",
    "name": "first",
    "seeds": [0],
    "space": {"name": "nasiam", "preset": "tiny", "options": {"framework": "simclr"}},
    "task": {"dataset": {"train": 400, "validation": 100, "test": 100}, "epochs": 2, "batch_size": 100},
    "arms": [
        {"name": "darts", "engine": "differentiable", "epochs": 1},
        {"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 2},
    ],
}  # fmt: skip


def naslab(folder, *arguments):
    found = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": found, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "naslab", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=140)


@pytest.mark.slow
def test_a_study_with_two_slots_on_one_device(device, tmp_path):
    (tmp_path / "first.yaml").write_text(yaml.safe_dump({**STUDY, "device": device.type}))
    done = naslab(tmp_path, "run", "first.yaml", "--slots", "2")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ranked = json.loads(naslab(tmp_path, "rank", "first.yaml", "--json").stdout)
    assert ranked["cost_unit"] == ("gpu_hours" if device.type == "cuda" else "cpu_hours")
    assert sum(row["reference"] for row in ranked["rows"]) == 1
    assert all(row["seeds"] for row in ranked["rows"])
    status = json.loads(naslab(tmp_path, "status", "first.yaml", "--json").stdout)
    assert status["trials"].get("failed", 0) == 0


def test_running_out_of_memory_is_told_from_other_errors_and_leaves_the_device_usable(cuda):
    free = torch.cuda.mem_get_info(cuda)[0]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        torch.empty(2 * free, dtype=torch.int8, device=cuda)
    torch.cuda.empty_cache()
    assert torch.ones(8, device=cuda).sum().item() == 8
