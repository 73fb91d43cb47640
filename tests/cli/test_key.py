"""`moretta key` and `log`, as people use them one after another."""

import json

import pytest


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sealed(tmp_path, portrait, put, moretta):
    """A protected photo for my.key, and the calls to come."""
    put(tmp_path / "in" / "a.png", portrait)
    assert moretta("key", "new", "my.key")[0] == 0
    assert moretta("anonymize", "in", "-o", "out", "--reversible", "--key", "my.key")[0] == 0
    return moretta


def recover(call, output, *given):
    return call("recover", "out", "-o", output, "--purpose", "request 7", *given)


def test_a_recipient_and_the_halves_of_a_key(sealed, tmp_path):
    assert sealed("key", "new", "me.pem", "--kind", "recipient")[0] == 0
    assert sealed("key", "export", "me.pem", "me.pub")[0] == 0
    _, out, _ = sealed("key", "show", "me.pem", "me.pub", "my.key", "out/a.png.ifad")
    rows = out.splitlines()
    assert rows[0].split()[-1] == rows[1].split()[-1] != rows[2].split()[-1]
    assert "opens with: key file" in out
    assert (tmp_path / "my.key").read_bytes().hex() not in out
    assert (
        sealed("key", "rotate", "out", "--key", "my.key", "--to", "me.pub", "--keep", "all")[0] == 0
    )
    assert rows[1].split()[-1] in sealed("key", "show", "out/a.png.ifad")[1]
    assert recover(sealed, "back", "--key", "me.pem")[0] == 0
    original = (tmp_path / "in" / "a.png").read_bytes()
    assert (tmp_path / "back" / "a.png").read_bytes() == original
    assert sealed("key", "show", "in/a.png")[0] == 2


def test_rotation(sealed):
    sealed("key", "new", "new.key")
    assert sealed("key", "rotate", "out", "--key", "my.key", "--new-key", "new.key")[0] == 0
    assert recover(sealed, "a", "--key", "my.key")[0] == 3
    assert recover(sealed, "b", "--key", "new.key")[0] == 0
    assert recover(sealed, "c", "--key", "my.key", "--key", "new.key")[0] == 0
    code, _, err = sealed("key", "rotate", "out", "--key", "my.key", "--new-key", "new.key")
    assert code == 3
    assert "a.png: it does not open" in err
    assert sealed("key", "rotate", "out", "--key", "new.key", "--keep", "most")[0] == 2


def test_nothing_is_rotated_that_the_log_does_not_have(sealed, tmp_path):
    sealed("key", "new", "new.key")
    call = "key", "rotate", "out", "--key", "my.key", "--new-key", "new.key"
    (tmp_path / "broken").write_text("no log\n")
    before = (tmp_path / "out" / "a.png.ifad").read_bytes()
    assert sealed(*call, "--log", "broken")[0] == 6
    assert (tmp_path / "out" / "a.png.ifad").read_bytes() == before
    assert sealed(*call, "--log", "good")[0] == 0
    rows = [json.loads(row) for row in (tmp_path / "good").read_text().splitlines()]
    assert [(row["action"], row["result"]) for row in rows] == [
        ("rotate", "asked"),
        ("rotate", "done"),
    ]


def test_resume_leaves_rotated_and_moved_sidecars_alone(sealed, tmp_path):
    sealed("key", "new", "new.key")
    rotated = "key", "rotate", "out", "--key", "my.key", "--new-key", "new.key", "--keep", "all"
    again = "anonymize", "in", "-o", "out", "--reversible", "--key", "my.key", "--resume"
    assert sealed(*rotated)[0] == 0
    code, out, _ = sealed(*again)
    assert (code, "published" in out, "done by an earlier run" in out) == (0, True, True)
    assert "without their sidecars" not in out
    assert recover(sealed, "back", "--key", "new.key")[0] == 0
    (tmp_path / "out" / "a.png.ifad").rename(tmp_path / "a.png.ifad")
    code, out, _ = sealed(*again)
    (row,) = [row for row in out.splitlines() if "without their sidecars" in row]
    assert (code, row.split()[-1]) == (0, "1")
    assert not (tmp_path / "out" / "a.png.ifad").exists()


