"""Where the ledger of budgets lies: its file and the key beside it, made on first use.

Promise   both are readable for their owner alone. A ledger without its key, or a key without its
          ledger, is refused: a budget that seems unspent because a file was lost would be spent
          twice. Nobody is told to remove a file that is not known to be a ledger.
Not here  what is in the file (privacy/ledger.py).
Format    docs/identitydp.md.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moretta.errors import BudgetSpent, LedgerError, UsageError
from moretta.photos.manifest import check_place
from moretta.privacy.ledger import APPLICATION, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from moretta.records import Charge, Crop, Guard

VARIABLE = "MORETTA_LEDGER"
NAME = "ledger.sqlite"
KEY = ".key"  # appended to the ledger's name


def place(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the ledger's path: the one given, that in MORETTA_LEDGER, or the user's own."""
    chosen = given or os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else _data() / "moretta" / NAME


def opened(path: Path, *, begin: bool = True) -> Ledger:
    """Open the ledger at `path` with the key beside it.

    begin: make both where neither exists; without it UsageError. Raises LedgerError when only one of
    them is there, for a file that is no ledger, and for whatever is wrong with the file.
    """
    key_path = path.with_name(path.name + KEY)
    if not path.exists() and not key_path.exists():
        if not begin:
            raise UsageError(
                f"there is no ledger at {path}", hint="nothing was spent yet, or give --ledger"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _begin(path, key_path)
        except OSError as error:
            raise _unopened(path, error) from error
    return Ledger(path, _key(path, key_path))


def examined(path: Path) -> None:
    """Raise what `opened` would, as far as it shows without opening the file; nothing is made."""
    key_path = path.with_name(path.name + KEY)
    if path.exists() or key_path.exists():
        _key(path, key_path)
        for place, needed in ((path, os.R_OK | os.W_OK), (path.absolute().parent, os.W_OK)):
            if not os.access(place, needed):
                raise LedgerError(
                    f"the ledger {path} cannot be opened for writing: {place} is read-only",
                    hint="nothing is released without it; choose another --ledger",
                )
    else:
        try:
            check_place(path.parent)
        except UsageError as error:
            raise LedgerError(
                f"the ledger {path} cannot be opened: {error.fault}", hint="choose another --ledger"
            ) from error


def _key(path: Path, key_path: Path) -> bytes:
    """Return the key beside a ledger. Raises LedgerError for half a ledger, and for what is none."""
    try:
        if path.exists() and not key_path.exists() and not _is_ledger(path):
            raise LedgerError(f"{path} is no ledger", hint="choose another path for --ledger")
        _wait_for(path)
        return key_path.read_bytes()
    except FileNotFoundError as error:
        there, gone = (path, "its key") if path.exists() else (key_path, "its file")
        raise LedgerError(
            f"the ledger {path} lies there without {gone}",
            hint=f"restore what belongs beside {there.name}; to begin anew, with all budgets unspent, choose"
            " another path for --ledger",
        ) from error
    except OSError as error:
        raise _unopened(path, error) from error


def _unopened(path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"the ledger {path} cannot be opened: {error.strerror}", hint="choose another --ledger"
    )


def guard(ledger: Ledger, crop: Crop) -> Guard:
    """Return what counts the releases of one face.

    A face of a known person counts there. A face of nobody known is a person of its own, told by its
    pixels: the same photo again costs nothing, another photo of the same person is not recognised.
    What was released of the same pixels counts in any case, whoever they were said to be.
    """
    photo = hashlib.sha256(crop.pixels.tobytes()).digest()
    face = f"face {photo.hex()}"
    who = face if crop.identity is None else person(crop.identity)
    inner = ledger.guard(who, photo, face=face)

    def silent(charge: Charge, draw: Callable[[], bytes]) -> bytes:
        try:
            return inner(charge, draw)
        except (
            BudgetSpent
        ) as fault:  # what is spent on whom stays in the ledger: records are published
            raise BudgetSpent("this person's budget does not hold it", hint=fault.hint) from None

    return silent


def person(identity: int) -> str:
    """Return how the ledger is told of the person with this identity: see persons.identity_of."""
    return f"person {identity}"


def _begin(path: Path, key_path: Path) -> None:
    """Make key and file; of two processes that begin at once, one makes the key."""
    part = key_path.with_name(f"{key_path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, key_path)
        except FileExistsError:
            return
        path.touch(mode=0o600)
        Ledger(path, key_path.read_bytes()).close()
    finally:
        part.unlink(missing_ok=True)


def _is_ledger(path: Path) -> bool:
    """Whether a file is marked as ours; a ledger that was killed as it began has the mark in its log."""
    with path.open("rb") as file:
        head = file.read(72)
    mark = int.from_bytes(head[68:], "big")
    begun = mark == 0 and path.with_name(path.name + "-wal").exists()
    return head.startswith(b"SQLite format 3\0") and (mark == APPLICATION or begun)


def _wait_for(path: Path) -> None:
    """Give another process that has made the key the time to make the file."""
    until = time.monotonic() + 1
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    if path.stat().st_size == 0:  # cut to nothing, or being made this moment
        time.sleep(0.2)
        if path.stat().st_size == 0 and not path.with_name(path.name + "-wal").exists():
            raise LedgerError(
                f"the ledger {path} is empty",
                hint="restore a copy; to begin anew, with all budgets unspent, choose another path for"
                " --ledger",
            )


def _data() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
