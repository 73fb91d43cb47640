"""Runs over folders: counts, resuming after any kind of end, neutral names, and nothing leaked."""

import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from moretta.errors import DiskFull, UsageError
from moretta.methods import method
from moretta.photos.files import write_whole
from moretta.pipeline import run as runs
from moretta.pipeline.options import options
from moretta.pipeline.protect import Protected, Protector
from moretta.pipeline.run import run

SOLID = tuple(bytes.fromhex(method("solid").settings().colour))


def go(source, out, *, jobs=1, **given):
    how = {"resume", "overwrite", "boxes", "internal_record", "listener"}
    arguments = {key: given.pop(key) for key in how & set(given)}
    sources = source if isinstance(source, list) else [source]
    return run(sources, out, options({"seed": 1, **given}), jobs=jobs, **arguments)


def check_whole(out, lines, names, summary=None):
    """Every photo once in the manifest, what is published is there and is what was recorded."""
    found = lines(out)
    assert sorted(line["name"] for line in found) == sorted(names)
    for line in found:
        path = out / line["name"]
        assert path.exists() == (line["decision"] == "published")
        if path.exists():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == line["output_sha256"]
    left = [path.name for path in out.rglob("*") if path.name.startswith(".moretta")]
    assert not left
    if summary is not None:
        assert summary.left == 0
        counts = summary.published + summary.withheld + summary.failed + summary.kept
        assert counts == summary.inputs == len(names)


def centre_of_face(line):
    left, top, right, bottom = line["faces"][0]["box"]
    return int((top + bottom) / 2), int((left + right) / 2)


# ---- counts ---------------------------------------------------------------------------------


def test_counts_add_up(folder, scene, put, tmp_path, lines, quick):
    source = folder(2)
    put(source / "sub" / "scene.png", scene)
    (source / "empty.jpg").touch()
    (source / "notes.txt").write_text("x")
    summary = go(source, tmp_path / "out")
    assert (summary.inputs, summary.published, summary.withheld, summary.failed) == (4, 2, 1, 1)
    assert (summary.not_photos, summary.faces, summary.exit_code) == (1, 2, 4)
    names = ["p00.png", "p01.png", "sub/scene.png", "empty.jpg"]
    check_whole(tmp_path / "out", lines, names, summary)
    assert {name for name, _, _ in summary.troubles} == {"sub/scene.png", "empty.jpg"}
    for line in lines(tmp_path / "out"):
        assert line["schema"] == 1
        assert line["reason"]


def test_a_record_says_what_happened_and_holds_no_embedding(folder, tmp_path, lines, quick):
    go(folder(1), tmp_path / "out", method="pixelate", settings={"cells": 4})
    (line,) = lines(tmp_path / "out")
    (face,) = line["faces"]
    assert (line["method"], face["method"], face["settings"]) == (
        "pixelate",
        "pixelate",
        {"cells": 4},
    )
    assert face["detector"] == "yunet"
    assert face["audit"]["judge"] == "sface"
    assert face["audit"]["passed"]
    assert "cosine" not in face["audit"]  # a manifest is published: see test_manifest
    assert set(line["weights"]) == {"yunet", "sface"}
    assert {"read", "detect", "audit", "write"} <= set(line["seconds"])
    assert len(json.dumps(line)) < 3000, "a vector would be longer"
    digest = hashlib.sha256((tmp_path / "in" / "p00.png").read_bytes()).hexdigest()
    assert digest not in json.dumps(line)


def test_pixels_outside_of_the_face_stay(folder, tmp_path, lines, quick, portrait):
    go(folder(1), tmp_path / "out")
    after = np.asarray(Image.open(tmp_path / "out" / "p00.png"))
    (line,) = lines(tmp_path / "out")
    row, column = centre_of_face(line)
    assert tuple(after[row, column]) == SOLID
    changed = (after != portrait).any(axis=2)
    left, top, right, bottom = line["faces"][0]["box"]
    size = max(right - left, bottom - top)
    rows, columns = np.nonzero(changed)
    assert rows.min() > top - size
    assert rows.max() < bottom + size
    assert columns.min() > left - size
    assert columns.max() < right + size


def test_two_jobs_give_the_pixels_of_one(folder, tmp_path, tree, lines):
    source = folder(4)
    one = go(source, tmp_path / "one", method="pixelate", settings={"cells": 6})
    two = go(source, tmp_path / "two", jobs=2, method="pixelate", settings={"cells": 6})
    assert one.published == two.published == 4

    def pictures(out):
        return {name: data for name, data in tree(out).items() if name.endswith(".png")}

    assert pictures(tmp_path / "one") == pictures(tmp_path / "two")

    def faces(out):
        return {line["name"]: line["faces"] for line in lines(out)}

    assert faces(tmp_path / "one") == faces(tmp_path / "two")