def test_escrow(sealed, tmp_path):
    pytest.importorskip("shamir_mnemonic")
    sealed("key", "new", "escrow.pem", "--kind", "recipient")
    sealed("key", "export", "escrow.pem", "escrow.pub")
    sealed("key", "rotate", "out", "--key", "my.key", "--to", "escrow.pub")
    code, out, _ = sealed("key", "split", "escrow.pem", "-o", "shares", "--need", "2", "--of", "3")
    assert code == 0
    shares = sorted((tmp_path / "shares").iterdir())
    assert len(shares) == 3
    assert all(share.stat().st_mode & 0o777 == 0o600 for share in shares)
    said = set(out.split()) - {"hand", "destroy"}  # our own words of which a share may be made
    assert not any(said & set(share.read_text().split()) for share in shares)
    (tmp_path / "escrow.pem").unlink()
    assert sealed("key", "combine", shares[0], "-o", "again.pem")[0] == 2
    assert sealed("key", "combine", shares[2], shares[0], "-o", "again.pem")[0] == 0
    assert recover(sealed, "back", "--key", "again.pem")[0] == 0


def test_shredding(sealed, tmp_path):
    table = ["--key-table", "table"]
    sealed("anonymize", "in", "-o", "out", "--overwrite", "--reversible", "--key", "my.key", *table)
    assert "key table" in sealed("key", "show", "out/a.png.ifad")[1]
    assert recover(sealed, "a", "--key", "my.key")[0] == 3
    assert recover(sealed, "b", "--key", "my.key", *table)[0] == 0
    code, out, _ = sealed("key", "shred", "out/a.png", *table, "--purpose", "request 8")
    assert (code, "keys erased" in out) == (0, True)
    assert recover(sealed, "c", "--key", "my.key", *table)[0] == 3
    assert sealed("key", "shred", "out/a.png", *table, "--purpose", "request 8")[0] == 3
    rows = (tmp_path / "state" / "moretta" / "access.jsonl").read_text().splitlines()
    assert [json.loads(row)["result"] for row in rows[-4:-2]] == ["asked", "closed"]
    assert sealed("log", "verify")[0] == 0


def test_passphrases(sealed, tmp_path, monkeypatch):
    _, phrase, _ = sealed("key", "phrase")
    monkeypatch.setattr("getpass.getpass", lambda _: phrase.strip())
    given = ["--reversible", "--passphrase", "prompt"]
    assert sealed("anonymize", "in", "-o", "out", "--overwrite", *given)[0] == 0
    code, out, err = recover(sealed, "back", "--passphrase", "prompt")
    assert code == 0
    assert phrase.strip() not in out + err
    assert not any(
        phrase.strip().encode() in path.read_bytes() for path in (tmp_path / "out").iterdir()
    )
    monkeypatch.setattr("getpass.getpass", lambda _: "hunter2")
    code, _, err = sealed("anonymize", "in", "-o", "new", *given)
    assert (code, "weak" in err, "hunter2" in err) == (2, True, False)
    assert recover(sealed, "other", "--passphrase", "prompt")[0] == 3


