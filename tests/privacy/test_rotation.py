"""The rotation: published vector, exact inverse, Haar moments, and no seed near another."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.privacy.rotation import KEPT_AS_IS, complement, matched, rotate, rotate_back, rotation

COUNTING = bytes(range(32))

#: facts of iFADIT, 5.2: length 4, seed 00..1f
PUBLISHED = [
    [-0.399568, -0.395451, -0.803540, 0.195671],
    [0.762836, 0.248525, -0.392018, 0.450154],
    [0.042351, 0.501737, -0.447894, -0.738822],
    [0.506590, -0.728089, -0.006030, -0.461754],
]


def seed_of(number: int) -> bytes:
    return hashlib.sha256(b"test" + number.to_bytes(4, "big")).digest()


def units(count: int, length: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, length))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_the_published_vector():
    np.testing.assert_allclose(rotation(COUNTING, 4), PUBLISHED, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 47, 48, 128])
def test_orthogonal_to_the_last_places(length: int):
    turn = rotation(COUNTING, length)
    assert np.abs(turn @ turn.T - np.eye(length)).max() < 1e-14


@given(st.binary(min_size=32, max_size=32), st.integers(0, 5))
def test_the_way_back_is_exact_and_lengths_stay(seed: bytes, kept: int):
    x = units(7, 48)
    directions = units(5, 48, 1)[:kept]
    rows = np.linalg.qr(directions.T)[0].T if kept else None
    turned = rotate(seed, x, kept=rows)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-14)
    np.testing.assert_allclose(rotate_back(seed, turned, kept=rows), x, atol=1e-14)
    np.testing.assert_allclose(turned @ turned.T, x @ x.T, atol=1e-14)


def test_an_error_made_in_between_is_not_enlarged():
    """Condition number 1 (facts 5.5): the cosine of what is read is that of what is recovered."""
    x = units(50, 48)
    turned = rotate(COUNTING, x)
    read = turned + 0.1 * units(50, 48, 2)
    read /= np.linalg.norm(read, axis=1, keepdims=True)
    back = rotate_back(COUNTING, read)
    np.testing.assert_allclose((back * x).sum(1), (read * turned).sum(1), atol=1e-14)


def test_a_kept_direction_says_of_a_vector_what_is_promised_and_no_more():
    """Over seeds: 0.95 of its own number, and noise that no public direction of the vector explains."""
    rows = np.linalg.qr(units(3, 48, 1).T)[0].T
    x = units(1, 48)
    seen = np.concatenate([rotate(seed_of(i), x, kept=rows) for i in range(500)])
    along = seen @ rows.T
    rest = 1 - float(((x @ rows.T) ** 2).sum())
    np.testing.assert_allclose(along.mean(0), KEPT_AS_IS * (x @ rows.T)[0], atol=0.01)
    expected = np.sqrt((1 - KEPT_AS_IS**2) * rest / 45)
    np.testing.assert_allclose(along.std(0), expected, rtol=0.15)
    others = seen @ complement(rows).T  # where what was kept and what was not could hide
    assert np.abs(others.mean(0)).max() < 5 * others.std() / np.sqrt(500)
    noise = along - along.mean(0)
    correlation = (noise.T @ others) / 500 / noise.std() / others.std()
    assert np.abs(correlation).max() < 5 / np.sqrt(500)


def test_a_match_is_a_rotation_of_its_own():
    rows = np.eye(48)[:3]
    turn = matched(COUNTING, rows)
    np.testing.assert_allclose(turn @ turn.T, np.eye(48), atol=1e-14)
    assert np.abs(turn - matched(seed_of(1), rows)).max() > 0.1
    np.testing.assert_allclose(rotate(COUNTING, units(2, 48), kept=rows), units(2, 48) @ turn.T)


def test_one_face_under_many_seeds_is_spread_over_the_sphere():
    """Of any vector: each component has mean 0 and variance 1 / length, as Haar says."""
    x = np.eye(48)[:1]
    seen = np.concatenate([rotate(seed_of(i), x) for i in range(1000)])
    assert np.abs(seen.mean(0)).max() < 5 / np.sqrt(48 * 1000)
    np.testing.assert_allclose(seen.T @ seen / 1000 * 48, np.eye(48), atol=0.22)
    cosines = seen[:500] @ seen[500:].T
    assert cosines.std() == pytest.approx(48**-0.5, rel=0.02)


def test_determinants_of_both_signs_occur():
    signs = [np.sign(np.linalg.det(rotation(seed_of(i), 5))) for i in range(200)]
    assert 60 < signs.count(1) < 140


def test_every_bit_of_the_seed_matters_as_much_as_a_new_seed():
    """Red team A1: 256 seeds that differ in one bit, on 40 identities."""
    x = units(40, 48)
    right = rotate(COUNTING, x)
    cosines = []
    for bit in range(256):
        near = bytearray(COUNTING)
        near[bit // 8] ^= 1 << bit % 8
        cosines.append((rotate(bytes(near), x) * right).sum(1))
    together = np.concatenate(cosines)
    assert together.std() == pytest.approx(48**-0.5, rel=0.1)
    assert abs(together.mean()) < 0.02


def test_the_mean_of_many_pseudonyms_or_wrong_recoveries_is_near_nothing():
    """Red team A4: an average of 400 directions says nothing of the one they came from."""
    x = units(1, 48)
    pseudonyms = np.mean([rotate(seed_of(i), x)[0] for i in range(400)], axis=0)
    right = rotate(COUNTING, x)
    wrong = np.mean([rotate_back(seed_of(i), right)[0] for i in range(400)], axis=0)
    for mean in (pseudonyms, wrong):
        assert abs(float(mean @ x[0]) / float(np.linalg.norm(mean))) < 3 / np.sqrt(48)


@pytest.mark.parametrize("seed", [b"", b"short", bytes(31), bytes(33)])
def test_a_seed_of_another_size_is_refused(seed: bytes):
    with pytest.raises(ValueError, match="not 32"):
        rotation(seed, 48)


def test_shapes_that_cannot_be_right_are_refused():
    with pytest.raises(ValueError, match="dimensions"):
        rotation(COUNTING, 0)
    with pytest.raises(ValueError, match="not orthonormal"):
        rotate(COUNTING, units(1, 48), kept=2 * np.eye(48)[:2])
    with pytest.raises(ValueError, match="not \\(k, 48\\)"):
        rotate(COUNTING, units(1, 48), kept=np.eye(47)[:2])
    with pytest.raises(ValueError, match="cannot be kept"):
        rotate(COUNTING, units(1, 48), kept=np.eye(48)[:25])
    with pytest.raises(ValueError, match="not \\(n, length\\)"):
        rotate(COUNTING, np.ones(48))


def test_the_same_rotation_is_handed_out_and_cannot_be_written_to():
    assert rotation(COUNTING, 48) is rotation(COUNTING, 48)
    with pytest.raises(ValueError, match="read-only"):
        rotation(COUNTING, 48)[0, 0] = 1
