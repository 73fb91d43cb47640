"""Files that hold secrets or watch over them: keys, passphrases, the key table, the access log.

Promise   a key file is made with mode 0600 and never overwritten. Words of passphrases reach no
          manifest, no log and no error. Errors name key files by their paths, for the terminal; a
          manifest and the access log never do (`KeyRejected.told`).
Not here  what is done with keys (privacy/).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import getpass
import io
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moretta.errors import KeyRejected, LogBroken, PhotoError, UsageError, count_of, one_line
from moretta.privacy import chain, keys, phrases
from moretta.privacy.keys import KeyFile, Passphrase, PrivateKey, PublicKey, SigningKey

if TYPE_CHECKING:
    from moretta.privacy.keys import AnyKey, Opener, Wrapper

_ROW = 16 + keys.SIZE  # record_id, key
_TABLE = b"IFADTAB1" + bytes(8)
PURPOSE_LIMIT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """What a run seals with and draws pseudonyms from."""

    wrappers: tuple[Wrapper, ...] = ()
    openers: tuple[Opener, ...] = field(default=(), repr=False)  # those that we can try ourselves
    master: bytes = field(default=b"", repr=False)  # of pseudonyms; empty without a key file
    table: Path | None = None  # of shreddable records
    #: Files that hold secrets, by the options that name them, the table apart.
    files: Mapping[str, Path] = field(default_factory=dict, repr=False)

    @property
    def given(self) -> list[str]:
        """The options that it comes from."""
        kinds = {type(one) for one in self.wrappers} | ({KeyFile} if self.master else set())
        names = {"--key": KeyFile, "--to": PublicKey, "--passphrase": Passphrase}
        table = [] if self.table is None else ["--key-table"]
        return [name for name, kind in names.items() if kind in kinds] + table

    def told(self, salt: str) -> dict[str, Any]:
        """Return what `run.json` says of the keys, so that a run goes on with the same ones.

        salt: of the run, hexadecimal, drawn when it begins. Of a passphrase only that there is one:
        whatever comes from it would be a place to guess it at.
        """
        raw = bytes.fromhex(salt)
        to = [keys.trace(one.raw, raw) for one in self.wrappers if isinstance(one, PublicKey)]
        return {
            "salt": salt,
            "key": keys.trace(self.master, raw) if self.master else "",
            "to": sorted(to),
            "passphrase": "--passphrase" in self.given,
            "key_table": self.table is not None,
        }


def fleeting() -> Keyring:
    """Return a key that is written nowhere, for demonstrations and benchmarks of keyed methods."""
    return Keyring(master=KeyFile(secrets.token_bytes(keys.SIZE)).pseudonyms)


def other_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how the keys of two `Keyring.told` under one salt differ: a few words an option."""
    said = []
    for option in ("key", "to", "passphrase", "key_table"):
        was, is_ = before.get(option), now.get(option)
        if was != is_:
            how = "is another one" if was and is_ else f"was {'' if was else 'not '}given then"
            said.append(f"--{option.replace('_', '-')} {how}")
    return said


