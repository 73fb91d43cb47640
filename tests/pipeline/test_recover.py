"""Sealed on the way out, and back byte for byte; with anything wrong, nothing is written."""

import errno
import hashlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moretta.errors import (
    CannotOpen,
    KeyRejected,
    LogBroken,
    ManifestError,
    PhotoError,
    UsageError,
)
from moretta.methods import method
from moretta.photos import PART
from moretta.pipeline import custody, likeness, sealing
from moretta.pipeline import recover as recovery
from moretta.pipeline.custody import AccessLog, KeyTable
from moretta.pipeline.options import options
from moretta.pipeline.run import run
from moretta.privacy import envelope, keys
from moretta.privacy.keys import KeyFile, Passphrase
from moretta.records import Edited


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "my.key"
    custody.write_key(path, bytes(range(32)))
    return path


@pytest.fixture
def ring(key):
    return custody.keyring(key=key)


@pytest.fixture
def photos(tmp_path, put, portrait):
    """Five kinds of files, one in a folder, one with more than pixels."""
    exif = Image.Exif()
    exif[0x010F] = "Camera of Anna"
    put(tmp_path / "in" / "a.png", portrait)
    put(tmp_path / "in" / "holidays" / "b.jpg", portrait, quality=95, exif=exif)
    put(tmp_path / "in" / "c.webp", portrait, lossless=True)
    put(tmp_path / "in" / "d.tiff", portrait)
    with (tmp_path / "in" / "a.png").open("ab") as file:
        file.write(b"a trailer that no protected photo may have")
    return tmp_path / "in"


@pytest.fixture
def log(tmp_path):
    return AccessLog(tmp_path / "access.jsonl")


def protect(source, out, ring, **given):
    how = {name: given.pop(name) for name in ("resume", "overwrite", "jobs") if name in given}
    chosen = options({"reversible": True, **given})
    return run([source], out, chosen, keyring=ring, **{"jobs": 1, **how})


def back(where, output, log, *openers, **how):
    told = []
    inputs = where if isinstance(where, list) else [where]
    counts = recovery.recover(
        recovery.listed(inputs, how.pop("sidecars", None)),
        output,
        openers or [KeyFile(bytes(range(32)))],
        purpose="a test",
        log=log,
        listener=told.append,
        **how,
    )
    return counts, told


# ---- there and back ---------------------------------------------------------------------------


def test_originals_come_back_byte_for_byte(photos, tmp_path, ring, log, tree, quick, lines):
    summary = protect(photos, tmp_path / "out", ring)
    assert summary.published == 4
    counts, told = back(tmp_path / "out", tmp_path / "back", log)
    assert tree(tmp_path / "back") == tree(photos)
    assert counts.recovered == counts.sealed == 4
    assert counts.exit_code == 0
    assert {one.status for one in told} == {"BOUND"}
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "back").rglob("*.*")}
    assert modes == {0o600}
    for line in lines(tmp_path / "out"):
        sidecar = tmp_path / "out" / (line["name"] + ".ifad")
        assert line["sidecar_bytes"] == sidecar.stat().st_size
        assert line["sidecar_sha256"] == hashlib.sha256(sidecar.read_bytes()).hexdigest()
    again, told = back(tmp_path / "out", tmp_path / "back", log)
    assert again.kept == 4
    assert again.exit_code == 0


def test_nothing_of_the_input_or_the_key_shows(photos, tmp_path, ring, key, tree, quick):
    protect(photos, tmp_path / "out", ring, rename=True)
    for name, content in tree(tmp_path / "out").items():
        for hidden in (
            b"Camera of Anna",
            b"a trailer",
            b"holidays",  # long enough not to stand in the sealed bytes by chance
            b"my.key",
            str(key).encode(),
            key.read_bytes(),
            key.read_bytes().hex().encode(),
        ):
            assert hidden not in content, name
    times = {path.stat().st_mtime for path in (tmp_path / "out").glob("photo-*")}
    assert times == {315532800.0}


def test_neutral_names_come_back_as_they_were(photos, tmp_path, ring, log, tree, quick):
    protect(photos, tmp_path / "out", ring, rename=True)
    back(tmp_path / "out", tmp_path / "back", log)
    assert tree(tmp_path / "back") == tree(photos)


