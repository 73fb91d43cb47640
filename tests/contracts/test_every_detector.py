"""What every detector must hold: shifted, scaled, turned, edge and empty photos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from moretta.faces.detect import DETECTORS, detector
from moretta.faces.detect.search import Eye, find_faces


@pytest.fixture(scope="module", params=DETECTORS)
def eye(request: pytest.FixtureRequest) -> Eye:
    chosen = detector(request.param)
    return Eye(detector=chosen, look=chosen.build("cpu", 1), least_score=chosen.least_score)


def middle(faces: list) -> np.ndarray:
    assert len(faces) >= 1
    box = faces[0].box
    return np.array([(box.left + box.right) / 2, (box.top + box.bottom) / 2])


def test_the_list_is_what_it_says():
    assert len(DETECTORS) >= 2
    assert [detector(name).name for name in DETECTORS] == list(DETECTORS)


def test_nothing_in_nothing(eye: Eye):
    for shape in ((1, 1, 3), (3, 500, 3), (240, 320, 3)):
        assert find_faces(np.full(shape, 128, np.uint8), [eye]) == []


def test_the_points_lie_on_the_face(eye: Eye, astronaut: np.ndarray):
    (face,) = find_faces(astronaut, [eye])[:1]
    right_eye, left_eye, nose, right_mouth, left_mouth = face.points
    assert right_eye[0] < nose[0] < left_eye[0]  # the person's right is the picture's left
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert face.box.left < nose[0] < face.box.right
    np.testing.assert_allclose(nose, [224, 121], atol=12)  # read off the picture by eye


@pytest.mark.parametrize("shift", [(0, 0), (37, 11), (111, 64)])
def test_a_shift_of_the_photo_shifts_the_box(eye: Eye, small: np.ndarray, shift: tuple[int, int]):
    canvas = np.full((400, 420, 3), 90, np.uint8)
    canvas[shift[1] : shift[1] + 256, shift[0] : shift[0] + 256] = small
    moved = middle(find_faces(canvas, [eye])) - middle(find_faces(small, [eye]))
    np.testing.assert_allclose(moved, shift, atol=4)


@pytest.mark.parametrize("side", [96, 160, 256, 700, 1500, 2600])
def test_found_at_every_size(eye: Eye, astronaut: np.ndarray, side: int):
    how = cv2.INTER_AREA if side < 512 else cv2.INTER_LINEAR
    photo = cv2.resize(astronaut, (side, side), interpolation=how)
    faces = find_faces(photo, [eye])
    np.testing.assert_allclose(middle(faces) / side, [0.434, 0.222], atol=0.03)


def test_a_face_that_fills_the_frame_is_found(eye: Eye, astronaut: np.ndarray):
    face = astronaut[40:210, 140:310]
    for side in (48, 170, 900):
        assert find_faces(cv2.resize(face, (side, side)), [eye])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photos_are_tried_when_nothing_is_found(eye: Eye, astronaut: np.ndarray, turns: int):
    upright = find_faces(astronaut, [eye])[0]
    photo = np.ascontiguousarray(np.rot90(astronaut, turns))
    faces = find_faces(photo, [eye], thorough=True)
    assert faces
    box = faces[0].box
    x, y = (upright.box.left + upright.box.right) / 2, (upright.box.top + upright.box.bottom) / 2
    expected = {1: (y, 512 - x), 2: (512 - x, 512 - y), 3: (512 - y, x)}[turns]
    np.testing.assert_allclose(
        [(box.left + box.right) / 2, (box.top + box.bottom) / 2], expected, atol=15
    )


def test_boxes_stay_in_the_photo(eye: Eye, astronaut: np.ndarray):
    photo = astronaut[100:, 190:]  # the border cuts the face
    faces = find_faces(photo, [eye])
    assert faces
    for face in faces:
        assert face.box.left >= 0
        assert face.box.top >= 0
        assert face.box.right <= photo.shape[1]
        assert face.box.bottom <= photo.shape[0]
