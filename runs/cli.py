"""The command line: each command parses, calls one function and prints. Errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from naslab.errors import InputError, NaslabError
from naslab.runs.commands import about, bench, compare, devices, profile, results, studies, study
from naslab.runs.concealment import conceal_passwords
from naslab.runs.interrupts import RESUME
from naslab.version import naslab_version

UsageError: Any = typer.BadParameter.__mro__[1]
"""The parser's error for a command line that it cannot take; newer versions of typer carry a click of their own."""

app = typer.Typer(
    name="naslab",
    help="Search architectures and training recipes, and find out which are worth their GPU hours.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(naslab_version())
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


for command in (
    study.run,
    study.status,
    study.logs,
    results.rank,
    results.report,
    results.export,
    profile.profile,
    compare.compare,
    about.doctor,
    about.spaces,
    bench.bench,
):
    app.command()(command)
app.add_typer(devices.group, name="devices")
app.add_typer(studies.group, name="studies")


INTERRUPTED = 130


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 2 the input is wrong; 3 a study finished with failures; 1 anything else; 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    conceal_passwords()
    try:
        result = app(args=given, standalone_mode=False)
    except InputError as error:
        return _fail(str(error), 2)
    except NaslabError as error:
        return _fail(str(error), 1)
    except UsageError as error:
        return _fail(error.format_message(), 2)
    except typer.Exit as stop:
        result = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if result == INTERRUPTED:  # typer turns Ctrl-C into this code, without a word
        resumes = given[:1] == ["run"]
        return _fail(RESUME if resumes else "interrupted", INTERRUPTED)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"naslab: {' '.join(message.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the `naslab` command."""
    sys.exit(run_command_line())


if __name__ == "__main__":
    main()
