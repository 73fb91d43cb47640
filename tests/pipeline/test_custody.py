"""Files of secrets: made once, for one reader; and a log that is there before anything is opened."""

import os
import stat
import threading
from pathlib import Path

import pytest

from moretta.errors import KeyRejected, LogBroken, PhotoError, UsageError
from moretta.pipeline import custody
from moretta.pipeline.custody import AccessLog, KeyTable
from moretta.privacy import keys

PHRASE = "vapu-sota-figa-kyso-titi-vony"


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "my.key"
    custody.write_key(path, keys.to_bytes(keys.new()))
    return path


def test_a_key_file_is_made_for_one_reader_and_never_overwritten(key):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.stat().st_size == 32
    before = key.read_bytes()
    with pytest.raises(KeyRejected, match="never overwritten"):
        custody.write_key(key, bytes(32))
    assert key.read_bytes() == before
    assert custody.read_key(key) == keys.KeyFile(before)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_file_of_another_length_is_no_key(tmp_path, size):
    path = tmp_path / "k"
    custody.write_key(path, bytes(size))
    with pytest.raises(KeyRejected, match=f"{size} bytes"):
        custody.read_key(path)


def test_what_others_may_read_is_refused(key):
    key.chmod(0o644)
    with pytest.raises(KeyRejected, match="others may read"):
        custody.read_key(key)


def test_what_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(KeyRejected):
            custody.read_key(path)
    with pytest.raises(KeyRejected, match="cannot be written"):
        custody.write_key(tmp_path / "no" / "folder", b"x")


