"""`moretta key`: make, show, split and change keys. No secret is ever printed but a fresh phrase."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.errors import count_of

if TYPE_CHECKING:
    from moretta.privacy.keys import AnyKey

app = typer.Typer(no_args_is_help=True, help="Keys that seal originals and draw pseudonyms.")
How = Annotated[
    str | None, typer.Option(help="prompt, fd:NUMBER or file:PATH; never the passphrase itself.")
]


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="File to make; nothing is overwritten.")],
    kind: Annotated[
        str,
        typer.Option(help="file: 32 bytes; recipient: X25519 as PEM; signing: Ed25519, for logs."),
    ] = "file",
) -> None:
    """Make a key that only you can read (mode 0600), from the operating system's generator.

    Example: [bold]moretta key new my.key[/bold]
    """
    from moretta.errors import UsageError
    from moretta.pipeline import custody
    from moretta.privacy import keys

    if kind not in ("file", "recipient", "signing"):
        raise UsageError(f"--kind is {kind!r}", hint="file, recipient or signing")
    key = keys.new(kind)  # type: ignore[arg-type]
    custody.write_key(file, keys.to_bytes(key))
    print(f"{file}: {_what(key)}, {key.fingerprint}")  # noqa: T201
    print("keep a copy elsewhere: without it nothing that it seals can be opened")  # noqa: T201


@app.command()
def phrase() -> None:
    """Print a fresh passphrase of six words: 77 bits.

    Example: [bold]moretta key phrase[/bold]
    """
    from moretta.privacy import phrases

    print(phrases.made())  # noqa: T201


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(help="Key files and sidecars.")],
) -> None:
    """Say what keys and sidecars are, by fingerprints; no secret is printed.

    Example: [bold]moretta key show my.key[/bold]
    """
    from moretta.photos.manifest import SIDECAR
    from moretta.pipeline import custody
    from moretta.pipeline.recover import header_of
    from moretta.privacy import keys

    names = {keys.PASSPHRASE: "passphrase", keys.KEY_FILE: "key file", keys.RECIPIENT: "recipient"}
    for file in files:
        if not file.name.endswith(SIDECAR):
            key = custody.read_key(file)
            print(f"{file}: {_what(key)}, {key.fingerprint}")  # noqa: T201
            continue
        header = header_of(file)
        core = header.core
        table = ", needs its row in the key table" if core.shreddable else ""
        size = count_of(core.padded_len, "byte")
        print(f"{file}: sidecar, record {core.record_id.hex()}, {size}{table}")  # noqa: T201
        for slot in header.slots:
            kid = f" {slot.body[:8].hex()}" if slot.type == keys.RECIPIENT else ""
            print(f"  opens with: {names.get(slot.type, 'something newer')}{kid}")  # noqa: T201


@app.command()
def export(
    private: Annotated[Path, typer.Argument(help="A recipient's private key, or a signing key.")],
    public: Annotated[Path, typer.Argument(help="File to make, for everybody to have.")],
) -> None:
    """Write the public half of a key.

    Example: [bold]moretta key export me.pem me.pub.pem[/bold]
    """
    from moretta.errors import KeyRejected
    from moretta.pipeline import custody
    from moretta.privacy import keys

    key = custody.read_key(private)
    if not isinstance(key, keys.PrivateKey | keys.SigningKey):
        raise KeyRejected(
            f"{private} has no public half", hint="moretta key new FILE --kind recipient"
        )
    custody.write_key(public, keys.to_bytes(key.public), mode=0o644)
    print(f"{public}: {_what(key.public)}, {key.public.fingerprint}")  # noqa: T201


@app.command()
def rotate(
    sidecars: Annotated[list[Path], typer.Argument(help="Sidecars, their photos, or folders.")],
    key: Annotated[list[Path] | None, typer.Option(help="Key that opens them now.")] = None,
    passphrase: How = None,
    new_key: Annotated[Path | None, typer.Option(help="Key file that shall open them.")] = None,
    to: Annotated[
        list[Path] | None, typer.Option(help="Public key of a recipient who shall open them.")
    ] = None,
    new_passphrase: How = None,
    keep: Annotated[
        str,
        typer.Option(help="Old slots that stay: others (all but the one used), all, or none."),
    ] = "others",
    key_table: Annotated[Path | None, typer.Option(help="Of photos that can be shredded.")] = None,
    log: Annotated[Path | None, typer.Option(help="Access log, as for recover.")] = None,
) -> None:
    """Give sidecars to other keys. The originals are not encrypted anew, and never decrypted.

    Whoever copied a sidecar before can still open that copy with the old key.

    Example: [bold]moretta key rotate protected --key old.key --new-key new.key[/bold]
    """
    from moretta.cli.show import Faults
    from moretta.errors import CannotOpen, PhotoError, UsageError
    from moretta.pipeline import custody
    from moretta.pipeline.recover import header_of, listed, rewrap

    if keep not in ("others", "all", "none"):
        raise UsageError(f"--keep is {keep!r}", hint="others, all or none")
    found = listed(sidecars)
    openers = custody.openers(key=key or (), how=passphrase)
    ring = custody.keyring(key=new_key, to=to or (), how=new_passphrase)
    if not ring.wrappers and keep != "others":
        raise UsageError("no new key is given", hint="--new-key, --to or --new-passphrase")
    table = custody.KeyTable(key_table) if key_table else None
    book = custody.AccessLog(log or custody.default_log())
    failed = 0
    with Faults() as faults:
        for one in found:
            record = "unknown"
            try:
                record = header_of(one.sidecar).core.record_id.hex()
                book.write("rotate", record=record, purpose="rotation", result="asked")
                slots = rewrap(one.sidecar, openers, ring.wrappers, keep=keep, table=table)  # type: ignore[arg-type]
            except (CannotOpen, PhotoError) as fault:
                failed += 1
                faults.say(one.name, str(fault))
                book.write("rotate", record=record, purpose="rotation", result="failed")
                continue
            book.write("rotate", record=record, purpose="rotation", result="done")
            print(f"{one.name}: {count_of(slots, 'slot')}")  # noqa: T201
    raise typer.Exit(3 if failed else 0)


@app.command()
def shred(
    sidecars: Annotated[list[Path], typer.Argument(help="Sidecars, their photos, or folders.")],
    key_table: Annotated[Path, typer.Option(help="Table that their rows are erased from.")],
    purpose: Annotated[str, typer.Option(help="Why: goes to the access log.")],
    log: Annotated[Path | None, typer.Option(help="Access log, as for recover.")] = None,
) -> None:
    """Erase the keys of single photos: no copy of their sidecars opens again, with any key.

    Copies of the table itself have to be destroyed too.

    Example: [bold]moretta key shred protected/a.png --key-table table --purpose "request 12"[/bold]
    """
    from moretta.errors import CannotOpen, PhotoError
    from moretta.pipeline import custody
    from moretta.pipeline.recover import header_of, listed

    why = custody.purpose(purpose)
    found = listed(sidecars)
    table = custody.KeyTable(key_table)
    book = custody.AccessLog(log or custody.default_log())
    faults = 0
    for one in found:
        try:
            record = header_of(one.sidecar).core.record_id
        except (CannotOpen, PhotoError) as fault:
            faults += 1
            _complain(one.name, fault)
            continue
        book.write("shred", record=record.hex(), purpose=why, result="asked")
        erased = table.erase(record)
        faults += not erased
        result = "keys erased" if erased else "no row in the table"
        book.write("shred", record=record.hex(), purpose=why, result=result)
        print(f"{one.name}: {result}")  # noqa: T201
    raise typer.Exit(3 if faults else 0)


@app.command()
def split(
    file: Annotated[Path, typer.Argument(help="Key file, or a recipient's private key.")],
    output: Annotated[Path, typer.Option("--output", "-o", "--out", help="Folder for the shares.")],
    need: Annotated[int, typer.Option(help="How many shares give the key back.")] = 3,
    of: Annotated[int, typer.Option(help="How many shares there are.")] = 5,
) -> None:
    """Split an escrow key into SLIP-39 shares of 33 words each, one a file.

    Example: [bold]moretta key split escrow.pem --output shares --need 3 --of 5[/bold]
    """
    from moretta.errors import KeyRejected
    from moretta.photos.manifest import make_folder
    from moretta.pipeline import custody
    from moretta.privacy import keys

    key = custody.read_key(file)
    if not isinstance(key, keys.KeyFile | keys.PrivateKey):
        raise KeyRejected(f"{file} opens nothing", hint="split a key file or a private key")
    shares = keys.split(key, need, of)
    make_folder(output)
    for i, share in enumerate(shares, 1):
        target = output / f"share-{i:02d}-of-{of:02d}.txt"
        custody.write_key(target, share.encode() + b"\n")
    made = f"{count_of(of, 'share')} in {output}"
    print(f"{made}, any {need} of which give {_what(key)} {key.fingerprint} back")  # noqa: T201
    print(f"hand them out, then destroy {file}")  # noqa: T201


@app.command()
def combine(
    shares: Annotated[
        list[Path], typer.Argument(help="Files of shares: as many as are needed, or more.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", "--out", help="File to make.")],
    kind: Annotated[str, typer.Option(help="What was split: file or recipient.")] = "recipient",
) -> None:
    """Make a key from its shares.

    Example: [bold]moretta key combine share-*.txt --output escrow.pem[/bold]
    """
    from moretta.errors import UsageError
    from moretta.pipeline import custody
    from moretta.privacy import keys

    if kind not in ("file", "recipient"):
        raise UsageError(f"--kind is {kind!r}", hint="file or recipient")
    secret = keys.combine(list(_texts(shares)))
    key = keys.KeyFile(secret) if kind == "file" else keys.PrivateKey(secret)
    custody.write_key(output, keys.to_bytes(key))
    print(f"{output}: {_what(key)}, {key.fingerprint}")  # noqa: T201


def _texts(files: list[Path]) -> Iterator[str]:
    from moretta.errors import KeyRejected

    for file in files:
        try:
            yield file.read_bytes()[:4096].decode("ascii")
        except OSError as fault:
            raise KeyRejected(
                f"{file} cannot be read: {fault.strerror}", hint="name files of shares"
            ) from None
        except UnicodeDecodeError:
            raise KeyRejected(f"{file} is no share", hint="a share is 33 English words") from None


def _what(key: AnyKey) -> str:
    return {
        "KeyFile": "symmetric key",
        "PrivateKey": "private key of a recipient",
        "PublicKey": "public key of a recipient",
        "SigningKey": "signing key",
        "VerifyingKey": "public key of a signing key",
    }[type(key).__name__]


def _complain(name: str, fault: Exception) -> None:
    import sys

    from moretta.errors import one_line

    print(f"moretta: {one_line(name)}: {one_line(str(fault))}", file=sys.stderr)  # noqa: T201
