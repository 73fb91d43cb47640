"""`moretta log`: is the access log whole?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.errors import count_of

if TYPE_CHECKING:
    from moretta.privacy.chain import Head
    from moretta.privacy.keys import VerifyingKey

app = typer.Typer(no_args_is_help=True, help="The access log of recoveries: verify it, sign it.")
Log = Annotated[
    Path | None, typer.Argument(help="The log (default ~/.local/state/moretta/access.jsonl).")
]


@app.command()
def verify(
    log: Log = None,
    head: Annotated[
        list[str] | None, typer.Option(help="LINES:SHA256 as it was printed once; repeatable.")
    ] = None,
    signed: Annotated[
        Path | None, typer.Option(help="Signed heads, from `moretta log sign`.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Public key, or the signing key, for --signed.")
    ] = None,
) -> None:
    """Check that no line was altered, removed or added. Exit code 6 if one was.

    What was cut off at the end shows only against a head that was kept elsewhere, or signed.

    Example: [bold]moretta log verify[/bold]
    """
    from moretta.errors import LogBroken, UsageError
    from moretta.pipeline import custody
    from moretta.privacy import chain
    from moretta.privacy.keys import SigningKey, VerifyingKey

    try:
        known = [chain.head_of(text) for text in head or ()]
    except LogBroken as fault:  # what was typed is broken, not the log
        raise UsageError(fault.fault, hint=fault.hint) from None
    if (signed is None) != (key is None):
        raise UsageError("--signed and --key go together", hint="give both")
    if signed is not None and key is not None:
        checker = custody.read_key(key)
        checker = checker.public if isinstance(checker, SigningKey) else checker
        if not isinstance(checker, VerifyingKey):
            raise UsageError(f"{key} signs nothing", hint="moretta key new FILE --kind signing")
        known += _confirmed(signed, checker, hint="check --signed")
    found = custody.AccessLog(log or custody.default_log()).verify(known)
    print(f"whole: {count_of(found.lines, 'line')}, {count_of(len(known), 'known head')} passed")  # noqa: T201
    print(f"head {found}")  # noqa: T201


@app.command()
def sign(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", "--out", help="File of signed heads; a line is appended."),
    ],
    key: Annotated[Path, typer.Option(help="Signing key: moretta key new FILE --kind signing.")],
    log: Log = None,
) -> None:
    """Verify the log and sign its head, so that later nobody can shorten it unseen.

    Heads that are in the file already must be of this key, and the log must go through them.

    Example: [bold]moretta log sign --key signing.pem --output heads.jsonl[/bold]
    """
    from moretta.errors import UsageError
    from moretta.pipeline import custody
    from moretta.privacy import chain
    from moretta.privacy.keys import SigningKey

    signer = custody.read_key(key)
    if not isinstance(signer, SigningKey):
        raise UsageError(f"{key} cannot sign", hint="moretta key new FILE --kind signing")
    known: list[Head] = []
    if output.is_file():
        known = _confirmed(output, signer.public, hint="choose another --output")
    head = custody.AccessLog(log or custody.default_log()).verify(known)
    try:
        with output.open("ab") as file:
            file.write(chain.signed(head, signer, custody.now()))
    except OSError as fault:
        raise UsageError(
            f"{output} cannot be written: {fault.strerror}", hint="choose another --output"
        ) from None
    print(f"signed {head}")  # noqa: T201


def _confirmed(signed: Path, key: VerifyingKey, *, hint: str) -> list[Head]:
    """Return the heads in a file of signed ones. Raises UsageError, and LogBroken for another's."""
    from moretta.errors import UsageError
    from moretta.privacy import chain

    try:
        rows = signed.read_bytes().splitlines(keepends=True)
    except OSError as fault:
        raise UsageError(f"{signed} cannot be read: {fault.strerror}", hint=hint) from None
    return [chain.confirmed(row, key) for row in rows]
