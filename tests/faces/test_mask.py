"""The mask covers what it must, to the last row, and no more than it says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moretta.faces.crop import points_of_box, to_template
from moretta.faces.mask import CENTRE, SEMI_AXES, cover, redraw, tight_side
from moretta.records import Box, Face

boxes = st.builds(
    lambda left, top, width, height: Box(left, top, left + width, top + height),
    st.floats(-40, 180),
    st.floats(-40, 140),
    st.floats(4, 150),
    st.floats(4, 150),
)


#: Where alpha is 1: a centre on the rim itself may be told from it by the rounding of float32, which
#: is a fortieth of a grey level at most.
ONE = 1 - 1e-4


def face_in(box: Box, squeeze: float = 1.0) -> Face:
    points = points_of_box(box)
    points[:, 0] = points[:, 0].mean() + (points[:, 0] - points[:, 0].mean()) * squeeze
    return Face(box=box, points=points, score=1, detector="t")


def placed(face: Face, shape: tuple[int, int], **given: float) -> np.ndarray:
    alpha, (left, top, right, bottom) = cover(face, shape, **given)
    whole = np.zeros(shape)
    whole[top:bottom, left:right] = alpha
    return whole


@given(box=boxes, squeeze=st.floats(0.2, 1))  # squeezed points: a profile
def test_every_pixel_of_the_box_is_covered(box: Box, squeeze: float):
    shape = (150, 190)
    alpha = placed(face_in(box, squeeze), shape)
    y, x = np.mgrid[0:150, 0:190] + 0.5
    inside = (x >= box.left) & (x < box.right) & (y >= box.top) & (y < box.bottom)
    assert (alpha[inside] >= ONE).all()


@given(box=boxes)
def test_the_ellipse_of_the_points_is_covered_by_coordinates(box: Box):
    face, shape = face_in(box), (150, 190)
    alpha = placed(face, shape, scale=1.5)
    y, x = np.mgrid[0:150, 0:190] + 0.5
    u, v = np.einsum("ij,jhw->ihw", to_template(face, "tight", 1)[:, :2], np.stack([x, y]))
    u, v = u + to_template(face, "tight", 1)[0, 2], v + to_template(face, "tight", 1)[1, 2]
    radius = np.hypot((u - CENTRE[0]) / SEMI_AXES[0], (v - CENTRE[1]) / SEMI_AXES[1])
    assert (alpha[radius <= 1.5] >= ONE).all()


def test_it_grows_with_scale_and_ends():
    face = face_in(Box(60, 50, 110, 115))
    sizes = [(placed(face, (200, 220), scale=scale) > 0).sum() for scale in (1.0, 1.5, 2.0, 2.7)]
    assert sizes == sorted(sizes)
    assert placed(face, (200, 220))[0, 0] == 0
    assert (placed(face, (200, 220)) > 0).mean() < 0.4


def test_a_face_outside_the_photo_has_an_empty_mask():
    alpha, (left, top, right, bottom) = cover(face_in(Box(500, 500, 520, 530)), (100, 100))
    assert alpha.size == 0 or alpha.max() == 0
    assert right - left == alpha.shape[1]
    assert bottom - top == alpha.shape[0]


def test_redrawing_stays_inside_its_ellipse():
    face = face_in(Box(60, 50, 110, 115))
    alpha, bounds = redraw(face, (200, 220))
    whole, (left, top, right, bottom) = np.zeros((200, 220)), bounds
    whole[top:bottom, left:right] = alpha
    y, x = np.mgrid[0:200, 0:220] + 0.5
    matrix = to_template(face, "wide", 1)
    u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    outside = np.hypot((u - 0.5) / 0.36, (v - 0.512) / 0.405) > 1.02  # wide units of the design
    assert (whole[outside] == 0).all()
    assert whole.max() == 1


def test_the_unit_of_a_face_does_not_shrink_in_profile():
    box = Box(0, 0, 82, 109)
    assert tight_side(face_in(box, 0.2)) >= 0.95 * tight_side(face_in(box))


@given(box=boxes, squeeze=st.floats(0.3, 1), scale=st.sampled_from([1.5, 2.0]))
def test_a_block_holds_box_ellipse_and_the_recognisers_view(box: Box, squeeze: float, scale: float):
    face, shape = face_in(box, squeeze), (150, 190)
    block = placed(face, shape, scale=scale, fills_view=True)
    view = to_template(face, "arcface", 1)
    y, x = np.mgrid[0:150, 0:190] + 0.5
    u = view[0, 0] * x + view[0, 1] * y + view[0, 2]
    v = view[1, 0] * x + view[1, 1] * y + view[1, 2]
    assert (block[(np.abs(u - 0.5) <= 0.5) & (np.abs(v - 0.5) <= 0.5)] >= ONE).all()
    inside = (x >= box.left) & (x < box.right) & (y >= box.top) & (y < box.bottom)
    assert (block[inside] >= ONE).all()
    tight = to_template(face, "tight", 1)
    u = tight[0, 0] * x + tight[0, 1] * y + tight[0, 2]
    v = tight[1, 0] * x + tight[1, 1] * y + tight[1, 2]
    radius = np.hypot((u - CENTRE[0]) / SEMI_AXES[0], (v - CENTRE[1]) / SEMI_AXES[1])
    assert (block[radius <= scale] >= ONE).all()
