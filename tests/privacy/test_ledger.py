"""The ledger: nothing is spent twice, nothing that was spent is forgotten, and nobody is named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from moretta.errors import BudgetSpent, LedgerError
from moretta.privacy import ledger as ledgers
from moretta.privacy.ledger import SCHEMA, Ledger
from moretta.records import Charge

KEY = bytes(range(32))
ONE = Charge(mechanism="pool (epsilon 1)", epsilon=1.0, delta=1e-9, cap=10.0, shared=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path, KEY, clock=lambda: 1_000_000_000) as one:
        yield one


def never() -> bytes:
    raise AssertionError("drawn")


def test_the_same_person_and_photo_cost_once(ledger):
    first = ledger.release("anna", b"photo", ONE, lambda: b"answer")
    assert first == b"answer"
    for _ in range(100):
        assert ledger.release("anna", b"photo", ONE, never) == first
    assert ledger.spent("anna").epsilon == 1
    assert ledger.spent("anna").releases == 1


def test_other_photos_persons_and_mechanisms_are_other_releases(ledger):
    for person, photo, charge in (
        ("anna", b"1", ONE),
        ("anna", b"2", ONE),
        ("otto", b"1", ONE),
        ("anna", b"1", replace(ONE, mechanism="vmf (epsilon 2)", epsilon=2.0)),
    ):
        name = f"{person} {photo!r} {charge.mechanism}".encode()
        assert ledger.release(person, photo, charge, lambda name=name: name) == name
    assert (ledger.spent("anna").epsilon, ledger.spent("otto").epsilon) == (4, 1)
    assert ledger.spent("anna").delta == pytest.approx(3e-9)
    assert ledger.spent("nobody").epsilon == 0


def test_one_face_is_one_account_whoever_it_is_said_to_be(ledger):
    """The same photo without persons, with folders, with a list: named four ways, released once."""
    ten = replace(ONE, epsilon=10.0)
    other = replace(ten, mechanism="vmf (epsilon 10)")
    assert ledger.guard("face 1", b"1", face="face 1")(ten, lambda: b"answer") == b"answer"
    for name in ("folder", "list", "face 1"):
        again = ledger.guard(name, b"1", face="face 1")
        assert again(ten, never) == b"answer"  # nothing new, nothing spent
        with pytest.raises(BudgetSpent):
            again(other, never)
    assert len(ledger.people()) == 1
    with pytest.raises(BudgetSpent):  # another photo of somebody of whom this one is known
        ledger.guard("folder", b"2", face="face 2")(ten, never)
    assert ledger.guard("somebody", b"3", face="face 3")(ten, lambda: b"new") == b"new"


def test_a_face_counts_what_was_released_of_its_person_by_it(ledger):
    """--alias person: one release for all photos is a release of each of them."""
    shared = replace(ONE, epsilon=10.0, shared=True)
    for photo in (b"1", b"2"):
        ledger.guard("anna", photo, face=f"face {photo!r}")(shared, lambda: b"one")
    for photo in (b"1", b"2"):
        with pytest.raises(BudgetSpent):
            ledger.guard(f"face {photo!r}", photo, face=f"face {photo!r}")(ONE, never)
    assert ledger.spent("anna").epsilon == 10


def test_a_ledger_of_schema_1_goes_on(path):
    """It knew no faces: what it holds counts on the persons, what comes on both."""
    with Ledger(path, KEY) as old:
        old.release("anna", b"1", ONE, lambda: b"old")
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE seen")
        db.execute("PRAGMA user_version = 1")
    db.close()
    with Ledger(path, KEY) as ledger:
        guard = ledger.guard("anna", b"1", face="face 1")
        assert guard(ONE, never) == b"old"
        assert guard(replace(ONE, mechanism="another"), lambda: b"new") == b"new"
        assert ledger.spent("anna").epsilon == 2
        assert ledger.spent("face 1").epsilon == 2


def test_one_release_for_all_photos_of_a_person(ledger):
    shared = replace(ONE, shared=True)
    answers = {
        ledger.guard("anna", f"{i}".encode())(shared, lambda i=i: f"{i}".encode())
        for i in range(100)
    }
    assert answers == {b"0"}
    assert ledger.spent("anna").epsilon == 1
    single = {
        ledger.guard("anna", f"{i}".encode())(ONE, lambda i=i: f"{i}".encode()) for i in range(3)
    }
    assert single == {b"0", b"1", b"2"}
    assert ledger.spent("anna").epsilon == 4


def test_a_cap_refuses_before_anything_is_drawn(ledger):
    for i in range(10):
        ledger.release("anna", bytes([i]), ONE, lambda: b"x")
    with pytest.raises(BudgetSpent, match="epsilon 10 of 10 is spent on this person") as caught:
        ledger.release("anna", b"more", ONE, never)
    assert "--alias person" in caught.value.hint
    assert ledger.release("anna", b"\0", ONE, never) == b"x"  # what is remembered stays free
    ledger.release("anna", b"nothing", replace(ONE, epsilon=0.0), lambda: b"x")
    assert ledger.spent("anna").epsilon == 10


def test_tenths_fill_a_cap_exactly(ledger):
    tenth = replace(ONE, epsilon=0.1, cap=1.0)
    for i in range(10):
        ledger.release("anna", bytes([i]), tenth, lambda: b"x")
    with pytest.raises(BudgetSpent):
        ledger.release("anna", b"more", tenth, never)


@pytest.mark.parametrize("epsilon", [float("inf"), float("nan")])
def test_what_has_no_theorem_fits_no_cap(ledger, epsilon):
    with pytest.raises(BudgetSpent):
        ledger.release("anna", b"", replace(ONE, epsilon=epsilon, cap=1e300), never)


def test_a_draw_that_fails_counts_as_spent_and_is_tried_anew_at_once(ledger, monkeypatch):
    monkeypatch.setattr(ledgers, "PENDING", 1000.0)  # nobody may wait for a draw that failed

    def fails() -> bytes:
        raise RuntimeError("no vector")

    with pytest.raises(RuntimeError):
        ledger.release("anna", b"photo", ONE, fails)
    assert ledger.spent("anna").epsilon == 1
    assert ledger.release("anna", b"photo", ONE, lambda: b"x") == b"x"
    assert ledger.spent("anna").epsilon == 2


DIES = """
import os, signal, sys
from moretta.privacy.ledger import Ledger
from moretta.records import Charge
charge = Charge(mechanism="pool (epsilon 1)", epsilon=1.0, delta=1e-9, cap=10.0, shared=False)
ledger = Ledger(sys.argv[1], bytes(range(32)))
ledger.release("anna", b"first", charge, lambda: b"kept")
ledger.release("anna", b"photo", charge, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_killed_between_reserving_and_writing_counts_as_spent(path, monkeypatch):
    monkeypatch.setattr(ledgers, "PENDING", 0.05)
    ended = subprocess.run([sys.executable, "-c", DIES, path], check=False)
    assert ended.returncode == -signal.SIGKILL
    with Ledger(path, KEY) as ledger:
        ledger.check()
        assert ledger.spent("anna").epsilon == 2
        assert ledger.release("anna", b"first", ONE, never) == b"kept"
        assert ledger.release("anna", b"photo", ONE, lambda: b"again") == b"again"
        assert ledger.spent("anna").epsilon == 3
        assert [row["state"] for row in ledger.rows()] == ["released", "lost", "released"]


def _spend(path, first, count):
    done = 0
    with Ledger(path, KEY) as ledger:
        for i in range(first, first + count):
            try:
                ledger.release("anna", f"{i}".encode(), ONE, lambda: os.urandom(8))
                done += 1
            except BudgetSpent:
                pass
    return done


def _same(path, count):
    ledgers.PENDING = 60.0  # in a process of its own: the other one is slow and not dead
    with Ledger(path, KEY) as ledger:
        return [
            ledger.release("otto", bytes([i]), replace(ONE, cap=5.0), lambda: os.urandom(8))
            for i in range(count)
        ]


def test_two_processes_neither_overspend_nor_draw_one_release_twice(path):
    Ledger(path, KEY).close()
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        done = pool.starmap(_spend, [(path, 0, 9), (path, 100, 9)], chunksize=1)
        one, two = pool.starmap(_same, [(path, 5), (path, 5)], chunksize=1)
    assert sum(done) == 10
    assert one == two
    with Ledger(path, KEY) as ledger:
        assert ledger.spent("anna").epsilon == 10
        assert ledger.spent("otto").epsilon == 5


def test_an_answer_that_another_process_wrote_meanwhile_wins(path, monkeypatch):
    monkeypatch.setattr(ledgers, "PENDING", 0.0)
    with Ledger(path, KEY) as one, Ledger(path, KEY) as two:

        def slow() -> bytes:
            assert two.release("anna", b"photo", ONE, lambda: b"faster") == b"faster"
            return b"slower"

        assert one.release("anna", b"photo", ONE, slow) == b"faster"
        assert one.spent("anna").epsilon == 2  # both were reserved: the careful count
        assert one.remembered() == 1


def test_merging_adds_and_keeps_the_older_answer(ledger):
    shared = replace(ONE, shared=True)
    ledger.release("a", b"", shared, lambda: b"older")
    ledger.release("b", b"", shared, lambda: b"younger")
    ledger.release("c", b"1", ONE, lambda: b"x")
    ledger.merge("b", "a")
    ledger.merge("c", "b")
    for name in "abc":
        assert ledger.spent(name).epsilon == 3
        assert ledger.release(name, b"", shared, never) == b"older"
    assert ledger.release("b", b"1", ONE, never) == b"x"
    ledger.merge("a", "c")
    assert len(ledger.people()) == 1
    with pytest.raises(BudgetSpent):
        ledger.release("b", b"2", replace(ONE, cap=3.0), never)


def test_forgetting_destroys_answers_and_keeps_sums(ledger, path):
    ledger.release("anna", b"photo", ONE, lambda: b"answer")
    sealed = ledger._db.execute("SELECT sealed FROM memo").fetchone()[0]
    assert b"answer" not in sealed
    ledger.forget()
    assert ledger.remembered() == 0
    assert ledger.spent("anna").epsilon == 1
    for file in path.parent.iterdir():
        assert sealed not in file.read_bytes()
    assert ledger.release("anna", b"photo", ONE, lambda: b"other") == b"other"
    assert ledger.spent("anna").epsilon == 2
    ledger.clear()
    assert ledger.spent("anna").epsilon == 0
    assert list(ledger.rows()) == []


def test_no_name_and_no_answer_stands_in_the_file(path):
    with Ledger(path, KEY) as ledger:
        ledger.release("Anna Karenina", b"photo-digest-of-hers", ONE, lambda: b"a vector in clear")
        whole = b"".join(file.read_bytes() for file in path.parent.iterdir())
        for secret in (b"Karenina", b"photo-digest", b"in clear", KEY):
            assert secret not in whole
        (row,) = ledger.rows()
        assert row["person"] == ledger.spent("Anna Karenina").person
        assert row["at"] > 1_000_000_000
    with Ledger(path.with_name("other"), bytes(32)) as other:
        assert other.spent("Anna Karenina").person != row["person"]
        assert other.secret != ledger.secret


def test_accounts_since_a_release_are_whole(ledger):
    ledger.release("anna", b"1", ONE, lambda: b"x")
    ledger.release("otto", b"1", ONE, lambda: b"x")
    mark = ledger.last()
    ledger.release("anna", b"2", ONE, lambda: b"x")
    (one,) = ledger.people(since=mark)
    assert (one.epsilon, one.releases, one.last) == (2, 2, 1_000_000_000)
    assert [account.epsilon for account in ledger.people()] == [2, 1]


# ---- bad input -------------------------------------------------------------------------------


def test_a_newer_file_is_refused(path):
    Ledger(path, KEY).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    with pytest.raises(LedgerError, match="newer version") as caught:
        Ledger(path, KEY)
    assert caught.value.hint == "update moretta"


def test_another_key_is_refused(path):
    Ledger(path, KEY).close()
    with pytest.raises(LedgerError, match="begun with another key"):
        Ledger(path, bytes(32))
    with pytest.raises(LedgerError, match="32 bytes"):
        Ledger(path, b"short")


def test_damage_is_refused(path):
    with Ledger(path, KEY) as ledger:
        for i in range(40):
            ledger.release(f"{i}", b"", ONE, lambda: os.urandom(400))
    content = path.read_bytes()
    path.write_bytes(b"not a database at all" + content[21:])
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(path, KEY)
    path.write_bytes(content[:8192] + b"\xff" * 4096 + content[12288:])
    with pytest.raises(LedgerError, match="damaged"), Ledger(path, KEY) as ledger:
        ledger.check()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(LedgerError, match="damaged"), Ledger(path, KEY) as ledger:
        ledger.check()


def test_a_database_of_somebody_else_is_left_alone(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="is not a ledger"):
        Ledger(path, KEY)
    assert path.read_bytes() == before


def test_an_altered_answer_is_not_used(ledger):
    ledger.release("anna", b"photo", ONE, lambda: b"answer")
    ledger._db.execute("UPDATE memo SET sealed = zeroblob(40)")
    with pytest.raises(LedgerError, match="altered"):
        ledger.release("anna", b"photo", ONE, never)


def test_a_locked_file_is_reported(path, monkeypatch):
    monkeypatch.setattr(ledgers, "BUSY", 0.05)
    with Ledger(path, KEY) as ledger:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked by another process") as caught:
            ledger.release("anna", b"photo", ONE, never)
        assert caught.value.hint
        other.rollback()
        other.close()
        assert ledger.release("anna", b"photo", ONE, lambda: b"x") == b"x"


def test_a_full_disk_is_reported_before_anything_is_drawn(ledger):
    ledger.release("anna", b"photo", ONE, lambda: b"x")
    ((pages,),) = ledger._db.execute("PRAGMA page_count").fetchall()
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for i in range(500):
            ledger.release("anna", f"{i}".encode(), replace(ONE, epsilon=0.0), lambda: bytes(500))

    with pytest.raises(LedgerError, match="no room left"):
        fill()
    assert ledger.release("anna", b"photo", ONE, never) == b"x"


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    with pytest.raises(LedgerError, match="cannot be opened for writing"):
        Ledger(tmp_path / "no" / "such" / "ledger.sqlite", KEY)


def test_a_connection_will_do():
    with Ledger(sqlite3.connect(":memory:"), KEY) as ledger:
        assert ledger.release("anna", b"", ONE, lambda: b"x") == b"x"
        assert ledger.spent("anna").epsilon == 1
