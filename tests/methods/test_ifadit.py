"""ifadit: nothing without a secret, another face for another one, and what a setting leaves in clear."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from moretta.errors import UsageError
from moretta.faces.crop import points_in
from moretta.methods import method, settings
from moretta.pipeline.options import options
from moretta.records import Crop

torch = pytest.importorskip("torch")


def secret(number: int) -> bytes:
    return hashlib.sha256(f"ifadit {number}".encode()).digest()


@pytest.fixture(scope="module")
def face_crop(face_crop: Crop) -> Crop:
    return replace(face_crop, secret=secret(0))


@pytest.fixture(scope="module")
def backend():
    from moretta.weights.backends import composer

    torch.set_num_threads(1)
    return composer()


def built(**given):
    return method("ifadit").build(settings(method("ifadit"), given), "cpu")


def identities(backend, crop: Crop, edited) -> np.ndarray:
    from moretta.networks.backend import pictures_of

    pictures = pictures_of([one.pixels for one in edited])
    points = torch.from_numpy(np.stack([points_in(crop)] * len(edited))).float()
    with torch.inference_mode():
        return backend.identity(pictures, points).numpy()


@pytest.mark.parametrize("bad", [None, b"", b"short", bytes(31), bytes(33)])
def test_without_a_whole_secret_nothing_is_drawn(face_crop, bad):
    with pytest.raises(UsageError) as caught:
        built()([face_crop, replace(face_crop, secret=bad)])
    assert "moretta key new" in caught.value.hint
    assert "secret=" not in repr(face_crop)


def test_without_a_key_the_pipeline_covers_the_face(small):
    """Fail closed: a photo without secrets leaves painted, never unprotected."""
    from moretta.pipeline.options import options
    from moretta.pipeline.protect import Picture, Protector

    (result,) = Protector(options({"method": "ifadit"})).protect([Picture(pixels=small)])
    assert result.decision == "published"
    (face,) = result.faces
    assert face.method == "solid"
    assert "key" in face.audit["covered"]["fault"]


def test_the_secret_decides_who_it_is_and_the_seed_does_not(backend, face_crop):
    drawn = built()(
        [replace(face_crop, secret=secret(s), seed=seed) for s, seed in ((0, 1), (0, 2), (1, 1))]
    )
    vectors = identities(backend, face_crop, drawn)
    same = float(vectors[0] @ vectors[1])
    assert same > 0.6
    assert float(vectors[0] @ vectors[2]) < same - 0.2
    assert (drawn[0].pixels != drawn[1].pixels).any()  # noise differs where the seed does


def test_what_is_drawn_is_the_rotated_identity(backend, face_crop):
    """Carrier fidelity: the picture shows R z, and turned back it shows z."""
    from moretta.networks.backend import pictures_of
    from moretta.privacy.rotation import rotate, rotate_back

    many = [replace(face_crop, secret=secret(i)) for i in range(6)]
    with torch.inference_mode():
        points = torch.from_numpy(points_in(face_crop)).float()[None]
        own = backend.identity(pictures_of([face_crop.pixels]), points).double().numpy()
    read = identities(backend, face_crop, built()(many))
    carrier = np.concatenate([rotate(one.secret, own) for one in many])
    assert (read * carrier).sum(1).mean() > 0.6
    back = np.concatenate(
        [rotate_back(one.secret, vector[None]) for one, vector in zip(many, read, strict=True)]
    )
    np.testing.assert_allclose(back @ own[0], (read * carrier).sum(1), atol=1e-6)
    wrong = rotate_back(secret(99), read)
    assert np.abs(wrong @ own[0]).mean() < 0.3


def test_a_match_keeps_what_the_head_reads_and_no_other_direction(backend, face_crop):
    from moretta.methods.ifadit import Ifadit, kept_directions
    from moretta.networks.traits import TraitsHead
    from moretta.weights import load

    head = TraitsHead.from_tensors(load.tensors("identity"))
    with torch.inference_mode():
        from moretta.networks.backend import pictures_of

        points = torch.from_numpy(points_in(face_crop)).float()[None]
        own = backend.identity(pictures_of([face_crop.pixels]), points)[0].numpy()
    many = [replace(face_crop, secret=secret(i)) for i in range(8)]
    was = head.read(own)
    agree = {}
    for match in ("none", "age,gender"):
        read = identities(backend, face_crop, built(match=match)(many))
        agree[match] = np.mean([head.read(one).gender == was.gender for one in read])
    assert agree["age,gender"] >= 0.85 > agree["none"]
    assert kept_directions(Ifadit()) is None
    kept = kept_directions(Ifadit(match="gender"))
    assert kept is not None
    assert kept.shape == (1, 48)


def test_noise_of_the_code_cannot_be_had_without_the_secret(face_crop):
    from moretta.methods.ifadit import noise_seed

    seeds = {noise_seed(secret(i), j) for i in range(3) for j in range(3)}
    assert len(seeds) == 9
    assert min(seeds) > 2**200


def test_every_turn_has_its_way_back():
    from moretta.methods.ifadit import Ifadit, turns
    from moretta.networks.pool import random_identities

    pytest.importorskip("zuko")
    own = random_identities(40, 1).astype(float)
    secrets, others = [secret(i) for i in range(40)], [secret(100 + i) for i in range(40)]
    for given, least in (
        ({"match": "none"}, 1 - 1e-12),
        ({"match": "age,gender"}, 1 - 1e-12),
        ({"pseudonym": "flow"}, 0.9),  # its norm is dropped: facts of iFADIT 5.5
    ):
        there, back = turns(Ifadit.model_validate(given))
        pseudonyms = there(secrets, own)
        right = (back(secrets, pseudonyms) * own).sum(1)
        assert right.mean() > least
        assert (back(others, pseudonyms) * own).sum(1).mean() < right.mean() - 0.3


def test_the_flow_stands_in_the_record_only_where_it_has_a_say():
    pytest.importorskip("zuko")
    from moretta.pipeline.protect import Protector

    for pseudonym in ("flow", "rotation"):
        made = Protector(options({"method": "ifadit", "settings": {"pseudonym": pseudonym}}))
        assert ("flow" in made.weights([])) == (pseudonym == "flow")


def test_a_match_that_the_flow_does_not_keep_is_refused():
    for match in ("age", "age,gender"):
        given = {"pseudonym": "flow", "match": match}
        with pytest.raises(UsageError, match="match is for the rotation, and pseudonym is flow"):
            options({"method": "ifadit", "settings": given})
    options({"method": "ifadit", "settings": {"pseudonym": "flow", "match": "none"}})


def test_what_an_earlier_version_drew_by_the_flow_beside_a_match_is_still_recovered():
    from moretta.pipeline.likeness import _settings

    written = {"match": "age", "pseudonym": "flow", "level": 1}
    read = _settings("a.png", [{"method": "ifadit", "settings": written}])
    assert (read.pseudonym, read.level) == ("flow", 1)


def test_the_flow_without_zuko_is_refused_before_anything_is_drawn(monkeypatch):
    monkeypatch.setattr("moretta.methods.ifadit.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs zuko") as caught:
        built(pseudonym="flow")
    assert "moretta[train]" in caught.value.hint
