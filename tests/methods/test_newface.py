"""newface: what may and may not reach the drawing, and whose identity it has."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.errors import UsageError
from moretta.faces.crop import points_in
from moretta.methods import method, require, settings
from moretta.networks.pool import BANDS, GENDERS
from moretta.records import Crop, Face
from moretta.weights.backends import SIDE

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def edit():
    import torch

    torch.set_num_threads(1)
    return method("newface").build(settings(method("newface")), "cpu")


def another(crop: Crop, **given) -> Crop:
    from dataclasses import replace

    return replace(crop, **given)


def test_an_identity_seed_decides_who_it_is_and_the_faces_own_seed_does_not(edit, face_crop):
    import torch

    from moretta.networks.identity import Identity
    from moretta.weights import load

    crops_ = [
        another(face_crop, seed=seed, identity=identity)
        for seed, identity in ((1, 7), (2, 7), (3, 8), (4, None), (5, None))
    ]
    pictures = np.stack([one.pixels for one in edit(crops_)])
    identity = Identity.from_tensors(load.tensors("dlib"), load.tensors("identity"))
    points = torch.from_numpy(np.stack([points_in(face_crop) * SIDE] * 5)).float()
    vectors = identity.of(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), points).numpy()
    same = float(vectors[0] @ vectors[1])
    assert same > 0.6
    for a, b in ((0, 2), (1, 2), (3, 4), (0, 3)):
        assert float(vectors[a] @ vectors[b]) < same - 0.2


def test_the_old_face_reaches_the_drawing_only_through_its_code(edit, face_crop):
    """At level 2 no number of the code is left: pixels under the mask cannot matter, but for who fits."""
    chosen = method("newface")
    strict = chosen.build(settings(chosen, {"level": 2, "match": "none"}), "cpu")
    from moretta.networks.composer import ellipse

    hidden = ellipse(SIDE)[0, 0].numpy() >= 1
    changed = face_crop.pixels.copy()
    changed[hidden] = np.random.default_rng(0).integers(0, 256, (int(hidden.sum()), 3))
    was, now = strict([face_crop])[0].pixels, strict([another(face_crop, pixels=changed)])[0].pixels
    same_one = np.abs(was.astype(int) - now).max()
    assert same_one <= 1
    loose = edit([face_crop])[0].pixels.astype(int)
    assert np.abs(loose - was).mean() > 0.5


def test_points_that_cannot_be_right_are_replaced(face_crop):
    from dataclasses import replace

    from moretta.faces.crop import WIDE

    inside = points_in(face_crop)
    assert float(np.abs(inside - WIDE).max()) < 0.06
    bad = Face(box=face_crop.face.box, points=np.zeros((5, 2)), score=1.0, detector="manual")
    np.testing.assert_array_equal(points_in(replace(face_crop, face=bad)), WIDE)


def test_drawn_seeds_stay_secret_and_given_ones_are_told(small):
    from moretta.api import Anonymizer

    _, secret = Anonymizer("newface").image(small)
    assert secret.decision == "published"
    assert secret.seed is None
    assert [face.seed for face in secret.faces] == [None]
    _, told = Anonymizer("newface", seed=3).image(small)
    assert isinstance(told.seed, int)
    assert isinstance(told.faces[0].seed, int)


def test_the_record_names_the_networks_that_drew():
    from moretta.pipeline.options import options
    from moretta.pipeline.protect import Protector
    from moretta.weights import load

    told = Protector(options({"method": "newface"})).weights([])
    for name in ("composer", "identity", "dlib", "sface", "yunet"):
        assert told[name] == load.catalogue()[name].sha256


def test_without_torch_it_is_refused_before_anything_starts(monkeypatch):
    from moretta import methods

    monkeypatch.setattr(methods, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="newface needs torch and safetensors") as caught:
        require(method("newface"))
    assert "moretta[generative]" in caught.value.hint
    require(method("solid"))


def test_the_record_says_how_this_face_was_drawn(small):
    """A shared face is matched to nobody; an ellipse that had to be stretched has its own scale."""
    from dataclasses import replace

    from moretta.pipeline.options import options
    from moretta.pipeline.protect import Identities, Picture, Protector
    from moretta.records import Box

    protector = Protector(options({"method": "newface", "seed": 2}))
    (face,) = protector.find(small)
    box = face.box
    wide = Box(box.left - 0.3 * box.width, box.top, box.right + 0.3 * box.width, box.bottom)
    pictures = [
        Picture(pixels=small, found=[face]),
        Picture(pixels=small, found=[face], identities=Identities(everyone=7)),
        Picture(pixels=small, found=[replace(face, box=wide)]),
    ]
    own, shared, stretched = (done.faces[0] for done in protector.protect(pictures))
    assert (own.settings["match"], shared.settings["match"]) == ("age,gender", "none")
    scale = method("newface").mask_scale
    assert own.mask_scale == pytest.approx(scale, rel=0.1)
    assert stretched.crop_scale / own.crop_scale == pytest.approx(
        stretched.mask_scale / own.mask_scale
    )
    assert stretched.mask_scale > scale


def test_truncation_draws_faces_towards_the_mean_of_those_that_fit(face_crop):
    """At level 2 nothing but the identity tells two seeds apart: the less of it, the more alike."""
    chosen = method("newface")

    def apart(truncation: float) -> float:
        given = {"level": 2, "truncation": truncation}
        edit = chosen.build(settings(chosen, given), "cpu")
        first, second = (
            one.pixels.astype(float)
            for one in edit([another(face_crop, seed=1), another(face_crop, seed=2)])
        )
        return float(np.abs(first - second).mean())

    least, some, most = apart(0.5), apart(0.75), apart(1)
    assert 0 < 1.15 * least < some
    assert 1.15 * some < most


@pytest.mark.parametrize("name", ["newface", "identitydp"])
def test_less_than_half_is_refused(name):
    """There everybody of a kind gets nearly the same face: seeds change little, more is covered."""
    with pytest.raises(UsageError, match=r"truncation is 0\.4"):
        settings(method(name), {"truncation": 0.4})


@pytest.mark.parametrize("name", ["newface", "identitydp"])
def test_what_is_drawn_towards_hangs_on_the_new_identity_alone(name, face_crop, monkeypatch):
    """The mean is that of the new identity's own kind: nothing more is read from the old face."""
    from moretta.networks.backend import ComposerBackend
    from moretta.weights.backends import stand_ins

    pool, head = stand_ins()
    seen, asked = [], []
    rows, truncated = ComposerBackend.rows, ComposerBackend.truncated

    def noted_rows(self, identity, attributes):
        asked.append(identity.numpy())
        return rows(self, identity, attributes)

    def noted(self, given, crowd, codes, truncation):
        seen.append(crowd.numpy())
        return truncated(self, given, crowd, codes, truncation)

    monkeypatch.setattr(ComposerBackend, "rows", noted_rows)
    monkeypatch.setattr(ComposerBackend, "truncated", noted)
    chosen = method(name)
    edit = chosen.build(settings(chosen, {"match": "none", "truncation": 0.5}), "cpu")
    edit([another(face_crop, seed=seed) for seed in range(6)])
    (crowds,) = seen
    assert crowds.shape == (6, 64, 48)
    assert len({crowd.tobytes() for crowd in crowds}) > 1
    for identity, crowd in zip(asked[0], crowds, strict=True):
        looks = head.read(identity)
        for member in crowd[:5]:
            (place,) = np.flatnonzero((pool.identities == member).all(1))
            assert pool.bands[place] == BANDS.index(looks.band)
            assert pool.genders[place] == GENDERS.index(looks.gender)


def test_what_is_drawn_anew_is_truncated_less(face_crop):
    chosen = method("newface")
    edit = chosen.build(settings(chosen, {"truncation": 0.6}), "cpu")
    made = edit([another(face_crop, attempt=attempt) for attempt in range(5)])
    told = [one.settings["truncation"] for one in made]
    assert told == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    apart = [float(np.abs(one.pixels.astype(float) - made[0].pixels).mean()) for one in made]
    assert apart == sorted(apart)
    assert apart[4] > 1.5 * apart[1] > 0
