"""What has been released about whom: basic composition, remembered answers, caps that refuse.

Promise   no person's releases add up to more than the cap, nor those of one and the same face whoever
          it is said to be, whatever is killed and however many processes share the file: a release
          is written down as spent before it is drawn, and a crash in between leaves it spent. The
          same face gets the same answer again, which tells nothing new and costs nothing.
Assumes   whoever knows the key may learn who was released; without it the file holds keyed hashes,
          mechanisms, sums, times, and sealed answers. One epsilon adds to another (basic composition).
Not here  files and paths other than the one given; the key's whereabouts; who a person is.
Sources   Dwork et al. 2006 (composition); Rogers et al. 2016 (filters: a cap that is fixed beforehand
          holds for releases chosen one after another).
Checked   tests/privacy/test_ledger.py.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from moretta.errors import BudgetSpent, LedgerError, one_line

if TYPE_CHECKING:
    from moretta.records import Charge, Guard

SCHEMA = 2  # 2: the table `seen`
APPLICATION = 0x4D6F5245  # marks the file as ours
BUSY = 20.0  # seconds to wait for another process's lock
PENDING = 2.0  # seconds to wait for another process's draw before it counts as crashed
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE release (
    id INTEGER PRIMARY KEY AUTOINCREMENT, person BLOB NOT NULL, what BLOB NOT NULL,
    mechanism TEXT NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'released', 'lost')), at INTEGER NOT NULL);
CREATE INDEX release_person ON release (person);
CREATE INDEX release_open ON release (what) WHERE state = 'reserved';
CREATE TABLE memo (what BLOB PRIMARY KEY, release INTEGER NOT NULL, sealed BLOB NOT NULL);
CREATE TABLE merged (person BLOB PRIMARY KEY, into_person BLOB NOT NULL);
"""
_SEEN = """CREATE TABLE IF NOT EXISTS seen (
    who BLOB NOT NULL, release INTEGER NOT NULL, PRIMARY KEY (who, release)) WITHOUT ROWID"""


@dataclass(frozen=True, slots=True)
class Spent:
    """One person's account."""

    person: str  # hexadecimal, keyed
    releases: int
    epsilon: float
    delta: float
    last: int  # seconds since 1970