def read_key(path: Path) -> AnyKey:
    """Return the key in a file. Raises KeyRejected when it is none, or may be read by others."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise KeyRejected(f"{path} is not a regular file", hint="name a key file")
            content = file.read(16_384)
    except OSError as fault:
        raise KeyRejected(
            f"{path} cannot be read: {fault.strerror}", hint="name a key file"
        ) from None
    try:
        key = keys.from_bytes(content)
    except KeyRejected as fault:
        raise KeyRejected(f"{path} is no key: {fault.fault}", hint=fault.hint) from None
    secret = isinstance(key, KeyFile | PrivateKey | SigningKey)
    if secret and os.name != "nt" and about.st_mode & 0o077:
        raise KeyRejected(f"others may read {path}", hint=f"chmod 600 {path}")
    return key


def write_key(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a new file. Raises KeyRejected if anything is there already."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise KeyRejected(
            f"{path} is there already; a key is never overwritten", hint="choose another name"
        ) from None
    except OSError as fault:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise KeyRejected(
            f"{path} cannot be written: {fault.strerror}", hint="choose another place"
        ) from None


def passphrase(how: str, *, fresh: bool) -> Passphrase:
    """Return the passphrase that `how` leads to: "prompt", "fd:NUMBER" or "file:PATH".

    fresh: it will protect something, so a weak one is refused, and a prompt asks twice.
    """
    kind, _, rest = how.partition(":")
    if kind == "prompt" and not rest:
        try:
            words = getpass.getpass("Passphrase: ")
            if fresh and getpass.getpass("Again: ") != words:
                raise KeyRejected("the two passphrases differ", hint="try again")
        except EOFError:
            raise KeyRejected(
                "nobody gave the passphrase", hint="without a terminal: fd:NUMBER or file:PATH"
            ) from None
    elif kind == "fd" and rest.isdecimal():
        try:
            with os.fdopen(os.dup(int(rest)), "rb") as file:
                words = _words(file.read(4096))
        except (OSError, OverflowError, ValueError) as fault:  # no file has so large a number
            why = fault.strerror if isinstance(fault, OSError) else os.strerror(errno.EBADF)
            raise KeyRejected(
                f"file descriptor {rest[:20]} cannot be read: {why}", hint="such as 3< FILE"
            ) from None
    elif kind == "file" and rest:
        path = Path(rest)
        try:
            if os.name != "nt" and path.stat().st_mode & 0o077:
                raise KeyRejected(f"others may read {path}", hint=f"chmod 600 {path}")
            words = _words(path.read_bytes()[:4096])
        except OSError as fault:
            raise KeyRejected(
                f"{path} cannot be read: {fault.strerror}", hint="check --passphrase"
            ) from None
    else:  # never repeated here: it may be the passphrase itself
        raise UsageError(
            "--passphrase takes no passphrase, but a way to it",
            hint="prompt, fd:NUMBER or file:PATH; arguments can be seen by everybody",
        )
    return Passphrase(phrases.checked(words) if fresh else words)


def keyring(
    *,
    key: Path | None = None,
    to: Sequence[Path] = (),
    how: str | None = None,
    table: Path | None = None,
) -> Keyring:
    """Return what to seal with. key: a key file; to: public keys; how: a way to a passphrase.

    Raises KeyRejected and UsageError; nothing is written.
    """
    wrappers: list[Wrapper] = []
    openers: list[Opener] = []
    master = b""
    files = {} if key is None else {"--key": key}
    if key is not None:
        found = read_key(key)
        if not isinstance(found, KeyFile):
            raise KeyRejected(
                f"{key} is not a symmetric key", hint="public keys of recipients go to --to"
            )
        wrappers.append(found)
        openers.append(found)
        master = found.pseudonyms
    for path in to:
        public = read_key(path)
        if isinstance(public, PrivateKey):
            raise KeyRejected(
                f"{path} is a private key", hint=f"moretta key export {path} PUBLIC.pem; use that"
            )
        if not isinstance(public, PublicKey):
            raise KeyRejected(f"{path} is no recipient's public key", hint="see docs/keys.md")
        if not public.usable():
            raise KeyRejected(
                f"{path} is a public key that keeps no secret",
                hint="it was made to harm; get another",
            )
        wrappers.append(public)
    if how is not None:
        phrase = passphrase(how, fresh=True)
        if how.startswith("file:"):
            files["--passphrase"] = Path(how.removeprefix("file:"))
        phrase.prepare()
        wrappers.append(phrase)
        openers.append(phrase)
    if len(wrappers) > 32:
        raise UsageError(f"{len(wrappers)} keys are too many", hint="at most 32")
    if table is not None:
        KeyTable(table).check()
    return Keyring(
        wrappers=tuple(wrappers), openers=tuple(openers), master=master, table=table, files=files
    )


def openers(*, key: Sequence[Path] = (), how: str | None = None) -> list[Opener]:
    """Return what to open with. Raises KeyRejected and UsageError."""
    found: list[Opener] = []
    for path in key:
        one = read_key(path)
        if not isinstance(one, KeyFile | PrivateKey):
            raise KeyRejected(f"{path} opens nothing", hint="a key file or a private key is needed")
        found.append(one)
    if how is not None:
        found.append(passphrase(how, fresh=False))
    if not found:
        raise UsageError("nothing to open with", hint="--key FILE, or --passphrase prompt")
    return found


class KeyTable:
    """Rows of 48 bytes, record_id and key, behind a head of 16. Erasing a row kills its record.

    Raises KeyRejected for a file that is no key table.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """Refuse a file that is no key table or cannot be written, or a place where none can be made."""
        above = self._path.absolute().parent
        if self._path.exists():
            self._content()
            if not os.access(self._path, os.R_OK | os.W_OK):
                raise KeyRejected(
                    f"{self._path} cannot be written: permission denied", hint="check --key-table"
                )
        elif not above.is_dir():
            raise KeyRejected(
                f"{self._path} cannot be made: its folder is not there", hint="check --key-table"
            )
        elif not os.access(above, os.W_OK | os.X_OK):
            raise KeyRejected(
                f"{self._path} cannot be made: its folder cannot be written",
                hint="check --key-table",
            )

    def make(self) -> None:
        """Make an empty table unless there is one."""
        if self._path.exists():
            self._content()
        else:
            write_key(self._path, _TABLE)

    def add(self, record_id: bytes, key: bytes) -> None:
        """Append a row, wait until the disk has it, and read it back.

        What a killed writer left of a row is filled up with zeros first, so that those behind it stand
        in their places. Raises PhotoError when the row is not there; OSError leaves the table as it was.
        """
        row = record_id + key
        with self._opened() as file, _locked(file.fileno()):
            size = file.seek(0, os.SEEK_END)
            rest = memoryview(bytes(-(size - len(_TABLE)) % _ROW) + row)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
            file.seek(-_ROW, os.SEEK_END)
            if file.read(_ROW) != row:
                raise PhotoError("the key table does not keep its row", hint="check its disk")

    def find(self, record_id: bytes) -> bytes | None:
        """Return the record's key, or None when it was erased or never there."""
        content = self._content()
        for at in _places(content, record_id):
            return content[at + len(record_id) : at + _ROW]
        return None

    def erase(self, record_id: bytes) -> bool:
        """Overwrite the record's rows with zeros; return whether there was one."""
        with self._opened() as file, _locked(file.fileno()):
            places = _places(self._content(), record_id)
            for at in places:
                file.seek(at)
                rest = memoryview(bytes(_ROW))
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        return bool(places)

    def _content(self) -> bytes:
        try:
            content = self._path.read_bytes()
        except OSError as fault:
            raise self._closed(fault) from None
        self._check_head(content)
        return content

    def _opened(self) -> io.FileIO:
        """Return the table to read and write, of which only the head was read."""
        try:
            file = self._path.open("r+b", buffering=0)
        except OSError as fault:
            raise self._closed(fault) from None
        try:
            self._check_head(file.read(len(_TABLE)))
        except BaseException:
            file.close()
            raise
        return file

    def _check_head(self, content: bytes) -> None:
        if not content.startswith(_TABLE):
            raise KeyRejected(f"{self._path} is no key table", hint="check --key-table")

    def _closed(self, fault: OSError) -> KeyRejected:
        return KeyRejected(
            f"{self._path} cannot be opened: {fault.strerror}", hint="check --key-table"
        )