def test_workers_seal_too(folder, tmp_path, ring, log, tree):
    protect(folder(3), tmp_path / "out", ring, jobs=2)
    back(tmp_path / "out", tmp_path / "back", log)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_photos_and_sidecars_by_name_and_from_elsewhere(photos, tmp_path, ring, log, quick):
    protect(photos, tmp_path / "out", ring)
    store = tmp_path / "store"
    store.mkdir()
    shutil.move(tmp_path / "out" / "a.png.ifad", store / "a.png.ifad")
    _, told = back(tmp_path / "out" / "a.png", tmp_path / "one", log, sidecars=store)
    assert [one.status for one in told] == ["BOUND"]
    _, told = back(tmp_path / "out" / "c.webp.ifad", tmp_path / "two", log)
    assert [one.status for one in told] == ["BOUND"]
    for missing in (tmp_path / "out" / "a.png", tmp_path / "none.png", photos):
        with pytest.raises(UsageError, match=r"no sidecar|no such photo"):
            recovery.listed([missing])


def test_withheld_photos_have_no_sidecar(tmp_path, scene, put, ring, quick):
    put(tmp_path / "in" / "a.png", scene)
    assert protect(tmp_path / "in", tmp_path / "out", ring).withheld == 1
    assert not list((tmp_path / "out").glob("*.ifad"))


# ---- nothing without its sidecar --------------------------------------------------------------


def test_a_sidecar_that_fails_leaves_no_photo(folder, tmp_path, ring, quick, monkeypatch, lines):
    real, calls = envelope.seal, []

    def fails(*arguments, **given):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments, **given)

    monkeypatch.setattr(envelope, "seal", fails)
    summary = protect(folder(3), tmp_path / "out", ring)
    assert (summary.published, summary.failed) == (2, 1)
    assert not (tmp_path / "out" / "p01.png").exists()
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [
        "manifest.jsonl",
        "p00.png",
        "p00.png.ifad",
        "p02.png",
        "p02.png.ifad",
        "run.json",
    ]


def test_a_key_table_that_vanishes_is_the_users_fault_and_no_record_names_it(
    folder, tmp_path, key, quick, lines
):
    table = tmp_path / "secretdir" / "anna-smith-table"
    table.parent.mkdir()
    ring = custody.keyring(key=key, table=table)

    def vanish(summary, record):
        if record is not None:
            table.unlink(missing_ok=True)

    chosen = options({"reversible": True})
    summary = run([folder(3)], tmp_path / "out", chosen, keyring=ring, jobs=1, listener=vanish)
    assert (summary.published, summary.failed, summary.our_fault) == (1, 2, 0)
    assert summary.exit_code == 4
    for line in lines(tmp_path / "out")[1:]:
        assert line["reason"].startswith("a key or the key table cannot be used")
    assert b"anna-smith" not in (tmp_path / "out" / "manifest.jsonl").read_bytes()
    assert b"secretdir" not in (tmp_path / "out" / "manifest.jsonl").read_bytes()


