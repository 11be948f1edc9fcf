"""The device of these tests: the first CUDA device, or what NASLAB_TEST_DEVICE names, to try the tests themselves."""

import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "kernels"))  # the cases of every operation
sys.path.insert(0, str(HERE.parent / "search_spaces"))  # and of every task

NAMED = os.environ.get("NASLAB_TEST_DEVICE")
MISSING = None if NAMED or torch.cuda.is_available() else "no CUDA or ROCm device"


class AtOnce:
    """Write the name of what fails when it fails: a run that is stopped prints no summary."""

    def __init__(self, reporter):
        self.reporter = reporter

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.splitlines()[0] if crash else report.when
            self.reporter.write_line(f"\nFAILED {report.nodeid} - {why}")


@pytest.hookimpl(trylast=True)  # after the reporter is there
def pytest_configure(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter and not hasattr(config, "workerinput"):
        config.pluginmanager.register(AtOnce(reporter))


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
