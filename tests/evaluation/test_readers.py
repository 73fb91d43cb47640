"""Readers: geometry of the head, agreement by chance, crops; networks where they lie."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.evaluation import readers
from moretta.faces.crop import points_of_box
from moretta.records import Box, Face
from moretta.weights import load


def turned(yaw, pitch, roll):
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = [[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]]
    about_x = [[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]]
    about_z = [[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_x) @ np.array(about_y)


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (0, 20, 0), (0, 0, 15), (-40, 0, 0)])
def test_a_turned_head_is_read_back(angles):
    points = (readers.HEAD @ turned(*angles).T)[:, :2] * 0.7 + [120, 90]
    np.testing.assert_allclose(readers.head_angles(points), angles, atol=1e-6)


def test_looking_to_the_pictures_right_moves_the_nose_there():
    points = points_of_box(Box(0, 0, 100, 120))
    points[2, 0] += 12
    assert readers.head_angles(points)[0] > 10


def test_kappa_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 200)
    second = np.where(rng.uniform(size=200) < 0.6, first, rng.integers(0, 4, 200))
    wanted = metrics.cohen_kappa_score(first, second)
    assert readers.kappa(first, second) == pytest.approx(wanted, abs=1e-6)
    assert np.isnan(readers.kappa(np.zeros(3, int), np.zeros(3, int)))


def test_the_chip_is_dlibs_with_a_margin_of_a_fifth():
    """A dot half way between dlib's own eye points lands where dlib's formula puts it."""
    box = Box(60, 50, 160, 180)
    face = Face(box=box, points=points_of_box(box), score=1.0, detector="drawn")
    from moretta.faces.crop import apply, to_template

    unit = apply(to_template(face, "dlib", 1), face.points)  # with a margin of a quarter
    wanted = (unit * 1.5 - 0.25 + 0.2) / 1.4 * 64
    photo = np.zeros((240, 220, 3), np.uint8)
    x, y = np.rint(face.points[2]).astype(int)
    photo[y - 2 : y + 2, x - 2 : x + 2] = 255
    made = readers.chip(photo, face, 64)[..., 0].astype(float)
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    centre = [(made * columns).sum() / made.sum(), (made * rows).sum() / made.sum()]
    np.testing.assert_allclose(centre, wanted[2], atol=0.6)


def test_skin_tone_is_larger_for_lighter_skin():
    box = Box(20, 20, 80, 95)
    face = Face(box=box, points=points_of_box(box), score=1.0, detector="drawn")
    light, dark = (np.full((120, 100, 3), c, np.uint8) for c in ((235, 200, 175), (90, 60, 45)))
    assert readers.skin_tone(light, face) > 41 > readers.skin_tone(dark, face)


@pytest.mark.parametrize("name", readers.READERS)
def test_a_reader_gives_probabilities_where_it_lies(name):
    if not load.present(name):
        pytest.skip(f"{name}.onnx is not here: docs/networks.md says how to make it")
    found = readers.reader(name)
    crops = np.random.default_rng(0).integers(
        0, 256, (3, found.side, found.side, 3), dtype=np.uint8
    )
    rows = found.probabilities(crops)
    assert rows.shape == (3, {"age": 81, "gender": 2, "expression": 7}[name])
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(found.probabilities(crops[1:2])[0], rows[1], atol=1e-5)