def test_a_full_disk_stops_the_run_and_it_goes_on(
    folder, tmp_path, ring, log, quick, monkeypatch, tree
):
    real = envelope.seal

    def full(*arguments, **given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(envelope, "seal", full)
    summary = protect(folder(2), tmp_path / "out", ring)
    assert summary.disk_full
    assert sorted(tree(tmp_path / "out")) == ["manifest.jsonl", "run.json"]
    monkeypatch.setattr(envelope, "seal", real)
    assert protect(tmp_path / "in", tmp_path / "out", ring, resume=True).published == 2
    back(tmp_path / "out", tmp_path / "back", log)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_a_sidecar_that_does_not_open_again_is_a_failure(
    folder, tmp_path, ring, quick, monkeypatch
):
    real = envelope._plaintext
    monkeypatch.setattr(
        envelope, "_plaintext", lambda *given: iter([b"".join(real(*given))[:-1] + b"\1"])
    )
    summary = protect(folder(1), tmp_path / "out", ring)
    assert summary.failed == 1
    assert "does not open again" in summary.troubles[0][2]
    assert not list((tmp_path / "out").glob("p00*"))


def test_an_original_that_changes_meanwhile_is_a_failure(
    folder, tmp_path, ring, quick, monkeypatch, put, scene
):
    real = sealing.begin

    def begin(*given):
        put(tmp_path / "in" / "p00.png", scene)
        return real(*given)

    monkeypatch.setattr(sealing, "begin", begin)
    summary = protect(folder(1), tmp_path / "out", ring)
    assert summary.failed == 1
    assert "changed while it was being sealed" in summary.troubles[0][2]
    assert not list((tmp_path / "out").glob("p00*"))


def test_a_photo_that_cannot_be_written_leaves_no_sidecar(
    folder, tmp_path, ring, quick, monkeypatch
):
    def refused(path, *_, **__):
        raise PhotoError(f"{path.name} cannot be written", hint="")

    monkeypatch.setattr("moretta.pipeline.run.write_whole", refused)
    assert protect(folder(1), tmp_path / "out", ring).failed == 1
    assert not list((tmp_path / "out").glob("p00*"))


def test_resume_overwrite_and_others_files(folder, tmp_path, ring, quick, tree):
    source, out = folder(2), tmp_path / "out"
    protect(source, out, ring)
    (out / "p00.png").unlink()  # as a power cut may
    summary = protect(source, out, ring, resume=True)
    assert (summary.published, summary.kept, summary.again) == (1, 1, 1)
    assert (out / "p00.png.ifad").exists()
    before = tree(out)
    protect(source, out, ring, overwrite=True)
    after = tree(out)
    assert set(after) == set(before)
    assert after["p00.png.ifad"] != before["p00.png.ifad"]
    shutil.rmtree(source)
    summary = protect(folder(1), out, ring, overwrite=True)
    assert sorted(tree(out)) == ["manifest.jsonl", "p00.png", "p00.png.ifad", "run.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "p00.png.ifad").write_bytes(b"somebody's")
    summary = protect(source, other, ring)
    assert summary.failed == 1
    assert (other / "p00.png.ifad").read_bytes() == b"somebody's"
    assert not (other / "p00.png").exists()


@pytest.fixture(params=[True, False], ids=["core noted", "core not noted"])
def noted(request):
    """Whether lines name their sidecars' cores, as earlier versions did not."""

    def make(out):
        path = out / "manifest.jsonl"
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        for row in rows:
            assert row.pop("sidecar_core")
        if not request.param:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return make


@pytest.mark.parametrize("keep", ["all", "none"])
def test_a_rotated_sidecar_stays_with_its_photo(folder, tmp_path, ring, quick, tree, noted, keep):
    source, out, new = folder(2), tmp_path / "out", keys.new()
    protect(source, out, ring)
    noted(out)
    old = KeyFile(bytes(range(32)))
    for sidecar in out.glob("*.ifad"):
        recovery.rewrap(sidecar, [old], [new], keep=keep)
    before = tree(out)
    summary = protect(source, out, ring, resume=True)
    assert (summary.kept, summary.published, summary.kept_bare, summary.again) == (2, 0, 0, 0)
    assert tree(out) == before
    protect(folder(1, "less"), out, ring, overwrite=True)
    assert sorted(path.name for path in out.glob("p*")) == ["p00.png", "p00.png.ifad"]


def test_what_is_done_stays_done_without_its_sidecar(folder, tmp_path, ring, quick, tree):
    source, out = folder(3), tmp_path / "out"
    protect(source, out, ring)
    for name in ("p00.png.ifad", "p02.png.ifad"):
        (out / name).rename(tmp_path / name)
    before = tree(out)
    summary = protect(source, out, ring, resume=True)
    assert (summary.kept, summary.kept_bare, summary.published, summary.again) == (3, 2, 0, 0)
    assert summary.exit_code == 0
    assert tree(out) == before


@pytest.mark.parametrize("left", [0, 100, 40_000])
def test_a_cut_sidecar_is_done_again_with_its_photo(
    folder, tmp_path, ring, quick, tree, log, noted, left
):
    source, out = folder(2), tmp_path / "out"
    protect(source, out, ring)
    noted(out)
    path = out / "p01.png.ifad"
    path.write_bytes(path.read_bytes()[:left])
    summary = protect(source, out, ring, resume=True)
    assert (summary.kept, summary.published, summary.again) == (1, 1, 1)
    assert back(out, tmp_path / "back", log)[0].recovered == 2


def test_other_photos_sidecars_are_neither_taken_nor_destroyed(
    folder, tmp_path, ring, quick, tree, noted
):
    source, out = folder(3), tmp_path / "out"
    protect(source, out, ring)
    noted(out)
    shutil.copy(out / "p01.png.ifad", out / "p00.png.ifad")
    before = tree(out)
    with pytest.raises(ManifestError, match=r"1 sidecar of other photos or runs, such as p00\.png"):
        protect(source, out, ring, resume=True)
    assert tree(out) == before
    (out / "p00.png.ifad").unlink()
    assert protect(source, out, ring, resume=True).kept_bare == 1


def test_overwrite_leaves_a_sidecar_of_another_photo_alone(folder, tmp_path, ring, quick):
    """Without it that photo's original could be lost: its own photo's place stays empty instead."""
    source, out = folder(2), tmp_path / "out"
    protect(source, out, ring)
    shutil.copy(out / "p01.png.ifad", out / "p00.png.ifad")
    others = (out / "p00.png.ifad").read_bytes()
    summary = protect(source, out, ring, overwrite=True)
    assert (out / "p00.png.ifad").read_bytes() == others
    assert (summary.published, summary.failed) == (1, 1)
    assert summary.exit_code == 4
    assert not (out / "p00.png").exists()


def test_the_sidecar_of_another_run_is_not_taken_for_this_ones(folder, tmp_path, ring, quick, tree):
    """Its photo is the same to the bit, but it opens with other keys."""
    source = folder(1)
    for name in ("out", "other"):
        protect(source, tmp_path / name, ring)
    shutil.copy(tmp_path / "other" / "p00.png.ifad", tmp_path / "out")
    with pytest.raises(ManifestError, match="other photos or runs"):
        protect(source, tmp_path / "out", ring, resume=True)


def test_what_is_for_sidecars_is_refused_without_them(keyed, folder, tmp_path, ring):
    words, public = Passphrase("anything"), keys.new("recipient").public
    for more, said in (
        ({"wrappers": (*ring.wrappers, public)}, "no sidecar for --to"),
        ({"wrappers": (*ring.wrappers, words)}, "no sidecar for --passphrase"),
        (
            {"wrappers": (*ring.wrappers, public), "table": tmp_path / "table"},
            "no sidecar for --to and --key-table",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            protect(
                folder(1),
                tmp_path / "out",
                replace(ring, **more),
                method="pixelate",
                reversible=False,
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("linked", [False, True])
def test_no_secret_lies_in_the_output_folder(folder, tmp_path, key, quick, moretta, linked):
    source, out, there = folder(1), tmp_path / "out", tmp_path / "out" / "deeper" / "one"
    there.parent.mkdir(parents=True)
    home = tmp_path / "home"
    home.mkdir()
    (home / "key").write_bytes(key.read_bytes())
    (home / "table").write_bytes(b"IFADTAB1" + bytes(8))
    (home / "words").write_text("mefo-kaba-dinu-ropi-veba-zulo")
    for kind, option, given in (
        ("key", "--key", []),
        ("table", "--key-table", ["--key", key]),
        ("words", "--passphrase", []),
    ):
        if linked:
            there.symlink_to(home / kind)
        else:
            shutil.copy(home / kind, there)
        there.chmod(0o600)
        way = f"file:{there}" if kind == "words" else there
        call = ["anonymize", source, "-o", out, "--reversible", *given, option, way]
        for more in ([], ["--dry-run"]):
            code, _, err = moretta(*call, *more)
            assert (code, f"{option} {there} lies in the output folder" in err) == (2, True), err
        there.unlink()
        (home / kind).chmod(0o600)
    assert not list(out.rglob("*.*"))
    public = out / "her.pub.pem"
    public.write_bytes(keys.to_bytes(keys.new("recipient").public))
    assert moretta("anonymize", source, "-o", out, "--reversible", "--to", public)[0] == 0


@pytest.mark.parametrize("reversible", [True, False])
def test_a_run_goes_on_with_its_own_keys(keyed, folder, tmp_path, ring, tree, key, reversible):
    public, other = keys.new("recipient").public, keys.new("recipient").public
    source, out = folder(1), tmp_path / "out"
    chosen = {"method": "pixelate", "reversible": reversible}
    begun = replace(ring, wrappers=(*ring.wrappers, public)) if reversible else ring
    protect(source, out, begun, **chosen)
    before = tree(out)
    second = KeyFile(bytes(32))
    cases = [(replace(begun, master=second.pseudonyms), "--key is another one$")]
    if reversible:
        words = Passphrase("any")
        cases += [
            (ring, "--to was given then$"),
            (replace(ring, wrappers=(*ring.wrappers, other)), "--to is another one$"),
            (replace(begun, wrappers=(*begun.wrappers, words)), "--passphrase was not given then$"),
            (replace(begun, table=tmp_path / "table"), "--key-table was not given then$"),
            (replace(begun, wrappers=(public,), master=b""), "--key was given then$"),
        ]
    for now, said in cases:
        with pytest.raises(ManifestError, match=f"was begun with other keys: {said}"):
            protect(source, out, now, resume=True, **chosen)
    assert tree(out) == before
    assert not (tmp_path / "table").exists()
    again = replace(begun, wrappers=begun.wrappers[::-1])
    assert protect(source, out, again, resume=True, **chosen).kept == 1
    assert protect(source, out, cases[0][0], overwrite=True, **chosen).published == 1


def test_what_a_run_tells_of_its_keys_gives_nothing_away(folder, tmp_path, ring, quick, key):
    def told(name, keyring):
        protect(folder(1), tmp_path / name, keyring)
        return json.loads((tmp_path / name / "run.json").read_text())["settings"]["keys"]

    one, two = told("one", ring), told("two", ring)
    assert not set(map(str, one.values())) & set(map(str, two.values())) - {"[]", "False"}
    assert KeyFile(key.read_bytes()).fingerprint not in json.dumps([one, two])
    words = Passphrase("six words that nobody guesses")
    sealed_with_words = custody.Keyring(wrappers=(words,), openers=(words,))
    assert sorted(told("three", sealed_with_words).items())[:3] == [
        ("key", ""),
        ("key_table", False),
        ("passphrase", True),
    ]


def test_a_run_that_names_no_keys_does_not_go_on_with_some(folder, tmp_path, ring, quick):
    source, out = folder(1), tmp_path / "out"
    protect(source, out, ring)
    run_file = json.loads((out / "run.json").read_text())
    for spoil, said in (
        (lambda settings: settings["keys"].update(salt="no"), "is damaged"),
        (lambda settings: settings["keys"].pop("salt"), "is damaged"),
        (lambda settings: settings.pop("keys"), "without keys, or by a version that did not note"),
    ):
        spoil(run_file["settings"])
        (out / "run.json").write_text(json.dumps(run_file))
        with pytest.raises(ManifestError, match=said):
            protect(source, out, ring, resume=True)


def test_keys_are_asked_for_before_anything_starts(folder, tmp_path, ring, quick, key):
    source = folder(1)
    for chosen, keyring, words in (
        ({"reversible": True}, None, "needs something to seal with"),
        ({}, ring, "--key is given, and solid without --reversible has no use for it"),
        ({}, custody.keyring(table=tmp_path / "t"), "--key-table is given"),
        ({}, replace(ring, table=tmp_path / "t"), "--key and --key-table are given"),
        ({}, custody.Keyring(wrappers=(Passphrase("anything"),)), "--passphrase is given"),
        ({}, custody.Keyring(wrappers=(keys.new("recipient").public,)), "--to is given"),
    ):
        with pytest.raises(UsageError, match=words):
            run([source], tmp_path / "out", options(chosen), keyring=keyring)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "t").exists()  # the table is made when the run begins
    with pytest.raises(KeyRejected, match="its folder is not there"):
        custody.keyring(table=tmp_path / "nowhere" / "t")


# ---- what is wrong on the way back ------------------------------------------------------------


@pytest.fixture
def sealed(folder, tmp_path, ring, quick):
    """Three protected photos with their sidecars."""
    protect(folder(3), tmp_path / "out", ring)
    return tmp_path / "out"


def nothing_in(output):
    """Not even an empty folder, which would look like a recovery."""
    return not output.exists()


def test_wrong_keys_and_altered_sidecars_have_one_text(sealed, tmp_path, log):
    one, two, _ = sorted(sealed.glob("*.ifad"))
    content = bytearray(one.read_bytes())
    content[5000] ^= 1
    one.write_bytes(content)
    content = bytearray(two.read_bytes())
    content[290] ^= 1
    two.write_bytes(content)
    _, told = back([one, two], tmp_path / "back", log)
    _, more = back(sealed / "p02.png", tmp_path / "back", log, keys.new(), Passphrase("anything"))
    assert {one.outcome for one in [*told, *more]} == {"closed"}
    assert len({one.reason for one in [*told, *more]}) == 1
    assert nothing_in(tmp_path / "back")
    counts, _ = back(sealed, tmp_path / "back", log)
    assert (counts.closed, counts.recovered, counts.exit_code) == (2, 1, 3)


@pytest.mark.parametrize("cut", [0, 100, 311, 40_000])
def test_cut_sidecars_are_closed(sealed, tmp_path, log, cut):
    path = sealed / "p00.png.ifad"
    path.write_bytes(path.read_bytes()[:cut])
    counts, _ = back(sealed / "p00.png", tmp_path / "back", log)
    assert counts.closed == 1
    assert nothing_in(tmp_path / "back")


def test_a_folder_that_was_there_stays_and_new_ones_above_go(sealed, tmp_path, log):
    (tmp_path / "mine").mkdir()
    for output in (tmp_path / "mine", tmp_path / "mine" / "new" / "one"):
        assert back(sealed, output, log, keys.new())[0].closed == 3
    assert list(tmp_path.glob("mine/**")) == [tmp_path / "mine"]


def test_swapped_sidecars_are_unbound(sealed, tmp_path, log):
    one, two, _ = sorted(sealed.glob("*.ifad"))
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    counts, told = back(sealed, tmp_path / "back", log)
    assert (counts.unbound, counts.recovered, counts.exit_code) == (2, 1, 4)
    assert {told[0].status, told[1].status} <= {"SOFT", "UNBOUND"}
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["p02.png"]


def reencoded(path, container, size=None, **options):
    picture = Image.open(path).convert("RGB")
    picture = picture.resize(size) if size else picture
    out = io.BytesIO()
    picture.save(out, container, **options)
    path.write_bytes(out.getvalue())


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda p: reencoded(p, "PNG", compress_level=0), "BOUND"),
        (lambda p: reencoded(p, "TIFF"), "BOUND"),
        (lambda p: reencoded(p, "JPEG", quality=75), "SOFT"),
        (lambda p: reencoded(p, "PNG", size=(80, 80)), "SOFT"),
        (lambda p: reencoded(p, "PNG", size=(160, 160)) or flip_a_sample(p), "SOFT"),
        (lambda p: p.write_bytes(b"no photo"), "UNBOUND"),
        (lambda p: p.unlink(), "UNBOUND"),
    ],
    ids=["png", "tiff", "jpeg", "smaller", "one sample", "text", "gone"],
)
def test_a_changed_photo_writes_nothing_unless_it_is_allowed(sealed, tmp_path, log, change, status):
    change(sealed / "p00.png")
    sidecar = sealed / "p00.png.ifad"
    counts, (told,) = back(sidecar, tmp_path / "back", log)
    assert told.status == status
    if status == "BOUND":
        assert counts.recovered == 1
        return
    assert counts.exit_code == 4
    assert nothing_in(tmp_path / "back")
    _, (told,) = back(sidecar, tmp_path / "back", log, allow_unbound=True)
    assert (told.outcome, told.status) == ("recovered", status)
    assert (tmp_path / "back" / "p00.png").read_bytes() == (
        tmp_path / "in" / "p00.png"
    ).read_bytes()


def flip_a_sample(path):
    samples = np.asarray(Image.open(path)).copy()
    samples[0, 0, 0] ^= 1
    Image.fromarray(samples).save(path)


def test_nothing_is_overwritten(sealed, tmp_path, log):
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "p00.png").write_bytes(b"somebody's")
    counts, _ = back(sealed, tmp_path / "back", log)
    assert (counts.recovered, counts.failed) == (2, 1)
    assert (tmp_path / "back" / "p00.png").read_bytes() == b"somebody's"


