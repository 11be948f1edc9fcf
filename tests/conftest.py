"""What each test begins with is the same, whichever ran before it and whoever runs it."""

import gc
import os
import sys
from contextlib import suppress

import pytest

# What a user has set for studies of their own is not meant for these.
for name in ("DATA", "KERNELS", "RECONNECT_SECONDS", "RUNS", "STALE_SECONDS"):
    os.environ.pop(f"NASLAB_{name}", None)

with suppress(ImportError):  # a machine with a GPU may lack it
    import hypothesis

    # The same examples each time, however long one takes: `make fuzz` is where others are looked for.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    seed_everything(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    """Anew, as fixtures that tests share draw for the first of them alone; and not what a fixture has drawn."""
    seed_everything(1)


def seed_everything(number):
    """What a test draws without a seed of its own is the same, in whatever order the tests run.

    Not Python's own generator: Ray draws ports from it, and those of two test processes must differ.
    """
    for name, seed in (("numpy.random", "seed"), ("torch", "manual_seed")):
        if (module := sys.modules.get(name)) is not None:
            getattr(module, seed)(number)


# What collecting the tests has imported stays for good: the garbage collector does not walk it again and again. Of 20
# seconds that collecting them took, it had 6, and later a seventh of the time.
gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()
