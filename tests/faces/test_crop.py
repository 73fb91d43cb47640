"""The crop geometry by independent routes, and the round trip that users see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.faces import crop as crops
from moretta.faces.mask import cover
from moretta.records import Box, Face


def face_at(x: float, y: float, side: float, angle: float = 0.0) -> Face:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (crops.TIGHT - 0.5) @ turn.T * side + [x, y]
    half = side / 2
    return Face(
        box=Box(x - half, y - half, x + half, y + half), points=points, score=1, detector="t"
    )


def test_similarity_agrees_with_a_linear_solve():  # closed form in the code, least squares here
    rng = np.random.default_rng(0)
    for _ in range(50):
        p, t = rng.uniform(0, 200, (2, 5, 2))
        x, y, one, zero = p[:, 0], p[:, 1], np.ones(5), np.zeros(5)
        rows = np.block([[np.c_[x, -y, one, zero]], [np.c_[y, x, zero, one]]])
        (a, b, u, v), *_ = np.linalg.lstsq(rows, np.r_[t[:, 0], t[:, 1]], rcond=None)
        np.testing.assert_allclose(
            crops.similarity(p, t), [[a, -b, u], [b, a, v]], rtol=1e-7, atol=1e-7
        )


def test_similarity_refuses_points_that_say_nothing():
    with pytest.raises(ValueError, match="coincide"):
        crops.similarity(np.full((5, 2), 3.0), crops.TIGHT)
    with pytest.raises(ValueError, match="finite"):
        crops.similarity(np.full((5, 2), np.nan), crops.TIGHT)


def test_points_that_cannot_be_right_are_replaced_by_the_box():
    face = Face(box=Box(10, 10, 60, 76), points=np.zeros((5, 2)), score=1, detector="t")
    matrix = crops.to_template(face, "tight", 100)
    assert np.isfinite(matrix).all()
    assert crops.scale_of(matrix) == pytest.approx(100 / 61, rel=0.1)


def test_the_wide_template_is_the_tight_one_from_further_away():
    np.testing.assert_allclose(crops.WIDE[0], [0.387, 0.372], atol=1e-3)  # design, section 4
    np.testing.assert_allclose((crops.WIDE - 0.5) * crops.WIDE_SIDE + 0.5, crops.TIGHT)


def test_the_dlib_template_is_the_networks_own():
    network = pytest.importorskip("moretta.networks.recogniser")
    np.testing.assert_allclose(crops.DLIB * 150, network.CHIP_POINTS, atol=1e-3)


@given(
    x=st.floats(60, 250), y=st.floats(60, 180), side=st.floats(8, 200), angle=st.floats(-3.1, 3.1)
)
def test_align_then_its_inverse_returns_every_point(x: float, y: float, side: float, angle: float):
    face = face_at(x, y, side, angle)
    for name in crops.TEMPLATES:
        matrix = crops.to_template(face, name, 128)
        back = crops.apply(crops.inverse(matrix), crops.apply(matrix, face.points))
        np.testing.assert_allclose(back, face.points, atol=1e-6)
        np.testing.assert_allclose(
            crops.apply(matrix, face.points), crops.TEMPLATES[name] * 128, atol=128 * 0.03
        )


@settings(max_examples=25, deadline=None)
@given(
    side=st.floats(30, 75), angle=st.floats(-0.6, 0.6), template=st.sampled_from(["tight", "wide"])
)
def test_align_then_paste_is_the_identity_within_one_grey_level(
    smooth: np.ndarray, side: float, angle: float, template: str
):
    face = face_at(160, 120, side, angle)
    alpha, bounds = cover(face, smooth.shape, scale=0.9)
    crop = crops.align(smooth, face, alpha, template=template, side=256, seed=0)
    canvas = smooth.copy()
    crops.paste(canvas, crop.pixels, crop, alpha, bounds)
    assert int(np.abs(canvas.astype(int) - smooth).max()) <= 1


def test_window_then_paste_is_exact():
    photo = np.random.default_rng(1).integers(0, 256, (90, 110, 3), np.uint8)
    face = face_at(100, 10, 40)  # cut by two borders
    alpha, bounds = cover(face, photo.shape)
    crop = crops.cut(photo, face, alpha, bounds, seed=0)
    canvas = photo.copy()
    crops.paste(canvas, crop.pixels, crop, alpha, bounds)
    np.testing.assert_array_equal(canvas, photo)


def test_warp_puts_a_pixel_where_the_matrix_says():
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[40, 30] = 255  # its centre is (30.5, 40.5)
    matrix = np.array([[2.0, 0, -40], [0, 2, -60]])  # (30.5, 40.5) -> (21, 21)
    drawn = crops.warp(photo, matrix, 64)[..., 0].astype(float)
    y, x = np.mgrid[0:64, 0:64] + 0.5
    place = [(drawn * x).sum() / drawn.sum(), (drawn * y).sum() / drawn.sum()]
    np.testing.assert_allclose(place, [21, 21], atol=0.05)


def test_shrinking_averages():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (1024, 1024, 3), np.uint8)
    face = face_at(512, 512, 800)
    drawn = crops.warp(photo, crops.to_template(face, "tight", 50), 50)
    assert drawn.std() < 0.25 * photo.std()  # 16 x 16 pixels fall into one


def test_colour_match_removes_a_cast(smooth: np.ndarray):
    face = face_at(160, 120, 60)
    alpha, bounds = cover(face, smooth.shape)
    crop = crops.cut(smooth, face, alpha, bounds, seed=0)
    cast = np.clip(crop.pixels.astype(int) + 15, 0, 255).astype(np.uint8)
    plain, matched = smooth.copy(), smooth.copy()
    crops.paste(plain, cast, crop, alpha, bounds)
    crops.paste(matched, cast, crop, alpha, bounds, match_colour=True)
    off = [np.abs(one.astype(int) - smooth).mean() for one in (plain, matched)]
    assert off[1] < off[0] / 4


def test_points_of_a_box_give_the_box_back():
    box = Box(20, 30, 102, 139)
    matrix = crops.similarity(crops.points_of_box(box), crops.TIGHT)
    centre = crops.apply(matrix, np.array([[61.0, 84.5]]))[0]
    np.testing.assert_allclose(centre, crops.BOX_CENTRE, atol=0.01)