def test_a_full_disk_while_recovering_leaves_nothing(sealed, tmp_path, log, monkeypatch):
    real = envelope.open_body

    def full(stream, unlocked, out):
        out.write(b"half an original")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(envelope, "open_body", full)
    counts, told = back(sealed, tmp_path / "back", log)
    assert counts.failed == 3
    assert "No space left" in told[0].reason
    assert nothing_in(tmp_path / "back")
    monkeypatch.setattr(envelope, "open_body", real)
    assert back(sealed, tmp_path / "back", log)[0].recovered == 3


def test_a_recovery_leaves_unfinished_files_of_others_alone(sealed, tmp_path, log):
    others = [tmp_path / "back" / f"{PART}x", tmp_path / "back" / "deep" / f"{recovery.HELD}y"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"being written by another run")
    assert back(sealed, tmp_path / "back", log)[0].recovered == 3
    assert all(other.exists() for other in others)


def test_an_interrupted_recovery_leaves_nothing_and_goes_on(sealed, tmp_path, log, monkeypatch):
    real = envelope.open_body

    def interrupted(stream, unlocked, out):
        out.write(b"half an original")
        raise KeyboardInterrupt

    monkeypatch.setattr(envelope, "open_body", interrupted)
    with pytest.raises(KeyboardInterrupt):
        back(sealed, tmp_path / "back", log)
    assert nothing_in(tmp_path / "back")
    monkeypatch.setattr(envelope, "open_body", real)
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / f"{recovery.HELD}killed").write_bytes(b"half an original")
    back(sealed, tmp_path / "back", log)
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        "p00.png",
        "p01.png",
        "p02.png",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "/etc/evil.png",
        "a/../../evil.png",
        "",
        ".",
        "a//b",
        "x\ny",
        "a\\b",
        "C:evil",
        PART + "x",
        "n" * 300,
        7,
        None,
    ],
)
def test_a_name_that_leads_elsewhere_is_not_used(sealed, tmp_path, name):
    one = recovery.Sealed(sealed / "p00.png.ifad", sealed / "p00.png", "p00.png")
    assert recovery._name(name, one) == "p00.png"
    assert recovery._name("sub/ä b.jpg", one) == "sub/ä b.jpg"


