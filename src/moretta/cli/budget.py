"""`moretta budget`: what was released about whom, for methods that spend an epsilon."""

from __future__ import annotations

import json as jsons
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from moretta.errors import UsageError, count_of

app = typer.Typer(
    help="Show, export and reset the ledger of budgets: what methods with an epsilon released.",
    no_args_is_help=True,
    epilog="Example: moretta budget show",
)
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", help="The ledger; default in the user's data folder.")
]
LISTED = 40  # accounts that `show` prints; --json has all


@app.command()
def show(
    person: Annotated[
        str | None, typer.Option(help="One person, as --persons folders or the CSV file say it.")
    ] = None,
    ledger: LedgerFile = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show how much epsilon is spent on each person. Persons are keyed ids, not names.

    Example: [bold]moretta budget show --person anna[/bold]
    """
    from dataclasses import asdict

    path, book = _opened(ledger)
    with book:
        accounts = book.people() if person is None else [book.spent(_person(book, person))]
        remembered = book.remembered()
    if json:
        rows = [asdict(one) for one in accounts]
        print(jsons.dumps({"ledger": str(path), "remembered": remembered, "people": rows}))  # noqa: T201
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("person", "releases", "epsilon", "delta", "last"):
        table.add_column(title, justify="left" if title in ("person", "last") else "right")
    for one in accounts[:LISTED]:
        last = _day(one.last) if one.releases else "never"
        name = one.person[:16] if person is None else person
        table.add_row(name, str(one.releases), f"{one.epsilon:g}", f"{one.delta:.1e}", last)
    console = Console()
    console.print(table, markup=False)
    if len(accounts) > LISTED:
        console.print(f"and {len(accounts) - LISTED} more; --json has all")
    console.print(
        f"{count_of(len(accounts), 'person', 'people')}, {count_of(remembered, 'answer')} remembered, "
        f"in {path}",
        markup=False,
    )


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="JSON lines, one a release; must not exist.")],
    ledger: LedgerFile = None,
) -> None:
    """Write every release to a file, for an auditor: keyed ids, mechanisms, epsilons, times.

    Neither names nor released vectors are in it.

    Example: [bold]moretta budget export releases.jsonl[/bold]
    """
    _, book = _opened(ledger)
    with book:
        lines = [jsons.dumps({"schema": 1, **row}) + "\n" for row in book.rows()]
    try:
        with file.open("x", encoding="utf-8") as out:
            out.writelines(lines)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}", hint="give the name of a new file"
        ) from error
    print(f"{count_of(len(lines), 'release')} written to {file}")  # noqa: T201


@app.command()
def merge(
    kept: Annotated[str, typer.Argument(help="A person's name in folders or the CSV file.")],
    other: Annotated[str, typer.Argument(help="Another name of the same person.")],
    ledger: LedgerFile = None,
) -> None:
    """Count two names as one person from now on: what was spent adds up. It cannot be undone.

    Example: [bold]moretta budget merge anna anna_karenina[/bold]
    """
    _, book = _opened(ledger)
    with book:
        for name in (kept, other):
            if not book.spent(_person(book, name)).releases:
                raise UsageError(
                    f"nothing was released about a person named {name!r}: nothing is merged",
                    hint="names are those of --persons folders or the CSV file; the ledger keeps none, but "
                    "`moretta budget show --person NAME` tells what is spent on one",
                )
        book.merge(_person(book, kept), _person(book, other))
        account = book.spent(_person(book, kept))
    released = count_of(account.releases, "release")
    print(f"epsilon {account.epsilon:g} in {released} is spent on {kept}")  # noqa: T201


@app.command()
def reset(
    memo: Annotated[
        bool, typer.Option("--memo", help="Destroy the remembered answers; sums stay.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Forget what was spent too: promises made so far end.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    ledger: LedgerFile = None,
) -> None:
    """Destroy remembered answers, or all that is in the ledger.

    Example: [bold]moretta budget reset --memo[/bold]
    """
    if memo == everything:
        raise UsageError("say what to reset", hint="--memo, or --all")
    path, book = _opened(ledger)
    with book:
        if everything:
            asked = (
                f"Forget all that was spent in {path}? Then caps hold no longer for these people"
            )
            if not yes and not _agreed(asked):
                raise UsageError("nothing was reset: nobody agreed to it", hint="--yes confirms")
            book.clear()
        else:
            book.forget()
    print("nothing is spent any more" if everything else "no answer is remembered any more")  # noqa: T201


def _opened(ledger: Path | None) -> tuple[Path, Any]:
    from moretta.pipeline import budget

    path = budget.place(ledger)
    book = budget.opened(path, begin=False)
    book.check()
    return path, book


def _person(book: Any, name: str) -> str:
    from moretta.pipeline import budget, persons

    return budget.person(persons.identity_of(name, book.secret))


def _agreed(asked: str) -> bool:
    """Ask on the terminal. Without one, or when it is closed, nobody agrees."""
    try:
        return sys.stdin.isatty() and typer.confirm(asked, err=True)
    except typer.Abort:
        return False


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