class Ledger:
    """One ledger file. Use it as a context manager, or close it."""

    def __init__(
        self,
        where: str | os.PathLike[str] | sqlite3.Connection,
        key: bytes,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or begin a ledger. key: 32 secret bytes, the same ones for the file's whole life.

        Raises LedgerError when the file is damaged, newer, locked, read-only, not a ledger, or was
        begun with another key.
        """
        if len(key) < 32:
            raise LedgerError(
                "a ledger's key has 32 bytes", hint="restore the key, or reset the ledger"
            )
        self._name = "the ledger" if isinstance(where, sqlite3.Connection) else os.fspath(where)
        self._key, self._clock = key, clock
        self._lock = threading.Lock()
        with self._spoken():
            if isinstance(where, sqlite3.Connection):
                self._db = where
                self._db.isolation_level = None
            else:
                self._db = sqlite3.connect(
                    where, timeout=BUSY, isolation_level=None, check_same_thread=False
                )
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @property
    def secret(self) -> int:
        """A number that follows from the key, for ids of persons that hold in every run."""
        return int.from_bytes(self._keyed(b"persons"), "big")

    def check(self) -> None:
        """Read the file whole. Raises LedgerError when a page of it is damaged."""
        with self._spoken():
            ((found,),) = self._db.execute("PRAGMA quick_check(1)").fetchall()
            if found != "ok":
                raise sqlite3.DatabaseError(found)

    def guard(self, person: str, photo: bytes, *, face: str = "") -> Guard:
        """Return what a method needs to release something of one person in one photo.

        person: what tells persons apart, in clear; it is hashed with the key. photo: a digest of
        what the release is made from. face: a name that this very face has whoever it is said to be.
        """

        def guarded(charge: Charge, draw: Callable[[], bytes]) -> bytes:
            return self.release(person, b"" if charge.shared else photo, charge, draw, face=face)

        return guarded

    def release(
        self,
        person: str,
        photo: bytes,
        charge: Charge,
        draw: Callable[[], bytes],
        *,
        face: str = "",
    ) -> bytes:
        """Return the remembered answer for this person, photo and charge, or draw one and charge it.

        face: see `guard`. Raises BudgetSpent, before anything is drawn, when the cap does not hold the
        charge on the person, or on the face.
        """
        known = self._person(face) if face else None
        with self._lock, self._spoken():
            remembered, row = self._reserved(self._person(person), photo, charge, known)
            if remembered is not None:
                return remembered
            try:
                answer = draw()
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("UPDATE release SET state = 'lost' WHERE id = ?", (row,))
                raise
            return self._committed(row, answer)

    def merge(self, kept: str, other: str) -> None:
        """Count `other` as `kept` from now on: their releases add up; the older answers stay."""
        with self._lock, self._spoken(), self._writing():
            one, two = (self._members(self._person(name))[0] for name in (kept, other))
            if one != two:
                self._db.execute(
                    "UPDATE merged SET into_person = ? WHERE into_person = ?", (one, two)
                )
                self._db.execute("INSERT INTO merged VALUES (?, ?)", (two, one))

    def spent(self, person: str) -> Spent:
        """Return one person's account; nothing spent for somebody unknown."""
        with self._spoken():
            members = self._members(self._person(person))
            return self._account(members)

    def people(self, *, since: int = 0) -> list[Spent]:
        """Return the accounts of all persons with a release after the one numbered `since`.

        Each account is whole, with what was spent before.
        """
        with self._spoken():
            rows = self._db.execute("SELECT DISTINCT person FROM release WHERE id > ?", (since,))
            roots = {self._members(person)[0] for (person,) in rows.fetchall()}
            return sorted(
                (self._account(self._members(root)) for root in roots),
                key=lambda one: (-one.epsilon, one.person),
            )

    def since(self, number: int) -> dict[str, float]:
        """Return what all processes spent after a release: releases, epsilon, people.

        most_on_one: the largest epsilon on one person of the whole ledger. Who was refused or got a
        remembered answer has no release, and is counted there all the same.
        """
        with self._spoken():
            count, epsilon = self._db.execute(
                "SELECT count(*), total(epsilon) FROM release WHERE id > ?", (number,)
            ).fetchone()
        everybody = self.people()
        most = everybody[0].epsilon if everybody else 0.0
        people = len(self.people(since=number))
        return {"releases": count, "epsilon": epsilon, "people": people, "most_on_one": most}

    def last(self) -> int:
        """Return the number of the newest release, 0 if there is none."""
        with self._spoken():
            ((number,),) = self._db.execute("SELECT coalesce(max(id), 0) FROM release").fetchall()
            return int(number)

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield every release as it stands, for a report: ids are keyed, answers are not in it."""
        names = ("id", "person", "mechanism", "epsilon", "delta", "state", "at")
        with self._spoken():
            for row in self._db.execute(f"SELECT {', '.join(names)} FROM release ORDER BY id"):  # noqa: S608
                yield dict(zip(names, row, strict=True)) | {"person": row[1].hex()}

    def remembered(self) -> int:
        """Return how many answers are remembered."""
        with self._spoken():
            ((count,),) = self._db.execute("SELECT count(*) FROM memo").fetchall()
            return int(count)

    def forget(self) -> None:
        """Destroy what is remembered: the sealed answers and the key they were sealed with.

        What was spent stays. The same photo drawn again is a new release and costs again.
        """
        with self._lock, self._spoken():
            with self._writing():
                self._db.execute("DELETE FROM memo")
                self._db.execute("UPDATE meta SET value = ? WHERE name = 'memo'", (os.urandom(32),))
            self._scrub()

    def clear(self) -> None:
        """Forget everything, what was spent too: a person can then be released again in full."""
        with self._lock, self._spoken():
            with self._writing():
                for table in ("memo", "release", "merged", "seen"):
                    self._db.execute(f"DELETE FROM {table}")  # noqa: S608
                self._db.execute("UPDATE meta SET value = ? WHERE name = 'memo'", (os.urandom(32),))
            self._scrub()

    # ---- one release ---------------------------------------------------------------------

    def _reserved(
        self, person: bytes, photo: bytes, charge: Charge, face: bytes | None
    ) -> tuple[bytes | None, int]:
        """Return a remembered answer, or the number of the row that now counts as spent."""
        deadline = time.monotonic() + PENDING
        while True:
            with self._writing():
                members = self._members(person)
                whats = [self._what(one, photo, charge) for one in members]
                if face is not None and photo:  # what is made from the face alone goes by the face
                    whats.insert(0, self._what(face, photo, charge))
                found = self._answer(whats)
                if found is not None:
                    self._note((members[0], face), found[1])  # it tells of them, too
                    return found[0], 0
                waiting = self._db.execute(
                    "SELECT 1 FROM release WHERE what = ? AND state = 'reserved'", whats[:1]
                ).fetchone()
                if not waiting or time.monotonic() > deadline:
                    self._db.execute(
                        "UPDATE release SET state = 'lost' WHERE what = ? AND state = 'reserved'",
                        whats[:1],
                    )
                    return None, self._row(members, whats[0], charge, face)
            time.sleep(0.005)  # another process draws this very release

    def _row(self, members: list[bytes], what: bytes, charge: Charge, face: bytes | None) -> int:
        accounts = [members] if face is None else [members, [face]]
        spent = max(self._account(who).epsilon for who in accounts)
        if not spent + charge.epsilon <= charge.cap * (1 + 1e-9):
            raise BudgetSpent(
                f"epsilon {spent:g} of {charge.cap:g} is spent on this person, and a release costs "
                f"{charge.epsilon:g}",
                hint="epsilon 0 costs nothing; --cap allows more; identitydp --alias person releases once "
                "for all photos; moretta budget show",
            )
        row = (members[0], what, charge.mechanism, charge.epsilon, charge.delta)
        number = self._db.execute(
            "INSERT INTO release (person, what, mechanism, epsilon, delta, state, at)"
            " VALUES (?, ?, ?, ?, ?, 'reserved', ?)",
            (*row, int(self._clock())),
        ).lastrowid
        self._note((face,), int(number or 0))
        return int(number or 0)

    def _note(self, whom: tuple[bytes | None, ...], release: int) -> None:
        """Count a release on others than the one it was drawn for."""
        rows = [(who, release) for who in whom if who is not None]
        self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows)

    def _committed(self, row: int, answer: bytes) -> bytes:
        with self._writing():
            ((what,),) = self._db.execute(
                "SELECT what FROM release WHERE id = ?", (row,)
            ).fetchall()
            first = self._answer([what])
            state = "released" if first is None else "lost"
            self._db.execute("UPDATE release SET state = ? WHERE id = ?", (state, row))
            if first is not None:  # it took so long that another process drew: nobody sees ours
                return first[0]
            self._db.execute(
                "INSERT INTO memo VALUES (?, ?, ?)", (what, row, self._seal(what, answer))
            )
        return answer

    def _answer(self, whats: list[bytes]) -> tuple[bytes, int] | None:
        """Return the first remembered answer and the number of its release."""
        marks = ", ".join("?" * len(whats))
        found = self._db.execute(
            f"SELECT what, sealed, release FROM memo WHERE what IN ({marks}) ORDER BY release LIMIT 1",  # noqa: S608
            whats,
        ).fetchone()
        if found is None:
            return None
        what, sealed, release = found
        return self._unseal(what, sealed), release

    def _account(self, members: list[bytes]) -> Spent:
        marks = ", ".join("?" * len(members))
        sums = "count(*), total(epsilon), total(delta), coalesce(max(at), 0)"
        count, epsilon, delta, last = self._db.execute(
            f"SELECT {sums} FROM release WHERE person IN ({marks}) OR id IN"  # noqa: S608
            f" (SELECT release FROM seen WHERE who IN ({marks}))",
            [*members, *members],
        ).fetchone()
        return Spent(members[0].hex(), count, epsilon, delta, last)

    def _members(self, person: bytes) -> list[bytes]:
        """Return the keyed ids that are one person, the one that stands for all first."""
        found = self._db.execute(
            "SELECT into_person FROM merged WHERE person = ?", (person,)
        ).fetchone()
        root = found[0] if found else person
        others = self._db.execute("SELECT person FROM merged WHERE into_person = ?", (root,))
        return [root, *(one for (one,) in others.fetchall())]

    # ---- keys ----------------------------------------------------------------------------

    def _keyed(self, *parts: bytes) -> bytes:
        text = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._key, text, "sha256")

    def _person(self, name: str) -> bytes:
        return self._keyed(b"person", name.encode("utf-8", "surrogatepass"))[:16]

    def _what(self, person: bytes, photo: bytes, charge: Charge) -> bytes:
        return self._keyed(b"what", self._salt(), person, photo, charge.mechanism.encode())

    def _salt(self) -> bytes:
        found = self._db.execute("SELECT value FROM meta WHERE name = 'memo'").fetchone()
        if found is None:
            raise sqlite3.DatabaseError("it has no row 'memo'")
        return bytes(found[0])

    def _seal(self, what: bytes, answer: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(12)
        return nonce + AESGCM(self._keyed(b"memo", self._salt())).encrypt(nonce, answer, what)

    def _unseal(self, what: bytes, sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        cipher = AESGCM(self._keyed(b"memo", self._salt()))
        try:
            return cipher.decrypt(sealed[:12], sealed[12:], what)
        except (InvalidTag, ValueError):
            raise sqlite3.DatabaseError("a remembered answer was altered") from None

    # ---- the file ------------------------------------------------------------------------

    def _open(self) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")
        ((application,),) = self._db.execute("PRAGMA application_id").fetchall()
        ((version,),) = self._db.execute("PRAGMA user_version").fetchall()
        ((tables,),) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if tables and application != APPLICATION:
            raise LedgerError(f"{self._name} is not a ledger", hint="choose another file")
        if version > SCHEMA:
            raise LedgerError(
                f"{self._name} was written by a newer version (schema {version}, this one knows "
                f"{SCHEMA})",
                hint="update moretta",
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # spent is spent after a power cut too
        self._db.execute("PRAGMA secure_delete = ON")
        with self._writing():
            ((tables,),) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchall()
            if not tables:
                self._begin()
            elif version < SCHEMA:
                self._db.execute(_SEEN)
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        found = self._db.execute("SELECT value FROM meta WHERE name = 'check'").fetchone()
        if found is None or not hmac.compare_digest(bytes(found[0]), self._keyed(b"check")):
            raise LedgerError(
                f"{self._name} was begun with another key, so it cannot tell who is who",
                hint="restore the key file that lay beside it, or choose another ledger",
            )

    def _begin(self) -> None:
        for statement in (*_TABLES.split(";"), _SEEN):
            if statement.strip():
                self._db.execute(statement)
        rows = [("check", self._keyed(b"check")), ("memo", os.urandom(32))]
        self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        self._db.execute(f"PRAGMA application_id = {APPLICATION}")
        self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def _scrub(self) -> None:
        """Leave no old page of the file behind, in the file itself and in its log."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turn SQLite's errors into ours, each with its remedy."""
        try:
            yield
        except sqlite3.Error as error:
            text = one_line(str(error))
            if "locked" in text or "busy" in text:
                what, hint = "is locked by another process", "wait until that one is done"
            elif "full" in text:
                what, hint = "cannot grow: no room left on its disk", "free some room"
            elif "readonly" in text or "unable to open" in text:
                what, hint = "cannot be opened for writing", "check its folder, or choose --ledger"
            else:
                what, hint = (
                    f"is damaged ({text})",
                    "restore a copy; nothing is released without it",
                )
            raise LedgerError(f"{self._name} {what}", hint=hint) from error