def test_the_log_is_written_first_and_without_it_nothing_is_opened(sealed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogBroken):
        back(sealed, tmp_path / "back", AccessLog(tmp_path / "file" / "log"))
    assert nothing_in(tmp_path / "back")
    log = AccessLog(tmp_path / "log")
    seen = []
    real = envelope.unlock

    def unlock(*given):
        seen.append(json.loads((tmp_path / "log").read_bytes().splitlines()[-1]))
        return real(*given)

    monkeypatch.setattr(envelope, "unlock", unlock)
    back(sealed, tmp_path / "back", log)
    back(sealed / "p00.png", tmp_path / "back2", log, keys.new())
    assert [line["result"] for line in seen] == ["asked"] * 4
    rows = [json.loads(row) for row in (tmp_path / "log").read_bytes().splitlines()]
    assert [row["result"] for row in rows[1::2]] == ["recovered BOUND"] * 3 + ["closed"]
    assert log.verify().lines == 8
    for hidden in (b"p00", str(tmp_path).encode(), bytes(range(32)).hex().encode()):
        assert hidden not in (tmp_path / "log").read_bytes()


# ---- other keys -------------------------------------------------------------------------------


def test_rotation_changes_who_opens_and_nothing_else(sealed, tmp_path, log, tree):
    old, new, person = KeyFile(bytes(range(32))), keys.new(), keys.new("recipient")
    sidecar = sealed / "p00.png.ifad"
    before = sidecar.read_bytes()
    assert recovery.rewrap(sidecar, [old], [new], keep="others") == 1
    after = sidecar.read_bytes()
    assert after[:192] == before[:192]
    assert after[312:] == before[312:]
    assert back(sidecar, tmp_path / "a", log, old)[0].closed == 1
    assert back(sidecar, tmp_path / "a", log, new)[0].recovered == 1
    assert recovery.rewrap(sidecar, [new], [person.public], keep="all") == 2
    assert back(sidecar, tmp_path / "b", log, person)[0].recovered == 1
    assert back(sidecar, tmp_path / "c", log, new)[0].recovered == 1
    assert recovery.rewrap(sidecar, [person], [old], keep="none") == 1
    assert back(sidecar, tmp_path / "d", log, old)[0].recovered == 1
    untouched = tree(sealed)
    with pytest.raises(CannotOpen):
        recovery.rewrap(sidecar, [new], [old], keep="none")
    with pytest.raises(UsageError, match="0 slots"):
        recovery.rewrap(sidecar, [old], [], keep="others")
    assert tree(sealed) == untouched


