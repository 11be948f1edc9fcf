"""The command line: each command parses, calls one function and prints. Errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
import typer

from efficiency.errors import InputError, NaslabError
from runs.commands import measure, results, study

app = typer.Typer(
    name="naslab",
    help="Search architectures and training recipes, and learn which is worth its GPU hours.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    study.run,
    study.status,
    results.rank,
    results.report,
    results.export,
    measure.profile,
    measure.compare,
    measure.devices,
    measure.doctor,
    measure.spaces,
):
    app.command()(command)


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 the input is wrong, 1 anything else, 130 interrupted."""
    try:
        result = app(args=arguments, standalone_mode=False)
    except InputError as error:
        return _fail(str(error), 2)
    except NaslabError as error:
        return _fail(str(error), 1)
    except click.UsageError as error:
        return _fail(error.format_message(), 2)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; the same command goes on from here", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"naslab: {' '.join(message.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the `naslab` command."""
    sys.exit(run_command_line())


if __name__ == "__main__":
    main()