# ---- fail closed ----------------------------------------------------------------------------


@pytest.fixture
def spoiled(monkeypatch):
    """Spoil every Protector that a run builds: (**attributes to replace) -> None."""

    def spoil(**parts):
        def build(chosen, *, threads=1):
            protector = Protector(chosen, threads=threads)
            for name, part in parts.items():
                setattr(protector, name, part)
            return protector

        monkeypatch.setattr(runs, "Protector", build)

    return spoil


def raising(crops):
    raise RuntimeError("the network fell over")


def unchanged(crops):
    from moretta.records import Edited

    return [Edited(pixels=crop.pixels.copy()) for crop in crops]


def too_small(crops):
    from moretta.records import Edited

    return [Edited(pixels=crop.pixels[1:]) for crop in crops]


def too_few(crops):
    return []


def test_no_record_repeats_the_words_of_an_error_that_nobody_foresaw(
    folder, tmp_path, lines, spoiled
):
    def raises(crops):
        raise RuntimeError("Load model from /home/anna-smith/pool failed")

    spoiled(_edit=raises)
    go(folder(1), tmp_path / "out", method="blur")
    (line,) = lines(tmp_path / "out")
    assert line["faces"][0]["audit"]["covered"]["fault"] == "RuntimeError"
    assert "anna-smith" not in json.dumps(line)


@pytest.mark.parametrize("edit", [raising, unchanged, too_small, too_few])
def test_a_method_that_fails_never_publishes_a_bare_face(edit, folder, tmp_path, lines, spoiled):
    spoiled(_edit=edit)
    source = folder(1)
    summary = go(source, tmp_path / "cover", method="blur")
    assert (summary.published, summary.covered, summary.exit_code) == (1, 1, 3)
    (line,) = lines(tmp_path / "cover")
    assert line["faces"][0]["method"] == "solid"
    assert line["faces"][0]["settings"] == {}
    assert "covered" in line["faces"][0]["audit"]
    after = np.asarray(Image.open(tmp_path / "cover" / "p00.png"))
    row, column = centre_of_face(line)
    assert tuple(after[row, column]) == SOLID
    summary = go(source, tmp_path / "withhold", method="blur", on_audit_fail="withhold")
    assert (summary.withheld, summary.exit_code) == (1, 3)
    assert not (tmp_path / "withhold" / "p00.png").exists()