def test_shredding_one_photo_spares_the_others(folder, tmp_path, key, log, quick):
    ring = custody.keyring(key=key, table=tmp_path / "table")
    out, table = tmp_path / "out", KeyTable(tmp_path / "table")
    protect(folder(2), out, ring)
    copy = tmp_path / "backup.ifad"
    shutil.copy(out / "p00.png.ifad", copy)
    assert back(out, tmp_path / "a", log)[0].closed == 2  # without the table
    assert back(out, tmp_path / "a", log, table=table)[0].recovered == 2
    assert table.erase(recovery.header_of(copy).core.record_id)
    counts, told = back(out, tmp_path / "b", log, table=table)
    assert (counts.closed, counts.recovered) == (1, 1)
    assert "erased" in told[0].reason
    assert back(copy, tmp_path / "c", log, table=table, allow_unbound=True)[0].closed == 1
    new = keys.new()
    recovery.rewrap(
        out / "p01.png.ifad", [KeyFile(bytes(range(32)))], [new], keep="none", table=table
    )
    assert back(out / "p01.png", tmp_path / "d", log, new, table=table)[0].recovered == 1


# ---- pseudonyms -------------------------------------------------------------------------------


@pytest.fixture
def keyed(monkeypatch):
    """Make pixelate a keyed method that paints each face by its secret; returns what it saw."""
    seen = []

    def build(settings, device):
        def edit(crops):
            seen.extend(crop.secret for crop in crops)
            return [Edited(pixels=np.full_like(c.pixels, c.secret[0])) for c in crops]

        return edit

    fake = replace(method("pixelate"), keyed=True, build=build, fills_view=True)
    monkeypatch.setattr("moretta.methods.pixelate.METHOD", fake)
    return seen