class AccessLog:
    """Who opened what, when and why: lines are only ever appended, and each is on the disk at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = (-1, chain.Head())  # size of the log as we left it, and its head then

    def write(self, action: str, *, record: str, purpose: str, result: str) -> None:
        """Append one line. Raises LogBroken when the log cannot be written or does not hold together."""
        entry = {
            "utc": now(),
            "actor": _actor(),
            "record_id": record,
            "action": action,
            "purpose": purpose,
            "result": result,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "r+b") as file, _locked(handle):
                size, head = self._known
                if os.fstat(handle).st_size != size:
                    head = chain.verified(file)
                row = chain.row(head, entry)
                file.seek(0, os.SEEK_END)
                file.write(row)
                file.flush()
                os.fsync(handle)
                self._known = (file.tell(), chain.after(head, row))
        except OSError as fault:
            raise LogBroken(
                f"the access log {self._path} cannot be written: {fault.strerror}",
                hint="nothing is opened without it; choose another with --log",
            ) from None

    def verify(self, known: Sequence[chain.Head] = ()) -> chain.Head:
        """Return the log's head.

        Raises LogBroken, also where a log of which heads are known is gone; UsageError where there is
        no log and nobody knows of one.
        """
        try:
            with self._path.open("rb") as file:
                return chain.verified(file, known=known)
        except OSError as fault:
            gone = isinstance(fault, FileNotFoundError)
            if known:
                raise LogBroken(
                    f"{self._path}, which once had {count_of(len(known), 'known head')}, "
                    + ("is gone" if gone else f"cannot be read: {fault.strerror}"),
                    hint="it was removed or replaced, or it lies elsewhere",
                ) from None
            raise UsageError(
                f"there is no access log {self._path}"
                if gone
                else f"{self._path} cannot be read: {fault.strerror}",
                hint="nothing was opened yet, or the log lies elsewhere; kept heads would show a removal",
            ) from None


def default_log() -> Path:
    """Return where the access log lies unless --log says otherwise."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "moretta" / "access.jsonl"


def purpose(text: str) -> str:
    """Return the purpose of an access, checked: one line that says something."""
    plain = one_line(text.strip())
    if len(plain) < 3 or len(plain) > PURPOSE_LIMIT:
        raise UsageError(
            f"--purpose {plain!r} says nothing" if len(plain) < 3 else "--purpose is too long",
            hint=f"why are the originals needed? 3 to {PURPOSE_LIMIT} characters, for the access log",
        )
    return plain


def now() -> str:
    """Return the time as it stands in records: UTC, to the second."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _places(table: bytes, record_id: bytes) -> list[int]:
    """Return where a record's rows begin.

    They are looked for at every byte: an earlier version wrote on behind a torn row, so that none
    behind it began at a multiple of 48. A record's 16 random bytes stand nowhere else.
    """
    places = []
    at = table.find(record_id, len(_TABLE))
    while 0 <= at <= len(table) - _ROW:
        places.append(at)
        at = table.find(record_id, at + 1)
    return places


def _words(content: bytes) -> str:
    try:
        return content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise KeyRejected("the passphrase is not UTF-8", hint="write it as text") from None


@contextlib.contextmanager
def _locked(handle: int) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time is the user's care
        yield
        return
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
