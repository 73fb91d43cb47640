"""Points that hold still: on the photo that ships with the package, moved, mirrored and blank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moretta.faces.crop import WIDE, apply, points_fit, to_template, warp
from moretta.faces.detect import yunet
from moretta.faces.detect.search import Eye, find_faces
from moretta.faces.steady import VIEWS, held, points_seen, steadied
from moretta.records import Box, Face

SIDE = 192


@pytest.fixture(scope="module")
def look():
    return yunet.build("cpu", 1)


@pytest.fixture(scope="module")
def face(astronaut, look):
    eye = Eye(detector=yunet.DETECTOR, look=look, least_score=0.5)
    return find_faces(astronaut, [eye])[0]


def gap(first, second):
    """The five points' mean distance, in shares of the distance between the eyes."""
    eyes = np.linalg.norm(first[0] - first[1])
    return float(np.linalg.norm(first - second, axis=1).mean() / eyes)


def test_points_hold_still_when_the_photo_moves(astronaut, face, look):
    moved = np.roll(astronaut, (7, 5), (0, 1))
    there = held(
        moved, replace(face, points=face.points + np.array([5, 7]), box=shifted(face.box)), look
    )
    assert gap(held(astronaut, face, look).points, there.points - np.array([5, 7])) < 0.03
    singles = [single(astronaut, face, look, view) for view in VIEWS]
    assert max(gap(singles[0], one) for one in singles) > 0.06  # which single ones do not


def test_a_mirrored_photo_has_mirrored_points(astronaut, face, look):
    width = astronaut.shape[1]

    def back(points):
        return np.stack([width - points[:, 0], points[:, 1]], 1)[[1, 0, 2, 4, 3]]

    box = Box(width - face.box.right, face.box.top, width - face.box.left, face.box.bottom)
    other = replace(face, points=back(face.points), box=box)
    seen = held(np.ascontiguousarray(astronaut[:, ::-1]), other, look)
    assert gap(held(astronaut, face, look).points, back(seen.points)) < 0.05


def test_what_is_not_seen_stays(face, look):
    blank = np.full((SIDE, SIDE, 3), 128, np.uint8)
    assert steadied(blank, WIDE, look) is WIDE
    photo = np.full((512, 512, 3), 128, np.uint8)
    assert held(photo, face, look) is face


def test_points_that_do_not_fit_their_box_stay(astronaut, face, look):
    wrong = replace(face, points=np.zeros((5, 2)))
    assert held(astronaut, wrong, look) is wrong


def test_only_the_points_change(astronaut, face, look):
    steady = held(astronaut, face, look)
    assert (steady.box, steady.score, steady.detector) == (face.box, face.score, face.detector)
    assert points_fit(steady)
    assert not np.array_equal(steady.points, face.points)


def test_another_face_in_the_crop_is_not_taken_for_this_one(astronaut, face, look):
    crop = warp(astronaut, to_template(face, "wide", SIDE), SIDE)
    points = apply(to_template(face, "wide", SIDE), face.points) / SIDE
    assert points_seen(crop, points, look, VIEWS[0]) is not None
    assert points_seen(crop, points + 0.4, look, VIEWS[0]) is None


def shifted(box):
    return Box(box.left + 5, box.top + 7, box.right + 5, box.bottom + 7)


def single(photo, face: Face, look, view):
    matrix = to_template(face, "wide", SIDE)
    points = apply(matrix, face.points) / SIDE
    return points_seen(warp(photo, matrix, SIDE), points, look, view)
