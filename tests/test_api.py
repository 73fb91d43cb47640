"""From Python: the same pixels as the command, and nothing to publish by mistake."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moretta as package
from moretta import Anonymizer, anonymize_image, find_faces
from moretta.errors import KeyRejected, UsageError
from moretta.pipeline.options import Options, options
from moretta.privacy import keys
from moretta.records import PhotoRecord

OPTIONS = {"seed": 5, "settings": {"cells": 6}}


@pytest.fixture
def cheap(built, monkeypatch):
    """Build networks once; which photo is protected how stays the real thing."""
    monkeypatch.setattr("moretta.api.Protector", built)
    monkeypatch.setattr("moretta.pipeline.run.Protector", built)


def test_python_and_the_command_give_the_same_pixels(
    portrait, put, tmp_path, moretta, cheap, lines
):
    put(tmp_path / "in" / "a.png", portrait)
    code, _, _ = moretta(
        *["anonymize", tmp_path / "in", "-o", tmp_path / "command"],
        *["--method", "pixelate", "--cells", "6", "--seed", "5"],
    )
    assert code == 0
    summary = Anonymizer("pixelate", **OPTIONS).run(tmp_path / "in", tmp_path / "python")
    assert (summary.published, summary.exit_code) == (1, 0)
    direct, record = anonymize_image(portrait, method="pixelate", **OPTIONS)
    named, _ = Anonymizer("pixelate", **OPTIONS).image(portrait, name="a.png")
    command = (tmp_path / "command" / "a.png").read_bytes()
    assert command == (tmp_path / "python" / "a.png").read_bytes()
    assert (np.asarray(Image.open(tmp_path / "command" / "a.png")) == direct).all()
    assert (named == direct).all()
    assert isinstance(record, PhotoRecord)
    (line,) = lines(tmp_path / "command")
    assert [face.box for face in record.faces] == [
        pytest.approx(face["box"], abs=1e-5) for face in line["faces"]
    ]


def test_a_protected_picture_is_a_new_array(portrait, cheap):
    before = portrait.copy()
    after, record = anonymize_image(before, method="solid")
    assert record.decision == "published"
    assert (record.width, record.height) == portrait.shape[1::-1]
    assert (before == portrait).all()
    assert after.shape == portrait.shape
    assert (after != portrait).any()
    assert not np.shares_memory(after, before)


def test_a_keyed_method_draws_a_picture_from_a_key_and_refuses_without(
    portrait, monkeypatch, tmp_path
):
    pytest.importorskip("torch")
    from moretta.pipeline.custody import fleeting, write_key

    # a fresh key's face is by chance like the old one, once in about a hundred, and then covered
    monkeypatch.setattr("moretta.pipeline.protect.threshold", lambda far: 1.0)
    maker = Anonymizer("ifadit", settings={"pseudonym": "rotation"})
    with pytest.raises(UsageError, match="no --key"):
        maker.image(portrait)
    with pytest.raises(UsageError, match="seals files"):
        Anonymizer("ifadit", reversible=True).image(portrait, keyring=fleeting())
    with pytest.raises(UsageError, match="no use"):
        anonymize_image(portrait, keyring=fleeting())
    ring = str(tmp_path / "anna.key")
    write_key(Path(ring), keys.to_bytes(keys.new()))
    pictures, records = zip(*(maker.image(portrait, keyring=ring) for _ in range(2)), strict=True)
    assert {face.method for record in records for face in record.faces} == {"ifadit"}
    assert records[0].pseudonym["scope"] == "record"
    assert records[0].pseudonym["salt"] != records[1].pseudonym["salt"]
    assert (pictures[0] != pictures[1]).any()
    with pytest.raises(KeyRejected, match="cannot be read"):
        maker.image(portrait, keyring=tmp_path / "nobody.key")


def test_a_withheld_picture_has_no_pseudonym(scene):
    pytest.importorskip("torch")
    from moretta.pipeline.custody import fleeting

    maker = Anonymizer("ifadit", settings={"pseudonym": "rotation"})
    _, record = maker.image(scene, keyring=fleeting())
    assert (record.decision, record.pseudonym) == ("withheld", {})


def test_the_record_has_the_notes_of_the_picture(portrait, built, monkeypatch):
    protector = built(options({"method": "solid"}))

    def noting(pictures):
        results = type(protector).protect(protector, pictures)
        results[0].notes.append("it was seen")
        return results

    monkeypatch.setattr(protector, "protect", noting)
    maker = Anonymizer()
    maker._protector = protector
    assert maker.image(portrait)[1].notes == ("it was seen",)


def test_the_class_names_every_option():
    said = set(re.findall(r"\w+", Anonymizer.__doc__))
    assert set(Options.model_fields) <= said


def test_what_is_withheld_comes_back_black(scene, cheap):
    after, record = anonymize_image(scene)
    assert record.decision == "withheld"
    assert after.shape == scene.shape
    assert not after.any()


def test_what_is_copied_has_the_same_pixels(scene, cheap):
    copied, record = anonymize_image(scene, on_no_face="copy")
    assert record.decision == "published"
    assert (copied == scene).all()


def test_what_is_copied_is_a_new_array(scene, cheap):
    copied, _ = anonymize_image(scene, on_no_face="copy")
    assert not np.shares_memory(copied, scene)


def test_faces_can_be_given(portrait, cheap):
    engine = Anonymizer()
    (face,) = engine.find(portrait)
    assert [f.box for f in find_faces(portrait)] == [face.box]
    found, _ = engine.image(portrait)
    given, record = engine.image(portrait, faces=[face])
    assert (found == given).all()
    assert record.decision == "published"
    _, record = engine.image(portrait, faces=[])
    assert (record.decision, record.reason) == (
        "withheld",
        "no face in the boxes given; --on-no-face withhold",
    )


def test_arrays_that_are_not_in_order_in_memory(portrait, cheap):
    straight, _ = anonymize_image(portrait)
    fortran, record = anonymize_image(np.asfortranarray(portrait))
    assert record.decision == "published"
    assert (fortran == straight).all()
    turned = np.ascontiguousarray(portrait[:, ::-1])
    view, _ = anonymize_image(portrait[:, ::-1])
    assert (view == anonymize_image(turned)[0]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        [[[0, 0, 0]]],
        None,
    ],
    ids=["grey", "alpha", "float", "empty", "batch", "list", "none"],
)
def test_wrong_arrays_are_refused(wrong, cheap):
    with pytest.raises(UsageError, match="picture"):
        anonymize_image(wrong)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "blurr"}, "there is no method 'blurr'"),
        ({"methd": "blur"}, "there is no option 'methd'"),
        ({"strength": 0.5}, "solid has no scale"),
        ({"method": "pixelate", "strength": 2}, "strength is 2"),
        ({"method": "pixelate", "settings": {"cells": 99}}, "cells is 99"),
        ({"seed": -1}, "seed is -1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"detector": ()}, "detector"),
        ({"method": "pixelate", "strength": 0.5, "settings": {"cells": 4}}, "strength and cells"),
        ({"method": "styleid", "strength": 0.5, "settings": {"k": 4}}, "k says how many"),
        ({"method": "falco", "strength": 0.5, "settings": {"target": 0.1}}, "strength and target"),
        ({"method": "ifadit", "seed": 1}, "--seed repeats nothing"),
        ({"format": "tiff", "quality": 95}, "--quality is given"),
    ],
)
def test_wrong_options_are_refused_at_once(given, words):
    with pytest.raises(UsageError, match=words):
        Anonymizer(**given)


def test_a_methods_own_option_is_pointed_to_its_place(portrait):
    with pytest.raises(UsageError, match="no option 'level'") as caught:
        anonymize_image(portrait, method="newface", level=2)
    assert "settings={'level': 2}" in caught.value.hint


def test_jobs_and_boxes_are_checked(tmp_path, put, portrait, cheap):
    put(tmp_path / "in" / "a.png", portrait)
    with pytest.raises(UsageError, match="--jobs is 0"):
        Anonymizer().run(tmp_path / "in", tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists(), "nothing was started"


def test_the_package_names_what_it_offers():
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
