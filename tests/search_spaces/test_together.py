"""Two processes come to what one comes to, however they hold the model, and go on from each other's checkpoints."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from together_ranks import EPOCHS, OPTIMISERS, WAYS, WORLD, adapted, train

HERE = Path(__file__).parent
EXACT = 1e-9
"""Float64: sums of two halves round otherwise than one sum, by 1e-16 a step, over 12 steps of a contraction."""
LONG = 300
"""Seconds for both processes on a busy machine; one whose peer has ended may wait for it for ever."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made, beginning where one had begun."""
    folder = tmp_path_factory.mktemp("together")
    for optimiser in OPTIMISERS:
        train(optimiser, folder / f"{optimiser}-alone", until=1)
    ranks = [
        subprocess.Popen([sys.executable, str(HERE / "together_ranks.py"), str(number), str(folder)], env=os.environ)
        for number in range(WORLD)
    ]
    deadline = time.monotonic() + LONG
    try:
        assert [process.wait(max(deadline - time.monotonic(), 0)) for process in ranks] == [0] * WORLD
    finally:
        for process in ranks:
            process.kill()
    return folder


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_two_processes_train_as_one(folder, optimiser):
    alone = train(optimiser, None)
    assert list(alone) == [1, 2, EPOCHS]
    for way in WAYS:
        together = torch.load(folder / f"{optimiser}-{way}.pt")
        torch.testing.assert_close(together, alone, rtol=0, atol=EXACT)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_each_goes_on_from_the_others_checkpoints(folder, optimiser):
    alone = train(optimiser, None)
    for begun, way in (("alone", "ddp"), ("alone", "fsdp2"), ("ddp", "fsdp2"), ("fsdp2", "ddp")):
        resumed = torch.load(folder / f"{optimiser}-{begun}-{way}.pt")
        assert list(resumed) == [1, 2, EPOCHS], "the rung of the checkpoint comes again"
        torch.testing.assert_close(resumed[EPOCHS], alone[EPOCHS], rtol=0, atol=EXACT)
    for begun in WAYS:
        resumed = train(optimiser, folder / f"{optimiser}-{begun}")
        torch.testing.assert_close(resumed[EPOCHS], alone[EPOCHS], rtol=0, atol=EXACT)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_adapt_as_one(folder, way):
    """In float32: their sums round otherwise by 1e-7, and AdamW divides by the size of the gradient."""
    torch.testing.assert_close(torch.load(folder / f"adapted-{way}.pt"), adapted(), rtol=1e-3, atol=1e-4)