def test_a_keyed_method_gets_a_secret_for_each_face(keyed, folder, tmp_path, ring, lines):
    run([folder(3)], tmp_path / "out", options({"method": "pixelate"}), jobs=1, keyring=ring)
    assert len(set(keyed)) == 3
    assert all(len(one) == 32 for one in keyed)
    found = lines(tmp_path / "out")
    assert all(line["pseudonym"]["scope"] == "record" for line in found)
    assert all(line["seed"] is None for line in found)
    salts = [bytes.fromhex(line["pseudonym"]["salt"]) for line in found]
    seeds = [keys.seed_without_envelope(ring.master, salt) for salt in salts]
    made = [
        keys.Pseudonyms("record", salt, seed).of(0) for salt, seed in zip(salts, seeds, strict=True)
    ]
    assert made == keyed
    again = [likeness.secrets_of(line, KeyFile(bytes(range(32)))) for line in found]
    assert again == [[one] for one in keyed]
    assert likeness.secrets_of(found[0], keys.new()) != again[0]
    for more in ({"sidecar_bytes": 9}, {"pseudonym": {}}, {"pseudonym": {"scope": "subject"}}):
        with pytest.raises(PhotoError):
            likeness.secrets_of({**found[0], **more}, keys.new())
    text = (tmp_path / "out" / "manifest.jsonl").read_text()
    assert not any(one.hex() in text for one in (*keyed, ring.master))


