import json
import math
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moretta.errors import DiskFull, ManifestError, UsageError
from moretta.photos import manifest as manifests
from moretta.records import FaceRecord, PhotoRecord, Statement

SETTINGS = {"method": "solid", "seed": 1, "detector": ("yunet",)}
number = st.floats(-1e6, 1e6)
words = st.text(max_size=20)
face = st.builds(
    FaceRecord,
    box=st.tuples(number, number, number, number),
    points=st.lists(st.tuples(number, number), min_size=5, max_size=5).map(tuple),
    points_from=st.sampled_from(["detector", "box"]),
    score=number,
    detector=words,
    method=words,
    settings=st.dictionaries(words, st.one_of(st.integers(), number, words)),
    seed=st.integers(0, 2**63 - 1),
    mask_scale=number,
    crop_scale=number,
    audit=st.fixed_dictionaries({"cosine": st.floats(), "passed": st.booleans()}),
    notes=st.lists(words, max_size=2).map(tuple),
    statement=st.none()
    | st.builds(Statement, promise=st.just("none"), covers=words, excludes=words),
)
record = st.builds(
    PhotoRecord,
    name=st.text(min_size=1, max_size=20),
    decision=st.sampled_from(["published", "withheld"]),
    reason=words,
    width=st.integers(0, 10**6),
    height=st.integers(0, 10**6),
    faces=st.lists(face, max_size=2).map(tuple),
    notes=st.lists(words, max_size=2).map(tuple),
    weights=st.dictionaries(words, words, max_size=2),
    seconds=st.dictionaries(words, number, max_size=2),
    seed=st.none() | st.integers(0, 2**63 - 1),
)


def photo(name, decision="published"):
    return PhotoRecord(name=name, decision=decision, reason="1 face")


def opened(folder, settings=SETTINGS, *, resume=False, overwrite=False):
    """A manifest of photos whose sidecars, if they had any, were moved away."""
    return manifests.opened(
        folder, settings, resume=resume, overwrite=overwrite, beside=lambda photo, line: "missing"
    )


def write(folder, *records, **how):
    with opened(folder, **how) as one:
        for each in records:
            one.append(each)
        return dict(one.done)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("os.sync", lambda: None)


@pytest.fixture(autouse=True)
def lines_without_photos(request, monkeypatch):
    """Here lines stand for themselves: no photos are written."""
    if "power_cut" not in request.node.name:
        monkeypatch.setattr(manifests, "_fallen", lambda folder, lines, beside: (set(), set()))


def test_after_a_power_cut_a_photo_that_is_not_whole_is_done_again(tmp_path):
    whole = PhotoRecord(name="a.png", decision="published", reason="", output_bytes=3)
    torn = PhotoRecord(name="b.png", decision="published", reason="", output_bytes=3)
    gone = PhotoRecord(name="c.png", decision="published", reason="", output_bytes=3)
    write(tmp_path, whole, torn, gone, photo("d.png", "withheld"))
    (tmp_path / "a.png").write_bytes(b"123")
    (tmp_path / "b.png").write_bytes(b"")
    assert set(write(tmp_path, resume=True)) == {"a.png", "d.png"}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=st.lists(record, min_size=1, max_size=4, unique_by=lambda r: r.name))
def test_reading_returns_what_was_written(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("out")
    write(folder, *records)
    read = manifests.read_lines(folder)
    assert read == [manifests.as_line(one) for one in records]
    again = write(folder, resume=True)
    assert again == {one.name: manifests.as_line(one) for one in records}
    assert manifests.read_lines(folder) == read


def test_a_line_holds_json_types_only():
    line = manifests.as_line(
        PhotoRecord(
            name="a.png",
            decision="published",
            reason="",
            seconds={"read": math.inf, "audit": math.nan, "write": 0.123456789},
        )
    )
    assert line["seconds"] == {"read": "inf", "audit": "nan", "write": 0.123457}
    assert json.loads(json.dumps(line, allow_nan=False)) == line


def test_names_that_are_no_unicode(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write(tmp_path, photo(name), photo("b.png"))
    assert [line["name"] for line in manifests.read_lines(tmp_path)] == [name, "b.png"]
    assert set(write(tmp_path, resume=True)) == {name, "b.png"}


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b"3",
        b'{"schema": 1}',
        b'{"schema": "1", "name": "a", "decision": "x"}',
    ],
)
def test_a_damaged_line_in_the_middle_is_refused(tmp_path, damage):
    write(tmp_path, photo("a.png"), photo("b.png"), photo("c.png"))
    path = tmp_path / "manifest.jsonl"
    first, _, third, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, damage, third, b""]))
    before = path.read_bytes()
    with pytest.raises(ManifestError, match="line 2 is damaged"):
        write(tmp_path, resume=True)
    assert path.read_bytes() == before, "evidence is not touched"


def test_a_torn_last_line_is_left_out(tmp_path):
    write(tmp_path, photo("a.png"), photo("b.png"))
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert set(write(tmp_path, resume=True)) == {"a.png"}
    assert len(path.read_bytes().splitlines()) == 1


def test_a_newer_schema_is_refused(tmp_path):
    write(tmp_path, photo("a.png"))
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"schema": 1', b'"schema": 2'))
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(ManifestError, match="newer version") as caught:
            write(tmp_path, **how)
        assert caught.value.hint == "update moretta"


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "a/../../b", "", ".", ".."])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ManifestError, match="leads out of the folder"):
        manifests.inside(tmp_path, name)


def test_overwrite_removes_nothing_outside_of_the_folder(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"mine")
    write(tmp_path / "out", photo("../mine.png"))
    with pytest.raises(ManifestError, match="leads out of the folder"):
        write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_failed_photos_are_done_again_and_withheld_ones_are_not(tmp_path):
    write(tmp_path, photo("a.png"), photo("b.png", "failed"), photo("c.png", "withheld"))
    assert set(write(tmp_path, resume=True)) == {"a.png", "c.png"}


