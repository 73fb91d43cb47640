"""`moretta weights`: the networks that ship with the package, and whether they are unaltered."""

from __future__ import annotations

import json as jsons
from typing import Annotated

import typer

app = typer.Typer(
    help="Show and verify the networks: name, hash, size, licence, where each is used.",
    no_args_is_help=True,
    epilog="Example: moretta weights verify",
)


@app.command("list")
def list_(
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """List the networks.

    Example: [bold]moretta weights list[/bold]
    """
    from moretta.weights import load

    entries = list(load.catalogue().values())
    if json:
        keys = ("name", "file", "sha256", "bytes", "licence", "used_for")
        print(jsons.dumps([{key: getattr(e, key) for key in keys} for e in entries]))  # noqa: T201
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("network", "used for", "MB", "licence", "sha256", "origin"):
        table.add_column(title, overflow="fold")
    for one in entries:
        origin = str(one.origin.get("package") or one.origin["project"])
        size = f"{one.bytes / 1e6:.2f}"
        table.add_row(one.name, one.used_for, size, one.licence, one.sha256[:16], origin)
    Console().print(table)


@app.command()
def verify() -> None:
    """Read every network whole and compare its hash with the catalogue. Exit code 2 if one differs.

    Example: [bold]moretta weights verify[/bold]
    """
    from moretta.weights import load

    results = load.verify()
    for one, good, reason in results:
        print(f"{one.name}: {'unaltered' if good else reason}")  # noqa: T201
    raise typer.Exit(0 if all(good for _, good, _ in results) else 2)