def test_a_sealed_record_gives_its_secrets_again(keyed, folder, tmp_path, ring):
    run(
        [folder(1)],
        tmp_path / "out",
        options({"method": "pixelate", "reversible": True}),
        jobs=1,
        keyring=ring,
    )
    sidecar = tmp_path / "out" / "p00.png.ifad"
    made, manifest, core = recovery.pseudonyms_of(sidecar, ring.openers)
    assert made.of(0) == keyed[0]
    assert manifest["scope"] == "record"
    assert len(manifest["faces"]) == 1
    assert manifest["faces"][0]["method"] == "pixelate"
    assert len(manifest["faces"][0]["points"]) == 5
    chosen = method("pixelate")
    assert core.model_digest == sealing.model_digest("pixelate", chosen.settings().model_dump())
    assert core.model_digest != sealing.model_digest("pixelate", {"cells": 9})


def test_subjects_keep_their_secret_over_runs_and_keys_part_them(
    keyed, tmp_path, put, portrait, ring
):
    for who in ("anna", "bert"):
        for i in range(2):
            put(tmp_path / "in" / who / f"{i}.png", np.roll(portrait, i, axis=1))
    chosen = options(
        {
            "method": "pixelate",
            "scope": "subject",
            "identity": "per-person",
            "persons": "folders",
            "reversible": True,
        }
    )
    run([tmp_path / "in"], tmp_path / "one", chosen, jobs=1, keyring=ring)
    run([tmp_path / "in"], tmp_path / "two", chosen, jobs=1, keyring=ring)
    assert keyed[0] == keyed[1] != keyed[2] == keyed[3]
    assert keyed[4:] == keyed[:4]
    other = custody.Keyring(wrappers=ring.wrappers, openers=ring.openers, master=bytes(32))
    run([tmp_path / "in"], tmp_path / "three", chosen, jobs=1, keyring=other)
    assert not set(keyed[8:]) & set(keyed[:8])
    made, manifest, _ = recovery.pseudonyms_of(
        tmp_path / "one" / "bert" / "0.png.ifad", ring.openers, master=KeyFile(bytes(range(32)))
    )
    assert made.of(0, manifest["faces"][0]["subject"]) == keyed[2]


def test_collections_only_by_word(keyed, folder, tmp_path, ring):
    with pytest.raises(UsageError, match="one rotation to everybody"):
        options({"method": "pixelate", "scope": "collection"})
    chosen = options({"method": "pixelate", "scope": "collection", "linkable": True})
    run([folder(2)], tmp_path / "out", chosen, jobs=1, keyring=ring)
    assert len(set(keyed)) == 1


def test_scopes_are_refused_where_they_mean_nothing(keyed, tmp_path, folder):
    for given in (
        {"method": "solid", "scope": "subject"},
        {"method": "solid", "linkable": True},
        {"method": "pixelate", "scope": "subject"},
        {"method": "pixelate", "identity": "per-person"},
        {"method": "pixelate", "identity": "per-run"},
        {"method": "pixelate", "linkable": True},
    ):
        with pytest.raises(UsageError):
            options(given)
    with pytest.raises(UsageError, match="draws pseudonyms from a key"):
        run([folder(1)], tmp_path / "out", options({"method": "pixelate"}), jobs=1)


def test_without_a_key_nothing_is_neural(folder, tmp_path, ring, quick):
    protect(folder(1), tmp_path / "out", ring)
    with pytest.raises(PhotoError, match="without a key"):
        recovery.pseudonyms_of(tmp_path / "out" / "p00.png.ifad", ring.openers)