def test_only_what_a_run_left_may_be_replaced(tmp_path):
    for name in ("mine.png", "torn.png"):
        (tmp_path / name).write_bytes(b"x")
    with opened(tmp_path, SETTINGS, resume=True, overwrite=False) as one:
        assert one.may_write("new.png")
        assert one.may_write("x" * 300), "too long a name is a fault of the writing"
        assert not one.may_write("mine.png"), "no earlier run"
        one.append(photo("mine.png", "failed"))
    old = (tmp_path / "run.json").stat().st_mtime - 60
    for how in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        os.utime(tmp_path / "torn.png", (old, old))
        with opened(tmp_path, SETTINGS, **how) as one:
            assert not one.may_write("torn.png"), "older than the run: somebody else's"
            os.utime(tmp_path / "torn.png")
            assert one.may_write("torn.png"), "younger: a killed run's"
            assert not one.may_write("mine.png")
            one.append(photo("mine.png", "failed"))


def test_a_folder_is_written_by_one_run_at_a_time(tmp_path):
    with opened(tmp_path, SETTINGS, resume=False, overwrite=False):
        with pytest.raises(UsageError, match="another run is writing"):
            write(tmp_path, resume=True)
        assert (tmp_path / ".moretta.lock").exists(), "the refused one must not open the door"
    assert not (tmp_path / ".moretta.lock").exists()


def test_a_lock_that_another_run_took_away_meanwhile_is_no_lock(tmp_path, monkeypatch):
    """That run ended between our opening of the file and our lock on it; a third one may begin."""
    fcntl = pytest.importorskip("fcntl")
    real, calls = fcntl.flock, []

    def late(file, how):
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / ".moretta.lock").unlink()
        if len(calls) == 2:
            (tmp_path / ".moretta.lock").unlink()
            (tmp_path / ".moretta.lock").touch()
        real(file, how)

    monkeypatch.setattr("fcntl.flock", late)
    with opened(tmp_path):
        assert len(calls) == 3
        with pytest.raises(UsageError, match="another run is writing"):
            write(tmp_path, resume=True)
    assert not (tmp_path / ".moretta.lock").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', ""])
def test_a_damaged_run_file_has_one_hint_whatever_is_asked(tmp_path, content):
    write(tmp_path, photo("a.png"))
    (tmp_path / "run.json").write_text(content)
    for call in (
        lambda: manifests.settings_of(tmp_path),
        lambda: write(tmp_path, resume=True),
        lambda: write(tmp_path, overwrite=True),
        lambda: write(tmp_path),
    ):
        with pytest.raises(ManifestError, match="missing, damaged, or not ours") as caught:
            call()
        assert caught.value.hint == "choose another folder"


def test_settings_must_be_the_same_and_what_differs_is_named(tmp_path):
    write(tmp_path, photo("a.png"))
    before = (tmp_path / "run.json").read_bytes()
    changed = {**SETTINGS, "method": "blur"}
    with (
        pytest.raises(ManifestError, match="method was 'solid', is 'blur'"),
        opened(tmp_path, changed, resume=True, overwrite=False),
    ):
        pass
    assert (tmp_path / "run.json").read_bytes() == before
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ManifestError, match=r"run\.json is missing, damaged"):
        write(tmp_path, resume=True)


def test_what_a_killed_run_left_half_written_is_swept(tmp_path):
    (tmp_path / "sub" / ".moretta-part-folder").mkdir(parents=True)
    (tmp_path / "sub" / ".moretta-part-12").write_bytes(b"half a face")
    write(tmp_path)
    assert not (tmp_path / "sub" / ".moretta-part-12").exists()


def test_a_full_disk_takes_the_torn_line_back(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path, SETTINGS, resume=False, overwrite=False) as one:
        one.append(photo("a.png"))
        try:
            room = (tmp_path / "manifest.jsonl").stat().st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            with pytest.raises(DiskFull, match="too large") as caught:
                one.append(photo("b.png"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "--resume" in caught.value.hint
        assert set(one.done) == {"a.png"}
    assert [line["name"] for line in manifests.read_lines(tmp_path)] == ["a.png"]
    assert (tmp_path / "manifest.jsonl").read_bytes().endswith(b"\n")


def test_nothing_measured_between_the_new_face_and_the_old_is_published():
    """A few releases of one photo would solve for the old face's vector."""
    told = {"cosine": 0.3037, "target": 0.1, "attribute distance": 40.0, "dlib": 0.2, "steps": 50.0}
    face = FaceRecord(
        box=(0.0, 0.0, 9.0, 9.0),
        points=(),
        points_from="detector",
        score=1.0,
        detector="yunet",
        method="falco",
        settings={},
        seed=None,
        mask_scale=1.0,
        crop_scale=1.0,
        audit={
            "judge": "sface",
            "cosine": 0.3037,
            "passed": True,
            "redrawn": [0.41, 0.44],
            "covered": {"cosine": 0.5, "fault": "", "figures": dict(told)},
        },
        figures=dict(told),
    )
    record = PhotoRecord(name="a.png", decision="published", reason="", faces=(face,))
    (line,) = manifests.as_line(record)["faces"]
    assert line["audit"]["redrawn"] == 2
    assert line["figures"] == line["audit"]["covered"]["figures"] == {"steps": 50.0}
    assert not any(number in json.dumps(line) for number in ("0.30", "0.41", "0.44", "40.0", "0.5"))
    assert face.audit["cosine"] == 0.3037  # the record in memory keeps it
