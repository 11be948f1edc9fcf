"""The device of these tests: the first CUDA device, or what NASLAB_TEST_DEVICE names, to try the tests themselves."""

import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "kernels"))  # the cases of every operation

NAMED = os.environ.get("NASLAB_TEST_DEVICE")
MISSING = None if NAMED or torch.cuda.is_available() else "no CUDA or ROCm device"


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if MISSING:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def device():
    chosen = torch.device(NAMED or "cuda:0")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


@pytest.fixture(scope="session")
def cuda(device):
    """The device, where only a real one will do."""
    if device.type != "cuda":
        pytest.skip("needs CUDA itself")
    return device
