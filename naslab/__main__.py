"""`python -m naslab` is the `naslab` command; from its first moment on, Ctrl-C ends it with one line."""

from __future__ import annotations

import signal
import sys

from naslab.runs.interrupts import RESUME, Interrupted, interrupt


def main() -> None:
    """Entry point of the `naslab` command."""
    interrupted = False

    def ctrl_c(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        interrupt()

    # A shell starts what runs in its background with Ctrl-C ignored; that stays.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, ctrl_c)
    show = sys.unraisablehook
    # Python drops it there, and says so in many lines; it is heard later.
    sys.unraisablehook = lambda fact: None if issubclass(fact.exc_type, Interrupted) else show(fact)
    try:
        from naslab.runs.cli import run_command_line
        from naslab.runs.output import end_of_output, show_any_letter

        show_any_letter()
        code = run_command_line()
        end_of_output()
    except BaseException:
        # An import in native code may turn Ctrl-C into an error of its own.
        if not interrupted:
            raise
        print(f"naslab: {RESUME}", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
