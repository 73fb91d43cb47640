"""Pyramid, tiles, turns and the joining of finds, with a detector made of colour."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.faces.detect.search import (
    OVERLAP,
    TILE,
    Detector,
    Eye,
    Found,
    find_faces,
    levels,
    look_at,
    tiles,
)


def look_for_red(picture: np.ndarray, least: float) -> Found:
    """Find one red rectangle; its points are its corners and its middle."""
    ys, xs = np.nonzero((picture[..., 0] > 150) & (picture[..., 1] < 100))
    if not len(xs):
        return Found.joined([])
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    points = [[left, top], [right, top], [(left + right) / 2, (top + bottom) / 2]]
    points += [[left, bottom], [right, bottom]]
    return Found(
        np.array([[left, top, right, bottom]], float), np.array([points], float), np.array([0.9])
    )


RED = Detector(
    name="red",
    summary="a test's own",
    build=lambda d, t: look_for_red,
    least_score=0.5,
    largest=250,
)
EYE = Eye(detector=RED, look=look_for_red, least_score=0.5)


def with_red(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    photo = np.full((height, width, 3), 128, np.uint8)
    left, top, right, bottom = box
    photo[top:bottom, left:right] = (255, 0, 0)
    return photo


@settings(max_examples=40, deadline=None)
@given(
    turns=st.integers(0, 3),
    left=st.integers(0, 300),
    top=st.integers(0, 150),
    side=st.integers(20, 90),
)
def test_boxes_and_points_survive_turns(turns: int, left: int, top: int, side: int):
    photo = with_red(260, 400, (left, top, left + side, top + side))
    finds = look_at(photo, EYE, turns, 12)
    want = [left, top, left + side, top + side]
    assert len(finds.boxes) >= 1
    np.testing.assert_allclose(finds.boxes[0], want, atol=2)
    middle = finds.points[0, 2]
    np.testing.assert_allclose(middle, [left + side / 2, top + side / 2], atol=2)


@given(height=st.integers(1, 9000), width=st.integers(1, 9000))
def test_tiles_cover_every_pixel_and_overlap(height: int, width: int):
    picture = np.lib.stride_tricks.as_strided(
        np.zeros((1, 1, 3), np.uint8), (height, width, 3), (0, 0, 1)
    )
    rows, columns = np.zeros(height, bool), np.zeros(width, bool)
    for tile, (left, top) in tiles(picture):
        assert tile.shape[0] * tile.shape[1] <= max(4_000_000, TILE * TILE)
        rows[int(top) : int(top) + tile.shape[0]] = True
        columns[int(left) : int(left) + tile.shape[1]] = True
    assert rows.all()
    assert columns.all()
    starts = sorted({left for _, (left, _) in tiles(picture)})
    assert all(b - a <= TILE - OVERLAP + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize("size", [(1, 1), (20, 4000), (250, 250), (3000, 4000), (700, 500)])
@pytest.mark.parametrize("min_face", [12, 60])
def test_levels_see_every_size(size: tuple[int, int], min_face: float):
    height, width = size
    photo = np.zeros((height, width, 3), np.uint8)
    scales = [scale for _, scale in levels(photo, 250, min_face)]
    for picture, (x, y) in levels(photo, 250, min_face):
        assert picture.shape[1] / width == pytest.approx(x)
        assert picture.shape[0] / height == pytest.approx(y)
    longest = max(size)
    for face in np.geomspace(max(min_face, 2), longest, 40):
        seen = [face * max(x, y) for x, y in scales]
        if face >= 12 or longest >= 160:
            assert any(10 <= s <= 250 for s in seen), (face, seen)


def test_two_detectors_are_joined_and_the_first_ones_points_stay():
    photo = with_red(300, 300, (100, 100, 160, 160))
    other = Eye(
        detector=Detector(
            name="blue",
            summary="another",
            build=lambda d, t: look_for_red,
            least_score=0.5,
            largest=250,
        ),
        look=lambda p, s: Found(
            np.array([[102.0, 98, 165, 160], [10, 10, 40, 40]]),
            np.zeros((2, 5, 2)),
            np.array([0.99, 0.6]),
        ),
        least_score=0.5,
    )
    faces = find_faces(photo, [EYE, other])
    names = sorted(face.detector for face in faces)
    assert names.count("red") == 1
    assert names.count("blue") >= 1
    red = next(face for face in faces if face.detector == "red")
    np.testing.assert_allclose([red.box.left, red.box.top], [100, 100], atol=1)


def test_min_face_drops_smaller_ones():
    photo = with_red(300, 300, (100, 100, 130, 130))
    assert find_faces(photo, [EYE], min_face=20)
    assert not find_faces(photo, [EYE], min_face=60)


def test_the_fallback_is_built_only_when_nothing_is_found():
    asked = []

    def fallback() -> list[Eye]:
        asked.append(1)
        return []

    find_faces(with_red(300, 300, (100, 100, 130, 130)), [EYE], fallback=fallback)
    assert asked == []
    find_faces(np.full((300, 300, 3), 128, np.uint8), [EYE], fallback=fallback)
    assert asked == [1]


WHOLE = (300.0, 300.0, 900.0, 900.0)  # a face, seen a level down
PART = (400.0, 400.0, 800.0, 800.0)  # what is taken for one where the face is too large


@pytest.mark.parametrize(
    ("part", "score", "whole", "sure", "counts"),
    [
        (PART, 0.6, WHOLE, 0.75, False),
        (PART, 0.8, WHOLE, 0.75, True),  # sure by itself
        (PART, 0.6, WHOLE, 0.0, True),  # a detector of which nobody knows how sure it must be
        (PART, 0.6, (1000.0, 1000.0, 1400.0, 1400.0), 0.75, True),  # alone
        (PART, 0.6, (500.0, 500.0, 600.0, 600.0), 0.75, True),  # holds a smaller face
        (PART, 0.6, (620.0, 300.0, 1220.0, 900.0), 0.75, True),  # half hidden by a surer one
        ((500.0, 500.0, 700.0, 700.0), 0.6, WHOLE, 0.75, True),  # of a size that it sees well
    ],
)
def test_part_of_a_surer_face_seen_where_that_is_too_large_does_not_count(
    part, score, whole, sure, counts
):
    def look(picture: np.ndarray, least: float) -> Found:
        here = {1500: (part, score, 1.0), 375: (whole, 0.9, 0.25)}.get(picture.shape[1])
        if here is None:
            return Found.joined([])
        box, said, scale = here
        return Found(np.array([box]) * scale, np.zeros((1, 5, 2)), np.array([said]))

    seer = Detector(
        name="seer",
        summary="a test's own",
        build=lambda device, threads: look,
        least_score=0.5,
        largest=250,
        sure_if_larger=sure,
    )
    photo = np.zeros((1500, 1500, 3), np.uint8)
    eye = Eye(detector=seer, look=look, least_score=0.5)
    found = look_at(photo, eye, 0, 12)
    assert [tuple(box) for box in found.boxes] == [part, whole][1 - counts :]


def test_at_the_last_level_every_find_counts():
    photo = np.zeros((300, 300, 3), np.uint8)
    last = [picture.shape for picture, _ in levels(photo, 30, 12)][-1]

    def look(picture: np.ndarray, least: float) -> Found:
        if picture.shape != last:
            return Found.joined([])
        boxes = np.array([[0.0, 0, 40, 40], [5, 5, 45, 45]])
        return Found(boxes, np.zeros((2, 5, 2)), np.array([0.9, 0.6]))

    small = Detector(
        name="small",
        summary="a test's own",
        build=lambda device, threads: look,
        least_score=0.5,
        largest=30,
        sure_if_larger=0.75,
    )
    eye = Eye(detector=small, look=look, least_score=0.5)
    found = look_at(photo, eye, 0, 12)
    assert found.scores.tolist() == [0.9, 0.6]  # there is no level further down
