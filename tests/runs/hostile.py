"""A function that does what no training should, each in its own way; `find` imports it from here by its name."""

import ctypes
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import torch

ENDS = {
    "sys.exit": lambda: sys.exit("bye"),
    "Ctrl-C": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "exit of a generator": lambda: (_ for _ in ()).throw(GeneratorExit),
    "speechless": lambda: (_ for _ in ()).throw(Speechless(1, 2)),
    "unspeakable": lambda: (_ for _ in ()).throw(ValueError("half \ud800 \x00 \x1b[31m a\ncharacter")),
    "recursion": lambda: recurse(),
    "os._exit": lambda: os._exit(0),
    "all files closed": lambda: os.closerange(3, 256),
    "abort": os.abort,
    "segmentation fault": lambda: ctypes.string_at(0),
    "alarm": lambda: (signal.setitimer(signal.ITIMER_REAL, 0.01), time.sleep(60)),
    "no memory": lambda: (limit(resource.RLIMIT_AS, 1 << 38), bytearray(1 << 40)),
    "no file may grow": lambda: limit(resource.RLIMIT_FSIZE, 0),
    "no file may be opened": lambda: limit(resource.RLIMIT_NOFILE, 3),
    "cannot be pickled": lambda: (_ for _ in ()).throw(type("Local", (Exception,), {"held": threading.Lock()})()),
}
"""What ends the trial that does it, and no other."""
GOES_ON = {
    "fork": os.fork,
    "fork that raises": lambda: os.fork() or sys.exit("the child"),
    "another folder": lambda: os.chdir("/"),
    "bytes": lambda: os.write(1, bytes(range(256))),
    "streams gone": lambda: (os.close(1), os.close(2), setattr(sys, "stdout", None)),
    "warnings are errors": lambda: warnings.simplefilter("error"),
    "no environment": os.environ.clear,
    "fork and forget": lambda: os.fork() or time.sleep(1000),
    "a thread that never ends": lambda: threading.Thread(target=time.sleep, args=(1000,)).start(),
    "50 MB of text": lambda: [print("x" * 1_000_000) for _ in range(50)],
    "a folder that is gone": lambda: (os.chdir(gone := tempfile.mkdtemp()), os.rmdir(gone)),
    "handlers": lambda: [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM)],
    "a late alarm": lambda: signal.alarm(600),  # that it is taken off is seen in the state that the next one finds
    "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    "another number format": lambda: torch.set_default_dtype(torch.float64),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "many threads": lambda: torch.set_num_threads(64),
    "no collection": gc.disable,
    "files for nobody": lambda: os.umask(0o777),
}
"""What a trial survives."""


class Speechless(Exception):
    """It cannot be made again from its text, and has none."""

    def __init__(self, one, two):
        super().__init__(one)

    def __str__(self):
        raise ValueError("no text")


def limit(which, value):
    resource.setrlimit(which, (value, resource.getrlimit(which)[1]))


def state():
    """What a trial finds: the same for each, whatever came before it in its worker."""
    mask = os.umask(0)
    os.umask(mask)
    return [
        *(resource.getrlimit(which) for which in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)),
        *(str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM)),
        *(os.getcwd(), mask, os.environ.get("PATH"), signal.getitimer(signal.ITIMER_REAL), gc.isenabled()),
        *(sorted(map(str, signal.pthread_sigmask(signal.SIG_BLOCK, ()))), len(warnings.filters)),
        *(torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
    ]


def recurse():
    return recurse() + 1


def train(kind="nothing", epochs=2, checkpoint=None):
    """Scores that tell kinds apart, so that no answer can be taken for another's."""
    kinds = ["nothing", *ENDS, *GOES_ON, "its folder deleted"]
    print(f"finds {state()}", flush=True)
    for epoch in range(1, epochs + 1):
        if epoch == epochs:
            {**ENDS, **GOES_ON}.get(kind, lambda: None)()
            if kind == "its folder deleted":
                shutil.rmtree(Path(checkpoint).parent)
        yield {"accuracy": 10.0 * kinds.index(kind) + epoch}
