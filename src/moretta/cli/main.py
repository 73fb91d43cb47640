"""`moretta`: the commands in one place, and the rim where errors become two lines and a code."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from moretta import __version__
from moretta.cli import (
    anonymize,
    benchmark,
    budget,
    demo,
    detect,
    doctor,
    evaluate,
    key,
    log,
    methods,
    pool,
    recover,
    sample,
    styleid,
    usage,
    weights,
)
from moretta.errors import MorettaError, one_line

EPILOG = (
    "Exit codes: 0 all published; 1 our fault; 2 wrong use; 3 something was withheld, or covered "
    "by policy; 4 some input could not be read; 6 the access log was altered; 130 interrupted (go on "
    "with --resume)."
)
app = typer.Typer(
    cls=usage.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
app.command("anonymize", cls=anonymize.Command, epilog=EPILOG)(anonymize.command)
app.command("detect", epilog=EPILOG)(detect.command)
app.command("evaluate")(evaluate.command)
app.command("benchmark")(benchmark.command)
app.command("recover", epilog=recover.EPILOG)(recover.command)
app.add_typer(key.app, name="key")
app.add_typer(log.app, name="log")
app.command("methods")(methods.command)
app.add_typer(budget.app, name="budget")
app.add_typer(weights.app, name="weights")
app.add_typer(styleid.app, name="styleid")
app.command("doctor")(doctor.command)
app.command("demo")(demo.command)
app.command("sample")(sample.command)
app.add_typer(pool.app, name="pool")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"moretta {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Replace faces in photos, check every face with a recogniser, and keep a record of each.

    Example: [bold]moretta anonymize photos --output protected[/bold]
    """


def main() -> None:
    """Run the command; every fault is one clear line and a hint on standard error."""
    at_the_rim(app, "moretta")


def at_the_rim(commands: typer.Typer, name: str) -> None:
    """Run commands as `name`; every fault is one clear line and a hint on standard error.

    Ctrl-C ends with 130, pressed again too: while that is told, and while the interpreter ends.
    """
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        _told(commands, name)
    except KeyboardInterrupt:
        sys.exit(130)


def _told(commands: typer.Typer, name: str) -> None:
    try:
        code = commands(prog_name=name, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except MorettaError as error:
        _tell(error, name)
    except usage.Misused as error:
        if usage.help_shown(error):
            sys.exit(2)
        _tell(usage.explained(error, name), name)
    except typer.Abort:
        print(f"{name}: error: the input ended where an answer was asked for", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except (KeyboardInterrupt, usage.Interrupted):
        print(f"{name}: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("MORETTA_DEBUG"):
            raise
        fault = one_line(f"{type(error).__name__}: {error}")
        print(f"{name}: error: internal: {fault}", file=sys.stderr)  # noqa: T201
        print(f"{name}: hint: our fault; MORETTA_DEBUG=1 shows where", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _tell(error: MorettaError, name: str) -> NoReturn:
    print(f"{name}: error: {error.fault}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"{name}: hint: {error.hint}", file=sys.stderr)  # noqa: T201
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
