"""A function that does what no training should, each in its own way; `find` imports it from here by its name."""

import os
import shutil
import sys
import warnings
from pathlib import Path

ENDS = {
    "sys.exit": lambda: sys.exit("bye"),
    "Ctrl-C": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "exit of a generator": lambda: (_ for _ in ()).throw(GeneratorExit),
    "speechless": lambda: (_ for _ in ()).throw(Speechless(1, 2)),
    "unspeakable": lambda: (_ for _ in ()).throw(ValueError("half \ud800 \x00 \x1b[31m a\ncharacter")),
    "recursion": lambda: recurse(),
    "os._exit": lambda: os._exit(0),
    "all files closed": lambda: os.closerange(3, 256),
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
}
"""What a trial survives."""


class Speechless(Exception):
    """It cannot be made again from its text, and has none."""

    def __init__(self, one, two):
        super().__init__(one)

    def __str__(self):
        raise ValueError("no text")


def recurse():
    return recurse() + 1


def train(kind="nothing", epochs=2, checkpoint=None):
    """Scores that tell kinds apart, so that no answer can be taken for another's."""
    kinds = ["nothing", *ENDS, *GOES_ON, "its folder deleted"]
    for epoch in range(1, epochs + 1):
        if epoch == epochs:
            {**ENDS, **GOES_ON}.get(kind, lambda: None)()
            if kind == "its folder deleted":
                shutil.rmtree(Path(checkpoint).parent)
        yield {"accuracy": 10.0 * kinds.index(kind) + epoch}