def test_a_passphrase_by_every_way(tmp_path, monkeypatch):
    file = tmp_path / "phrase"
    custody.write_key(file, PHRASE.encode() + b"\n")
    core, record = bytes(32), bytes(range(32))
    slot = custody.passphrase(f"file:{file}", fresh=True).wrap(record, core)
    with file.open("rb") as opened:
        assert custody.passphrase(f"fd:{opened.fileno()}", fresh=False).unwrap(slot, core) == record
    monkeypatch.setattr("getpass.getpass", lambda _: PHRASE)
    assert custody.passphrase("prompt", fresh=True).unwrap(slot, core) == record
    answers = iter([PHRASE, PHRASE + "x"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    with pytest.raises(KeyRejected, match="differ"):
        custody.passphrase("prompt", fresh=True)

    def nobody(_):
        raise EOFError

    monkeypatch.setattr("getpass.getpass", nobody)
    with pytest.raises(KeyRejected, match="nobody gave the passphrase"):
        custody.passphrase("prompt", fresh=False)


def test_a_passphrase_is_no_argument_and_is_not_repeated(tmp_path):
    numbers = ("fd:99", "fd:99999999999999999999", "fd:" + 5000 * "9")
    for how in (PHRASE, "prompt:x", "fd:", "fd:x", "file:", *numbers, f"file:{tmp_path / 'none'}"):
        with pytest.raises((UsageError, KeyRejected)) as caught:
            custody.passphrase(how, fresh=True)
        assert PHRASE not in caught.value.fault + caught.value.hint


@pytest.mark.parametrize("weak", [b"", b"\n", b"hunter2\n", b"\xff\xfe"])
def test_weak_words_in_a_file_are_refused(tmp_path, weak):
    custody.write_key(tmp_path / "p", weak)
    with pytest.raises(KeyRejected):
        custody.passphrase(f"file:{tmp_path / 'p'}", fresh=True)


def test_keyrings_say_what_is_missing_and_hide_the_rest(tmp_path, key):
    private = keys.new("recipient")
    custody.write_key(tmp_path / "me.pem", keys.to_bytes(private))
    custody.write_key(tmp_path / "me.pub", keys.to_bytes(private.public), mode=0o644)
    ring = custody.keyring(key=key, to=[tmp_path / "me.pub"])
    assert len(ring.wrappers) == 2
    assert len(ring.openers) == 1
    assert key.read_bytes().hex() not in repr(ring)
    assert repr(key.read_bytes()) not in repr(ring)
    assert repr(ring.master) not in repr(ring)
    with pytest.raises(KeyRejected, match="private key"):
        custody.keyring(to=[tmp_path / "me.pem"])
    with pytest.raises(KeyRejected, match="not a symmetric key"):
        custody.keyring(key=tmp_path / "me.pem")
    with pytest.raises(KeyRejected, match="no recipient"):
        custody.keyring(to=[key])
    custody.write_key(tmp_path / "low.pub", keys.to_bytes(keys.PublicKey(bytes(32))))
    with pytest.raises(KeyRejected, match="keeps no secret"):
        custody.keyring(to=[tmp_path / "low.pub"])
    with pytest.raises(UsageError, match="nothing to open with"):
        custody.openers()
    with pytest.raises(KeyRejected, match="opens nothing"):
        custody.openers(key=[tmp_path / "me.pub"])


def test_a_key_table_forgets_what_is_shredded(tmp_path):
    table = KeyTable(tmp_path / "table")
    table.make()
    table.make()
    rows = {bytes([i]) * 16: bytes([i + 100]) * 32 for i in range(1, 9)}
    for record, row in rows.items():
        table.add(record, row)
    assert all(table.find(record) == row for record, row in rows.items())
    gone = bytes([3]) * 16
    assert table.erase(gone)
    assert not table.erase(gone)
    assert table.find(gone) is None
    assert rows[gone] not in (tmp_path / "table").read_bytes()
    assert sum(table.find(record) == row for record, row in rows.items()) == 7
    assert stat.S_IMODE((tmp_path / "table").stat().st_mode) == 0o600
    (tmp_path / "other").write_bytes(b"hello")
    with pytest.raises(KeyRejected, match="no key table"):
        KeyTable(tmp_path / "other").make()


def test_a_torn_row_of_a_key_table_hides_none_behind_it(tmp_path):
    table = KeyTable(tmp_path / "table")
    table.make()
    first, second, third = (bytes([i]) * 16 for i in (1, 2, 3))
    table.add(first, bytes(range(32)))
    with (tmp_path / "table").open("ab") as file:
        file.write(b"torn by a kill, 23 byte")
    table.add(second, bytes(range(1, 33)))
    table.add(third, bytes(range(2, 34)))
    assert ((tmp_path / "table").stat().st_size - 16) % 48 == 0
    assert table.find(first) == bytes(range(32))
    assert table.find(second) == bytes(range(1, 33))
    assert table.erase(second)
    assert bytes(range(1, 33)) not in (tmp_path / "table").read_bytes()
    assert table.find(third) == bytes(range(2, 34))


def test_rows_that_an_earlier_version_wrote_behind_a_torn_one_are_found(tmp_path):
    path, row = tmp_path / "table", bytes([7]) * 16 + bytes(range(32))
    path.write_bytes(b"IFADTAB1" + bytes(8) + b"torn" + row)
    table = KeyTable(path)
    assert table.find(row[:16]) == row[16:]
    table.add(bytes([8]) * 16, bytes(range(1, 33)))
    assert table.find(row[:16]) == row[16:]
    assert table.erase(row[:16])
    assert row[16:] not in path.read_bytes()
    assert table.find(bytes([8]) * 16) == bytes(range(1, 33))


def test_a_full_disk_takes_the_torn_row_back(tmp_path):
    resource = pytest.importorskip("resource")
    table = KeyTable(tmp_path / "table")
    table.make()
    table.add(bytes([1]) * 16, bytes(range(32)))
    before = (tmp_path / "table").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
        with pytest.raises(OSError, match="too large"):
            table.add(bytes([2]) * 16, bytes(range(1, 33)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "table").read_bytes() == before
    table.add(bytes([2]) * 16, bytes(range(1, 33)))
    assert table.find(bytes([2]) * 16) == bytes(range(1, 33))


def test_a_row_that_the_disk_does_not_keep_is_noticed(tmp_path, monkeypatch):
    table = KeyTable(tmp_path / "table")
    table.make()

    def forgetful(handle):
        os.pwrite(handle, bytes(40), 16)

    monkeypatch.setattr("os.fsync", forgetful)
    with pytest.raises(PhotoError, match="does not keep its row"):
        table.add(bytes([1]) * 16, bytes(range(32)))


def test_only_the_head_of_a_key_table_is_read_for_a_new_row(tmp_path, monkeypatch):
    table = KeyTable(tmp_path / "table")
    table.make()

    def whole(path):
        raise AssertionError("a table of a million rows would be read for each photo")

    monkeypatch.setattr("pathlib.Path.read_bytes", whole)
    table.add(bytes([1]) * 16, bytes(range(32)))
    (tmp_path / "other").write_text("hello")
    with pytest.raises(KeyRejected, match="no key table"):
        KeyTable(tmp_path / "other").add(bytes([1]) * 16, bytes(range(32)))
    with pytest.raises(KeyRejected, match="cannot be opened"):
        KeyTable(tmp_path / "none").add(bytes([1]) * 16, bytes(range(32)))


def test_the_log_is_appended_to_and_verified(tmp_path):
    path = tmp_path / "state" / "access.jsonl"
    for i in range(3):
        AccessLog(path).write("open", record="00", purpose=f"request {i}", result="asked")
    log = AccessLog(path)
    for _ in range(3):
        log.write("open", record="00", purpose="again", result="asked")
    assert log.verify().lines == 6
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(path.read_bytes().replace(b"request 1", b"request 9"))
    with pytest.raises(LogBroken, match="line 3"):
        log.verify()
    with pytest.raises(LogBroken):
        AccessLog(path).write("open", record="00", purpose="more", result="asked")


def test_many_writers_make_one_chain(tmp_path):
    path = tmp_path / "access.jsonl"

    def work(name):
        log = AccessLog(path)
        for _ in range(20):
            log.write("open", record=name, purpose="test", result="asked")

    threads = [threading.Thread(target=work, args=(f"{i:02d}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AccessLog(path).verify().lines == 80


def test_without_a_log_nothing_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogBroken, match="cannot be written"):
        AccessLog(tmp_path / "file" / "log").write("open", record="", purpose="", result="")


def test_a_log_that_is_not_there_was_removed_only_if_somebody_knows_a_head_of_it(tmp_path):
    log = AccessLog(tmp_path / "access.jsonl")
    with pytest.raises(UsageError, match="there is no access log"):
        log.verify()
    log.write("open", record="00", purpose="request", result="asked")
    head = log.verify()
    (tmp_path / "access.jsonl").unlink()
    with pytest.raises(LogBroken, match="which once had 1 known head, is gone"):
        log.verify([head])


def test_purposes():
    assert custody.purpose("  request 7 ") == "request 7"
    assert "\n" not in custody.purpose("a\nforged line")
    for text in ("", "  ", "x", "y" * 501):
        with pytest.raises(UsageError):
            custody.purpose(text)


def test_the_log_has_its_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert custody.default_log() == tmp_path / "moretta" / "access.jsonl"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert os.fspath(custody.default_log()).endswith(".local/state/moretta/access.jsonl")


@pytest.mark.parametrize("there", [True, False])
def test_a_table_that_cannot_be_written_is_refused_before_a_run(there, tmp_path, monkeypatch):
    path = tmp_path / "table"
    if there:
        KeyTable(path).make()
    KeyTable(path).check()
    asked = []

    def refused(where, mode):
        asked.append(Path(where))
        return False

    monkeypatch.setattr("moretta.pipeline.custody.os.access", refused)
    with pytest.raises(KeyRejected, match=r"cannot be (written: permission|made: its folder)"):
        KeyTable(path).check()
    assert asked == [path if there else tmp_path]