def test_a_resumed_run_counts_what_was_covered_withheld_and_soft_before(
    folder, tmp_path, lines, spoiled, put, scene, moretta
):
    spoiled(_edit=raising)
    source, out = folder(2), tmp_path / "out"
    put(source / "scene.png", scene)
    first = go(source, out, method="blur")
    assert (first.covered, first.withheld, first.faces, first.soft) == (2, 1, 2, 0)
    again = go(source, out, method="blur", resume=True)
    assert (again.kept, again.kept_withheld, again.published, again.withheld) == (3, 1, 0, 0)
    assert (again.covered, again.faces, again.exit_code) == (first.covered, first.faces, 3)
    rows = lines(out)
    drawn = next(row for row in rows if row["name"] == "p00.png")
    del drawn["faces"][0]["audit"]["covered"]  # as if it had been drawn, three times too small
    drawn["faces"][0]["crop_scale"] = 3.0
    (out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = go(source, out, method="blur", resume=True)
    assert (again.covered, again.soft, again.softest) == (1, 1, 3.0)
    words = ("anonymize", source, "-o", out, "--method", "blur", "--seed", 1, "--resume")
    said = " ".join(moretta(*words)[1].split())
    assert "done by an earlier run 3 of these withheld 1 photos in 3" in said
    assert "faces 2 of these covered by policy 1" in said


@pytest.mark.parametrize("cosine", [1.0, np.nan])
def test_a_judge_that_knows_everybody(cosine, folder, tmp_path, lines, quick, monkeypatch):
    """The face is withheld, or painted until the judge sees nothing but paint."""
    from moretta.faces.recognise import Recogniser

    def embed_crops(self, crops):
        return np.tile(np.eye(1, 128, dtype=np.float32) * cosine, (len(crops), 1))

    monkeypatch.setattr(Recogniser, "embed_crops", embed_crops)
    source = folder(1)
    summary = go(source, tmp_path / "out", method="pixelate", on_audit_fail="withhold")
    assert (summary.withheld, summary.exit_code) == (1, 3)
    assert not (tmp_path / "out" / "p00.png").exists()
    (line,) = lines(tmp_path / "out")
    assert "1 of 1 face not protected: the judge knows them" in line["reason"]
    assert line["faces"][0]["audit"]["passed"] is False
    summary = go(source, tmp_path / "cover", method="pixelate", on_audit_fail="cover")
    assert (summary.covered, summary.exit_code) == (1, 3)
    (line,) = lines(tmp_path / "cover")
    assert line["decision"] == "published"
    assert line["reason"] == "1 face, 1 covered by policy: the judge still knew it"
    assert line["faces"][0]["audit"]["blank"] is True
    after = np.asarray(Image.open(tmp_path / "cover" / "p00.png"))
    left, top, right, bottom = (round(v) for v in line["faces"][0]["box"])
    assert (after[top:bottom, left:right] == SOLID).all()


def test_a_file_that_the_judge_saw_is_encoded_once(folder, tmp_path, lines, quick, monkeypatch):
    """JPEG 50 is looked at always; what is written are the very bytes that would be made anew."""
    from moretta.photos import encode

    encoded, how = [], {"method": "pixelate", "format": "jpeg", "quality": 50}

    def counted(*arguments, **given):
        encoded.append(given["quality"])
        return plain(*arguments, **given)

    plain = encode._encode
    monkeypatch.setattr(encode, "_encode", counted)
    source = folder(1)
    assert go(source, tmp_path / "once", **how).exit_code == 0
    assert encoded == [50]
    monkeypatch.setattr(runs, "_written", lambda photo, options: None)
    assert go(source, tmp_path / "unseen", **how).exit_code == 0
    (line,) = lines(tmp_path / "once")
    content = (tmp_path / "once" / line["name"]).read_bytes()
    assert content == (tmp_path / "unseen" / line["name"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == line["output_sha256"]


def test_a_judge_that_fails_publishes_nothing(folder, tmp_path, quick, monkeypatch):
    from moretta.faces.recognise import Recogniser

    def embed_crops(self, crops):
        raise RuntimeError("no answer")

    monkeypatch.setattr(Recogniser, "embed_crops", embed_crops)
    summary = go(folder(2), tmp_path / "out", method="pixelate")
    assert (summary.published, summary.failed, summary.exit_code) == (0, 2, 1)
    assert not list((tmp_path / "out").glob("*.png"))


def test_on_no_face_copy_publishes_the_same_pixels(scene, put, tmp_path, lines, quick):
    put(tmp_path / "in" / "scene.png", scene)
    summary = go(tmp_path / "in", tmp_path / "out", on_no_face="copy")
    assert (summary.published, summary.exit_code) == (1, 0)
    assert (np.asarray(Image.open(tmp_path / "out" / "scene.png")) == scene).all()
    (line,) = lines(tmp_path / "out")
    assert line["reason"] == "no face found; --on-no-face copy"


def test_a_photo_that_vanishes_in_between(folder, tmp_path, lines, quick):
    source = folder(3)

    def listener(summary, record):
        (source / "p02.png").unlink(missing_ok=True)

    summary = go(source, tmp_path / "out", listener=listener)
    assert (summary.published, summary.failed, summary.exit_code) == (2, 1, 4)
    assert summary.troubles == [("p02.png", "failed", "no such file; was it moved or deleted?")]
    check_whole(tmp_path / "out", lines, ["p00.png", "p01.png", "p02.png"], summary)


def test_what_a_killed_run_left_goes_when_its_photo_fails_now(folder, tmp_path, lines, quick):
    source, out = folder(2), tmp_path / "out"
    go(source, out)
    (out / "manifest.jsonl").write_bytes(b"")  # killed before the first line
    (source / "p01.png").write_bytes(b"")
    summary = go(source, out, resume=True)
    assert (summary.published, summary.failed) == (1, 1)
    check_whole(out, lines, ["p00.png", "p01.png"], summary)


def test_the_reason_of_a_photo_called_a_is_still_readable(folder, tmp_path, quick):
    source = folder(1, suffix=".jpg")
    (source / "a").write_bytes((source / "p00.jpg").read_bytes()[:2000])
    summary = go(source, tmp_path / "out")
    ((_, _, reason),) = summary.troubles
    assert reason.startswith("JPEG is cut off (")
    assert "the photo" not in reason.partition(";")[0]


def test_names_that_are_no_unicode(portrait, put, tmp_path, lines, quick, moretta):
    source = tmp_path / "in"
    put(source / "a.png", portrait)
    name = os.fsdecode(b"caf\xe9.png")
    (source / "a.png").rename(source / name)
    (source / os.fsdecode(b"\xff.jpg")).touch()
    record = tmp_path / "links.jsonl"
    arguments = ["anonymize", source, "-o", tmp_path / "out", "--internal-record", record]
    code, _, err = moretta(*arguments, "--progress", "jsonl")
    assert code == 4
    assert "\\udcff.jpg: failed: the file is empty" in err
    assert (tmp_path / "out" / name).exists()
    assert {line["name"] for line in lines(tmp_path / "out")} == {name, os.fsdecode(b"\xff.jpg")}
    assert moretta(*arguments, "--resume", "--json")[0] == 4
    assert moretta("anonymize", source, "-o", tmp_path / "o2", "--dry-run", "--json")[0] == 0
    assert moretta("detect", source, "--json", tmp_path / "boxes.jsonl")[0] == 4
    boxes = ["--boxes", tmp_path / "boxes.jsonl"]
    assert moretta("anonymize", source, "-o", tmp_path / "o3", *boxes)[0] == 4
    assert (tmp_path / "o3" / name).exists()


# ---- ended in the middle --------------------------------------------------------------------


MANY = 30  # photos: a second's work and more is left when the signal comes, also if it comes late


def started(source, out, *more, **given):
    command = [sys.executable, "-m", "moretta", "anonymize", source, "-o", out]
    command += ["--seed", "1", "--progress", "none", *more]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given
    )


def wait_for_lines(out, count, process):
    end = time.monotonic() + 60
    manifest = out / "manifest.jsonl"
    while process.poll() is None and time.monotonic() < end:
        written = manifest.read_bytes().count(b"\n") if manifest.exists() else -1
        if written >= count:
            return
        time.sleep(0.002)


@pytest.mark.parametrize(("after", "jobs"), [(0, 1), (1, 1), (5, 1), (9, 1), (3, 2)])
def test_a_killed_run_goes_on(after, jobs, folder, tmp_path, lines, quick):
    source, out = folder(MANY), tmp_path / "out"
    process = started(source, out, "--jobs", jobs)
    wait_for_lines(out, after, process)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # until its workers are gone too
    assert process.returncode == -signal.SIGKILL, "the run was over too soon to kill it"
    assert gone(workers), "a worker goes on writing behind the resumed run"
    kept = {line["name"] for line in whole_lines(out)}
    assert after <= len(kept) < MANY
    before = {name: (out / name).stat().st_mtime_ns for name in kept}
    summary = go(source, out, resume=True)
    assert (summary.kept, summary.published) == (len(kept), MANY - len(kept))
    check_whole(out, lines, [f"p{i:02d}.png" for i in range(MANY)], summary)
    assert before == {name: (out / name).stat().st_mtime_ns for name in kept}, "done twice"


def children(pid):
    path = f"/proc/{pid}/task/{pid}/children"
    if not os.path.exists(path):  # noqa: PTH110
        return []
    with open(path) as file:  # noqa: PTH123
        return [int(child) for child in file.read().split()]


def gone(pids):
    end = time.monotonic() + 30  # one that is still being started notices when it is
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def whole_lines(out):
    data = (out / "manifest.jsonl").read_bytes() if (out / "manifest.jsonl").exists() else b""
    return [json.loads(row) for row in data[: data.rfind(b"\n") + 1].splitlines()]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_with_130_and_can_be_resumed(jobs, folder, tmp_path, lines, quick):
    source, out = folder(MANY), tmp_path / "out"
    process = started(source, out, "--jobs", jobs)
    wait_for_lines(out, 2, process)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; run the same command with --resume" in said
    assert "left undone" in printed
    assert "Traceback" not in said
    summary = go(source, out, resume=True)
    check_whole(out, lines, [f"p{i:02d}.png" for i in range(MANY)], summary)


@pytest.mark.parametrize("later", [0.0, 0.3, 0.8])
def test_ctrl_c_while_workers_start_is_told_once(later, folder, tmp_path):
    """A terminal sends it to every process, to those too that are still importing."""
    process = started(folder(MANY), tmp_path / "out", "--jobs", 2, start_new_session=True)
    end = time.monotonic() + 150
    while process.poll() is None and time.monotonic() < end and len(children(process.pid)) < 2:
        time.sleep(0.002)  # a tracker of resources, and a worker
    time.sleep(later)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.count("interrupted") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("when", ["workers start", "photos are done"])
def test_a_second_ctrl_c_waits_for_nothing(when, folder, tmp_path):
    """The first waits until workers have built their networks and ended their photos."""
    source, out = folder(150), tmp_path / "out"
    process = started(source, out, "--jobs", 2, start_new_session=True)
    if when == "photos are done":
        wait_for_lines(out, 2, process)
    end = time.monotonic() + 150
    while process.poll() is None and time.monotonic() < end and len(children(process.pid)) < 3:
        time.sleep(0.002)  # a tracker of resources, and two workers
    workers = children(process.pid)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert gone(workers)
    there = {path.name for path in out.glob("p*")}
    assert there == {line["name"] for line in whole_lines(out) if line["decision"] == "published"}


def test_ctrl_c_that_another_thread_takes_waits_until_workers_are_started():
    """A thread of a library does not block it: the worker that is being started would lose its orders."""
    go_on, done = threading.Event(), []
    other = threading.Thread(target=go_on.wait)  # it blocks nothing
    other.start()

    def start():
        with runs._unheard():
            signal.pthread_kill(other.ident, signal.SIGINT)
            time.sleep(0.05)
            done.append("whole")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        go_on.set()
        other.join()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_a_batch_that_a_worker_has_not_begun_is_left_undone_after_ctrl_c(monkeypatch):
    """Five batches are handed out ahead to two workers: forty photos would be drawn on."""
    from concurrent.futures import Future

    from moretta.pipeline.protect import Protector

    class Pool:
        _processes = None

        def submit(self, call, *given):
            future = Future()
            future.set_result(call(*given))
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(runs, "_pool", lambda *_: Pool())
    monkeypatch.setattr(runs, "_protector", Protector.__new__(Protector))
    team = runs._Team(options({}), 2)
    monkeypatch.setattr(runs, "_stop", team._stop)
    begun = []

    def act(batch, protector):
        begun.append(batch)
        yield from batch

    answers = team.each([["a"], ["b"], ["c"], ["d"], ["e"], ["f"]], act, lambda one: None)
    next(answers)
    before = len(begun)
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt)
    assert before == 4
    assert runs._act_in_worker(act, ["g"]) == []
    assert len(begun) == before


def test_workers_are_ended_when_ctrl_c_comes_while_they_are_waited_for(quick):
    from moretta.pipeline.options import options
    from moretta.pipeline.run import _pool, _Team

    team = _Team(options({"method": "solid"}), 2)
    team._pool = _pool(team._options, 2, None)
    asked = [team._pool.submit(time.sleep, 300) for _ in range(2)]
    while not all(one.running() for one in asked):
        time.sleep(0.01)
    workers = [process.pid for process in team._pool._processes.values()]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        team._dismiss()
    assert time.monotonic() - before < 60
    assert gone(workers)


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_in_a_batch_leaves_no_file_without_a_line(jobs, folder, tmp_path, lines, quick):
    pytest.importorskip("torch")
    source, out = folder(20), tmp_path / "out"
    process = started(source, out, "--jobs", jobs, "--method", "newface")
    end = time.monotonic() + 150  # to load the networks in two processes takes a while
    # one more than is asked for below: what is interrupted before its line takes its file along
    while process.poll() is None and time.monotonic() < end and len(list(out.glob("p*"))) < 4:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 130
    there = {path.name for path in out.glob("p*")}
    assert len(there) >= 3
    assert there == {line["name"] for line in lines(out) if line["decision"] == "published"}


def test_an_interrupted_listener(folder, tmp_path, lines, quick):
    source, out = folder(3), tmp_path / "out"

    def listener(summary, record):
        if record is not None:
            raise KeyboardInterrupt

    summary = go(source, out, listener=listener)
    assert (summary.exit_code, summary.published, summary.left) == (130, 1, 2)
    summary = go(source, out, resume=True)
    assert (summary.exit_code, summary.kept, summary.published) == (0, 1, 2)
    check_whole(out, lines, ["p00.png", "p01.png", "p02.png"], summary)


class Drawn:
    """Stands for a Protector where only files and lines matter: everything becomes black."""

    networks = ()
    method = method("solid")
    tells_seeds = True
    keyring = None

    def weights(self, faces):
        return {}

    def __init__(self, options, *, threads=1):
        self.options = options

    def protect(self, pictures):
        return [
            Protected(
                pixels=np.zeros_like(picture.pixels),
                changed=np.ones(picture.pixels.shape[:2], bool),
                decision="published",
                reason="1 face",
                seed=1,
            )
            for picture in pictures
        ]


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(runs, "Protector", Drawn)
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.mark.parametrize("orphans", [True, False], ids=["output there", "output gone"])
def test_a_manifest_cut_at_any_byte(orphans, scene, put, tmp_path, lines, fast):
    source, out, names = tmp_path / "in", tmp_path / "out", ["a.png", "b\n.png", "ü張.png"]
    for name in names:
        put(source / name, scene[:4, :4])
    go(source, out)
    path = out / "manifest.jsonl"
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    cuts = 0
    for cut in range(start, len(whole) + 1, 1 if orphans else 9):
        path.write_bytes(whole[:cut])
        done = whole[:cut].count(b"\n")
        if orphans:
            (out / ".moretta-part-0123").write_bytes(b"half")
        else:
            for name in names[done:]:
                (out / name).unlink()
        summary = go(source, out, resume=True)
        assert (summary.kept, summary.published) == (done, 3 - done)
        check_whole(out, lines, names, summary)
        cuts += 1
    assert cuts > (400 if orphans else 50)


@pytest.mark.parametrize("where", ["output", "manifest", "folder"])
def test_a_full_disk_stops_the_run_and_resume_completes_it(
    where, scene, put, tmp_path, lines, fast, monkeypatch
):
    source, out = tmp_path / "in", tmp_path / "out"
    names = [f"{i}/a.png" for i in range(4)]
    for name in names:
        put(source / name, scene[:4, :4])
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        if where == "output":
            left = [2]
            real = runs.write_whole

            def write_whole(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise DiskFull("a.png: No space left on device", hint="make room")
                return real(*arguments, **options)

            patch.setattr(runs, "write_whole", write_whole)
        elif where == "manifest":
            real = runs.manifests.Manifest.append

            def append(self, record):
                if len(self.done) == 2:
                    raise DiskFull("manifest.jsonl: No space left on device", hint="make room")
                real(self, record)

            patch.setattr(runs.manifests.Manifest, "append", append)
        else:
            real = os.mkdir

            def mkdir(path, *arguments, **options):
                if str(path).endswith("out/2"):
                    raise full
                return real(path, *arguments, **options)

            patch.setattr(os, "mkdir", mkdir)
        summary = go(source, out)
    assert summary.disk_full
    assert (summary.published, summary.left, summary.exit_code) == (2, 2, 4)
    assert [line["name"] for line in lines(out)] == names[:2]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("a.png")) == names[:2]
    assert not list(out.rglob(".moretta-part-*"))
    summary = go(source, out, resume=True)
    assert (summary.kept, summary.published, summary.exit_code) == (2, 2, 0)
    check_whole(out, lines, names, summary)


def test_a_fault_while_bytes_are_written_leaves_nothing(scene, put, tmp_path, lines, monkeypatch):
    """The disk fills up inside write_whole itself: between its first byte and its last."""
    monkeypatch.setattr(runs, "Protector", Drawn)
    source, out = tmp_path / "in", tmp_path / "out"
    put(source / "a.png", scene)
    put(source / "b.png", scene)
    real, files = os.replace, []

    def fsync(handle):
        name = os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self") else ""  # noqa: PTH110, PTH115
        if ".moretta-part-" in name and (out / "a.png").exists():
            files.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")

    def durably(path, data, **_):
        write_whole(path, data)

    if not os.path.exists("/proc/self/fd"):  # noqa: PTH110
        pytest.skip("needs /proc")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(runs, "write_whole", durably)
        summary = go(source, out)
    assert real is os.replace
    assert files
    assert summary.disk_full
    assert not list(out.rglob(".moretta-part-*"))
    assert not (out / "b.png").exists()
    summary = go(source, out, resume=True)
    check_whole(out, lines, ["a.png", "b.png"], summary)


def test_a_worker_that_dies_costs_one_photo(folder, tmp_path, lines, monkeypatch):
    """`sitecustomize` on the path makes every worker die over p02.png, as for lack of memory."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(
        "import sys, os\n"
        "if '--multiprocessing-fork' in sys.argv:\n"
        "    import moretta.pipeline.run as runs\n"
        "    real = runs.handle\n"
        "    def handle(batch, protector):\n"
        "        if any(work.name == 'p02.png' for work in batch):\n"
        "            os._exit(9)\n"
        "        return real(batch, protector)\n"
        "    runs.handle = handle\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}{os.pathsep}{path}")
    summary = go(folder(6), tmp_path / "out", jobs=2)
    assert (summary.published, summary.failed, summary.left) == (5, 1, 0)
    ((name, _, reason),) = summary.troubles
    assert name == "p02.png"
    assert reason.startswith("its worker died")
    check_whole(tmp_path / "out", lines, [f"p{i:02d}.png" for i in range(6)], summary)


def test_a_pool_that_breaks_while_it_is_filled_loses_no_photo(scene, put, tmp_path, monkeypatch):
    """`submit` itself raises once a worker has died: the photo in hand must not be forgotten."""
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    class Pool:
        left = 3  # photos until it breaks; each pool after the first is whole
        _processes = None

        def submit(self, call, *given):
            if not given:  # whether the networks can be built
                future = Future()
                future.set_result(None)
                return future
            act, batch = given
            Pool.left -= 1
            if Pool.left == 0:
                raise BrokenProcessPool
            future = Future()
            future.set_result(act(batch, Drawn(options({}))))
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(runs, "_pool", lambda *_: Pool())
    for i in range(6):
        put(tmp_path / "in" / f"{i}.png", scene[:4, :4])
    summary = go(tmp_path / "in", tmp_path / "out", jobs=2)
    assert (summary.published, summary.failed, summary.left) == (6, 0, 0)


def test_photos_left_without_a_reason_are_our_fault():
    assert runs.Summary(output="out", inputs=3, published=2).exit_code == 1


# ---- names ----------------------------------------------------------------------------------

SECRET = b"schmidt"


@pytest.fixture
def people(portrait, put, tmp_path):
    """A folder whose every name gives somebody away, with faults of every kind in it."""
    source = tmp_path / "Familie Schmidt"
    put(source / "Anna Schmidt.png", portrait)
    put(source / "Schmidt" / "a.png", portrait[:, ::-1].copy())
    put(source / "Schmidt" / "Otto.jpg", portrait)
    shutil.copy(source / "Schmidt" / "Otto.jpg", source / "Otto.Schmidt")
    shutil.copy(source / "Schmidt" / "Otto.jpg", source / "Otto Schmidt")
    shutil.copy(source / "Schmidt" / "Otto.jpg", source / "Otto Schmidt.jpg")
    (source / "leer Schmidt.jpg").touch()
    (source / "cut Schmidt.jpg").write_bytes((source / "Otto Schmidt").read_bytes()[:2000])
    (source / "text Schmidt.jpg").write_text("Dear Schmidt\n" * 30)
    (source / "gone.schmidt").symlink_to("nowhere")
    (source / "up.schmidt").symlink_to(source, target_is_directory=True)
    return source


def check_neutral(out, tree, legible):
    for name, data in tree(out).items():
        assert SECRET not in name.lower().encode(), name
        assert SECRET not in data.lower(), name
        assert b"otto" not in legible(data).lower(), name


def test_rename_hides_every_name(people, tmp_path, tree, legible, lines, quick):
    out = tmp_path / "out"
    summary = go(people, out, rename=True)
    assert (summary.inputs, summary.published, summary.failed) == (11, 6, 5)
    check_neutral(out, tree, legible)
    found = lines(out)
    assert len({line["name"] for line in found}) == 11
    for line in found:
        stem, _, suffix = line["name"].partition(".")
        assert stem.startswith("photo-")
        assert suffix in ("png", "jpg", "")
        if line["decision"] == "published":
            assert (out / line["name"]).stat().st_mtime == runs.manifests.FIXED_TIME
    assert not (out / ".moretta-names.json").exists()
    assert any("Schmidt" in name for name, _, _ in summary.troubles), "the user is told which"
    with pytest.raises(UsageError, match="list of names was destroyed"):
        go(people, out, rename=True, resume=True)


def test_rename_keeps_its_names_when_resumed(folder, tmp_path, lines, quick, tree, legible):
    source, out = folder(5), tmp_path / "out"

    def listener(summary, record):
        if summary.published == 2:
            raise KeyboardInterrupt

    go(source, out, rename=True, listener=listener)
    names = json.loads((out / ".moretta-names.json").read_text())
    done = {line["name"] for line in lines(out)}
    summary = go(source, out, rename=True, resume=True)
    assert (summary.kept, summary.published) == (2, 3)
    check_whole(out, lines, [f"{name}.png" for name in names.values()], summary)
    assert done < {line["name"] for line in lines(out)}
    assert not any(b"p00" in legible(data) for data in tree(out).values())


def test_rename_mixes_the_order(scene, put, tmp_path, fast):
    source, record = tmp_path / "in", tmp_path / "links.jsonl"
    for i in range(30):
        put(source / f"{i:02d}.png", scene[:4, :4])
    go(source, tmp_path / "out", rename=True, internal_record=record)
    links = [json.loads(row) for row in record.read_text().splitlines()]
    by_input = [link["name"] for link in sorted(links, key=lambda link: link["input"])]
    assert by_input != sorted(by_input)


def test_internal_record_links_inputs_and_stays_outside(folder, tmp_path, tree, quick):
    source, out, record = folder(2), tmp_path / "out", tmp_path / "links" / "record.jsonl"
    go(source, out, rename=True, internal_record=record)
    links = [json.loads(row) for row in record.read_text().splitlines()]
    assert {link["input"] for link in links} == {"p00.png", "p01.png"}
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    for link in links:
        original = (source / link["input"]).read_bytes()
        assert link["input_sha256"] == hashlib.sha256(original).hexdigest()
        written = (out / link["name"]).read_bytes()
        assert link["output_sha256"] == hashlib.sha256(written).hexdigest()
        for data in tree(out).values():
            assert link["input_sha256"].encode() not in data


def test_a_run_killed_between_record_and_line_loses_no_link(folder, tmp_path, quick, monkeypatch):
    source, out, record = folder(2), tmp_path / "out", tmp_path / "links.jsonl"
    with monkeypatch.context() as patch:

        def killed(self, record):
            raise KeyboardInterrupt

        patch.setattr(runs.manifests.Manifest, "append", killed)
        go(source, out, internal_record=record)
    go(source, out, internal_record=record, resume=True)
    named = {json.loads(row)["input"] for row in record.read_text().splitlines()}
    assert named == {"p00.png", "p01.png"}


def test_overwrite_removes_what_has_no_input_any_more(folder, tmp_path, lines, quick):
    source, out = folder(3), tmp_path / "out"
    go(source, out)
    (out / "notes.txt").write_text("mine")
    (source / "p01.png").unlink()
    manifest = out / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-1])  # killed: p02 stands there without a line
    summary = go(source, out, overwrite=True)
    assert (summary.published, summary.exit_code) == (2, 0)
    check_whole(out, lines, ["p00.png", "p02.png"], summary)
    assert (out / "notes.txt").read_text() == "mine"


def test_an_input_that_breaks_after_it_was_done_stays_done_once(folder, tmp_path, lines, quick):
    source, out = folder(2), tmp_path / "out"
    go(source, out)
    (source / "p00.png").unlink()
    (source / "p00.png").symlink_to("nowhere.png")
    summary = go(source, out, resume=True)
    assert (summary.kept, summary.failed, summary.exit_code) == (2, 0, 0)
    check_whole(out, lines, ["p00.png", "p01.png"], summary)


REFUSES = """
import sys, types
import moretta.methods as catalogue
from moretta.errors import UsageError
from moretta.records import Method, Settings

def build(settings, device):
    raise UsageError("a ranking of other weights", hint="make one")

module = types.ModuleType("moretta.methods.refuses")
module.METHOD = Method(
    name="refuses", summary="-", settings=Settings, build=build, template="window", promise="none",
    promises="-", excludes="-", source="-",
)
sys.modules[module.__name__] = module
if "refuses" not in catalogue.METHODS:
    catalogue.METHODS = (*catalogue.METHODS, "refuses")
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_method_refuses_when_it_is_built_leaves_nothing(
    put, smooth, tmp_path, jobs, monkeypatch
):
    import moretta.methods as catalogue

    monkeypatch.setattr(catalogue, "METHODS", catalogue.METHODS)  # taken back at the end
    monkeypatch.setitem(sys.modules, "moretta.methods.refuses", None)
    exec(compile(REFUSES, "refuses", "exec"), {})  # noqa: S102
    place = tmp_path / "path"
    put(tmp_path / "in" / "a.png", smooth)
    put(tmp_path / "in" / "b.png", smooth)
    place.mkdir()
    (place / "sitecustomize.py").write_text(REFUSES)  # in the workers too
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{path}")
    record = tmp_path / "private" / "record.jsonl"
    with pytest.raises(UsageError, match="a ranking of other weights"):
        run(
            [tmp_path / "in"],
            tmp_path / "out",
            options({"method": "refuses"}),
            jobs=jobs,
            internal_record=record,
        )
    assert {one.name for one in tmp_path.iterdir()} == {"in", "path"}


@pytest.mark.parametrize(("name", "threads"), [("solid", "none"), ("newface", "2")])
def test_a_worker_takes_its_share_of_the_cores(name, threads):
    """OpenCV and torch would each take every core; torch stays out where nothing needs it."""
    if name != "solid":
        pytest.importorskip("torch")
    script = (
        "import sys, cv2, moretta.pipeline.run as run\n"
        "from moretta.pipeline.options import options\n"
        "cv2.setNumThreads(4)\n"
        f"run._start_worker(options({{'method': {name!r}}}), None, 2)\n"
        "torch = sys.modules.get('torch')\n"
        "print(cv2.getNumThreads(), torch.get_num_threads() if torch else 'none')\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "4"},
    )
    assert said.stdout.split() == ["2", threads]


@pytest.mark.parametrize(("cores", "jobs", "threads"), [(8, 3, 2), (2, 2, 1), (2, 5, 1), (8, 1, 8)])
def test_workers_share_the_cores(monkeypatch, cores, jobs, threads):
    monkeypatch.setattr(runs, "_cores", lambda: cores)
    pool = runs._pool(options({}), jobs, None)
    assert pool._initargs[2] == threads
    pool.shutdown()


def test_a_format_whose_package_is_missing_is_refused_at_once(monkeypatch):
    from moretta.pipeline import options as room

    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--format heic needs one more package"):
        options({"format": "heic"})
    assert options({"format": "png"}).format == "png"