def test_the_log_of_a_day(sealed, tmp_path):
    sealed("key", "new", "signing.pem", "--kind", "signing")
    recover(sealed, "a", "--key", "my.key")
    assert sealed("log", "sign", "--key", "signing.pem", "-o", "heads.jsonl")[0] == 0
    recover(sealed, "b", "--key", "my.key")
    code, out, _ = sealed("log", "verify", "--signed", "heads.jsonl", "--key", "signing.pem")
    assert (code, "whole: 4 lines, 1 known head passed" in out) == (0, True)
    head = out.split("head ")[-1].strip()
    log = tmp_path / "state" / "moretta" / "access.jsonl"
    rows = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(rows[:3]))
    assert sealed("log", "verify")[0] == 0
    assert sealed("log", "verify", "--head", head)[0] == 6
    log.write_bytes(rows[0])
    assert sealed("log", "verify", "--signed", "heads.jsonl", "--key", "signing.pem")[0] == 6
    log.write_bytes(rows[0] + rows[2])
    assert sealed("log", "verify")[0] == 6
    assert recover(sealed, "c", "--key", "my.key")[0] == 6
    assert not (tmp_path / "c").exists()


def test_a_log_that_was_cut_and_refilled_is_not_signed_again(sealed, tmp_path):
    sealed("key", "new", "signing.pem", "--kind", "signing")
    sign = "log", "sign", "--key", "signing.pem", "-o", "heads.jsonl"
    recover(sealed, "a", "--key", "my.key")
    recover(sealed, "b", "--key", "my.key")
    assert sealed(*sign)[0] == sealed(*sign)[0] == 0
    log, heads = tmp_path / "state" / "moretta" / "access.jsonl", tmp_path / "heads.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    call = "recover", "out", "-o", "c", "--key", "my.key", "--purpose", "something harmless"
    assert sealed(*call)[0] == 0
    before = heads.read_bytes()
    code, _, err = sealed(*sign)
    assert (code, "line 4 is not the one that was kept elsewhere" in err) == (6, True), err
    assert heads.read_bytes() == before
    sealed("log", "sign", "--key", "signing.pem", "-o", "later.jsonl")
    heads.write_bytes(before + (tmp_path / "later.jsonl").read_bytes())
    code, _, err = sealed("log", "verify", "--signed", "heads.jsonl", "--key", "signing.pem")
    assert (code, "two different heads of 4 lines" in err) == (6, True), err
    sealed("key", "new", "other.pem", "--kind", "signing")
    assert sealed("log", "sign", "--key", "other.pem", "-o", "later.jsonl")[0] == 6


@pytest.mark.parametrize(("count", "last"), [(3, "p02.png"), (4, "p03.png"), (6, "and 3 more")])
def test_one_reason_is_not_told_for_every_photo(folder, moretta, count, last):
    folder(count)
    for name in ("my.key", "other.key"):
        moretta("key", "new", name)
    moretta("anonymize", "in", "-o", "out", "--reversible", "--key", "my.key", "--jobs", 1)
    given = "--key", "other.key"
    for call in (
        ("recover", "out", "-o", "back", "--purpose", "request 7", *given),
        ("key", "rotate", "out", *given, "--new-key", "my.key"),
    ):
        code, _, err = moretta(*call)
        rows = [row for row in err.splitlines() if "does not open: the key" in row]
        assert (code, len(rows)) == (3, min(count, 4))
        told = [row.removeprefix("moretta: ").split(": ")[0] for row in rows]
        assert [*told[:2], told[-1]] == ["p00.png", "p01.png", last]


def test_different_reasons_are_all_told(folder, tmp_path, moretta):
    folder(5)
    moretta("key", "new", "my.key")
    moretta("anonymize", "in", "-o", "out", "--reversible", "--key", "my.key", "--jobs", 1)
    for i in range(4):
        (tmp_path / "out" / f"p0{i}.png").write_bytes(b"another picture")
    sidecar = tmp_path / "out" / "p04.png.ifad"
    sidecar.write_bytes(sidecar.read_bytes()[:99])
    _, _, err = recover(moretta, "back", "--key", "my.key")
    assert all(f"p0{i}.png: " in err for i in range(5))
    assert recover(moretta, "more", "--key", "my.key", "--json")[1].count("\n") == 5


def test_machines_can_read_what_recover_says(sealed):
    _, out, _ = recover(sealed, "back", "--key", "my.key", "--json")
    assert json.loads(out)["status"] == "BOUND"
