"""Every example runs, in seconds, and ranks something."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from inline import run_here

from naslab.runs.api import Results
from naslab.runs.ledger import Ledger

EXAMPLES = Path(__file__).parents[2] / "examples"
PREPARE = {
    "own_csv": lambda example: example.write_table(example.TABLE),
    "own_images": lambda example: example.write_images(example.FOLDER, each=10),
    "finetune_timm": lambda example: None,
}


@pytest.mark.parametrize("name", PREPARE)
def test_an_example_ranks_its_reference_and_what_it_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module(name)
    PREPARE[name](example)
    study = example.study(trials=2)
    arms = tuple(arm.model_copy(update={"pruner": "none"}) for arm in study.arms)  # here nobody answers at a rung
    study = study.model_copy(update={"arms": arms, "seeds": (0,), "random_architectures": 0})
    threads = torch.get_num_threads()
    results = Results(run_here(Ledger.start("runs.db", study)))
    torch.set_num_threads(threads)
    assert {t.state for t in results.ledger.trials()} == {"complete"}
    assert results.ranking.reference is not None
    assert results.ranking.rows


def test_the_function_example_is_short_and_ranks_from_a_script(tmp_path):
    text = (EXAMPLES / "function.py").read_text()
    ends = subprocess.run([sys.executable, EXAMPLES / "function.py"], capture_output=True, text=True, cwd=tmp_path)
    assert ends.returncode == 0, ends.stderr
    assert "rank" in ends.stdout
    assert "configuration" in ends.stdout
    lines = text.partition("if __name__")[2].splitlines()
    assert len(lines) <= 20
