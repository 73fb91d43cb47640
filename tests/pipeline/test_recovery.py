"""Neural recovery: from a file and a secret, approximate, another face with another secret."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moretta.errors import UsageError
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.methods import method, settings

torch = pytest.importorskip("torch")

from moretta.pipeline.recovery import aligned, carriers, recover_faces, recovered

#: What is drawn with a fresh salt is by chance like the old face, once in about a hundred, and then
#: covered: here a face must be drawn.
KNOWS_NOBODY = "moretta.pipeline.protect.threshold", lambda far: 1.0


def secret(number: int) -> bytes:
    return hashlib.sha256(f"recovery {number}".encode()).digest()


@pytest.fixture(scope="module")
def face(small):
    from moretta.api import find_faces

    torch.set_num_threads(1)
    (found,) = find_faces(small)
    return found


@pytest.fixture(scope="module")
def protected(small, face, tmp_path_factory):
    """A photo whose face was drawn with secret 0, written and read again."""
    crop = aligned(small, face, secret(0))
    chosen = method("ifadit")
    (edited,) = chosen.build(settings(chosen), "cpu")([crop])
    alpha, bounds = masks.redraw(
        face, small.shape, scale=chosen.mask_scale, feather=chosen.mask_feather
    )
    canvas = small.copy()
    crops.paste(canvas, edited.pixels, crop, alpha, bounds)
    path = tmp_path_factory.mktemp("recovery") / "protected.png"
    Image.fromarray(canvas).save(path)
    return path


def identity(photo, face) -> np.ndarray:
    from moretta.networks.backend import pictures_of
    from moretta.weights.backends import composer

    crop = aligned(photo, face, bytes(32))
    points = torch.from_numpy(crops.points_in(crop)).float()[None]
    with torch.inference_mode():
        return composer().identity(pictures_of([crop.pixels]), points)[0].numpy()


def test_the_right_secret_brings_back_a_likeness_and_a_wrong_one_another_face(
    small, face, protected
):
    shown = np.asarray(Image.open(protected))
    own = identity(small, face)
    drawn = float(identity(shown, face) @ own)
    right = float(identity(recover_faces(shown, [face], [secret(0)]), face) @ own)
    wrong = [
        float(identity(recover_faces(shown, [face], [secret(i)]), face) @ own) for i in (1, 2, 3)
    ]
    assert right > 0.45
    assert right > drawn + 0.3
    assert right > max(wrong) + 0.2


def test_only_the_face_is_drawn_and_the_photo_stays(face, protected):
    shown = np.asarray(Image.open(protected))
    before = shown.copy()
    back = recover_faces(shown, [face], [secret(0)])
    np.testing.assert_array_equal(shown, before)
    chosen = method("ifadit")
    alpha, (left, top, right, bottom) = masks.redraw(face, shown.shape, scale=chosen.mask_scale)
    outside = np.ones(shown.shape[:2], bool)
    outside[top:bottom, left:right] = alpha == 0
    np.testing.assert_array_equal(back[outside], shown[outside])
    assert (back[~outside] != shown[~outside]).any()


def test_another_process_that_has_only_the_file_recovers_the_same(face, protected):
    """The I/O rule of facts 4: nothing but file, boxes and secret goes over."""
    told = {
        "points": face.points.tolist(),
        "box": [face.box.left, face.box.top, face.box.right, face.box.bottom],
    }
    script = (
        "import sys, json, hashlib, numpy as np, torch; from PIL import Image\n"
        "torch.set_num_threads(1)\n"
        "from moretta.records import Box, Face; from moretta.pipeline.recovery import recover_faces\n"
        "told = json.loads(sys.argv[2]); photo = np.asarray(Image.open(sys.argv[1]))\n"
        "face = Face(box=Box(*told['box']), points=np.array(told['points']), score=1.0, detector='manual')\n"
        "back = recover_faces(photo, [face], [bytes.fromhex(sys.argv[3])])\n"
        "print(hashlib.sha256(back.tobytes()).hexdigest())\n"
    )
    asked = [sys.executable, "-c", script, str(protected), json.dumps(told), secret(0).hex()]
    there = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    here = recover_faces(np.asarray(Image.open(protected)), [face], [secret(0)])
    assert hashlib.sha256(here.tobytes()).hexdigest() == there


def test_the_carrier_is_public_and_survives_a_jpeg(small, face, protected, tmp_path):
    shown = np.asarray(Image.open(protected))
    Image.fromarray(shown).save(tmp_path / "a.jpg", quality=75)
    squeezed = np.asarray(Image.open(tmp_path / "a.jpg"))
    a, b = (
        carriers([aligned(one, face, key)])[0]
        for one, key in ((shown, secret(0)), (squeezed, secret(5)))
    )
    assert float(a @ b) > 0.9
    np.testing.assert_allclose(np.linalg.norm(a), 1, atol=1e-5)


def test_each_face_needs_its_secret(face, protected):
    shown = np.asarray(Image.open(protected))
    with pytest.raises(ValueError, match="0 secrets for 1 faces"):
        recover_faces(shown, [face], [])
    with pytest.raises(UsageError, match="5 bytes"):
        recover_faces(shown, [face], [b"short"])
    with pytest.raises(UsageError, match="key"):
        recovered([replace(aligned(shown, face, secret(0)), secret=None)])
    np.testing.assert_array_equal(recover_faces(shown, [], []), shown)


def test_the_command_draws_likenesses_and_nothing_without_the_key(
    small, tmp_path, put, monkeypatch
):
    from moretta.pipeline import custody
    from moretta.pipeline import likeness as way_back
    from moretta.pipeline.custody import AccessLog
    from moretta.pipeline.options import options
    from moretta.pipeline.run import run
    from moretta.privacy.keys import KeyFile

    put(tmp_path / "in" / "a.png", small)
    custody.write_key(tmp_path / "my.key", bytes(range(32)))
    ring = custody.keyring(key=tmp_path / "my.key")
    out = tmp_path / "out"
    chosen = options({"method": "ifadit", "reversible": True})
    monkeypatch.setattr(*KNOWS_NOBODY)
    assert run([tmp_path / "in"], out, chosen, jobs=1, keyring=ring).published == 1
    faces = json.loads((out / "manifest.jsonl").read_text().splitlines()[-1])["faces"]

    def drawn(where: str, key: bytes):
        told = []
        counts = way_back.likenesses(
            way_back.drawn_with_a_key([out]),
            tmp_path / where,
            [KeyFile(key)],
            purpose="a test",
            log=AccessLog(tmp_path / "access.jsonl"),
            listener=told.append,
        )
        return counts, told[0]

    counts, told = drawn("other", bytes(32))
    assert (counts.exit_code, told.outcome) == (3, "closed")
    assert not (tmp_path / "other").exists()
    assert faces[0]["method"] == "ifadit"
    counts, told = drawn("likeness", bytes(range(32)))
    assert (counts.exit_code, counts.drawn, told.status) == (0, 1, "BOUND")
    protected = np.asarray(Image.open(out / "a.png"))
    likeness = np.asarray(Image.open(tmp_path / "likeness" / "a.png.likeness.png"))
    assert likeness.shape == protected.shape
    assert (likeness != protected).any()
    assert (tmp_path / "access.jsonl").read_text().count("likeness") == 4
    counts, told = drawn("likeness", bytes(range(32)))  # nothing is overwritten
    assert (counts.exit_code, told.outcome) == (4, "failed")


@pytest.fixture(scope="module")
def unsealed(small, tmp_path_factory):
    """A folder that ifadit drew with the key 0..31, without sidecars."""
    from moretta.pipeline import custody
    from moretta.pipeline.options import options
    from moretta.pipeline.run import run

    where = tmp_path_factory.mktemp("unsealed")
    (where / "in" / "below").mkdir(parents=True)
    Image.fromarray(small).save(where / "in" / "below" / "a.png")
    custody.write_key(where / "my.key", bytes(range(32)))
    ring = custody.keyring(key=where / "my.key")
    chosen = options({"method": "ifadit"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*KNOWS_NOBODY)
        assert run([where / "in"], where / "out", chosen, jobs=1, keyring=ring).published == 1
    (line,) = (where / "out" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["faces"][0]["method"] == "ifadit"
    return where


def test_without_a_sidecar_the_key_and_the_manifest_draw_a_likeness(unsealed, tmp_path, moretta):
    def asked(*more, key="my.key"):
        log = ("--log", tmp_path / "access.jsonl")
        return moretta(
            "recover", *more, "--neural", "--key", unsealed / key, "--purpose", "a test", *log
        )

    code, out, _ = asked(unsealed / "out", "--output", tmp_path / "all")
    assert code == 0
    assert "nothing tells whether the key is the right one" in out
    made = tmp_path / "all" / "below" / "a.png.likeness.png"
    assert (unsealed / "out" / "below" / "a.png").read_bytes() != made.read_bytes()
    code, out, _ = asked(unsealed / "out" / "below" / "a.png", "--output", tmp_path / "one")
    assert code == 0
    again = tmp_path / "one" / "below" / "a.png.likeness.png"
    assert again.read_bytes() == made.read_bytes()
    (unsealed / "other.key").write_bytes(bytes(32))
    (unsealed / "other.key").chmod(0o600)
    code, _, _ = asked(unsealed / "out", "--output", tmp_path / "other", key="other.key")
    assert code == 0  # by design: another natural face
    assert (tmp_path / "other" / "below" / "a.png.likeness.png").read_bytes() != made.read_bytes()
    assert (tmp_path / "access.jsonl").read_text().count('"likeness"') == 6


def copied(unsealed, tmp_path, change):
    import shutil

    shutil.copytree(unsealed / "out", tmp_path / "out")
    change(tmp_path / "out")
    return tmp_path / "out"


def test_a_changed_photo_or_manifest_draws_nothing_unasked(unsealed, tmp_path, moretta):
    def recovered_with(change, name, *more):
        out = copied(unsealed, tmp_path / name, change)
        return moretta(
            *(
                "recover",
                out,
                "--neural",
                "--key",
                unsealed / "my.key",
                "--purpose",
                "a test",
                *more,
            ),
            *("--output", tmp_path / name / "back", "--log", tmp_path / "access.jsonl"),
        )

    def brighter(out):
        path = out / "below" / "a.png"
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)

    def outside(out):
        text = (out / "manifest.jsonl").read_text()
        (out / "manifest.jsonl").write_text(text.replace("below/a.png", "../a.png"))

    def torn(out):
        line = json.loads((out / "manifest.jsonl").read_text())
        line["pseudonym"]["salt"] = "no"
        (out / "manifest.jsonl").write_text(json.dumps(line) + "\n")

    code, _, err = recovered_with(brighter, "brighter")
    assert code == 4
    assert ".png: UNBOUND: the photo is not the one that was written; --allow-unbound" in err
    assert not (tmp_path / "brighter" / "back").exists()
    code, _, err = recovered_with(outside, "outside")
    assert (code, "no name that a run of ours gives" in err) == (4, True)
    code, _, err = recovered_with(torn, "torn")
    assert (code, "no whole line" in err) == (4, True)

    def lost(out):
        (out / "b.png").write_bytes((out / "below" / "a.png").read_bytes())

    code, _, err = recovered_with(lost, "lost")
    assert (code, "b.png: failed: the manifest has no whole line" in err) == (4, True)
    code, _, err = recovered_with(lambda out: (out / "manifest.jsonl").unlink(), "gone")
    assert (code, "neither a sidecar nor a manifest" in err) == (2, True)
